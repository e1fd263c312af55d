"""The interface of an experiment: independent tasks, how to do one, and the report on all their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

Scalar: TypeAlias = str | int | float | bool | None
"""The content of one cell of a result; never NaN."""
Row: TypeAlias = dict[str, Scalar]
"""One flat result, by column name."""

T = TypeVar("T")


class AbstractExperiment(ABC, Generic[T]):
    """Independent tasks, each of which gives rows; the same task always gives the same rows.

    An experiment is sent to other processes, so its content must be small and picklable.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of its folder and of its files."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The column names, the same for every row."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that the rows depend on, as JSON: rows with different identities do not belong together."""

    @abstractmethod
    def tasks(self) -> Mapping[str, T]:
        """The tasks by stable names, in the order of the results."""

    @abstractmethod
    def worker(self) -> Callable[[T], list[Row]]:
        """A function that does tasks; it may cache what several tasks need, such as networks."""

    @abstractmethod
    def report(self, rows: Sequence[Row], folder: Path) -> None:
        """Write the tables and figures of the experiment from all rows, which are in the order of the tasks."""
