"""Bounds of linear combinations of the outputs, with other coefficients for each sample."""

from __future__ import annotations

from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval
from recurjac.preactivation.base import AbstractPreactivation
from recurjac.preactivation.pull_route import PullRoute
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.forms import DenseForms
from recurjac.propagation.sweep import sweep


def combined_output(state: PreactivationState, rule: AbstractPreactivation, rows: Tensor) -> Interval:
    """Bounds of rows · f over the region: (batch, R).

    state: all stages except the last are bounded.  rows: (batch or 1, R, *output), exact as stored.
    The rows are folded into the last operators.  If the rule relaxes activations by lines, the rows are also pulled
    back to the input through these lines.  Source: docs/mathematics.md, §3.
    """
    found = _from_last_stage(state, rows)
    if rule.choice is None:
        return found
    depth = state.network.depth
    seeds = DenseForms(rows.unsqueeze(1), state.arithmetic)
    pulled = sweep(PullRoute(state.relaxed(rule.choice), depth), depth, seeds)
    return state.arithmetic.intersect(found, pulled.map(lambda t: t[:, 0].expand_as(found.lower)))


def _from_last_stage(state: PreactivationState, rows: Tensor) -> Interval:
    """Bounds from the intervals of the nodes that the last stage reads."""
    stage, arithmetic = state.stage(state.network.depth), state.arithmetic
    exact, total = arithmetic.exact(rows.unsqueeze(1)), arithmetic.exact(rows.new_zeros(len(state.region.x), 1, 1))
    bias = stage.bias(arithmetic)
    if bias is not None:
        total = total + exact.dot(bias.map(lambda t: t[None, None]))
    terms = [_image(e.operator.transpose().push(exact), state.post(e.source), arithmetic) for e in stage.edges]
    return arithmetic.sum([arithmetic.between(total, total), *terms]).map(lambda t: t[:, 0])


def _image(forms: Ball, values: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of forms (batch or 1, 1, R, *node) on values (batch, *node): (batch, 1, R)."""
    middle, half = (arithmetic.exact(t.unsqueeze(1)) for t in arithmetic.midrad(values))
    size = arithmetic.exact(Ball(forms.mid.abs(), forms.rad).upper())
    centre, spread = forms.dot(middle), size.dot(half)
    return arithmetic.between(centre - spread, centre + spread)
