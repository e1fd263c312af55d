"""The interface of a step of `Auto`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from recurjac.auto.work import Work


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

    @property
    def resumes(self) -> bool:
        """Whether the next effort begins where the last one ended, so that nothing is done twice."""
        return False

    @abstractmethod
    def suits(self, work: Work) -> bool:
        """Whether the step can improve anything."""

    @property
    def fills(self) -> bool:
        """Whether the step is for the time in which no other step may improve anything."""
        return False

    @property
    def batches(self) -> bool:
        """Whether the step bounds many samples in less time than it takes for one after the other."""
        return False

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

    def given_up(self, work: Work) -> float | None:
        """What a run found that was given up at the deadline: its upper bound by itself, if it is one.

        Most steps keep nothing.
        """
        return None
