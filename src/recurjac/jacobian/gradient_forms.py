"""Gradients as affine functions of the input, carried back from the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import final

import torch

from recurjac.activations import slope_lines
from recurjac.arithmetic import Interval
from recurjac.errors import expect_counts
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.carried import Carried, stack, stacked
from recurjac.jacobian.fast_lip import FastLip, last_product
from recurjac.jacobian.form_algebra import FormAlgebra
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.recursion import Chords
from recurjac.jacobian.short_forms import ShortForms
from recurjac.jacobian.steps import Steps
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem
from recurjac.propagation.affine_forms import ROOM, AffineForms, Symbols, band
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds

_MOST = 8
"""The slopes of all nodes may take this many times the memory of the forms of one node."""


@final
@dataclass(frozen=True)
class GradientForms(AbstractJacobianMethod):
    """g of each node is an affine function of the inputs and of up to `noises` numbers in [-1, 1], up to a rest.

    First the values are carried forward (`ForwardForms`), with the slopes as functions of x; then the gradients of all
    outputs are carried back.  At a small radius the slack is of second order, as that of `XLinear`, and a pass costs as
    many evaluations of the network as there are inputs and noises, whatever its width: it suits wide smooth networks
    of many neurons and few outputs, such as transformers.
    Every bound is intersected with interval products.
    Where not all noises fit in memory, products of matrices, softmax and normalisations are single steps, with up to
    `short_noises` noises, and the ranges of all values are made on the way.
    For a part of a chain rule, over an unbounded region, and where the forms do not fit in memory, it is Chords.
    Raises InvalidRequest for numbers that are not whole, or negative.
    Source: docs/mathematics.md, §5.12, §5.13.
    """

    noises: int = 4096
    short_noises: int = 16384

    def __post_init__(self) -> None:
        expect_counts("GradientForms", noises=self.noises, short_noises=self.short_noises)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"gradient-forms": cls()}

    @property
    def title(self) -> str:
        return "gradient forms"

    def takes_steps(self, problem: Problem) -> bool:
        """Whether there are single steps, and not all noises fit in memory at the stages that these leave out."""
        network, region = problem.network, problem.bound
        if bool(region.unbounded.all()) or not any(s.closed or s.matrices for s in network.stages):
            return False
        symbols = Symbols.fitting(region, problem.arithmetic, self.noises, max(network.sizes), ROOM)
        return symbols is None or symbols.limit < self.noises

    def has_room_for_steps(self, problem: Problem) -> bool:
        """Whether the rests of all narrow nodes can have noises of their own; with few of them bounds are of no use."""
        steps = Steps.of(problem.network)
        if steps is None:
            return False
        symbols = Symbols.fitting(problem.bound, problem.arithmetic, self.short_noises, steps.widest, _STEPS_ROOM)
        return symbols is not None and symbols.limit >= steps.entries(1, steps.end)

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        problem = gradients.problem
        if problem is None or gradients.given is not None or bool(problem.bound.unbounded.all()):
            return Chords().prepare(gradients)
        short = by_steps(gradients, problem, self.short_noises) if self.takes_steps(problem) else None
        if short is not None:
            return short
        state, known = gradients.state, gradients.own()
        rows = known.chain.covectors
        symbols = _symbols(state, known.chain, self.noises) if rows is None or len(rows) == 1 else None
        if symbols is None:
            return Chords().prepare(gradients)
        forms = _Backward(symbols, known, _slopes(state, symbols, known.chain)).input()
        return _WithProducts(known, Carried(known.chain, symbols, forms, symbols.bounds(forms)))


_STEPS_ROOM = 2**29
"""How many bytes the forms of a node may take where steps are single, if the caller has not chosen the memory."""


def by_steps(gradients: Gradients, problem: Problem, noises: int) -> AbstractPrepared | None:
    """Forms of the gradients of one output after the other, by single steps; the chain rule is that of intervals.

    None if there are no single steps, or if not even forms without noises fit in memory.
    """
    steps = Steps.of(problem.network)
    if steps is None:
        return None
    chain = Gradients(problem.by_intervals(), combinations=gradients.combinations).chain
    symbols = Symbols.fitting(problem.bound, chain.arithmetic, noises, steps.widest, _STEPS_ROOM)
    if symbols is None:
        return None
    short, covectors = ShortForms.of(steps, FormAlgebra(symbols)), chain.covectors
    if covectors is None:
        shape = (1, chain.rows, *problem.network.output_shape)
        covectors = torch.eye(chain.rows, dtype=chain.dtype, device=chain.device).reshape(shape)
    found = [short.gradient(chain.arithmetic.exact(covectors[:, k])) for k in range(chain.rows)]
    return Carried(chain, symbols, stacked([g.forms for g in found]), stack([g.bounds for g in found]))


def _symbols(state: PreactivationState, chain: ChainRule, noises: int) -> Symbols | None:
    """As many noises as fit in memory; None if not even those without noises do."""
    unknown = sum(prod(chain.shapes[k]) for k in range(1, chain.end) if chain.unstable(k) is not None)
    widest = max(chain.rows * max(map(prod, chain.shapes)), unknown // _MOST)
    return Symbols.fitting(state.region, state.arithmetic, noises, widest, ROOM)


def _slopes(state: PreactivationState, symbols: Symbols, chain: ChainRule) -> dict[int, AffineForms]:
    """The forms of the slopes of each node whose slopes are not known exactly."""
    network, arithmetic = state.network, state.arithmetic
    values, pre = {0: symbols.start()}, dict[int, AffineForms]()
    found: dict[int, AffineForms] = {}
    last = {e.source: k for k, stage in enumerate(network.stages, 1) for e in stage.edges}
    for k in range(1, network.depth):
        stage = state.stage(k)
        zero = arithmetic.exact(state.region.x.new_zeros(stage.shape))
        terms = [(e.operator, values[e.source]) for e in stage.edges]
        pre[k] = symbols.image(terms, stage.bias(arithmetic) or zero)
        for node in [n for n in values if last.get(n, 0) <= k]:
            del values[node]
        for node in state.completed_by(k):
            if chain.unstable(node) is not None:
                found[node] = _slope(state, symbols, node, pre)
            values[node] = _value(state, symbols, node, pre[node])
        pre = {} if k in values else pre
    return found


def _slope(state: PreactivationState, symbols: Symbols, k: int, pre: Mapping[int, AffineForms]) -> AffineForms:
    """The forms of the slopes at stage k; without those rows at the end that are 0."""
    factor = state.stage(k).factor
    if factor is not None:
        return pre[k + factor.other]
    z = state.pre(k)
    lines = slope_lines(state.activation(k), z, 0.5, state.arithmetic)
    form = symbols.between(pre[k], band(z, [lines], state.arithmetic), state.slopes(k))
    return form if bool(form.rows[:, 1:].any()) else AffineForms(form.rows[:, :1].clone(), form.rest)


def _value(state: PreactivationState, symbols: Symbols, k: int, form: AffineForms) -> AffineForms:
    """The forms of h_k, from those of z_k."""
    if state.stage(k).linear:
        return form
    z, arithmetic, activation = state.pre(k), state.arithmetic, state.activation(k)
    choices, values = [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)], state.part(k)
    after = symbols.between(form, band(z, choices, arithmetic), values)
    whole = _left(state, state.network.depth)
    return _named(symbols, after, values, 2 * whole - _left(state, k) + 1)


def _named(symbols: Symbols, form: AffineForms, values: Interval, left: int) -> AffineForms:
    """The forms with new noises: an equal share for this node and those that are left, or all that are large."""
    share = -(-(symbols.limit - symbols.noises) // max(1, left))
    least = values.width * torch.finfo(values.lower.dtype).eps ** 0.5
    return symbols.named(form, least, symbols.spent_on(form, values.width, share))


def _left(state: PreactivationState, k: int) -> int:
    """How many stages with an activation there are up to stage k."""
    return sum(not state.stage(j).linear for j in range(1, k + 1))


@final
@dataclass
class _Backward:
    """Forms of g_z at the nodes of a chain rule, from the last to the first; `known` learns the bounds of g_h."""

    symbols: Symbols
    known: Gradients
    slopes: Mapping[int, AffineForms]
    through: dict[int, AffineForms] = field(default_factory=dict)

    def input(self) -> AffineForms:
        """The forms of the Jacobian, (B, K, *input)."""
        chain, last = self.known.chain, dict[int, int]()
        for node in range(1, chain.end + 1):
            for e in chain.edges[node]:
                last[node] = min(e.source, last.get(node, node))
        for node in range(chain.end - 1, 0, -1):
            if chain.successors(node):
                self._descend(node)
            for done in [n for n in self.through if last.get(n, 0) >= node]:
                del self.through[done]
        return self._arrived(0)

    def _descend(self, node: int) -> None:
        """Find the forms of g_z at a node, and bounds of g_h."""
        form = self._arrived(node)
        quick = FastLip().node(self.known, node)
        bounds = self._whole(self.symbols.bounds(form))
        if quick is not None:
            bounds = self.known.chain.arithmetic.intersect(self._whole(quick), bounds)
        self.known.learn(node, bounds)
        self.through[node] = self._past(node, form, bounds)

    def _whole(self, bounds: Interval) -> Interval:
        return bounds.map(lambda t: t.expand(self.known.chain.batch, self.known.chain.rows, *t.shape[2:]))

    def _arrived(self, node: int) -> AffineForms:
        """The forms of g_h at a node."""
        chain = self.known.chain
        rows = chain.arithmetic.exact(self.symbols.region.x.new_zeros(chain.rows, *chain.shapes[node]))
        terms = []
        for e in chain.successors(node):
            if e.source == chain.end:
                rows = rows + chain.gradient_rows(e.operator).map(lambda t: t[0])
            elif e.source in self.through:
                terms.append((e.operator.transpose(), self.through[e.source]))
        return self.symbols.image(terms, rows)

    def _past(self, node: int, form: AffineForms, bounds: Interval) -> AffineForms:
        """The forms of g_z at a node, from those of g_h."""
        chain, slopes, symbols = self.known.chain, self.known.chain.slopes[node], self.symbols
        if slopes is None:
            return form
        wide = slopes.map(lambda t: t.unsqueeze(1))
        product = chain.arithmetic.product(bounds, wide)
        steep = self.slopes.get(node)
        if steep is None:
            steep = AffineForms(slopes.lower.unsqueeze(1), torch.zeros_like(slopes.lower))
        found = symbols.product(form, bounds, steep, wide, product)
        return _named(symbols, found, product, _left(self.known.state, node))


@final
@dataclass(frozen=True)
class _WithProducts(AbstractPrepared):
    """Forms of all entries, and what is known of the gradients at all nodes."""

    known: Gradients
    carried: Carried

    @property
    def chain(self) -> ChainRule:
        return self.known.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        plain = self._whole(last_product(self.known, tangents))
        return self.chain.arithmetic.intersect(plain, self.carried.push(tangents))
