"""Bounds of linear combinations of the outputs, with other coefficients for each sample."""

from __future__ import annotations

from torch import Tensor

from recurjac.arithmetic import Ball, Interval
from recurjac.preactivation.base import AbstractPreactivation
from recurjac.preactivation.pull_route import PullRoute
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.forms import DenseForms
from recurjac.propagation.sweep import sweep

_WHOLE = 16
"""A table of so many times the rows that a sample needs is bounded whole: reading forms costs more than products."""


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


def chosen_output(state: PreactivationState, rule: AbstractPreactivation, table: Tensor, chosen: Tensor) -> Interval:
    """Bounds of some combinations from a table, others for each sample: (batch, R); errors as in `combined_output`.

    table: (P, *output), exact as stored.  chosen: (batch, R), the rows of the table for each sample.
    A small table is bounded whole, where this is one matrix for all samples; no forms are then made for each of them.
    """
    if rule.choice is not None or len(table) > _WHOLE * chosen.shape[1]:
        return combined_output(state, rule, table[chosen])
    return combined_output(state, rule, table.unsqueeze(0)).map(lambda t: t.gather(1, chosen))


def _from_last_stage(state: PreactivationState, rows: Tensor) -> Interval:
    """Bounds from the intervals of the nodes that the last stage reads: rows · f(m) ± |rows · A| s for each of them.

    m and s are the midpoints and half-widths.
    """
    stage, arithmetic = state.stage(state.network.depth), state.arithmetic
    exact, bias = arithmetic.exact(rows.unsqueeze(1)), stage.bias(arithmetic)
    middle = arithmetic.exact(rows.new_zeros(len(state.region.x), *stage.shape)) if bias is None else bias
    spread = arithmetic.exact(rows.new_zeros(len(state.region.x), 1, 1))
    for edge in stage.edges:
        mid, half = map(arithmetic.exact, arithmetic.midrad(state.post(edge.source)))
        middle = edge.operator.push(mid) + middle
        forms = edge.operator.transpose().push(exact)
        spread = spread + arithmetic.exact(Ball(forms.mid.abs(), forms.rad).upper()).dot(half.map(_rowed))
    centre = exact.dot(middle.map(_rowed))
    return arithmetic.between(centre - spread, centre + spread).map(lambda t: t[:, 0])


def _rowed(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(1)
