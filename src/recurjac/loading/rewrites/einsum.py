"""Sums of products over indices of any number of tensors, of which some may depend on the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac.loading.rewrites.matrices import einsum, matmul, moved, multiplied
from recurjac.operators.scale import is_constant
from recurjac.registry import onnx_ops, torch_ops

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def sum_of_products(equation: str, operands: Sequence[Any]) -> Any:
    """Any equation of `torch.einsum`: diagonals are taken and dots spelled out, then pairs of operands are combined."""
    terms, output = _spelled(equation.replace(" ", ""), [len(o.shape) for o in operands])
    parts = [_of_different(o, t) for o, t in zip(operands, terms, strict=True)]
    while len(parts) > 2:
        (a, first), (b, second), *rest = sorted(parts, key=lambda p: not is_constant(p[0]))  # constants first
        kept = "".join(c for c in dict.fromkeys(first + second) if c in output or any(c in t for _, t in rest))
        parts = [*rest, (_two(f"{first},{second}->{kept}", [a, b]), kept)]
    return _two(",".join(t for _, t in parts) + "->" + output, [o for o, _ in parts])


def _two(equation: str, operands: Sequence[Any]) -> Any:
    if all(is_constant(o) for o in operands):
        return torch.einsum(equation, *operands)
    return einsum(equation, operands)


def _spelled(equation: str, axes: Sequence[int]) -> tuple[list[str], str]:
    """The terms and the result with letters in place of dots."""
    inputs, given, output = equation.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(axes):
        raise ValueError(f"the sum of products {equation!r} of {len(axes)} tensors")
    free = [c for c in _LETTERS if c not in equation]
    most = max([n - len(t) + 3 for t, n in zip(terms, axes, strict=True) if "..." in t], default=0)
    if most < 0 or most > len(free):
        raise ValueError(f"the sum of products {equation!r} of tensors of {axes} axes")
    dots = "".join(free[:most])
    spelled = []
    for term, n in zip(terms, axes, strict=True):
        count = n - len(term) + 3
        spelled.append(term.replace("...", dots[most - count :] if count else ""))
    if any(len(t) != n for t, n in zip(spelled, axes, strict=True)):
        raise ValueError(f"the sum of products {equation!r} of tensors of {axes} axes")
    letters = "".join(spelled)
    if not given:
        once = sorted(c for c in set(letters) if letters.count(c) == 1 and c not in dots)
        return spelled, dots + "".join(once)
    wanted = output.replace("...", dots)
    if len(set(wanted)) < len(wanted) or not set(wanted) <= set(letters):
        raise ValueError(f"the sum of products {equation!r}, whose result has an index twice or a new one")
    return spelled, wanted


def _of_different(operand: Any, term: str) -> tuple[Any, str]:
    """The operand's diagonals where an index occurs twice, and its indices."""
    while len(set(term)) < len(term):
        again = next(c for c in term if term.count(c) > 1)
        first = term.index(again)
        second = term.index(again, first + 1)

        def diagonal(t: Tensor, i: int = first, j: int = second) -> Tensor:
            return t.diagonal(0, i, j)

        operand = moved(operand, diagonal)
        term = term[:first] + term[first + 1 : second] + term[second + 1 :] + again
    return operand, term


@torch_ops.reads("aten.einsum.default")
def _einsum(equation: str, operands: Sequence[Any], **_: Any) -> Any:
    return sum_of_products(equation, operands)


@onnx_ops.reads("Einsum")
def _onnx_einsum(*operands: Any, equation: str) -> Any:
    return sum_of_products(equation, operands)


@torch_ops.reads("aten.bilinear.default")
def _bilinear(x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    """Σ_ij x_i W_oij y_j + b_o along the last axes."""
    if not isinstance(weight, Tensor):
        raise ValueError("a bilinear layer whose weight depends on the input")
    if is_constant(x):
        x, y, weight = y, x, weight.mT
    out, first, second = weight.shape
    both = matmul(x, weight.permute(1, 0, 2).reshape(first, out * second))
    pairs = moved(both, lambda t: t.unflatten(-1, (out, second)))
    row = moved(y, lambda t: t.unsqueeze(-2).expand(*t.shape[:-1], out, second))
    z = torch_ops.readers["aten.sum.dim_IntList"](multiplied(pairs, row), [-1])
    return z if bias is None else z.shift(bias)
