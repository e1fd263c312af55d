"""Multipliers of the half-spaces of a part by signs of neurons, such that a small program can check what they prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.deadline import NEVER
from recurjac.preactivation.halfspaces import Pull
from recurjac.witness.ranges import Known, Ranges, widened

_STEPS = 20
"""Steps of the search for multipliers."""


@final
@dataclass(frozen=True)
class Cut:
    """Entry `neuron` of the pre-activations of a node is at least 0 if `side` is 1, and at most 0 if it is -1."""

    node: int
    neuron: int
    side: int


def restricted(ranges: Ranges, cuts: Sequence[Cut]) -> Known:
    """The intervals that cuts leave of nodes whose shapes are those of `ranges`."""
    known: dict[int, Interval] = {}
    for cut in cuts:
        if cut.node not in known:
            every = torch.full_like(ranges.state.pre(cut.node).lower, torch.inf)
            known[cut.node] = Interval(-every, every.clone())
        end = known[cut.node].lower if cut.side > 0 else known[cut.node].upper
        end.view(-1)[cut.neuron] = 0.0
    return known


@final
@dataclass(frozen=True)
class HalfSpaced:
    """Upper bounds (R,) of forms over a part, and the multipliers (R, cuts), not negative, that prove them by lines."""

    upper: Tensor
    multipliers: Tensor

    @classmethod
    def of(cls, ranges: Ranges, cuts: Sequence[Cut], node: int, forms: Tensor) -> HalfSpaced:
        """Of forms (R, *node) of the pre-activations of a node, by the cuts of it and of earlier nodes."""
        state = ranges.state
        lines = {k: ranges.lines(k) for k in range(1, node) if not state.stage(k).linear}
        known = {k: z for k, z in state.known.items() if k <= node}
        pull = Pull(state, node, forms[None, :, None], lines, known, {}, {})
        with torch.no_grad():
            chosen = pull.searched(_STEPS, NEVER)
            upper = pull.upper(chosen, state.arithmetic)
        none = upper.new_zeros(len(forms))
        each = [
            (chosen.multipliers[cut.node][0].flatten(1)[:, cut.neuron] * cut.side).clamp(min=0)
            if cut.node in chosen.multipliers else none
            for cut in cuts
        ]  # fmt: skip
        return cls(widened(Interval(upper, upper)).upper[0], torch.stack(each, 1))

    @classmethod
    def contradiction(cls, ranges: Ranges, cuts: Sequence[Cut]) -> HalfSpaced:
        """A bound of the form 0: if it is negative, no input is left, as the last cut contradicts the others."""
        last = cuts[-1]
        shape = ranges.state.stage(last.node).shape
        form = torch.zeros(1, *shape, dtype=torch.float64)
        form.view(-1)[last.neuron] = last.side
        found = cls.of(ranges, cuts, last.node, form)
        own = torch.zeros_like(found.multipliers)
        own[:, -1] = 1.0
        return cls(found.upper, found.multipliers + own)
