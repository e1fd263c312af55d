"""A search for multipliers of the quadratic dual, all rows at once: Adam's method on Danskin's derivatives.

The derivative of sup F by a multiplier is the value of its product where the supremum is attained, so that nothing is
differentiated.  After each step, all multipliers of a row are multiplied by the best common factor, which has a closed
form.  A step that leaves what is feasible, or makes the bound much worse, is undone and shortened, and λ is raised a
little.  No proof depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.deadline import NEVER, Deadline
from recurjac.quadratic.dual import Maximum, Plain, Point, Rows

_LAST = 0.02
"""The share of the first step that is left at the end."""
_LEAST = 0.05
"""How much worse the bound of a step may always be, as a share of the first bound."""
_CHECK = 3
"""After how many steps rows are given up that have reached what was asked."""
_BEGUN = 9
"""After how many steps it shows which rows will not reach it."""
_LIFT = 0.5
_LIFTS = 25
"""What is added to log λ until F is concave, and how often."""


@final
@dataclass(frozen=True)
class Settings:
    """How a search goes.

    rate: the first step, in units of the multipliers.  averages: the shares that Adam's averages keep.  worse: how much
    worse the bound of a step may be, relative to the last one.
    barrier: what is minimised is sup F minus this number times the logarithm of the determinant of F's matrix, in units
    of the first bound of a row; it falls from the first to the second number.
    first: the share of the first step that is taken.  longer, shorter: what that share is multiplied by after a step
    that was accepted or undone.  raised: what is added to log λ after one that was undone.
    hopeless: a row is given up, too, if after nine steps its bound exceeds what was asked by more than this share of
    itself, after eighteen by more than half of that, and so on.
    """

    rate: float = 0.4
    averages: tuple[float, float] = (0.9, 0.99)
    worse: float = 0.2
    barrier: tuple[float, float] = (0.0, 0.0)
    first: float = 0.3
    longer: float = 1.2
    shorter: float = 0.6
    raised: float = 0.05
    hopeless: float = inf

    def barrier_at(self, rest: float) -> float:
        """The barrier when the share `rest` of the steps is left."""
        first, last = self.barrier
        return 0.0 if first == 0 else first * (last / first) ** (1 - rest)

    def open(self, bounds: Tensor, stop: Tensor, steps: int) -> Tensor:
        """Which bounds are above what was asked, but may still reach it."""
        above = bounds > stop
        if steps < _BEGUN or self.hopeless == inf:
            return above
        return above & (bounds - stop <= self.hopeless * _BEGUN / steps * bounds.abs())


@final
@dataclass(frozen=True)
class Scale:
    """The unit of each multiplier, (R, C, u), and which may have any sign, (C, u).

    least: the least multipliers at the beginning of a search, in these units, (C, u); they fall to 0.  Those of
    products that keep F concave should not be 0, as steps are undone where F is hardly concave.
    """

    units: Tensor
    free: Tensor
    least: Tensor


RANGES = Settings()
"""What suits one copy of a system in single precision."""
SIDES = Settings(averages=(0.7, 0.9), hopeless=0.25)
"""What suits many rows from one start, with signs to be proved: half of them are as good after 30 steps as after 60."""
COUPLED = Settings(0.1, (0.9, 0.995), 0.02, (1e-3, 1e-6), 1.0, 1.05, 0.4, 0.0)
"""What suits points and tangents together in double precision: without a barrier the search stops at once."""


def searched(
    plain: Plain,
    rows: Rows,
    begin: Point,
    scale: Scale,
    steps: int,
    stop: Tensor | None = None,
    deadline: Deadline = NEVER,
    settings: Settings = RANGES,
) -> Point:
    """The best multipliers that are found from `begin`; a row is given up once its bound is below its `stop`.

    With fewer steps in the time until the deadline, their sizes fall faster.  At least the first point is returned.
    """
    best, active = begin.packed(), torch.arange(len(begin.logs), device=begin.logs.device)
    run = _Run.starting(plain, rows, begin, scale, settings)
    for step in range(steps):
        share = max(step / steps, deadline.share)
        if share >= 1:
            break
        run.advance(1 - share)
        if stop is not None and step % _CHECK == _CHECK - 1:
            keep = settings.open(run.least, stop[active], step + 1)
            if not bool(keep.all()):
                best[active] = run.best
                active, run = active[keep], run.at(keep)
            if len(active) == 0:
                break
    best[active] = run.best
    return begin.unpacked(best)


_TENSORS = ("now", "good", "best", "first", "second", "least", "last", "share", "size")


@final
@dataclass
class _Run:
    """The state of a search: numbers (R, n), the last accepted ones, the best ones, and Adam's averages.

    least, last: the bounds of the best and of the last accepted ones, (R,).  share: of the step that is taken.
    """

    plain: Plain
    rows: Rows
    shape: Point
    scale: Scale
    settings: Settings
    now: Tensor
    good: Tensor
    best: Tensor
    first: Tensor
    second: Tensor
    least: Tensor
    last: Tensor
    share: Tensor
    size: Tensor
    count: int = 0

    @classmethod
    def starting(cls, plain: Plain, rows: Rows, begin: Point, scale: Scale, settings: Settings) -> _Run:
        now, none = begin.packed(), torch.full_like(begin.logs[:, 0, 0], torch.inf)
        zero, share = torch.zeros_like(now), torch.full_like(begin.logs[:, 0, :1], settings.first)
        run = cls(
            plain,
            rows,
            begin,
            scale,
            settings,
            now,
            now.clone(),
            now.clone(),
            zero,
            zero.clone(),
            none,
            none.clone(),
            share,
            share[:, 0],
        )
        run.lift()
        return run

    def at(self, keep: Tensor) -> _Run:
        """The search of some of the rows."""
        kept = {name: getattr(self, name)[keep] for name in _TENSORS}
        scale = replace(self.scale, units=self.scale.units[keep])
        return replace(
            self, plain=self.plain.at(keep), rows=self.rows.at(keep), shape=self.shape.at(keep), scale=scale, **kept
        )

    @property
    def split(self) -> int:
        """How many numbers of each row are logarithms of λ."""
        return self.shape.logs.shape[1] * self.shape.logs.shape[2]

    def lift(self) -> None:
        """Raise λ where F is not concave."""
        for _ in range(_LIFTS):
            found = self.evaluated()
            bad = ~found.concave
            self.size = torch.where(found.value.isfinite() & found.concave, found.value.abs(), 1.0)
            if not bool(bad.any()):
                break
            self.now[bad, : self.split] += _LIFT
        self.good, self.best = self.now.clone(), self.now.clone()

    def evaluated(self) -> Maximum:
        point = self.shape.unpacked(self.now)
        return self.plain.maximum(self.rows, point.logs.exp(), point.numbers * self.scale.units)

    def advance(self, rest: float) -> None:
        """One step; `rest` is the share of the steps that are left."""
        barrier, settings = self.settings.barrier_at(rest) * self.size, self.settings
        found, slope, value = self._rescaled(barrier)
        good = found.concave & (value < self.last + settings.worse * self.last.abs() + _LEAST * self.size)
        good = good | (found.concave & self.last.isinf())
        better = good & (found.value < self.least)
        self.least = torch.where(better, found.value, self.least)
        self.best[better] = self.now[better]
        self.good[good] = self.now[good]
        self.last = torch.where(good, value, self.last)
        self.count += 1
        use = good.unsqueeze(1)
        self.share = torch.where(use, (self.share * settings.longer).clamp(max=1.0), self.share * settings.shorter)
        a, b = settings.averages
        self.first = torch.where(use, a * self.first + (1 - a) * slope, 0.3 * self.first)
        self.second = torch.where(use, b * self.second + (1 - b) * slope.square(), self.second)
        size = (self.second / (1 - b**self.count)).sqrt() + 1e-9
        step = settings.rate * (_LAST + (1 - _LAST) * rest) * self.share * (self.first / (1 - a**self.count)) / size
        self.now = self.good - step
        self.now[~good, : self.split] += settings.raised
        n = self.split
        numbers = self.shape.unpacked(self.now).numbers
        clamped = torch.where(self.scale.free, numbers, torch.maximum(numbers, rest * self.scale.least))
        self.now = torch.cat([self.now[:, :n], clamped.flatten(1)], 1)

    def _rescaled(self, barrier: Tensor) -> tuple[Maximum, Tensor, Tensor]:
        """The maximum at the best multiple of this point, which is then the point, and what is minimised there.

        The second result is its derivative by log λ and by the numbers; the third is itself.
        """
        point = self.shape.unpacked(self.now)
        lam, units = point.logs.exp(), self.scale.units
        found, scale = self.plain.scaled(self.rows, lam, point.numbers * units, barrier)
        scale = torch.where(found.concave, scale, 1.0)
        self.now = Point(point.logs + scale.log()[:, None, None], point.numbers * scale[:, None, None]).packed()
        squares, value, spread = found.v.square(), found.value, None
        if self.settings.barrier[0] > 0:
            spread = barrier / scale
            squares = squares + spread[:, None, None] * self.plain.inputs_spread(found, lam)
            value = value - barrier * self._volume(found, point.logs, scale)
        balls = torch.tensor(self.plain.euclidean, device=lam.device).reshape(1, -1, 1)
        room = 1 - torch.where(balls, squares.sum(2, keepdim=True), squares)
        values = self.plain.values(found, spread) * units
        slope = torch.cat([(scale[:, None, None] * lam * room).flatten(1), values.flatten(1)], 1)
        return found, slope.nan_to_num(0.0, 0.0, 0.0), value

    def _volume(self, found: Maximum, logs: Tensor, scale: Tensor) -> Tensor:
        """The logarithm of the determinant of F's matrix in v and w at a multiple of the multipliers: (R,)."""
        count = logs[0].numel() + found.w[0].numel()
        return 2 * torch.diagonal(found.lower, dim1=1, dim2=2).log().sum(1) + logs.sum((1, 2)) + count * scale.log()
