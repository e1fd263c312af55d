"""Rounding to narrower numbers, and settings of the machine that would spoil it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp, inf
from pathlib import Path

import pytest
import torch

import recurjac
import recurjac as rj
from recurjac.arithmetic import check_matmul, round_to, round_up_to, supported_dtype
from recurjac.errors import InvalidRequest
from tests.helpers import exact, numbers
from tests.marks import every_kind, every_seed


@every_seed
@every_kind
def test_rounding_to_float32(kind: str, seed: int) -> None:
    x = torch.cat([numbers(kind, 40, seed, torch.float64), numbers(kind, 40, seed).double() * (1 + 1e-9)])
    up, (nearest, moved) = round_up_to(x, torch.float32), round_to(x, torch.float32)
    for value, above in zip(x.tolist(), up.tolist(), strict=True):
        below = float(torch.nextafter(torch.tensor(above), torch.tensor(-inf)))
        assert below < value <= above
    finite = nearest.isfinite()
    distances = [abs(a - b) for a, b in zip(exact(x[finite]), exact(nearest[finite]), strict=True)]
    assert distances == exact(moved[finite])


@contextmanager
def flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def test_reduced_precision_is_reported() -> None:
    assert check_matmul(torch.float32) is None
    assert check_matmul(torch.float64) is None
    torch.set_float32_matmul_precision("high")
    try:
        assert "float32" in (check_matmul(torch.float32) or "")
        assert check_matmul(torch.float64) is None
    finally:
        torch.set_float32_matmul_precision("highest")
    with flushing():
        assert "subnormal" in (check_matmul(torch.float64) or "")


def test_settings_that_contradict_each_other_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch refuses to say once a single backend was set apart, by torch.backends.cuda.matmul.fp32_precision."""

    def refuse() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    assert "float32" in (check_matmul(torch.float32) or "")
    assert check_matmul(torch.float64) is None


def test_half_precision_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"float16; pass dtype=torch\.float64"):
        supported_dtype(torch.float16)
    assert supported_dtype(torch.float32) == torch.float32


def test_what_may_underflow_keeps_its_dtype_where_a_mask_chooses_it() -> None:
    """A number times a mask is of the default dtype: the least normal number of float64 is 0 there."""
    assert float((torch.finfo(torch.float64).tiny * torch.ones(1, dtype=torch.bool)).double()) == 0.0
    found = []
    for path in Path(recurjac.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                found += [f"{path.name}:{node.lineno}" for pair in ((node.left, node.right), (node.right, node.left))
                          if _is_least(pair[0]) and _is_mask(pair[1])]  # fmt: skip
    assert not found


def _is_least(node: ast.AST) -> bool:
    return any(name in ast.unparse(node) for name in ("tiny", "eps"))


def _is_mask(node: ast.AST) -> bool:
    """Whether it compares numbers, and the result is not converted."""
    return ".to(" not in ast.unparse(node) and any(isinstance(n, ast.Compare) for n in ast.walk(node))


@pytest.mark.parametrize("place", [-1.0, 1.0])
def test_given_bounds_are_rounded_outwards(place: float) -> None:
    """exp(z) at z = 80 + b, between two numbers of float32: rounded to the nearest, the range would miss z."""
    b = place * 0.875 * 2.0**-18
    net = rj.load([([[1.0]], [b]), ([[1.0]], None)], activation="exp", dtype=torch.float32)
    given = rj.Given([[80.0 + b]], [[80.0 + b]])
    found = rj.jacobian_bounds(net, rj.LpBall([[80.0]], 0.0), method=rj.RecurJac(), pre=given)
    true = exp(80.0 + b)  # to within 1e-14 of itself, where the nearest range is off by 3e-6
    assert float(found.lower) < true < float(found.upper)
