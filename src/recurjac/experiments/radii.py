"""Table 1: certified l∞ radii of undefended and of adversarially trained networks against three kinds of targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import inf, isfinite
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from recurjac.applications.attack import Attack
from recurjac.applications.proofs import LipschitzIntegral
from recurjac.applications.radii import checked
from recurjac.applications.radius_search import RadiusSearch
from recurjac.applications.robustness import CertifiedRadius, certified_radius
from recurjac.applications.targets import rivals
from recurjac.arithmetic import Fast, Rigorous
from recurjac.experiments.material import Material
from recurjac.experiments.published import PAPER, TABLE1, TARGETS, WHY_OTHER
from recurjac.experiments.study import AbstractExperiment, Row
from recurjac.experiments.tables import digits, lower, markdown, mean, networks, upper
from recurjac.jacobian import FastLip, RecurJac
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod, JacobianNorm, PlainSum, SignSum
from recurjac.plot.figures import BarPanel, bar_panels
from recurjac.region import LpBall
from recurjac.sweeps.files import write_atomically

INTEGRALS: dict[str, AbstractNormMethod] = {
    "Fast-Lip": JacobianNorm(FastLip(), PlainSum()),
    "RecurJac-B": JacobianNorm(RecurJac(), SignSum()),
}
"""The methods that the paper compares: Theorem 2 with the local Lipschitz constants of each."""
CROWN, OURS = "CROWN", "our default"
METHODS = (*INTEGRALS, CROWN, OURS)
"""CROWN: a positive bound of the margin itself; our default: the library's default, which combines both proofs."""


@final
@dataclass(frozen=True)
class Task:
    """One image in one network: all targets and all methods."""

    subject: int
    sample: int


@final
@dataclass(frozen=True)
class RadiiTable(AbstractExperiment[Task]):
    """Certified l∞ radii on balls clipped to pixels in [0, 1], by integrals of `intervals` intervals."""

    material: Material
    intervals: int = 30

    @property
    def name(self) -> str:
        return "table1"

    @property
    def columns(self) -> tuple[str, ...]:
        of = ("network", "image", "label", "target_kind", "target")
        return (*of, "method", "radius", "attack", "rigorous", "remark")

    def identity(self) -> dict[str, Any]:
        settings = {"intervals": self.intervals, "targets": [*TARGETS], "methods": [*METHODS], "clip": [0, 1]}
        return {"experiment": self.name, "settings": settings, **self.material.identity()}

    def tasks(self) -> dict[str, Task]:
        return {
            f"{subject.name}/image {sample.index}": Task(i, j)
            for i, subject in enumerate(self.material.subjects)
            for j, sample in enumerate(self.material.samples)
        }

    def worker(self) -> Callable[[Task], list[Row]]:
        opened = cache(lambda i: self.material.subjects[i].opened())
        return lambda task: self._rows(task, opened(task.subject))

    def _rows(self, task: Task, network: Network) -> list[Row]:
        sample, certified, rows = self.material.samples[task.sample], {}, []
        x = sample.centre(network)
        for kind, target in zip(TARGETS, self._targets(task.sample, network, x), strict=True):
            if target not in certified:
                certified[target] = self._certified(network, x, sample.label, target)
            rows += [
                {
                    "network": self.material.subjects[task.subject].name,
                    "image": sample.index,
                    "label": sample.label,
                    "target_kind": kind,
                    "target": target,
                    **found,
                }
                for found in certified[target]
            ]
        return rows

    def _targets(self, number: int, network: Network, x: Tensor) -> list[int]:
        """The classes for `TARGETS`; the random one is the same for all networks."""
        labels = [s.label for s in self.material.samples]
        anything = torch.zeros(len(labels), self.material.classes)
        with torch.no_grad():
            outputs = network(x.unsqueeze(0))[:, : self.material.classes]
        (first,), (last,) = (rivals(kind, [labels[number]], outputs)[0] for kind in ("runner-up", "least-likely"))
        (drawn,) = rivals("random", labels, anything, self.material.seed)[number]
        named = {"runner-up": first, "random": drawn, "least-likely": last}
        return [named[kind] for kind in TARGETS]

    def _certified(self, network: Network, x: Tensor, label: int, target: int) -> list[Row]:
        """The radii of all methods for one target, all checked against the same attack.

        Raises UnsoundBounds for an adversary within a radius.
        """
        certified = partial(certified_radius, network, LpBall(x, 0.0, clip=(0.0, 1.0)), label=label, target=target)
        attack = Attack(seed=self.material.seed)
        best = certified(search=RadiusSearch(self.intervals, attack=attack))
        alone = RadiusSearch(self.intervals, attack=Attack(rounds=0))
        found = {name: certified(proofs=(LipschitzIntegral(how),), search=alone) for name, how in INTEGRALS.items()}
        rows = [_row(name, f.by_integral, best.attack, f) for name, f in found.items()]
        return [*rows, _row(CROWN, best.by_margin, best.attack, best), _row(OURS, best.radius, best.attack, best)]

    def report(self, rows: Sequence[Row], folder: Path) -> None:
        write_atomically(folder / f"{self.name}.md", self._text(rows))
        panels = [
            BarPanel(
                f"{s.name}, {100 * s.accuracy:.1f} % correct",
                TARGETS,
                [Cells(rows, s.name).bars(method) for method in METHODS],
                Cells(rows, s.name).attacks(),
            )
            for s in self.material.subjects
        ]
        files = [folder / f"{self.name}.{suffix}" for suffix in ("png", "svg")]
        bar_panels(files, panels, METHODS, "mean certified l∞ radius")

    def _text(self, rows: Sequence[Row]) -> str:
        material = self.material
        header = (
            "network", "target", "Fast-Lip", "paper", "RecurJac-B", "paper", "RecurJac-B / Fast-Lip", "paper",
            CROWN, OURS, "attack",
        )  # fmt: skip
        cells = [[s.name, kind, *_line(Cells(rows, s.name), kind)] for s in material.subjects for kind in TARGETS]
        parts = [
            f"# {self.name}: certified l∞ radii",
            f"Means over {len(material.samples)} correctly classified test image(s) of {material.data}, the same for "
            "every network. Fast-Lip and RecurJac-B: proved by Theorem 2 with their local Lipschitz constants, "
            f"{self.intervals} intervals. {CROWN}: proved by a positive lower bound of the margin itself, on the same "
            f"kind of grid. {OURS}: the library's default, which combines both proofs. Balls are clipped to pixels in "
            "[0, 1]. attack: the mean distance of the nearest adversary found, which no true radius exceeds. "
            f"This repeats Table 1 of {PAPER}. All single radii are in {self.name}.csv.",
            networks([(s.name, s.accuracy, s.given) for s in material.subjects]),
            markdown(header, cells),
            *dict.fromkeys(f"{r['network']}: {r['remark']}." for r in rows if not r["rigorous"]),
            "The paper's columns are on MNIST. " + WHY_OTHER,
        ]
        return "\n\n".join(parts) + "\n"


