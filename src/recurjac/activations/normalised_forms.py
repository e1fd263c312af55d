"""Bilinear forms uᵀJw of the Jacobian J of a normalisation of rows, bounded over boxes.

With c the row, less its mean if it is centred, and v = |c|² / n + eps, such a form is a function of three numbers,

    F(a, b, v) = (uᵀPw - a b / (n v)) / √v,      a = u · c,  b = w · c,

of which a and b are linear in the row and v is convex.  For any p, q and κ, over the box, and over the ranges of the
three numbers,

    F <= max (F - p a - q b + κ (v - eps)) + max (p a + q b - κ |c|² / n) .

The first maximum is at the ends of the ranges, the second is that of a concave function, or of one that is replaced by
chords.  Both are bounded whatever p, q and κ are; a search makes them good.  Source: docs/mathematics.md, §3.11.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import final

import torch
from torch import Tensor

from recurjac.activations.row_bounds import divided, inverse_root, total_of
from recurjac.arithmetic import AbstractArithmetic, Interval

_STEPS, _FIRST_STEP, _SHRINKING = 16, 0.2, 0.8
"""Steps of the search, the first one relative to the numbers that are sought, and the ratio of two of them."""
_STARTS = 4
"""How often the search starts with the slopes of F where the last such slopes are largest."""
_FLAT = 1e-9
"""Squares whose factors are smaller, relative to the linear part, are left out."""
_HALVINGS = 18
"""Bisection steps for the mean of the row at which a concave function is largest."""


@final
@dataclass(frozen=True)
class Multipliers:
    """p, q and k = κ / n, a mean m of the row (cells, B, K, rows, 1), and slopes τ of lines of (x - m)²: (…, n)."""

    p: Tensor
    q: Tensor
    k: Tensor
    mean: Tensor
    tilt: Tensor


@final
@dataclass(frozen=True)
class NormalisedForms:
    """Forms for pairs u, w: they, z and v have the shapes (B, K, rows, n) and (B, K, rows, 1), or broadcast to them.

    u and w: without their means if `centred`, up to rounding; exact as stored.  size: bounds of v.
    pieces: into how many parts each of the ranges of a, b and v is divided.
    """

    z: Interval
    size: Interval
    u: Tensor
    w: Tensor
    eps: float
    centred: bool
    pieces: int = 1

    @property
    def count(self) -> int:
        return int(self.z.shape[-1])

    def upper(self, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of the forms: (B, K, rows)."""
        number, product = Interval.point, arithmetic.product
        with torch.no_grad():
            middle = (self.z.lower / 2 + self.z.upper / 2).mean(-1, keepdim=True)
        y = self.moved(middle if self.centred else torch.zeros_like(middle), arithmetic)
        firsts, seconds = (self._dot(t, y, arithmetic) for t in (self.u, self.w))
        constant = total_of(product(number(self.u), number(self.w)), arithmetic)
        if self.centred:
            sums = [total_of(number(t), arithmetic) for t in (self.u, self.w)]
            constant = arithmetic.sum([constant, -divided(product(*sums), self.count, arithmetic)])
        cells = Cells(self, constant, *_cells(firsts, seconds, self.size, self.pieces))
        return cells.upper(arithmetic).amax(0)[..., 0]

    def moved(self, middle: Tensor, arithmetic: AbstractArithmetic) -> Interval:
        """Rows less a number."""
        low, high = (arithmetic.exact(e) - arithmetic.exact(middle) for e in (self.z.lower, self.z.upper))
        return Interval.unchecked(low.lower(), high.upper())

    def shift(self, y: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The mean of the rows."""
        return divided(total_of(y, arithmetic), self.count, arithmetic)

    def _dot(self, t: Tensor, y: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of t · c, where c = y less its mean if centred."""
        whole = total_of(arithmetic.product(Interval.point(t), y), arithmetic)
        if not self.centred:
            return whole
        rest = arithmetic.product(total_of(Interval.point(t), arithmetic), self.shift(y, arithmetic))
        return arithmetic.sum([whole, -rest])


def _cells(firsts: Interval, seconds: Interval, size: Interval, pieces: int) -> tuple[Interval, Interval, Interval]:
    """The ranges of a, b and v in all cells: (cells, …)."""
    parts = [_parts(each, pieces) for each in (firsts, seconds, size)]
    cells = list(product(range(pieces), repeat=3))
    found = [
        Interval.unchecked(*(torch.stack([end[c[axis]] for c in cells]) for end in (part.lower, part.upper)))
        for axis, part in enumerate(parts)
    ]
    return found[0], found[1], found[2]


def _parts(whole: Interval, pieces: int) -> Interval:
    """Parts of an interval, side by side: (pieces, …)."""
    ends = [whole.lower]
    for k in range(1, pieces):
        end = whole.lower + whole.width * (k / pieces)
        ends.append(torch.minimum(torch.where(end.isnan(), whole.lower, end), whole.upper))
    ends.append(whole.upper)
    return Interval.unchecked(torch.stack(ends[:-1]), torch.stack(ends[1:]))


@final
@dataclass(frozen=True)
class Cells:
    """Forms where a, b and v are in cells (cells, B, K, rows, 1).  constant: uᵀPw."""

    forms: NormalisedForms
    constant: Interval
    firsts: Interval
    seconds: Interval
    size: Interval

    def upper(self, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of the forms in each cell."""
        with torch.no_grad():
            found = _Search.of(self).best()
        y = self.forms.moved(found.mean, arithmetic)
        total = arithmetic.exact(self._ends(found, arithmetic)) + arithmetic.exact(self._line(found, y, arithmetic))
        return total.upper()

    def _ends(self, by: Multipliers, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of F - p a - q b + κ (v - eps) where a, b and v are at the ends of their ranges.

        For given v it is linear in a and in b.  As a function of v it is convex where its powers of v have positive
        factors; with tangents in place of the powers that have negative ones, it is convex anyway.
        """
        product, number, count = arithmetic.product, Interval.point, self.forms.count
        eps = arithmetic.rounded(self.size.lower.new_tensor(self.forms.eps), 1)
        many = product(number(by.k), number(by.k.new_tensor(count)))
        tops = []
        for v in _ends_of(self.size):
            once, thrice = self._powers(v.lower, arithmetic)
            fixed = arithmetic.sum([product(self.constant, once), product(many, arithmetic.sum([v, -eps]))])
            for a in _ends_of(self.firsts):
                for b in _ends_of(self.seconds):
                    turned = -divided(product(product(a, b), thrice), count, arithmetic)
                    lines = [-product(number(by.p), a), -product(number(by.q), b)]
                    tops.append(arithmetic.sum([fixed, turned, *lines]).upper)
        return reduce(torch.maximum, tops)

    def _powers(self, v: Tensor, arithmetic: AbstractArithmetic) -> tuple[Interval, Interval]:
        """From tangents of v^(-1/2) and v^(-3/2) to these powers: those at v = 1 / t² are t (3 - t² v) / 2 and
        t³ (5 - 3 t² v) / 2, for any t.
        """
        product, number = arithmetic.product, Interval.point
        with torch.no_grad():
            near = (self.size.lower * self.size.upper).pow(-0.25)
            t = number(torch.where(near.isfinite(), near, 0.0))
        square = product(t, t)
        bend = product(square, number(v))
        found = []
        for height, slope, power in ((3.0, 1.0, t), (5.0, 3.0, product(t, square))):
            steep = product(number(v.new_tensor(slope)), bend)
            line = arithmetic.sum([number(v.new_tensor(height)), -steep])
            found.append(divided(product(power, line), 2, arithmetic))
        root = inverse_root(number(v), arithmetic)
        cubed = product(root, product(root, root))
        return (
            Interval.unchecked(torch.minimum(found[0].lower, root.lower), root.upper),
            Interval.unchecked(torch.minimum(found[1].lower, cubed.lower), cubed.upper),
        )

    def _line(self, by: Multipliers, y: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of p a + q b - k |c|².

        Where k >= 0, c² >= τ c - τ² / 4.  Elsewhere |c|² <= |y|², and y² <= τ y + r with r from both ends of y.  The
        sum of all c is 0 if centred.
        """
        product, number, forms = arithmetic.product, Interval.point, self.forms
        k, tilt = number(by.k), number(by.tilt)
        ways = arithmetic.sum([product(number(by.p), number(forms.u)), product(number(by.q), number(forms.w))])
        slope = arithmetic.sum([ways, -product(k, tilt)])
        terms = [total_of(product(slope, y), arithmetic)]
        if forms.centred:
            apart = Interval.unchecked(*(
                torch.where(by.k >= 0, a, b) for a, b in ((slope.lower, ways.lower), (slope.upper, ways.upper))
            ))  # fmt: skip
            terms.append(-product(total_of(apart, arithmetic), forms.shift(y, arithmetic)))
        squares = divided(product(tilt, tilt), 4, arithmetic).upper
        ends = [product(e, arithmetic.sum([e, -tilt])).upper for e in _ends_of(y)]
        rest = torch.where(by.k >= 0, squares, torch.maximum(*ends))
        most = product(number(by.k.abs()), total_of(number(rest), arithmetic))
        return arithmetic.sum([*terms, most]).upper


def _ends_of(z: Interval) -> tuple[Interval, Interval]:
    return Interval.point(z.lower), Interval.point(z.upper)


@final
@dataclass(frozen=True)
class _Search:
    """Looks for good multipliers with plain numbers; nothing depends on how well.

    u, w, lower, upper: (cells, B, K, rows, n).  middle, constant: (cells, B, K, rows, 1).
    """

    cells: Cells
    u: Tensor
    w: Tensor
    lower: Tensor
    upper: Tensor
    middle: Tensor
    constant: Tensor

    @classmethod
    def of(cls, cells: Cells) -> _Search:
        forms = cells.forms
        shape = torch.broadcast_shapes(cells.size.shape, forms.z.shape, forms.u.shape, forms.w.shape)
        u, w, lower, upper = (t.expand(shape) for t in (forms.u, forms.w, forms.z.lower, forms.z.upper))
        middle = (lower + upper).mean(-1, keepdim=True) / 2 if forms.centred else torch.zeros_like(u[..., :1])
        return cls(cells, u, w, lower, upper, middle, cells.constant.lower)

    def best(self) -> Multipliers:
        found, least = None, None
        for by, most in self._candidates():
            if found is None or least is None:
                found, least = by, most
                continue
            better = most < least
            least = torch.where(better, most, least)
            found = Multipliers(*(torch.where(better, getattr(by, f), getattr(found, f)) for f in _FIELDS))
        assert found is not None  # noqa: S101  (there is a first candidate)
        return Multipliers(*(getattr(found, f).nan_to_num(0.0, 0.0, 0.0) for f in _FIELDS))

    def _candidates(self) -> Iterator[tuple[Multipliers, Tensor]]:
        """Multipliers, and the bounds that they give: slopes of F at points, then subgradient steps from the best."""
        x = (self.lower + self.upper) / 2
        best: Tensor | None = None
        least: Tensor | None = None
        for _ in range(_STARTS):
            three = self._slopes(x)
            by, x, most, _ = self._at(three)
            best = three if best is None or least is None else torch.where(most < least, three, best)
            least = most if least is None else torch.minimum(most, least)
            yield by, most
        assert best is not None  # noqa: S101  (there is a first start)
        scale, three = best.abs() + 1e-3 * best.abs().amax(0), best
        for step in range(_STEPS):
            by, _, most, fall = self._at(three)
            yield by, most
            fall = fall * scale
            size = fall.square().sum(0).sqrt()
            three = three - _FIRST_STEP * _SHRINKING**step * scale * fall / torch.where(size > 0, size, 1.0)

    def _slopes(self, x: Tensor) -> Tensor:
        """The derivatives of F by a, b and -n v at a row: (3, B, K, rows, 1)."""
        a, b, v = self._numbers(x)
        n, root = self.cells.forms.count, v.pow(-1.5)
        falls = (self.constant - 3 * a * b / (n * v)) / (2 * n)
        return torch.stack([-b / n * root, -a / n * root, falls * root])

    def _numbers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = x - x.mean(-1, keepdim=True) if self.cells.forms.centred else x
        a, b = ((t * c).sum(-1, keepdim=True) for t in (self.u, self.w))
        return a, b, c.square().mean(-1, keepdim=True) + self.cells.forms.eps

    def _at(self, three: Tensor) -> tuple[Multipliers, Tensor, Tensor, Tensor]:
        """Multipliers, the row at which their linear function is largest, the bound and its subgradient."""
        p, q, k = three
        ways = p * self.u + q * self.w
        width, steepest = (t.amax(-1, keepdim=True) for t in (self.upper - self.lower, ways.abs()))
        k = torch.where(k.abs() * width > _FLAT * steepest, k, 0.0)
        mean, x = self._largest(ways, k)
        y, low, high = x - mean, self.lower - mean, self.upper - mean
        tilt = torch.where(k >= 0, 2 * y, low + high)
        a, b, _ = self._numbers(x)
        chords = torch.maximum(low * (low - tilt), high * (high - tilt)) + tilt * y
        squares = torch.where(k >= 0, y.square(), chords).sum(-1, keepdim=True)
        top, ends = self._top(torch.stack([p, q, k]))
        most = top + p * a + q * b - k * squares
        fall = torch.stack([a - ends[0], b - ends[1], ends[2] - squares])
        return Multipliers(p, q, k, mean, tilt), x, most, fall

    def _largest(self, ways: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """A mean, and the row at which Σ ways y - k y² is largest, y = x - mean; where k <= 0 by chords."""
        falls = k > 0
        move = ways / torch.where(falls, 2 * k, 1.0)
        low, high = self.lower.amin(-1, keepdim=True), self.upper.amax(-1, keepdim=True)
        middle = self.middle
        if self.cells.forms.centred:
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                above = (self._clipped(middle + move) - middle).sum(-1, keepdim=True) > 0
                low, high = torch.where(above, middle, low), torch.where(above, high, middle)
            middle = torch.where(falls, (low + high) / 2, self.middle)
        chord = ways - k * (self.lower + self.upper - 2 * middle)
        return middle, torch.where(falls, self._clipped(middle + move), torch.where(chord > 0, self.upper, self.lower))

    def _clipped(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def _top(self, three: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The largest F - p a - q b + k n (v - eps) at ends of the ranges, and a, b and n (v - eps) there."""
        p, q, k = three
        firsts, seconds = self.cells.firsts, self.cells.seconds
        n, size, best = self.cells.forms.count, self.cells.size, None
        t = (size.lower * size.upper).pow(-0.25)
        for v in (size.lower, size.upper):
            root = v.pow(-0.5)
            once = torch.where(self.constant >= 0, root, t * (3 - t * t * v) / 2)
            for a in (firsts.lower, firsts.upper):
                for b in (seconds.lower, seconds.upper):
                    cube = torch.where(a * b <= 0, root**3, t**3 * (5 - 3 * t * t * v) / 2)
                    room = n * (v - self.cells.forms.eps)
                    most = self.constant * once - a * b / n * cube - p * a - q * b + k * room
                    found = torch.stack(torch.broadcast_tensors(most, a, b, room))
                    best = found if best is None else torch.where(found[:1] > best[:1], found, best)
        assert best is not None  # noqa: S101  (there are eight)
        return best[0], (best[1], best[2], best[3])


_FIELDS = ("p", "q", "k", "mean", "tilt")
