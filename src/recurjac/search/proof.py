"""Proofs that gains are attained."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, length_of
from recurjac.deadline import Deadline, until
from recurjac.errors import OutOfTime
from recurjac.jacobian import Gradients, RecurJac
from recurjac.operators.interval import affine_image
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import DenseForms
from recurjac.region import LpBall
from recurjac.search.attained import Attained, better_of
from recurjac.search.jacobians import gains_at


def proved(
    problem: Problem, points: Tensor, claimed: Tensor, norms: tuple[float, float], deadline: Deadline
) -> Attained:
    """The best proved gain of each sample at points (batch, N, *input); the first ones have gains `claimed`, unproved.

    These are proved in their order, best first, while a later one claims more than what is proved.  Points without a
    claim are tried where nothing else was proved.  If kinks leave less than was claimed, RecurJac takes a second look
    at the best point, unless so many slopes are not known exactly there that this would take long.
    """
    inside = problem.holds(points)
    close, count = 1 - torch.finfo(points.dtype).eps ** 0.5, claimed.shape[1]
    claimed = torch.where(inside[:, :count], claimed, 0.0)
    found = _at(problem, points[:, 0], inside[:, 0], norms)
    for n in range(1, points.shape[1]):
        hopeful = claimed[:, n:].amax(1) * close > found.gain if n < count else found.gain <= 0
        rows = hopeful.nonzero().squeeze(1)
        if len(rows) and (n in (1, count) or not deadline.over):
            found = _with(found, rows, _at(problem, points[rows, n], inside[rows, n], norms))
    rows = (claimed[:, 0] * close > found.gain).nonzero().squeeze(1)
    if len(rows) and not deadline.over and _is_affordable(problem, points[rows, 0]):
        with suppress(OutOfTime), until(problem.planner.watched(problem.network, deadline)):
            found = _with(found, rows, _again(problem, points[rows, 0], inside[rows, 0], norms))
    return found


_SECOND_LOOK = 4 * 10**9
"""The most multiply-adds of RecurJac at the best points."""


def _is_affordable(problem: Problem, points: Tensor) -> bool:
    """Whether RecurJac takes little time at points (N, *input): it pulls a form of each slope that is not known."""
    chain = Gradients(problem.over(LpBall(points, 0.0)).by_intervals()).chain
    masks = [m for k in range(1, chain.end) if (m := chain.unstable(k)) is not None]
    return sum(int(m.sum()) for m in masks) * problem.network.multiply_adds <= _SECOND_LOOK


def _with(found: Attained, rows: Tensor, here: Attained) -> Attained:
    """The better of `found` and `here`, which belongs to some of the samples."""
    new = better_of(Attained(found.gain[rows], found.witness[rows], found.direction[rows]), here)
    return Attained(
        found.gain.index_copy(0, rows, new.gain), found.witness.index_copy(0, rows, new.witness),
        found.direction.index_copy(0, rows, new.direction),
    )  # fmt: skip


def _at(problem: Problem, points: Tensor, inside: Tensor, norms: tuple[float, float]) -> Attained:
    """The gain at each of the points (N, *input), from an interval of every entry of J v for the best direction v."""
    ways = gains_at(problem.network, points.unsqueeze(1), norms)[1].squeeze(1).nan_to_num(0.0, 0.0, 0.0)
    chain = Gradients(problem.over(LpBall(points, 0.0)).by_intervals()).chain
    return _gained(problem, points, ways, inside, image(chain, ways).mignitude.flatten(1), norms)


def image(chain: ChainRule, ways: Tensor) -> Interval:
    """An interval of J v for every J of a chain rule and each v of `ways` (batch, *input): (batch, *output).

    Source: docs/mathematics.md, §6.5.
    """
    nodes = [Interval.point(ways)]
    for k in range(1, chain.end + 1):
        terms = [(e.operator, nodes[e.source]) for e in chain.edges[k]]
        zero = Interval.point(ways.new_zeros(len(ways), *chain.shapes[k]))
        moved, slope = affine_image(terms, None, chain.arithmetic) if terms else zero, chain.slopes[k]
        nodes.append(moved if slope is None else chain.arithmetic.product(moved, slope))
    return nodes[-1]


def _again(problem: Problem, points: Tensor, inside: Tensor, norms: tuple[float, float]) -> Attained:
    """The same by RecurJac, which keeps more of what is common to the slopes at kinks, and takes longer."""
    ways = gains_at(problem.network, points.unsqueeze(1), norms)[1].squeeze(1).nan_to_num(0.0, 0.0, 0.0)
    prepared = RecurJac().prepare(Gradients(problem.over(LpBall(points, 0.0)).by(IBP())))
    entries = prepared.push(DenseForms(ways[:, None, None], problem.arithmetic)).mignitude[:, :, 0]
    return _gained(problem, points, ways, inside, entries, norms)


def _gained(
    problem: Problem, points: Tensor, ways: Tensor, inside: Tensor, entries: Tensor, norms: tuple[float, float]
) -> Attained:
    """The gain in directions whose images have entries of at least this size (N, K).

    Points that are not `inside` (N,) count as 0, which is a lower bound of every constant.
    """
    arithmetic = problem.arithmetic
    gain = arithmetic.at_most(length_of(entries, norms[1]), entries.shape[-1] + 6)
    if norms[0] == 2:
        length = arithmetic.at_least(length_of(ways.flatten(1).abs(), 2), ways[0].numel() + 6)
        gain = arithmetic.at_most(gain / length, 1)
    return Attained(torch.where(inside & gain.isfinite(), gain, 0.0), points, ways)
