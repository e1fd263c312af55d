"""Checks of the statements that activations and linear operators make."""

from __future__ import annotations

from math import inf, prod

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import Fast, Interval, Rigorous
from recurjac.operators import AbstractOperator
from recurjac.operators.signs import Possible, possible_image
from recurjac.testing.require import require


def intervals(seed: int, dtype: torch.dtype) -> Interval:
    """Intervals of many widths around numbers of many sizes; some are points and some are unbounded: (N, 1)."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(400, 1, generator=g, dtype=torch.float64) * 10 ** (
        4 * torch.rand(400, 1, generator=g, dtype=torch.float64) - 2
    )
    width = 10 ** (6 * torch.rand(400, 1, generator=g, dtype=torch.float64) - 4)
    width[::10] = 0.0
    low, high = (centre - width).to(dtype), (centre + width).to(dtype)
    low[1::20], high[2::20] = -inf, inf
    return Interval(torch.minimum(low, high), torch.maximum(low, high))


def points_of(z: Interval, count: int = 200) -> Tensor:
    """Points of intervals (N, 1), including their finite ends up to 1000: (count, N, 1)."""
    low, high = z.lower.clamp(min=-1e3), z.upper.clamp(max=1e3)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    share = torch.linspace(0, 1, count, dtype=low.dtype).reshape(-1, 1, 1)
    return torch.minimum(torch.maximum(low + share * (high - low), z.lower), z.upper)


def check_activation(activation: AbstractActivation, seed: int = 0) -> None:
    """Bounds of values and slopes, and both pairs of lines, hold at points of random intervals, in both precisions."""
    for dtype in (torch.float64, torch.float32):
        own, z = activation.to(dtype, torch.device("cpu")), intervals(seed, dtype)
        points, eps = points_of(z), torch.finfo(dtype).eps
        values, arithmetic = own.value(points), Rigorous() if own.rigorous else Fast()
        slack = 64 * eps * (1 + values.abs() + points.abs())
        held = own.value_range(z, arithmetic)
        _between(held.lower - slack, values, held.upper + slack, activation, "a value")
        _check_slopes(own, z, points, arithmetic)
        for lines in (own.lines(z, arithmetic), own.parallel_lines(z, arithmetic)):
            low = lines.lower_slope[:, 0] * points + lines.lower_intercept[:, 0]
            high = lines.upper_slope[:, 0] * points + lines.upper_intercept[:, 0]
            size = slack + 64 * eps * (low.abs() + high.abs()).nan_to_num(posinf=0.0)
            _between(low - size, values, high + size, activation, "a value beside its lines")
            sized = lines.size[:, 0] + size
            _between(-sized, values, sized, activation, "a size")
        _check_derivatives(own, z, arithmetic)


def _check_derivatives(activation: AbstractActivation, z: Interval, arithmetic: Fast | Rigorous) -> None:
    """Derivatives of lines by the ends of an interval are finite, also at infinite ends."""
    low, high = z.lower.clone().requires_grad_(), z.upper.clone().requires_grad_()
    for lines in (
        activation.lines(Interval(low, high), arithmetic),
        activation.parallel_lines(Interval(low, high), arithmetic),
    ):
        parts = (lines.lower_slope, lines.upper_slope, lines.lower_intercept, lines.upper_intercept)
        total = (0.0 * (low.clamp(-1, 1) + high.clamp(-1, 1))).sum() + sum(t.clamp(-1e30, 1e30).sum() for t in parts)
        for gradient in torch.autograd.grad(total, (low, high)):
            require(bool(gradient.isfinite().all()), f"{activation.name}: a derivative of its lines is not finite")


def _check_slopes(activation: AbstractActivation, z: Interval, points: Tensor, arithmetic: Fast | Rigorous) -> None:
    moving = points.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(activation.value(moving).sum(), moving)
    held = activation.slope_range(z, arithmetic)
    slack = 64 * torch.finfo(points.dtype).eps * (1 + slopes.abs() + points.abs())
    _between(held.lower - slack, slopes, held.upper + slack, activation, "a slope")
    known = ~activation.unstable(z, arithmetic)
    require(bool((held.is_point | ~known).all()), f"{activation.name}: a stable neuron has an unknown slope")


def _between(low: Tensor, true: Tensor, high: Tensor, activation: AbstractActivation, what: str) -> None:
    wrong = ~((low <= true) & (true <= high))
    if bool(wrong.any()):
        at = tuple(int(i) for i in wrong.nonzero()[0])
        raise AssertionError(
            f"{activation.name}: {what} {float(true[at]):.9g} is not between {float(low.expand_as(true)[at]):.9g} and "
            f"{float(high.expand_as(true)[at]):.9g}"
        )


def check_operator(operator: AbstractOperator, seed: int = 0) -> None:
    """The transpose is the adjoint, the norms bound A, columns and rows are those of A, and rounding is covered."""
    matrix = _matrix(operator)
    name = type(operator).__name__
    back = _matrix(operator.transpose())
    require(torch.allclose(back, matrix.mT, rtol=1e-12, atol=1e-14), f"{name}: the transpose is not the adjoint")
    size = matrix.abs()
    for p, true in ((1, size.sum(0).max()), (inf, size.sum(1).max()), (2, torch.linalg.matrix_norm(matrix, 2))):
        bound = operator.norm(p, Rigorous())
        require(float(bound) >= float(true) * (1 - 1e-12), f"{name}: its norm for p = {p} is too small")
    dtype, fast = _dtype(operator), Fast()
    every = torch.arange(matrix.shape[1])
    columns = operator.columns(every, dtype, fast).mid.reshape(len(every), -1).double()
    require(torch.allclose(columns, matrix.mT, rtol=1e-6, atol=1e-9), f"{name}: a column is not that of the matrix")
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(matrix.shape[0], generator=generator)[: max(1, matrix.shape[0] // 2)].sort().values
    part, reads = operator.rows(some)
    few = torch.zeros(len(some), matrix.shape[1], dtype=torch.float64)
    if len(reads):
        few[:, reads] = _matrix(part)
    require(torch.allclose(few, matrix[some], rtol=1e-12, atol=1e-14), f"{name}: rows are not those of the matrix")
    _check_cover(operator, matrix)
    _check_signs(operator, matrix)


def _check_cover(operator: AbstractOperator, matrix: Tensor) -> None:
    """A product lies within its radius of the product in float64, up to the rounding of the latter."""
    x = torch.randn(operator.in_shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(
        _dtype(operator)
    )
    found = operator.push(Rigorous().exact(x))
    true = (matrix @ x.double().flatten()).reshape(found.shape)
    slack = 1e-13 * (matrix.abs() @ x.double().abs().flatten()).reshape(found.shape)
    low, high = found.lower().double() - slack, found.upper().double() + slack
    require(bool(((low <= true) & (true <= high)).all()), f"{type(operator).__name__}: rounding is not covered")


def _check_signs(operator: AbstractOperator, matrix: Tensor) -> None:
    """The signs that columns are said to have at most are those of the matrix, or more."""
    n = matrix.shape[1]
    units = torch.eye(n, dtype=torch.bool).reshape(n, *operator.in_shape)
    found = possible_image(operator, Possible(units, torch.zeros_like(units)))
    for possible, true in ((found.positive, matrix > 0), (found.negative, matrix < 0)):
        held = bool((possible.reshape(n, -1).mT | ~true).all())
        require(held, f"{type(operator).__name__}: a coefficient has a sign that `signs` does not have")


def _dtype(operator: AbstractOperator) -> torch.dtype:
    return next((t.dtype for t in operator.tensors() if t.dtype.is_floating_point), torch.float64)


def _matrix(operator: AbstractOperator) -> Tensor:
    """The matrix (out, in) in float64, by pushing the basis."""
    n = prod(operator.in_shape)
    basis = torch.eye(n, dtype=_dtype(operator)).reshape(n, *operator.in_shape)
    return operator.push(Fast().exact(basis)).mid.reshape(n, prod(operator.out_shape)).mT.double()
