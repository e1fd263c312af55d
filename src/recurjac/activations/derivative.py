"""Lines of derivatives and families of lines of values, for bounds that are linear in x (docs/mathematics.md, §5.8)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation, far
from recurjac.activations.convex import Softplus
from recurjac.activations.curved import AbstractCurved, tightest_lines
from recurjac.activations.gated import GELU
from recurjac.activations.sigmoidal import Sigmoid, Tanh
from recurjac.activations.smooth import AbstractSmooth
from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval
from recurjac.relaxations import LinearRelaxation


@final
@dataclass(frozen=True)
class Derivative(AbstractCurved):
    """σ' as a function of z, for an activation whose σ'' is continuous and turns where `curvature_turns` says."""

    activation: AbstractSmooth
    name: ClassVar[str] = "derivative"

    @property
    def steepness(self) -> tuple[float, float, float]:
        _, steep, bend = self.activation.steepness
        return steep, bend, torch.inf

    def turn_errors(self, turns: Tensor) -> Tensor:
        return self.activation.turn_errors(turns)

    @property
    def rigorous(self) -> bool:
        inner = self.activation
        stated = type(inner).enclosed_curvature is not AbstractSmooth.enclosed_curvature
        return inner.rigorous and (stated or inner.roundings is not None)

    def enclosed_value(self, z: Tensor) -> Enclosure | None:
        return self.activation.enclosed_slope(z)

    def enclosed_slope(self, z: Tensor) -> Enclosure | None:
        return self.activation.enclosed_curvature(z)

    def value(self, z: Tensor) -> Tensor:
        return self.activation.slope(z)

    def slope(self, z: Tensor) -> Tensor:
        found = self.activation.curvature(z)
        if found is None:
            raise ValueError(f"the second derivative of {self.activation.name} is not continuous")
        return found

    def slope_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.activation.curvature_turns(lower, upper)

    def value_turns(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self.activation.slope_turns(lower, upper)

    def core(self, z: Interval) -> Interval:
        return self.activation.searchable(self.activation.core(z))

    def excluded(self, z: Interval) -> Tensor | None:
        return self.activation.excluded(z)

    @classmethod
    def known_for(cls, activation: AbstractActivation, z: Tensor) -> bool:
        """Whether an activation states all that is needed; one with a range of σ'' of its own need not.

        One whose slope jumps somewhere, and so says what σ'' is beside that, has no derivative of the slope there.
        z: a tensor of the dtype and device.
        """
        if not isinstance(activation, AbstractSmooth):
            return False
        kind, base = type(activation), AbstractSmooth
        stated = kind.curvature_range is base.curvature_range and kind.curvature_beside is base.curvature_beside
        return stated and activation.curvature(torch.zeros_like(z)) is not None

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(Sigmoid()), cls(Tanh()), cls(Softplus()), cls(GELU())]


@singledispatch
def slope_lines(
    activation: AbstractActivation, z: Interval, share: float, arithmetic: AbstractArithmetic
) -> LinearRelaxation:
    """Lines of σ' on z (batch, *node), tight at a point with the given share of z before it: (batch, 1, *node).

    They are constants, the range of σ', unless more is known of the activation.
    """
    return _constants(activation, z, arithmetic)


def _constants(activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
    slopes = activation.slope_range(z, arithmetic).map(lambda t: t.unsqueeze(1))
    zero = torch.zeros_like(slopes.lower)
    return LinearRelaxation(zero, slopes.lower, zero, slopes.upper, slopes.magnitude.detach())


@slope_lines.register
def _slope_lines_of_smooth(
    activation: AbstractSmooth, z: Interval, share: float, arithmetic: AbstractArithmetic
) -> LinearRelaxation:
    if not Derivative.known_for(activation, z.lower):
        return _constants(activation, z, arithmetic)
    return tightest_lines(Derivative(activation), z, share, arithmetic)


@slope_lines.register
def _slope_lines_of_two_pieces(
    activation: AbstractTwoPiece, z: Interval, share: float, arithmetic: AbstractArithmetic
) -> LinearRelaxation:
    """A step from s to 1 at 0: the line on one side goes through the step's end at 0 and through that at l or u.

    With J = |1 - s|, a line of slope a >= 0 is valid for a (-l) <= J or a u <= J.  a is computed with two roundings of
    normal numbers, and is then decreased by more than both.
    """
    s, plain = activation.slope_below(z.lower), _constants(activation, z, arithmetic)
    jump, point = (1 - s).abs(), (1 - share) * z.lower + share * z.upper
    met = activation.unstable(z, arithmetic)
    left = torch.where(met & (point < 0), _steepest(jump, -z.lower), 0.0)
    right = torch.where(met & (point > 0), _steepest(jump, z.upper), 0.0)
    rising = s < 1
    up, low = torch.where(rising, left, -right), torch.where(rising, right, -left)
    at_up, at_low = torch.where(rising, 1.0, s), torch.where(rising, s, 1.0)
    ends = (at_up, plain.upper_intercept[:, 0]), (at_low, plain.lower_intercept[:, 0])
    top, bottom = (torch.where(met, step, known) for step, known in ends)
    return LinearRelaxation(*(t.unsqueeze(1) for t in (low, bottom, up, top, plain.size[:, 0])))


def _steepest(jump: Tensor, run: Tensor) -> Tensor:
    """A slope a >= 0 with a run <= jump, near the largest; 0 for numbers so huge or tiny that more may round."""
    info = torch.finfo(run.dtype)
    normal = (run > 1 / far(run)) & (run < far(run)) & (jump > 1 / far(run)) & (jump < far(run))
    return torch.where(normal, jump, 0.0) / torch.where(normal, run, 1.0) * (1 - 4 * info.eps)


@singledispatch
def value_lines(
    activation: AbstractActivation, z: Interval, share: float, arithmetic: AbstractArithmetic
) -> LinearRelaxation:
    """Lines of σ on z (batch, *node), near the tightest at a point with the given share of z before it.

    In the middle these are CROWN's.  Otherwise they are parallel lines, unless more is known of the activation.
    """
    return activation.lines(z, arithmetic) if share == 0.5 else activation.parallel_lines(z, arithmetic)


@value_lines.register
def _value_lines_of_smooth(
    activation: AbstractSmooth, z: Interval, share: float, arithmetic: AbstractArithmetic
) -> LinearRelaxation:
    plain = activation.lines(z, arithmetic)
    if share == 0.5:
        return plain
    part = activation.searchable(activation.core(z))
    short = (z.lower == part.lower) & (z.upper == part.upper)
    tight = tightest_lines(activation, z.map(lambda end: torch.where(short, end, part.lower)), share, arithmetic)
    short = short.unsqueeze(1)
    names = ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept")
    parts = [torch.where(short, getattr(tight, n), getattr(plain, n)) for n in names]
    return LinearRelaxation(*[*parts, plain.size])
