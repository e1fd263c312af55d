"""Values with their first and second derivatives along directions, as affine forms of the input, carried forward.

Beside the forms, interval products are carried, and both are intersected (docs/mathematics.md, §9.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation, curvature_lines, slope_lines
from recurjac.arithmetic import AbstractArithmetic, Interval, round_up_to
from recurjac.errors import InvalidRequest
from recurjac.operators import AbstractOperator
from recurjac.operators.interval import interval_image
from recurjac.preactivation import IBP, PreactivationState
from recurjac.propagation.affine_forms import AffineForms, Symbols, band
from recurjac.relaxations import LinearRelaxation


@final
@dataclass(frozen=True)
class Ways:
    """Directions, (R, *input), and pairs of their numbers along which second derivatives are taken, (2, P)."""

    tangents: Tensor
    pairs: Tensor

    @property
    def alike(self) -> Tensor:
        """Where both directions of a pair are the same: (P,)."""
        return self.pairs[0] == self.pairs[1]


@final
@dataclass(frozen=True)
class Enclosed:
    """Entries (B, …) between bounds, and given by forms."""

    forms: AffineForms
    bounds: Interval

    def sample(self, i: int) -> Enclosed:
        """Those of one sample."""
        forms = AffineForms(self.forms.rows[i : i + 1], self.forms.rest[i : i + 1])
        return Enclosed(forms, self.bounds.map(lambda t: t[i : i + 1]))

    def at(self, index: Tensor) -> Enclosed:
        """Those along some of the directions, which are the first axis of the entries."""
        rows, rest = self.forms.rows.index_select(2, index), self.forms.rest.index_select(1, index)
        return Enclosed(AffineForms(rows, rest), self.bounds.map(lambda t: t.index_select(1, index)))


@final
@dataclass(frozen=True)
class Jet:
    """Entries of a node, (B, *node), their first derivatives, (B, R, *node), and second ones, (B, P, *node)."""

    value: Enclosed
    first: Enclosed
    second: Enclosed


@final
@dataclass(frozen=True)
class Algebra:
    """Sums and products of what is enclosed."""

    symbols: Symbols

    def times(self, a: Enclosed, b: Enclosed) -> Enclosed:
        """Products of entries of the same shape, (B, R, …)."""
        symbols, product = self.symbols, self.symbols.arithmetic.product(a.bounds, b.bounds)
        form = AffineForms(a.forms.rows.unsqueeze(2), a.forms.rest.unsqueeze(1))
        y, delta, values = (i.map(lambda t: t.unsqueeze(1)) for i in (a.bounds, b.bounds, product))
        found = symbols.product(form, y, b.forms, delta, values)
        return self.settled(AffineForms(found.rows[:, :, 0], found.rest[:, 0]), product)

    def by_value(self, a: Enclosed, b: Enclosed) -> Enclosed:
        """Products of entries (B, R, *node) and (B, *node)."""
        delta = b.bounds.map(lambda t: t.unsqueeze(1))
        product = self.symbols.arithmetic.product(a.bounds, delta)
        return self.settled(self.symbols.product(a.forms, a.bounds, b.forms, delta, product), product)

    def square(self, a: Enclosed) -> Enclosed:
        found = square(a.bounds, self.symbols.arithmetic)
        return self.settled(self.symbols.square(a.forms, a.bounds, found), found)

    def sum(self, terms: Sequence[Enclosed]) -> Enclosed:
        plain = self.symbols.arithmetic.sum([t.bounds for t in terms])
        return self.settled(self.symbols.sum([t.forms for t in terms]), plain)

    def scaled(self, a: Enclosed, number: float) -> Enclosed:
        """A multiple of entries."""
        arithmetic, factor = self.symbols.arithmetic, _around(number, a.forms.rest)
        bounds = arithmetic.product(a.bounds, factor)
        near, apart = self._apart(factor)
        if near is None:
            return Enclosed(AffineForms(torch.zeros_like(a.forms.rows), apart.expand_as(a.forms.rest)), bounds)
        rows = arithmetic.exact(a.forms.rows) * arithmetic.ball(near, apart)
        rest = (arithmetic.exact(a.forms.rest) * arithmetic.exact(factor.magnitude)).upper()
        return self.settled(self.symbols.settled(rows, torch.where(rest.isnan(), torch.inf, rest)), bounds)

    def number(self, number: float) -> Enclosed:
        """A constant, (B, 1)."""
        region = self.symbols.region
        bounds = _around(number, region.x).map(lambda t: t.expand(region.batch, 1))
        near, apart = self._apart(bounds)
        rows = torch.zeros_like(bounds.lower) if near is None else near
        return Enclosed(AffineForms(rows.unsqueeze(1), apart), bounds)

    def _apart(self, number: Interval) -> tuple[Tensor | None, Tensor]:
        """One of the numbers, and how far others are from it at most; None and inf if an end is infinite."""
        if not bool(number.magnitude.isfinite().all()):
            return None, torch.full_like(number.lower, torch.inf)
        exact = self.symbols.arithmetic.exact
        apart = (exact(number.upper) - exact(number.lower)).upper()
        return number.lower, torch.where(number.lower == number.upper, 0.0, apart)

    def image(self, terms: Sequence[tuple[AbstractOperator, Enclosed]], like: Tensor) -> Enclosed:
        """The image Σ A h, for h (B, R, *source); `like` (R, *node) is 0."""
        arithmetic = self.symbols.arithmetic
        zero = arithmetic.exact(like)
        form = self.symbols.image([(o, e.forms) for o, e in terms], zero)
        parts = [interval_image(o, e.bounds, arithmetic) for o, e in terms]
        empty = like.unsqueeze(0).expand(self.symbols.region.batch, *like.shape)
        return self.settled(form, arithmetic.sum(parts) if parts else Interval.point(empty))

    def settled(self, form: AffineForms, plain: Interval) -> Enclosed:
        """With the bounds of the forms intersected with others."""
        return Enclosed(form, self.symbols.arithmetic.intersect(plain, self.symbols.bounds(form)))

    def named(self, a: Enclosed, share: int) -> Enclosed:
        """With up to `share` of the rests as noises."""
        if self.symbols.limit == 0:
            return a
        little = torch.finfo(a.forms.rest.dtype).eps ** 0.5
        return Enclosed(self.symbols.named(a.forms, a.bounds.width * little, share), a.bounds)


def square(interval: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """The interval of all squares of numbers in an interval."""
    least, most = (Interval.point(t) for t in (interval.mignitude, interval.magnitude))
    return arithmetic.enclose(arithmetic.product(least, least).lower.clamp(min=0), arithmetic.product(most, most).upper)


def _around(number: float, like: Tensor) -> Interval:
    """The number, or those of the dtype of `like` on both sides of it: ends of the shape ()."""
    wide = torch.tensor(number, dtype=torch.float64)
    ends = (-round_up_to(-wide, like.dtype), round_up_to(wide, like.dtype))
    return Interval(*(end.to(like.device) for end in ends))


def constant(value: Tensor) -> AffineForms:
    """The forms of known entries (B, …)."""
    return AffineForms(value.unsqueeze(1), torch.zeros_like(value))


def jet_of(state: PreactivationState, ways: Ways, noises: int) -> tuple[Algebra, Jet]:
    """The jet of the output of a network over its region, (B, …, *output), by forms of up to `noises` noises.

    Every inner stage of the state is bounded, and its activation twice continuously differentiable (`check_smooth`).
    Over an unbounded region, and where forms do not fit in the memory of the arithmetic, forms say nothing.
    """
    network = state.network
    count = ways.tangents.shape[0] + ways.pairs.shape[1] + 1
    symbols = (
        None
        if state.everywhere
        else Symbols.fitting(state.region, state.arithmetic, noises, max(network.sizes) * count)
    )
    known = symbols is not None
    carried = _Carried(state, Algebra(symbols or Symbols(state.region, state.arithmetic, 0)), ways, known)
    return carried.algebra, carried.output()


@final
@dataclass(frozen=True)
class _Carried:
    """Jets of nodes; known: whether the input has forms of its own."""

    state: PreactivationState
    algebra: Algebra
    ways: Ways
    known: bool

    def output(self) -> Jet:
        state, network = self.state, self.state.network
        after, before = {0: self._input()}, dict[int, Jet]()
        last = {e.source: k for k, stage in enumerate(network.stages, 1) for e in stage.edges}
        found = after[0]
        for k in range(1, network.depth + 1):
            found = before[k] = self._pre(k, after)
            for node in state.completed_by(k) if k < network.depth else ():
                after[node] = self._post(node, before)
            before = {n: jet for n, jet in before.items() if n not in after}
            after = {n: jet for n, jet in after.items() if last.get(n, 0) > k}
        return found

    def _input(self) -> Jet:
        symbols, x = self.algebra.symbols, self.state.region.x
        form, box = symbols.start(), self.state.region.box(self.state.arithmetic)
        if not self.known:
            form = AffineForms(torch.zeros_like(x).unsqueeze(1), torch.full_like(x, torch.inf))
        along = self.ways.tangents.unsqueeze(0).expand(len(x), *self.ways.tangents.shape)
        none = along.new_zeros(len(x), self.ways.pairs.shape[1], *x.shape[1:])
        return Jet(Enclosed(form, box), *(Enclosed(constant(t), Interval.point(t)) for t in (along, none)))

    def _pre(self, k: int, after: Mapping[int, Jet]) -> Jet:
        """The jet of z_k."""
        state, symbols = self.state, self.algebra.symbols
        stage, x = state.stage(k), state.region.x
        bias, blank = stage.bias(state.arithmetic), x.new_zeros(stage.shape)
        form = symbols.image(
            [(e.operator, after[e.source].value.forms) for e in stage.edges],
            state.arithmetic.exact(blank) if bias is None else bias,
        )
        plain = state.pre(k) if k <= state.bounded else IBP().bound(state, k, None)
        first = [(e.operator, after[e.source].first) for e in stage.edges]
        second = [(e.operator, after[e.source].second) for e in stage.edges]
        return Jet(
            self.algebra.settled(form, plain),
            self.algebra.image(first, blank.expand(len(self.ways.tangents), *stage.shape)),
            self.algebra.image(second, blank.expand(self.ways.pairs.shape[1], *stage.shape)),
        )

    def _post(self, k: int, before: Mapping[int, Jet]) -> Jet:
        """The jet of h_k; the second factor of a product has all of it, as both are read together."""
        stage, jet = self.state.stage(k), before[k]
        if stage.linear:
            return jet
        if stage.factor is None:
            return self._named(k, self._activated(jet, stage.activation))
        if stage.factor.first:
            return self._nothing(jet)
        return self._named(k, self._multiplied(before[k + stage.factor.other], jet))

    def _activated(self, jet: Jet, activation: AbstractActivation) -> Jet:
        """h' = σ' z' and h'' = σ'' z' z' + σ' z''."""
        algebra, arithmetic, z = self.algebra, self.state.arithmetic, jet.value.bounds
        bends = activation.curvature_range(z, arithmetic)
        if bends is None:
            raise InvalidRequest(f"the second derivative of {activation.name} is not continuous")
        values = activation.value_range(z, arithmetic)
        lines = [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)]
        value = self._between(jet, lines, values)
        slope = self._between(jet, [slope_lines(activation, z, 0.5, arithmetic)], activation.slope_range(z, arithmetic))
        bend = self._between(jet, [curvature_lines(activation, z, arithmetic)], bends)
        second = [algebra.by_value(jet.second, slope), algebra.by_value(self._crossed(jet.first, jet.first), bend)]
        return Jet(value, algebra.by_value(jet.first, slope), algebra.sum(second))

    def _between(self, jet: Jet, lines: Sequence[LinearRelaxation], values: Interval) -> Enclosed:
        """A function of z between lines, whose range is known."""
        gap = band(jet.value.bounds, lines, self.state.arithmetic)
        return self.algebra.settled(self.algebra.symbols.between(jet.value.forms, gap, values), values)

    def _crossed(self, a: Enclosed, b: Enclosed) -> Enclosed:
        """The products of derivatives of a along the first direction and of b along the second one of each pair."""
        left, right = self.ways.pairs
        alike = self.ways.alike
        if a is not b or not bool(alike.any()):
            return self.algebra.times(a.at(left), b.at(right))
        if bool(alike.all()):
            return self.algebra.square(a.at(left))
        apart = ~alike
        found = self.algebra.square(a.at(left[alike])), self.algebra.times(a.at(left[apart]), a.at(right[apart]))
        places = torch.cat([alike.nonzero().flatten(), apart.nonzero().flatten()])
        return joined(found).at(places.argsort())

    def _multiplied(self, u: Jet, v: Jet) -> Jet:
        """(u v)' = u' v + u v' and (u v)'' = u'' v + u v'' + u' v' + v' u'."""
        algebra = self.algebra
        first = [algebra.by_value(u.first, v.value), algebra.by_value(v.first, u.value)]
        second = [algebra.by_value(u.second, v.value), algebra.by_value(v.second, u.value)]
        second += [self._crossed(u.first, v.first), self._crossed(v.first, u.first)]
        return Jet(algebra.times(u.value, v.value), algebra.sum(first), algebra.sum(second))

    def _nothing(self, jet: Jet) -> Jet:
        """Zeros, of the shapes of a jet."""
        zeros = [torch.zeros_like(part.forms.rest) for part in (jet.value, jet.first, jet.second)]
        return Jet(*(Enclosed(constant(zero), Interval.point(zero)) for zero in zeros))

    def _named(self, k: int, jet: Jet) -> Jet:
        """With some rests as noises, as many at each of the remaining stages."""
        state, symbols = self.state, self.algebra.symbols
        if symbols.limit == 0:
            return jet
        ahead = 3 * sum(not state.stage(j).linear for j in range(k, state.network.depth))
        parts = []
        for i, part in enumerate((jet.value, jet.first, jet.second)):
            parts.append(self.algebra.named(part, -(-(symbols.limit - symbols.noises) // max(1, ahead - i))))
        return Jet(*parts)


def joined(parts: Sequence[Enclosed]) -> Enclosed:
    """Entries along several directions, one part after the other."""
    longest = max(p.forms.rows.shape[1] for p in parts)
    rows = [torch.cat([p.forms.rows, p.forms.rows.new_zeros(len(p.forms.rows), longest - p.forms.rows.shape[1],
                                                            *p.forms.rows.shape[2:])], 1) for p in parts]  # fmt: skip
    rest = torch.cat([p.forms.rest for p in parts], 1)
    low, high = (torch.cat(ends, 1) for ends in zip(*((p.bounds.lower, p.bounds.upper) for p in parts), strict=True))
    return Enclosed(AffineForms(torch.cat(rows, 2), rest), Interval.unchecked(low, high))
