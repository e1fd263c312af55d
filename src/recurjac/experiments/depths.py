"""Figure 2: the distance from an image up to which an output has no stationary point, against the network's depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, final

import torch

from recurjac.applications.landscape import stationary_free_radius
from recurjac.experiments.material import Material
from recurjac.experiments.panels import Gradient, write_panels
from recurjac.experiments.published import PAPER, WHY_OTHER
from recurjac.experiments.study import AbstractExperiment, Row
from recurjac.experiments.tables import lower, markdown, mean, networks
from recurjac.jacobian import AbstractJacobianMethod, RecurJac, default_method
from recurjac.network import Network
from recurjac.plot.figures import Curve, Panel, depth_panels
from recurjac.sweeps.files import write_atomically

OURS = "our default"
METHODS: dict[str, AbstractJacobianMethod] = {"RecurJac-B": RecurJac(), OURS: default_method()}
"""The method of the paper, and the library's default."""
NORMS = {"l2": 2.0, "l∞": inf}
_BLOCK = 25
"""The number of images in one task; it is fixed, so that results do not depend on the number of processes."""
_SHOWN = 12
"""The largest number of gradients that are kept as images."""


@final
@dataclass(frozen=True)
class Task:
    """Some images whose surroundings are examined, for one network, norm and method."""

    subject: int
    norm: str
    method: str
    samples: tuple[int, ...]


@final
@dataclass(frozen=True)
class Summary:
    """Statistics of radii.

    count: their number; finite: the mean of the finite ones, None if there are none; share: that of the infinite ones.
    """

    count: int
    finite: float | None
    share: float

    @classmethod
    def of(cls, radii: Sequence[float]) -> Summary:
        finite = [r for r in radii if r != inf]
        return cls(len(radii), mean(finite), (len(radii) - len(finite)) / max(1, len(radii)))


@final
@dataclass(frozen=True)
class Depths(AbstractExperiment[Task]):
    """R_max of one output around images of its class; balls are not clipped; an infinite radius is the whole space."""

    material: Material
    output: int

    @property
    def name(self) -> str:
        return "figure2"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("network", "depth", "image", "norm", "method", "radius", "witness", "rigorous", "remark")

    def identity(self) -> dict[str, Any]:
        settings = {
            "output": self.output,
            "norms": [*NORMS],
            "methods": [*METHODS],
            OURS: METHODS[OURS].title,
        }
        return {"experiment": self.name, "settings": settings, **self.material.identity()}

    def tasks(self) -> dict[str, Task]:
        count, found = len(self.material.samples), {}
        for i, subject in enumerate(self.material.subjects):
            for norm in NORMS:
                for method in METHODS:
                    for begin in range(0, count, _BLOCK):
                        block = tuple(range(begin, min(begin + _BLOCK, count)))
                        key = f"{subject.name}/{norm}/{method}/images {block[0]}-{block[-1]}"
                        found[key] = Task(i, norm, method, block)
        return found

    def worker(self) -> Callable[[Task], list[Row]]:
        opened = cache(lambda i: self.material.subjects[i].opened())
        return lambda task: self._rows(task, opened(task.subject))

    def _rows(self, task: Task, network: Network) -> list[Row]:
        samples = [self.material.samples[j] for j in task.samples]
        x = torch.stack([s.centre(network) for s in samples])
        found = stationary_free_radius(network, x, output=self.output, p=NORMS[task.norm], method=METHODS[task.method])
        subject = self.material.subjects[task.subject]
        return [
            {
                "network": subject.name,
                "depth": subject.recipe.layers,
                "image": sample.index,
                "norm": task.norm,
                "method": task.method,
                "radius": float(found.radius[k]),
                "witness": int(found.witness[k]),
                "rigorous": found.rigorous,
                "remark": found.reason or found.notes[k],
            }
            for k, sample in enumerate(samples)
        ]

    def report(self, rows: Sequence[Row], folder: Path) -> None:
        write_atomically(folder / f"{self.name}.md", self._text(rows))
        depths = sorted({s.recipe.layers for s in self.material.subjects})
        panels = []
        for norm in NORMS:
            found = {m: [self._summary(rows, d, norm, m) for d in depths] for m in METHODS}
            curves = [
                Curve(m, [float("nan") if s.finite is None else s.finite for s in each], m != OURS)
                for m, each in found.items()
            ]
            shares = [s.share for s in found[OURS]]
            panels.append((Panel(f"{norm} balls", depths, curves), shares))
        files = [folder / f"{self.name}.{suffix}" for suffix in ("png", "svg")]
        depth_panels(files, panels, "layers", "mean of the finite R_max")
        write_panels(folder / "panels.npz", self.material, self._gradients(rows))

    def _gradients(self, rows: Sequence[Row]) -> list[Gradient]:
        """The first image in every network, on the l∞ ball that is proved to have no stationary point."""
        image, found = self.material.samples[0].index, []
        radii = {r["network"]: r["radius"] for r in rows
                 if (r["image"], r["norm"], r["method"]) == (image, "l∞", OURS)}  # fmt: skip
        for i, subject in enumerate(self.material.subjects[:_SHOWN]):
            radius = float(radii[subject.name] or 0.0)
            found.append(Gradient(i, 0, self.output, radius, inf, f"{subject.name}: l∞ radius {lower(radius)}"))
        return found

    def _summary(self, rows: Sequence[Row], depth: int, norm: str, method: str) -> Summary:
        fit = [r for r in rows if (r["depth"], r["norm"], r["method"]) == (depth, norm, method)]
        return Summary.of([float(r["radius"] or 0.0) for r in fit])

    def _text(self, rows: Sequence[Row]) -> str:
        material = self.material
        header = ["layers", *(f"{norm} {m}: {what}" for norm in NORMS for m in METHODS for what in ("mean", "share ∞"))]
        cells = []
        for depth in sorted({s.recipe.layers for s in material.subjects}):
            found = [self._summary(rows, depth, norm, m) for norm in NORMS for m in METHODS]
            cells.append([str(depth), *(c for s in found for c in (lower(s.finite), f"{100 * s.share:.0f} %"))])
        zero = sum(r["radius"] == 0 for r in rows)
        parts = [
            f"# {self.name}: balls without a stationary point",
            f"R_max of output {self.output} around {len(material.samples)} test images of class {self.output} of "
            f"{material.data}. Within this radius, some entry of the output's gradient is proved to keep its sign. "
            "`mean` is the mean of the finite radii alone. `share ∞` is the share of images for which the whole space "
            "is proved to have no stationary point. Balls are not clipped. "
            f"This repeats figure 2 of {PAPER}. All single radii are in {self.name}.csv.",
            networks([(s.name, s.accuracy, s.given) for s in material.subjects]),
            markdown(header, cells),
            f"Radii of 0, where nothing is proved around the image: {zero} of {len(rows)}.",
            "The paper shows curves without numbers, over 500 images of MNIST. For networks of two layers it reports "
            "that there is no stationary point anywhere (∞).",
            WHY_OTHER,
        ]
        return "\n\n".join(parts) + "\n"
