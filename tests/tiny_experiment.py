"""An experiment of a moment, and a command that runs it: `python -m tests.tiny_experiment FOLDER COUNT JOBS PAUSE`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, final

from recurjac.errors import UnsoundBounds
from recurjac.experiments.execution import Plan, run
from recurjac.experiments.study import AbstractExperiment, Row


@final
@dataclass(frozen=True)
class Roots(AbstractExperiment[int]):
    """Powers of whole numbers; `bad` is a task that fails as named, `pause` seconds pass in each."""

    count: int
    power: float = 0.1
    pause: float = 0.0
    bad: int = -1
    failure: str = "unsound"

    @property
    def name(self) -> str:
        return "roots"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("number", "root", "above", "remark")

    def identity(self) -> dict[str, Any]:
        return {"experiment": self.name, "settings": {"count": self.count, "power": self.power}}

    def tasks(self) -> dict[str, int]:
        return {f"number {i}": i for i in range(self.count)}

    def worker(self) -> Callable[[int], list[Row]]:
        return self._rows

    def _rows(self, i: int) -> list[Row]:
        time.sleep(self.pause * (1 + i % 3))  # so that tasks end in another order than they began
        if i == self.bad and self.failure == "unsound":
            raise UnsoundBounds(f"number {i} is within its own radius")
        if i == self.bad and self.failure == "killed":
            os._exit(9)
        if i == self.bad and self.failure.startswith("once "):
            mark = Path(self.failure.removeprefix("once "))
            if not mark.exists():
                mark.touch()
                os._exit(9)
            return []
        root = float("nan") if i == self.bad else i**self.power
        first: Row = {"number": i, "root": root, "above": True, "remark": None}
        return [first, {"number": i, "root": -root, "above": False, "remark": "a, b"}, {**first, "root": inf}]

    def report(self, rows: Sequence[Row], folder: Path) -> None:
        (folder / "roots.md").write_text(f"{sum(float(r['root'] or 0) for r in rows if r['root'] != inf)}\n")


if __name__ == "__main__":
    folder, count, jobs, pause = sys.argv[1:]
    run(Roots(int(count), pause=float(pause)), Plan(Path(folder), int(jobs)), lambda _: None)
