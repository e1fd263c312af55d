"""Derivatives along each input as affine functions of the input, carried forward together with the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.activations import slope_lines
from recurjac.arithmetic import Interval
from recurjac.errors import expect_counts
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.carried import Carried, spread
from recurjac.jacobian.forward import Reversed
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.recursion import Chords
from recurjac.operators.interval import interval_image
from recurjac.preactivation import PreactivationState
from recurjac.propagation.affine_forms import AffineForms, Symbols, band
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.planning import PlainOnly


@final
@dataclass(frozen=True)
class ForwardTangents(AbstractJacobianMethod):
    """Each ∂z/∂x_r is an affine function of the inputs and of up to `noises` numbers in [-1, 1], up to a rest.

    Slopes depend on x as they do in `XLinear`, so that with smooth activations the slack is of second order in the
    radius.  A pass costs as many evaluations of the network as there are inputs, times inputs and noises, whatever its
    depth and its number of outputs.  It suits few inputs: wide networks, many outputs, loops that are unrolled.
    Every bound is intersected with interval products.  For a part of a chain rule, over an unbounded region, and where
    the forms do not fit in the memory of the arithmetic, it is Chords from the input side.
    Source: docs/mathematics.md, §5.11.
    """

    noises: int = 512

    def __post_init__(self) -> None:
        expect_counts("ForwardTangents", noises=self.noises)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"tangents": cls()}

    @property
    def title(self) -> str:
        return "forward tangents"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        if gradients.problem is None or gradients.given is not None or gradients.state.everywhere:
            return Reversed(Chords()).prepare(gradients)
        state = gradients.state
        entries = max(state.network.sizes) * (1 + state.network.sizes[0])
        symbols = Symbols.fitting(state.region, state.arithmetic, self.noises, entries)
        if symbols is None:
            return Reversed(Chords()).prepare(gradients)
        forms, bounds = _carried(state, symbols)
        if gradients.combinations is not None:
            forms, bounds = _combined(symbols, forms, bounds, gradients.combinations)
        return Carried(gradients.chain, symbols, *_by_output(gradients.chain, forms, bounds))


def _by_output(chain: ChainRule, forms: AffineForms, bounds: Interval) -> tuple[AffineForms, Interval]:
    """Forms and bounds of entries (B, inputs, *output) as those of entries (B, K, *input)."""
    wanted = chain.shapes[0]
    rows = forms.rows.flatten(3).mT.reshape(*forms.rows.shape[:2], -1, *wanted)
    rest, low, high = (t.flatten(2).mT.reshape(len(t), -1, *wanted) for t in (forms.rest, bounds.lower, bounds.upper))
    return AffineForms(rows, rest), Interval.unchecked(low, high)


def _combined(symbols: Symbols, forms: AffineForms, bounds: Interval, rows: Tensor) -> tuple[AffineForms, Interval]:
    """The forms and bounds of combinations, rows (B or 1, K, *output), of all entries (B, inputs, *output)."""
    arithmetic, weights = symbols.arithmetic, rows.flatten(2)
    count, (batch, long, inputs) = weights.shape[1], forms.rows.shape[:3]
    flat = arithmetic.exact(forms.rows.reshape(batch, 1, long * inputs, -1)).dot(arithmetic.exact(weights))
    value = flat.map(lambda t: t.reshape(batch, count, long, inputs).permute(0, 2, 3, 1))
    rest = spread(weights.unsqueeze(1), forms.rest.flatten(2), arithmetic)  # (B, inputs, K)
    found = symbols.settled(value, rest)
    entries = bounds.map(lambda t: t.flatten(2).unsqueeze(2))
    plain = arithmetic.sum(
        [
            arithmetic.product(Interval.point(weights[:, None, :, k]), entries.map(lambda t, k=k: t[..., k]))
            for k in range(weights.shape[2])
        ]
    )
    return found, arithmetic.intersect(plain, symbols.bounds(found))


def _carried(state: PreactivationState, symbols: Symbols) -> tuple[AffineForms, Interval]:
    """The forms and bounds of the derivatives of the output along each input, (B, inputs, *output).

    The forms of the values bound the pre-activations, too: where these bounds are narrower, all that follows uses them.
    """
    network, arithmetic = state.network, state.arithmetic
    own = PreactivationState(network, state.region, arithmetic, PlainOnly(state.planner.thresholds), state.known)
    values, tangents = {0: symbols.start()}, {0: _Tangents.start(symbols)}
    pre: dict[int, AffineForms] = {}
    along_pre: dict[int, _Tangents] = {}
    last = {e.source: k for k, stage in enumerate(network.stages, 1) for e in stage.edges}
    for k in range(1, network.depth + 1):
        stage = state.stage(k)
        zero = arithmetic.exact(state.region.x.new_zeros(stage.shape))
        none = arithmetic.exact(state.region.x.new_zeros(symbols.inputs, *stage.shape))
        form = symbols.image([(e.operator, values[e.source]) for e in stage.edges], stage.bias(arithmetic) or zero)
        along = symbols.image([(e.operator, tangents[e.source].forms) for e in stage.edges], none)
        bounds = symbols.bounds(along)
        parts = [interval_image(e.operator, tangents[e.source].bounds, arithmetic) for e in stage.edges]
        plain = arithmetic.sum(parts) if parts else Interval.point(none.mid.expand(bounds.shape))
        found = _Tangents(along, arithmetic.intersect(plain, bounds))
        pre[k], along_pre[k] = form, found
        if k < network.depth:
            own.append(arithmetic.intersect(state.pre(k), symbols.bounds(form)), None)
        for node in own.completed_by(k) if k < network.depth else ():
            values[node], tangents[node] = _activated(own, symbols, node, pre, along_pre.pop(node))
        pre = pre if k not in values and k < network.depth else {}
        for node in [n for n in values if last.get(n, 0) <= k]:
            del values[node], tangents[node]
    return found.forms, found.bounds


@final
@dataclass(frozen=True)
class _Tangents:
    """Forms and bounds of the derivatives of a node along each input, (B, inputs, *node)."""

    forms: AffineForms
    bounds: Interval

    @classmethod
    def start(cls, symbols: Symbols) -> _Tangents:
        x, n = symbols.region.x, symbols.inputs
        basis = torch.eye(n, dtype=x.dtype, device=x.device).reshape(1, n, *x.shape[1:]).expand(len(x), n, *x.shape[1:])
        return cls(AffineForms(basis.unsqueeze(1), torch.zeros_like(basis)), Interval.point(basis))


def _activated(
    state: PreactivationState, symbols: Symbols, k: int, pre: Mapping[int, AffineForms], tangents: _Tangents
) -> tuple[AffineForms, _Tangents]:
    """The forms of h_k and of its derivatives, from those of z_k, which are in `pre`."""
    arithmetic, network, form, activation = state.arithmetic, state.network, pre[k], state.activation(k)
    if state.stage(k).linear:
        return form, tangents
    z, slopes, factor = state.pre(k), state.slopes(k), state.stage(k).factor
    ahead = 2 * sum(not state.stage(j).linear for j in range(k, network.depth))
    little = torch.finfo(network.dtype).eps ** 0.5
    if factor is None:
        steep = symbols.between(form, band(z, [slope_lines(activation, z, 0.5, arithmetic)], arithmetic), slopes)
    else:  # the slope is the other factor
        steep = pre[k + factor.other]
    choices, values = [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)], state.part(k)
    after = symbols.between(form, band(z, choices, arithmetic), values)
    after = symbols.named(after, values.width * little, -(-(symbols.limit - symbols.noises) // ahead))
    wide = slopes.map(lambda t: t.unsqueeze(1))
    product = arithmetic.product(tangents.bounds, wide)
    found = symbols.product(tangents.forms, tangents.bounds, steep, wide, product)
    found = symbols.named(found, product.width * little, -(-(symbols.limit - symbols.noises) // max(1, ahead - 1)))
    return after, _Tangents(found, arithmetic.intersect(product, symbols.bounds(found)))