def _row(name: str, radius: Tensor, attack: Tensor, found: CertifiedRadius) -> Row:
    """The radius of a method, provided that no adversary lies within it."""
    arithmetic = Rigorous() if found.rigorous else Fast()
    return {
        "method": name,
        "radius": float(checked(radius, attack, arithmetic)[0]),
        "attack": float(attack[0]),
        "rigorous": found.rigorous,
        "remark": found.remark[0] or found.reason,
    }


@final
@dataclass(frozen=True)
class Cells:
    """The rows of one network."""

    rows: Sequence[Row]
    network: str

    def radii(self, kind: str, method: str) -> list[float]:
        return [float(r["radius"] or 0.0) for r in self._of(kind, method)]

    def bars(self, method: str) -> list[float]:
        """The mean radius for each target."""
        return [mean(self.radii(kind, method)) or 0.0 for kind in TARGETS]

    def attacks(self) -> list[float]:
        """The mean distance of the adversaries found, for each target; infinite if one was not found."""
        return [inf if (found := self.attack(kind)) is None else found for kind in TARGETS]

    def attack(self, kind: str) -> float | None:
        return mean([float(r["attack"] or 0.0) for r in self._of(kind, OURS)])

    def _of(self, kind: str, method: str) -> list[Row]:
        return [r for r in self.rows if (r["network"], r["target_kind"], r["method"]) == (self.network, kind, method)]


def _line(cells: Cells, kind: str) -> list[str]:
    own = {method: mean(cells.radii(kind, method)) for method in METHODS}
    paper = TABLE1.get((cells.network, kind))
    lip, rec = own["Fast-Lip"], own["RecurJac-B"]
    ratio = None if lip is None or rec is None or not 0 < lip < inf or not isfinite(rec) else rec / lip
    return [
        lower(lip), digits(paper and paper.fast_lip), lower(rec), digits(paper and paper.recurjac),
        digits(ratio, 3), digits(paper and paper.recurjac / paper.fast_lip, 3),
        lower(own[CROWN]), lower(own[OURS]), upper(cells.attack(kind)),
    ]  # fmt: skip
