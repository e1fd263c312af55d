"""The interface of an experiment: independent tasks, how to do one, and the report on all their rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from recurjac.sweeps.work import AbstractWork, Row, Scalar, T

__all__ = ["AbstractExperiment", "Row", "Scalar", "T"]


class AbstractExperiment(AbstractWork[T]):
    """Work with a report; the same task always gives the same rows."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of its folder and of its files."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The column names, the same for every row."""

    @abstractmethod
    def report(self, rows: Sequence[Row], folder: Path) -> None:
        """Write the tables and figures of the experiment from all rows, which are in the order of the tasks."""
