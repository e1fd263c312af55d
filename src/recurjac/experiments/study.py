"""What an experiment states: independent tasks, how one is done, and what is made of all their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

Scalar: TypeAlias = str | int | float | bool | None
"""What one cell of a result holds; no NaN."""
Row: TypeAlias = dict[str, Scalar]
"""One result by the names of the columns, flat."""

T = TypeVar("T")


class AbstractExperiment(ABC, Generic[T]):
    """Tasks that do not depend on each other, each of which gives rows; the same task always gives the same rows.

    An experiment is sent to other processes: what it holds must be small and picklable.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What its folder and its files are called."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names of every row's cells."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that the rows depend on, as JSON: rows of experiments with other identities do not belong together."""

    @abstractmethod
    def tasks(self) -> Mapping[str, T]:
        """The tasks by stable names, in the order in which results are listed."""

    @abstractmethod
    def worker(self) -> Callable[[T], list[Row]]:
        """A function that does tasks; it may keep what several of them need, such as networks once read."""

    @abstractmethod
    def report(self, rows: Sequence[Row], folder: Path) -> None:
        """Write what is made of all rows, in the order of the tasks: the tables and figures of the experiment."""
