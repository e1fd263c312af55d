"""The product of two pre-activations u and v, as the sum of what two stages give (docs/mathematics.md, §1 and §3.9).

The first stage has the pre-activation v, the second one u.  Their outputs are always read together, through the same
operators.  The slope at the first one is u and at the second one v, as d(u v) = u dv + v du.  Over a region, the
product is divided between the two so that each part lies between lines in its own argument: a multiple of one argument
on one side, and what is left of the product on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from recurjac.activations.base import AbstractActivation, far
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.relaxations import LinearRelaxation


class NeedsBothError(TypeError):
    """A factor was asked for what only both factors determine."""

    def __init__(self) -> None:
        super().__init__("one factor of a product has no values, slopes or lines of its own; ask the state for them")


@final
@dataclass(frozen=True)
class Factor(AbstractActivation):
    """One of two stages, side by side, whose outputs add up to the product of their pre-activations.

    other: the number of the other stage, less that of this one: 1 for the first stage, -1 for the second one.
    Questions that need both factors raise an error here, so that nothing takes a factor for a function of one argument.
    """

    other: int
    name: ClassVar[str] = "product"

    @property
    def first(self) -> bool:
        """Whether the other factor comes next."""
        return self.other > 0

    @property
    def rigorous(self) -> bool:
        """True: products and planes include their rounding errors."""
        return True

    def value(self, z: Tensor) -> Tensor:
        raise NeedsBothError

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        raise NeedsBothError

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        raise NeedsBothError

    def unstable(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """True where the slope at the other factor, which is z, is not constant."""
        return ~z.is_point

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        raise NeedsBothError

    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        raise NeedsBothError

    @classmethod
    def examples(cls) -> list[Self]:
        """None: it is no function of one argument (see `FactorOver`)."""
        return []


@final
@dataclass(frozen=True)
class FactorOver(AbstractActivation):
    """One part of a product u v over a region, as a relation between its own factor and the part.

    own, partner: the ranges of this factor and of the other one, (batch, *node).
    multiple: where `exact`, the part is this multiple of its own factor, and the other part is the rest of the product.
    Elsewhere, the other part is that multiple of the other factor, so that this part is (own - multiple) times it.
    low, high: the slopes of the lines below and above this part, finite.
    All points of `own` are covered, whatever interval the methods are asked about.
    """

    own: Interval
    partner: Interval
    multiple: Tensor
    exact: Tensor
    low: Tensor
    high: Tensor
    name: ClassVar[str] = "product"

    @property
    def rigorous(self) -> bool:
        return True

    def value(self, z: Tensor) -> Tensor:
        raise NeedsBothError

    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of this part of the product."""
        times, rest = self._proportional(arithmetic), arithmetic.product(self._moved(arithmetic), self.partner)
        pairs = ((times.lower, rest.lower), (times.upper, rest.upper))
        low, high = (torch.where(self.exact, a, b) for a, b in pairs)
        return arithmetic.enclose(low, high)

    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of the other factor."""
        return self.partner

    def unstable(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        return ~z.is_point

    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """With own = y, partner = w and multiple = m: (y - m) w - s y = (y - m)(w - s) - m s, for any slope s."""
        moved, size = self._moved(arithmetic), self.value_range(z, arithmetic).magnitude.detach()
        bottom = self._intercept(moved, self.low, arithmetic).lower
        top = self._intercept(moved, self.high, arithmetic).upper
        zero = torch.zeros_like(bottom)
        sides = ((self.multiple, self.low), (zero, bottom), (self.multiple, self.high), (zero, top))
        lines = [torch.where(self.exact, a, b).unsqueeze(1) for a, b in sides]
        return LinearRelaxation(*[*lines, size.unsqueeze(1)])

    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The same lines, as the division of the product must not depend on who asks."""
        return self.lines(z, arithmetic)

    def _proportional(self, arithmetic: AbstractArithmetic) -> Interval:
        return arithmetic.product(Interval.point(self.multiple), self.own)

    def _moved(self, arithmetic: AbstractArithmetic) -> Interval:
        """The range of own - multiple."""
        return _less(self.own, self.multiple, arithmetic)

    def _intercept(self, moved: Interval, slope: Tensor, arithmetic: AbstractArithmetic) -> Interval:
        rest = arithmetic.product(moved, _less(self.partner, slope, arithmetic))
        shift = arithmetic.product(Interval.point(-self.multiple), Interval.point(slope))
        return arithmetic.sum([rest, shift]) if bool((shift.lower != 0).any() | (shift.upper != 0).any()) else rest

    @classmethod
    def examples(cls) -> list[Self]:
        """None: it holds the ranges of a region."""
        return []


