"""The steps of `Auto`: each makes a bound, the ranges or what is attained better, within a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, log, prod
from typing import final

import torch

from recurjac.arithmetic import length_of
from recurjac.auto.conditions import anywhere, where_large
from recurjac.auto.step import AbstractStep
from recurjac.auto.work import TOLERANCE, Work
from recurjac.branching import BranchAndBound, Branching, ExactNorm, Limit, VertexCaps
from recurjac.branching.branched import NormOver, untied
from recurjac.branching.cells import two_piece
from recurjac.branching.exact import SignTree
from recurjac.deadline import Deadline
from recurjac.errors import expect_amounts, expect_counts, expect_shares
from recurjac.jacobian import AbstractJacobianMethod, Gradients
from recurjac.jacobian.linear_network import lengths_of
from recurjac.norms import AbstractNormMethod, JacobianNorm, LinearNetworkNorm, NormBound
from recurjac.preactivation import AbstractPreactivation
from recurjac.preactivation.anytime import Known
from recurjac.problem import Problem
from recurjac.search import Search, better_of


def untied_by_intervals(problem: Problem) -> Problem:
    """The same problem without tied neurons, with ranges that are quick for many parts."""
    return untied(problem).by_intervals()


_REST = 0.99
"""The share of the rest of the time that a step may take which nothing follows."""
_ROOM = 2**26
"""The largest number of entries of a matrix of tangents."""


@final
@dataclass(frozen=True, init=False)
class NormStep(AbstractStep):
    """A norm method, in several settings of growing effort.

    matrices: whether it works with those of a P-chain.  where: the networks for which it is worth trying.
    passes: how many times as long as entry-wise bounds it takes at least, if it does not work with such matrices.
    late: whether it comes when no other step may improve anything, and may then take the rest of the time.
    """

    methods: tuple[AbstractNormMethod, ...]
    matrices: bool
    where: Callable[[Work], bool]
    passes: float
    late: bool

    def __init__(
        self,
        *methods: AbstractNormMethod,
        matrices: bool = False,
        where: Callable[[Work], bool] = anywhere,
        passes: float = 1.0,
        late: bool = False,
    ) -> None:
        expect_amounts("NormStep", passes=passes)
        object.__setattr__(self, "methods", methods)
        object.__setattr__(self, "matrices", matrices)
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "passes", passes)
        object.__setattr__(self, "late", late)

    @property
    def title(self) -> str:
        return self.methods[0].title

    @property
    def rungs(self) -> int:
        return len(self.methods)

    @property
    def batches(self) -> bool:
        return not self.matrices

    @property
    def follows(self) -> bool:
        return not self.late

    @property
    def fills(self) -> bool:
        return self.late

    @property
    def share(self) -> float:
        return _REST if self.late else super().share

    def suits(self, work: Work) -> bool:
        norms = work.question.norms
        return (norms is None or self.methods[0].supports(*norms)) and self.where(work)

    def least(self, work: Work) -> float:
        return work.matrix_seconds if self.matrices else self.passes * work.pass_seconds

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        return work.tighten(self.methods[rung].within(seconds), self.title)


@final
@dataclass(frozen=True)
class ForwardStep(AbstractStep):
    """The norm of the entries by a method that works once for each input, not for each output.

    quick: whether it is worth its time where there is little for each sample.
    """

    method: AbstractJacobianMethod
    where: Callable[[Work], bool] = anywhere
    quick: bool = True

    @property
    def title(self) -> str:
        return self.method.title

    @property
    def rungs(self) -> int:
        return 1

    @property
    def batches(self) -> bool:
        return self.quick

    @property
    def follows(self) -> bool:
        return True

    def suits(self, work: Work) -> bool:
        """The unit tangents of the input and of the first nodes are held as one matrix each."""
        chain = work.gradients.chain
        nodes = {0, *(e.source for e in chain.successors(0))} - {chain.end}
        return self.where(work) and max(prod(chain.shapes[k]) for k in nodes) ** 2 <= _ROOM

    def least(self, work: Work) -> float:
        chain = work.gradients.chain
        return min(work.pass_seconds, work.entry_seconds) * prod(chain.shapes[0]) / chain.rows

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        return work.tighten(JacobianNorm(self.method), self.title)


@final
@dataclass(frozen=True)
class LinearNetworkStep(AbstractStep):
    """Ranges and the lengths of gradients by a linear network with noises, for large convolutional networks."""

    @property
    def title(self) -> str:
        return LinearNetworkNorm().title

    @property
    def rungs(self) -> int:
        return 1

    @property
    def share(self) -> float:
        return 0.7

    def suits(self, work: Work) -> bool:
        given, norms = work.given, work.question.norms
        if given is None or norms is None or norms[0] != inf or work.batch > 1 or not where_large(work):
            return False
        return given.network.local and work.unstable

    def least(self, work: Work) -> float:
        """The unit vectors of all inputs are pushed in any case."""
        network = work.gradients.state.network
        return network.sizes[0] * (network.multiply_adds + 8 * sum(network.sizes)) / _RATE

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        found = lengths_of(work.gradients.state, Deadline.after(seconds))
        if found is None or work.given is None or work.question.norms is None:
            return None
        work.gradients = Gradients(work.given.by(Known(found.ranges[:-1], work.given.pre)))
        work.version += 1
        upper = length_of(found.rows, work.question.norms[1])
        arithmetic = work.gradients.chain.arithmetic
        return work.learn(NormBound(arithmetic.at_least(upper.reshape(1), len(found.rows) + 6)), self.title)


_RATE = 2e9
"""Multiply-adds of a network, and entries of its stages, in a second, on a slow machine."""


@final
@dataclass(frozen=True, init=False)
class RangeStep(AbstractStep):
    """A rule for the neurons that are unstable, in several settings of growing effort.

    most: the share of the time that is left which it may take.  where: the networks for which it is worth trying.
    """

    rules: tuple[AbstractPreactivation, ...]
    most: float
    where: Callable[[Work], bool]

    def __init__(
        self, *rules: AbstractPreactivation, most: float = 0.6, where: Callable[[Work], bool] = anywhere
    ) -> None:
        expect_shares("RangeStep", most=most)
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "most", most)
        object.__setattr__(self, "where", where)

    @property
    def title(self) -> str:
        return f"ranges by {self.rules[0].title}"

    @property
    def share(self) -> float:
        return self.most

    @property
    def rungs(self) -> int:
        return len(self.rules)

    def suits(self, work: Work) -> bool:
        return work.gradients.problem is not None and work.unstable and self.where(work)

    def least(self, work: Work) -> float:
        return work.matrix_seconds

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        work.narrow(self.rules[rung], Deadline.after(seconds))
        return None


@final
@dataclass(frozen=True)
class BranchStep(AbstractStep):
    """Branch and bound over the inputs, for networks with few of them; each time it goes on with the same parts.

    It ends when many more parts have closed less than the share `least_gain` of the gap.
    method: bounds each part.  where: the networks for which it is worth trying.  passes: as in `NormStep`, for the
    first part.  parts: makes the problem that is divided.
    """

    most: int = 8
    least_gain: float = 0.05
    method: AbstractNormMethod = field(default_factory=JacobianNorm)
    where: Callable[[Work], bool] = anywhere
    passes: float = 1.0
    parts: Callable[[Problem], Problem] = untied

    def __post_init__(self) -> None:
        expect_counts("BranchStep", most=self.most)
        expect_amounts("BranchStep", least_gain=self.least_gain, passes=self.passes)

    @property
    def title(self) -> str:
        return "branch and bound"

    @property
    def rungs(self) -> int:
        return 6

    @property
    def share(self) -> float:
        return 0.7

    @property
    def resumes(self) -> bool:
        return True

    def suits(self, work: Work) -> bool:
        problem = work.given
        if problem is None or problem.pre.holds_samples or prod(problem.network.input_shape) > self.most:
            return False
        bounded = not bool(problem.bound.unbounded.any())
        asked = work.question.norms is not None and self.where(work)
        return work.unstable and bounded and asked and _BRANCHER.supports(problem)

    def least(self, work: Work) -> float:
        if work.branching is not None:
            return work.branching.lot_seconds
        return max(self.passes * work.pass_seconds, work.tangent_seconds)

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        if work.given is None or work.question.norms is None:
            return None
        problem = self.parts(work.given)
        bound = NormOver(self.method, *work.question.norms, work.given, _BRANCHER)
        search = BranchAndBound(_BRANCHER, Limit(seconds=seconds, tolerance=TOLERANCE, parts=2**22))
        then: Branching | None = None
        for state in search.states(problem, bound, work.attained, work.branching):
            work.branching = state
            if then is None:
                then = state
            elif state.parts >= max(_FEW, (_MORE_PARTS if _gap(state) < _NEAR else _MANY_PARTS) * then.parts):
                if _gap(state) > (1 - self.least_gain) * _gap(then):
                    break
                then = state
        return self.given_up(work)

    def given_up(self, work: Work) -> float | None:
        done = work.branching
        return None if done is None else work.learn(NormBound(done.uppers, done.status, "", done.attained), self.title)


_BRANCHER = VertexCaps()
_FEW = 200
"""The number of parts that are bounded in any case."""
_NEAR = 0.4
"""The gap of bounds that are near to each other: little is left, which is perhaps better done in another way."""
_MORE_PARTS, _MANY_PARTS = 1.5, 4.0
"""After how many times as many parts it is asked what they gave: if bounds are near to each other, and if not."""


def _gap(state: Branching) -> float:
    """The logarithm of the upper bound, less that of what is attained; finite."""
    return min(700.0, log(max(state.upper, _TINY) / max(state.lower, _TINY)))


_TINY = 1e-150
"""A bound below which nothing more is gained."""


@final
@dataclass(frozen=True)
class ExactStep(AbstractStep):
    """Branch and bound over signs and inputs, for networks of two-piece activations that are small.

    Small are at most `neurons` neurons, and at most `unstable` unstable ones or at most `inputs` inputs.
    """

    neurons: int = 1000
    unstable: int = 40
    inputs: int = 8

    def __post_init__(self) -> None:
        expect_counts("ExactStep", neurons=self.neurons, unstable=self.unstable, inputs=self.inputs)

    @property
    def title(self) -> str:
        return "exact norm"

    @property
    def rungs(self) -> int:
        return 6

    @property
    def resumes(self) -> bool:
        return True

    def suits(self, work: Work) -> bool:
        problem, chain = work.given, work.gradients.chain
        if problem is None or problem.pre.holds_samples or work.question.norms is None or not work.unstable:
            return False
        if not two_piece(problem.network) or sum(problem.network.sizes[1:]) > self.neurons:
            return False
        masks = [chain.unstable(k) for k in range(1, chain.end)]
        few = sum(int(m.sum()) for m in masks if m is not None) <= self.unstable * chain.batch
        return few or problem.network.sizes[0] <= self.inputs

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        if work.given is None or work.question.norms is None:
            return None
        method = ExactNorm(Limit(seconds=seconds, tolerance=TOLERANCE, parts=2000 * 5**rung))
        known = work.attained or Search(work=0).attained(work.given, *work.question.norms)
        tree = work.tree or SignTree.of(work.given, method, work.question.norms, known)
        work.tree = None  # if it is not ended in order, it cannot go on
        tree.method, tree.best = method, better_of(tree.best, known)
        with torch.no_grad():
            tree.run(ended=False)
        work.tree = tree
        return work.learn(tree.found, self.title)


@final
@dataclass(frozen=True)
class SearchStep(AbstractStep):
    """A longer search for what is attained."""

    works: tuple[float, ...] = (4e9, 2e10, 1e11)

    def __post_init__(self) -> None:
        expect_amounts("SearchStep", **{f"work {i}": work for i, work in enumerate(self.works)})

    @property
    def title(self) -> str:
        return "search"

    @property
    def share(self) -> float:
        return 0.15

    @property
    def rungs(self) -> int:
        return len(self.works)

    def suits(self, work: Work) -> bool:
        return work.attained is not None and work.given is not None and work.question.norms is not None

    def least(self, work: Work) -> float:
        """What is found must be proved, at points whose ranges take about half as long as those of the region."""
        return work.pass_seconds / work.gradients.chain.rows / 2

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        work.search(Search(work=self.works[rung], seed=rung, seconds=seconds))
        return None
