"""The steps of `Auto`: each makes a bound, the ranges or what is attained better, within a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import final

from recurjac.auto.work import TOLERANCE, Work
from recurjac.branching import Branched, ExactNorm, InputBisection, Limit
from recurjac.branching.cells import two_piece
from recurjac.deadline import Deadline
from recurjac.jacobian import (
    AbstractJacobianMethod,
    Centred,
    Chords,
    FastLip,
    ForwardTangents,
    Gradients,
    InTime,
    QuadraticClamped,
    RecurJac,
    Reversed,
    ReversedAfterFirst,
    XLinear,
)
from recurjac.norms import AbstractNormMethod, CoupledNorm, JacobianNorm, ProductOfNorms, QuadraticNorm, SplitNorm
from recurjac.preactivation import AbstractPreactivation, DualRanges, SecantRanges
from recurjac.search import Search

_ROOM = 2**26
"""The largest number of entries of a matrix of tangents."""


class AbstractStep(ABC):
    """A frozen object: one way to improve what is known.  It has rungs of growing effort, the cheapest first."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for the report."""

    @property
    @abstractmethod
    def rungs(self) -> int:
        """The number of efforts."""

    @property
    def follows(self) -> bool:
        """Whether the step only turns ranges into a bound, so that it is done again when ranges have become tighter."""
        return False

    @abstractmethod
    def suits(self, work: Work) -> bool:
        """Whether the step can improve anything."""

    @property
    def share(self) -> float:
        """The share of the time that is left which the step may take."""
        return 0.5

    def least(self, work: Work) -> float:
        """A guess of the seconds that the step takes at least, as it cannot be stopped at any time."""
        return 0.0

    @abstractmethod
    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        """Improve `work` in about this time; returns the upper bound that the step found by itself, if it is one."""


def anywhere(work: Work) -> bool:  # noqa: ARG001  # (one of several such conditions)
    """Any network."""
    return True


def where_large(work: Work) -> bool:
    """Networks so large that steps are given up at the deadline."""
    return work.large


def where_smooth(work: Work) -> bool:
    """Networks in which some slope changes continuously."""
    return work.unstable and not work.kinks_only


def where_kinked(work: Work) -> bool:
    """Networks whose slopes that are not known only jump."""
    return work.unstable and work.kinks_only


@final
@dataclass(frozen=True, init=False)
class NormStep(AbstractStep):
    """A norm method, in several settings of growing effort.

    matrices: whether it works with those of a P-chain.  where: the networks for which it is worth trying.
    passes: how many times as long as entry-wise bounds it takes at least, if it does not work with such matrices.
    """

    methods: tuple[AbstractNormMethod, ...]
    matrices: bool
    where: Callable[[Work], bool]
    passes: float

    def __init__(
        self,
        *methods: AbstractNormMethod,
        matrices: bool = False,
        where: Callable[[Work], bool] = anywhere,
        passes: float = 1.0,
    ) -> None:
        object.__setattr__(self, "methods", methods)
        object.__setattr__(self, "matrices", matrices)
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "passes", passes)

    @property
    def title(self) -> str:
        return self.methods[0].title

    @property
    def rungs(self) -> int:
        return len(self.methods)

    @property
    def follows(self) -> bool:
        return True

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
    """The norm of the entries by a method that works once for each input, not for each output."""

    method: AbstractJacobianMethod
    where: Callable[[Work], bool] = anywhere

    @property
    def title(self) -> str:
        return self.method.title

    @property
    def rungs(self) -> int:
        return 1

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
        return work.pass_seconds * prod(chain.shapes[0]) / chain.rows

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        return work.tighten(JacobianNorm(self.method), self.title)


@final
@dataclass(frozen=True, init=False)
class RangeStep(AbstractStep):
    """A rule for the neurons that are unstable, in several settings of growing effort.

    most: the share of the time that is left which it may take.
    """

    rules: tuple[AbstractPreactivation, ...]
    most: float

    def __init__(self, *rules: AbstractPreactivation, most: float = 0.6) -> None:
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "most", most)

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
        return work.gradients.problem is not None and work.unstable

    def least(self, work: Work) -> float:
        return work.matrix_seconds

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        work.narrow(self.rules[rung], Deadline.after(seconds))
        return None


