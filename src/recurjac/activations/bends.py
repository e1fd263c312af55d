"""Lines of second derivatives, from bounds of fourth derivatives (docs/mathematics.md, §9.1)."""

from __future__ import annotations

import math
from functools import singledispatch

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation, far
from recurjac.activations.convex import Exp, LogCosh, LogSigmoid, Softplus, Square
from recurjac.activations.domain import IntegerPower, Log, Power, Reciprocal, enclosed_power
from recurjac.activations.floored import FlooredPower
from recurjac.activations.gated import GELU, SiLU
from recurjac.activations.periodic import AbstractPeriodic
from recurjac.activations.power import Cube
from recurjac.activations.sigmoidal import Arctan, Erf, Sigmoid, Tanh
from recurjac.arithmetic import AbstractArithmetic, Interval, Rigorous
from recurjac.relaxations import LinearRelaxation

_ROUNDINGS = 100
"""More than the roundings in a bound of a fourth derivative."""
_TANH = 4.086
"""|tanh''''| = 8 |t| (1 - t²) |2 - 3 t²| for t = tanh(z) is largest where t² = (15 - √105) / 30: 4.08589."""
_ARCTAN = 4.669
"""|arctan''''| = 6 |sin 4θ| cos⁴ θ for θ = arctan(z) is largest where cos 5θ = 0, at θ = π/10: 4.66886."""
_ERF = 4.405
"""|erf''''| = 2/√π |8 z³ - 12 z| exp(-z²) is largest where 4 z⁴ - 12 z² + 3 = 0, at z² = (3 - √6) / 2: 4.40471."""
_SILU = 0.73
"""With y = z / 2 and t = tanh(y), silu'''' = (1 - t²) (6 t² - 2) / 4 + y t (1 - t²) (2 - 3 t²) / 2.

The first term is at most 1/2; y (1 - t²) <= 0.45 and |t (2 - 3 t²)| <= 1, so that the second one is at most 0.23.
"""