def factors_over(first: Interval, second: Interval, arithmetic: AbstractArithmetic) -> tuple[FactorOver, FactorOver]:
    """Both parts of the product of a first factor v and a second factor u, which lie in these ranges.

    Each side of the product has one of McCormick's two planes: the one whose extreme value over both ranges is nearer
    to that of the product.  Where that does not decide on either side, both have the mean of their two planes.
    A plane has a slope in each argument; those of the two sides agree in one of them, whose part is a multiple.
    """
    v, u = first, second
    zero = torch.zeros_like(u.lower)
    with torch.no_grad():
        size = torch.maximum(u.magnitude, v.magnitude)
        plain = (size >= far(size)) | u.is_point | v.is_point  # such products are not known to be finite, or are exact
        kept_u, kept_v = (z.map(lambda t: torch.where(plain, zero, t)) for z in (u, v))
        above, below = _better(kept_u, kept_v), _better(kept_u, -kept_v)
        even = ((above == 0) & (below == 0)) | plain
        upper_first, lower_first = above >= 0, below >= 0
        alike = (upper_first == lower_first) | even  # the planes agree in their slopes in v
    mean_u, mean_v = (torch.where(plain, _only(z), _middle(z)) for z in (u, v))
    multiple = torch.where(even, mean_u, torch.where(upper_first, u.lower, u.upper))
    low = torch.where(even, mean_v, torch.where(lower_first, v.lower, v.upper))
    high = torch.where(even, mean_v, torch.where(upper_first, v.upper, v.lower))
    other_multiple = torch.where(upper_first, v.upper, v.lower)
    other_low, other_high = torch.where(lower_first, u.lower, u.upper), torch.where(upper_first, u.lower, u.upper)
    held = [torch.where(alike, a, b) for a, b in ((multiple, other_multiple), (low, other_low), (high, other_high))]
    finite = [torch.where(t.isfinite(), t, zero) for t in held]
    return FactorOver(v, u, finite[0], alike, *finite[1:]), FactorOver(u, v, finite[0], ~alike, *finite[1:])


def _better(u: Interval, v: Interval) -> Tensor:
    """Which upper plane of u v is lower at its highest: 1 for v_u u + u_l v - u_l v_u, -1 for v_l u + u_u v - u_u v_l.

    0 if both are equally high.  Only tightness depends on it.
    """
    corners = [(a, b) for a in (u.lower, u.upper) for b in (v.lower, v.upper)]
    one, two = (
        torch.stack([b * x + a * y - a * b for x, y in corners]).amax(0)
        for a, b in ((u.lower, v.upper), (u.upper, v.lower))
    )
    slack = torch.finfo(one.dtype).eps ** 0.5 * torch.maximum(one.abs(), two.abs())
    return torch.where((one - two).abs() <= slack, 0.0, (two - one).sign())


def _less(z: Interval, number: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    """The range of z - number, which is 0 where z is that number."""
    moved = arithmetic.sum([z, Interval.point(-number)])
    low, high = (torch.where(end == number, 0.0, new) for end, new in ((z.lower, moved.lower), (z.upper, moved.upper)))
    return arithmetic.enclose(low, high)


def _middle(z: Interval) -> Tensor:
    return z.lower / 2 + z.upper / 2


def _only(z: Interval) -> Tensor:
    """The only number of an interval; 0 where it has more."""
    return torch.where(z.is_point, z.lower, 0.0)
