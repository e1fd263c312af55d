"""What several tests share: the library's classes, exact arithmetic, and numbers on which rounding shows."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import random
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from torch import Tensor

import recurjac
from recurjac.arithmetic import Fast
from recurjac.operators import AbstractOperator, Compose, Divide, Standardise

Exact = list[Fraction]
"""The entries of a tensor in row-major order, in exact arithmetic."""

CPU = torch.device("cpu")
KINDS = ("ordinary", "mixed", "tiny", "subnormal", "huge", "integers", "sparse")
"""What `numbers` makes."""


def import_all() -> None:
    """Import every module of the library, so that every class exists."""
    for module in pkgutil.walk_packages(recurjac.__path__, "recurjac."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def concrete_classes(base: type) -> list[type[Any]]:
    """All concrete classes of the library below `base`, by name."""
    import_all()
    found: set[type] = set()
    todo = [base]
    while todo:
        cls = todo.pop()
        todo.extend(cls.__subclasses__())
        if not inspect.isabstract(cls) and cls.__module__.split(".")[0] == "recurjac":
            found.add(cls)
    return sorted(found, key=lambda c: c.__qualname__)


def examples(base: type) -> list[ParameterSet]:
    """Every example of every concrete class below `base`, with an id."""
    return [
        pytest.param(example, id=f"{cls.__name__}-{i}")
        for cls in concrete_classes(base)
        for i, example in enumerate(cls.examples())
    ]


def points_of(problem: recurjac.Problem, count: int = 16) -> Tensor:
    """Points of a region of one sample, half of them at corners of its box: (count, *input)."""
    inside = problem.bound.sample(count, torch.Generator().manual_seed(0))[0]
    x = problem.bound.x
    corners = problem.bound.project((x + (inside - x).sign() * 10).unsqueeze(0))[0]
    return torch.cat([inside, corners])


def exact(tensor: Tensor) -> Exact:
    """The entries of a finite tensor as fractions."""
    return [Fraction(v) for v in tensor.flatten().tolist()]


def misses(lower: Tensor, upper: Tensor, truth: Sequence[Fraction]) -> list[tuple[float, Fraction, float]]:
    """Where the truth is not between the bounds, without any tolerance; NaN bounds miss."""
    rows = zip(lower.flatten().tolist(), truth, upper.flatten().tolist(), strict=True)
    return [(low, true, up) for low, true, up in rows if not low <= true <= up]


def matrix(operator: AbstractOperator) -> Tensor:
    """The operator as a dense matrix (out x in), by pushing the basis in plain floating point."""
    some = next(iter(operator.tensors()), torch.zeros((), dtype=torch.float64))
    n = math.prod(operator.in_shape)
    basis = torch.eye(n, dtype=some.dtype).reshape(n, *operator.in_shape)
    return operator.push(Fast().exact(basis)).mid.reshape(n, math.prod(operator.out_shape)).mT


def exact_image(operator: AbstractOperator, x: Exact) -> Exact:
    """The operator applied to one input in exact arithmetic."""
    if isinstance(operator, Compose):
        return exact_image(operator.outer, exact_image(operator.inner, x))
    if isinstance(operator, Divide):
        return [a / d for a, d in zip(x, exact(operator.divisor), strict=True)]
    if isinstance(operator, Standardise):
        deviations = [_root(v + Fraction(operator.floor)) for v in exact(operator.variance)]
        return [a / d for a, d in zip(x, deviations, strict=True)]
    rows = [exact(row) for row in matrix(operator)]
    return [sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) for row in rows]


def _root(square: Fraction) -> Fraction:
    """The square root to 300 binary digits."""
    return Fraction(math.isqrt(int(square * 4**300)), 2**300)


def numbers(kind: str, size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """`size` finite numbers with all their bits random, of exponents that depend on `kind`; about half are negative."""
    draw = random.Random(f"{kind} {seed}")  # noqa: S311  (reproducible test data)
    info = torch.finfo(dtype)
    top, bottom = math.frexp(info.max)[1], math.frexp(info.tiny)[1]
    digits = 1 - math.frexp(info.eps)[1]
    exponents: dict[str, Callable[[], int]] = {
        "ordinary": lambda: draw.randint(-2, 2),
        "mixed": lambda: draw.randint(bottom // 3, top // 3),
        "tiny": lambda: draw.randint(bottom, bottom + 3),
        "subnormal": lambda: draw.randint(bottom - digits, bottom + 1),
        "huge": lambda: draw.randint(top - 3, top),
        "sparse": lambda: draw.randint(-2, 2),
    }

    def one() -> float:
        if kind == "integers" or (kind == "sparse" and draw.random() < 0.7):
            return float(draw.randint(-3, 3)) if kind == "integers" else 0.0
        size = math.ldexp(draw.uniform(0.5, 1), exponents[kind]())
        return draw.choice((-1, 1)) * size

    values = torch.tensor([one() for _ in range(size)], dtype=torch.float64)
    result: Tensor = values.to(dtype).clamp(min=info.min, max=info.max)
    return result


def refused(request: Callable[[], object], error: type[Exception], words: Iterable[str]) -> None:
    """The request is refused by this error, in one line that says all of these words."""
    with pytest.raises(error) as caught:
        request()
    assert "\n" not in str(caught.value)
    assert not [w for w in words if w not in str(caught.value)]