def curvature_lines(activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
    """Lines of σ'' on z (batch, *node): (batch, 1, *node).

    If |σ''''| <= m on z of width w, then σ'' differs from its chord by at most m w² / 8.  Constants, the range of σ'',
    where nothing better is known.  Raises ValueError if σ'' is not continuous.
    """
    known = activation.curvature_range(z, arithmetic)
    if known is None:
        raise ValueError(f"the second derivative of {activation.name} is not continuous")
    zero = torch.zeros_like(z.lower)
    sides = (zero, known.lower), (zero, known.upper)
    fourth = fourth_size(activation, z)
    if fourth is not None:
        ends = [_at(activation, end, arithmetic) for end in (z.lower, z.upper)]
        width = z.upper - z.lower
        least = torch.finfo(width.dtype).tiny * (width > 0).to(width.dtype)  # the square may underflow
        bend = fourth * width.square() / 8 + least
        slope = (ends[1].upper - ends[0].lower) / torch.where(width > 0, width, 1.0)
        low, high = _around_chord(z, slope, ends, bend, arithmetic)
        good = (width > 0) & (2 * bend < known.width) & low.isfinite() & high.isfinite() & (slope.abs() < far(slope))
        sides = (
            (torch.where(good, slope, zero), torch.where(good, low, known.lower)),
            (torch.where(good, slope, zero), torch.where(good, high, known.upper)),
        )
    return LinearRelaxation(*(t.unsqueeze(1) for t in (*sides[0], *sides[1], known.magnitude.detach())))


def _around_chord(
    z: Interval, slope: Tensor, ends: list[Interval], bend: Tensor, arithmetic: AbstractArithmetic
) -> tuple[Tensor, Tensor]:
    """Intercepts of lines of any slope, near that of the chord: at both ends, with the distance from the chord.

    The chord less a line is largest and smallest at ends.  `bend` has five roundings, and fewer than a hundred in
    `fourth_size`.
    """
    exact, more = arithmetic.exact, arithmetic.exact(arithmetic.at_least(bend, _ROUNDINGS))
    lines = [exact(slope) * exact(end) for end in (z.lower, z.upper)]
    low = torch.stack([(exact(e.lower) - t - more).lower() for e, t in zip(ends, lines, strict=True)])
    high = torch.stack([(exact(e.upper) - t + more).upper() for e, t in zip(ends, lines, strict=True)])
    return low.amin(0), high.amax(0)


def _at(activation: AbstractActivation, z: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    found = activation.curvature_range(Interval.point(z), arithmetic)
    return Interval.point(torch.zeros_like(z)) if found is None else found


@singledispatch
def fourth_size(activation: AbstractActivation, z: Interval) -> Tensor | None:
    """An upper bound of |σ''''| on z, which may be infinite; None, which is the default, if none is known."""
    return None


def _everywhere(z: Interval, most: float) -> Tensor:
    """A positive number for each neuron, not below `most` also where the dtype rounds it or has none so small."""
    return torch.full_like(z.lower, most * (1 + 1e-6)).clamp(min=torch.finfo(z.lower.dtype).tiny)


@fourth_size.register
def _of_tanh(_: Tanh, z: Interval) -> Tensor:
    return _everywhere(z, _TANH)


@fourth_size.register
def _of_sigmoid(_: Sigmoid, z: Interval) -> Tensor:
    """(1 + tanh(z / 2)) / 2."""
    return _everywhere(z, _TANH / 32)


@fourth_size.register
def _of_softplus(activation: Softplus, z: Interval) -> Tensor:
    """The third derivative of the sigmoid function is that of tanh at z / 2, which is at most 2, divided by 16."""
    return _everywhere(z, activation.beta**3 / 8 * (1 + 1e-9))


@fourth_size.register
def _of_log_cosh(_: LogCosh, z: Interval) -> Tensor:
    """That of softplus, which differs by z / 2."""
    return _everywhere(z, 1 / 8 * (1 + 1e-9))


@fourth_size.register
def _of_log_sigmoid(_: LogSigmoid, z: Interval) -> Tensor:
    return _everywhere(z, 1 / 8)


@fourth_size.register
def _of_arctan(_: Arctan, z: Interval) -> Tensor:
    return _everywhere(z, _ARCTAN)


@fourth_size.register
def _of_erf(_: Erf, z: Interval) -> Tensor:
    return _everywhere(z, _ERF)


@fourth_size.register
def _of_gelu(_: GELU, z: Interval) -> Tensor:
    """φ(z) |z⁴ - 7 z² + 4|, which turns where z (z² - 2) (z² - 9) = 0, is largest at 0."""
    return _everywhere(z, 4 / math.sqrt(2 * math.pi) * (1 + 1e-9))


@fourth_size.register
def _of_silu(activation: SiLU, z: Interval) -> Tensor:
    return _everywhere(z, activation.beta**3 * _SILU)


@fourth_size.register
def _of_waves(_: AbstractPeriodic, z: Interval) -> Tensor:
    return _everywhere(z, 1.0)


@fourth_size.register
def _of_exp(activation: Exp, z: Interval) -> Tensor:
    return activation.value_range(Interval.point(z.upper), Rigorous()).upper


@fourth_size.register
def _of_square(_: Square, z: Interval) -> Tensor:
    return _everywhere(z, 0.0)


@fourth_size.register
def _of_cube(_: Cube, z: Interval) -> Tensor:
    return _everywhere(z, 0.0)


@fourth_size.register
def _of_whole_powers(activation: IntegerPower, z: Interval) -> Tensor:
    n = activation.exponent
    return n * (n - 1) * (n - 2) * (n - 3) * enclosed_power(z.magnitude, n - 4.0, 0).upper


@fourth_size.register
def _of_log(_: Log, z: Interval) -> Tensor:
    return _inverse(z.lower, 6.0, 4.0)


@fourth_size.register
def _of_power(activation: Power, z: Interval) -> Tensor:
    a = activation.exponent
    factor = abs(a * (a - 1) * (a - 2) * (a - 3))
    return torch.maximum(_inverse(z.lower, factor, 4 - a), _inverse(z.upper, factor, 4 - a))


@fourth_size.register
def _of_floored_power(activation: FlooredPower, z: Interval) -> Tensor:
    a = activation.exponent
    size = _inverse(z.lower, abs(a * (a - 1) * (a - 2) * (a - 3)), 4 - a)
    return torch.where(z.lower < activation.least, torch.inf, size)


@fourth_size.register
def _of_reciprocal(_: Reciprocal, z: Interval) -> Tensor:
    return _inverse(z.mignitude, 24.0, 5.0)


def _inverse(z: Tensor, factor: float, exponent: float) -> Tensor:
    """factor / z^exponent for z > 0, and infinity elsewhere."""
    inside = z > 0
    return torch.where(inside, factor * enclosed_power(torch.where(inside, z, 1.0), -exponent, 0).upper, torch.inf)