@final
@dataclass(frozen=True)
class BranchStep(AbstractStep):
    """Branch and bound over the inputs, for networks with few of them."""

    most: int = 8

    @property
    def title(self) -> str:
        return "branch and bound"

    @property
    def rungs(self) -> int:
        return 3

    def suits(self, work: Work) -> bool:
        problem = work.given
        if problem is None or problem.pre.holds_samples or prod(problem.network.input_shape) > self.most:
            return False
        bounded = not bool(problem.bound.unbounded.any())
        return work.unstable and bounded and work.question.norms is not None and InputBisection().supports(problem)

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        limit = Limit(seconds=seconds, tolerance=1e-6, parts=40 * 50**rung)
        if work.given is None or work.question.norms is None:
            return None
        found = Branched(limit=limit).bound(Gradients(work.given), *work.question.norms)
        return work.learn(found, self.title)


@final
@dataclass(frozen=True)
class ExactStep(AbstractStep):
    """Branch and bound over signs and inputs, for networks of two-piece activations that are small.

    Small are at most `neurons` neurons, and at most `unstable` unstable ones or at most `inputs` inputs.
    """

    neurons: int = 1000
    unstable: int = 40
    inputs: int = 8

    @property
    def title(self) -> str:
        return "exact norm"

    @property
    def rungs(self) -> int:
        return 2

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
        limit = Limit(seconds=seconds, tolerance=TOLERANCE, parts=2000 * 2000**rung)
        if work.given is None or work.question.norms is None:
            return None
        method, gradients = ExactNorm(limit), Gradients(work.given)
        if work.attained is None:
            return work.learn(method.bound(gradients, *work.question.norms), self.title)
        return work.learn(method.towards(gradients, *work.question.norms, work.attained), self.title)


@final
@dataclass(frozen=True)
class SearchStep(AbstractStep):
    """A longer search for what is attained."""

    works: tuple[float, ...] = (2e10, 1e11)

    @property
    def title(self) -> str:
        return "search"

    @property
    def share(self) -> float:
        return 0.2

    @property
    def rungs(self) -> int:
        return len(self.works)

    def suits(self, work: Work) -> bool:
        return work.attained is not None and work.given is not None and work.question.norms is not None

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        work.search(Search(work=self.works[rung], seed=rung + 1, seconds=seconds))
        return None


OPENING: tuple[AbstractStep, ...] = (
    NormStep(JacobianNorm(FastLip()), where=where_large, passes=0),
    NormStep(JacobianNorm(InTime()), where=where_large, passes=0),
    NormStep(JacobianNorm()),
    NormStep(ProductOfNorms(), passes=0),
)
"""The steps that come first, if they fit in the time."""
STEPS: tuple[AbstractStep, ...] = (
    ExactStep(),
    BranchStep(),
    RangeStep(SecantRanges(10), SecantRanges(30), SecantRanges(100)),
    NormStep(QuadraticNorm(20), QuadraticNorm(60), QuadraticNorm(250), matrices=True),
    NormStep(
        JacobianNorm(XLinear()), JacobianNorm(XLinear(10)), JacobianNorm(XLinear(40)), where=where_smooth, passes=5
    ),
    NormStep(JacobianNorm(Centred()), matrices=True, where=where_smooth),
    RangeStep(DualRanges(150, 12, 30), DualRanges(200, 30, 60), DualRanges(500, 80, 100), most=0.8),
    NormStep(JacobianNorm(QuadraticClamped()), matrices=True),
    NormStep(CoupledNorm(150), CoupledNorm(400), CoupledNorm(1500), matrices=True, where=where_kinked),
    NormStep(SplitNorm(20, 200), SplitNorm(20, 2000), SplitNorm(20, 20000), matrices=True, where=where_kinked),
    ForwardStep(ReversedAfterFirst(RecurJac())),
    ForwardStep(Reversed(RecurJac())),
    ForwardStep(Reversed(Chords())),
    ForwardStep(ForwardTangents(), where_smooth),
    SearchStep(),
)
"""The steps after the first bounds; each is tried in this order, then those that pay most per second go on."""
