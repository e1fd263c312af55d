"""Figures 1 and 3: the local l∞ Lipschitz constant against the radius, for every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, isnan, prod
from pathlib import Path
from typing import Any, final

from recurjac.experiments.defaults import BUDGET, RADII
from recurjac.experiments.material import Material
from recurjac.experiments.panels import Gradient, write_panels
from recurjac.experiments.published import CIFAR_SECONDS, PAPER, WHY_OTHER
from recurjac.experiments.study import AbstractExperiment, Row
from recurjac.experiments.tables import digits, lower, markdown, mean, networks, upper
from recurjac.jacobian import FastLip, RecurJac, Reversed, ReversedAfterFirst
from recurjac.lipschitz_constants import lipschitz
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod, JacobianNorm, PlainSum, ProductOfNorms, SignSum
from recurjac.plot.figures import Curve, Panel, log_log_panels
from recurjac.region import LpBall
from recurjac.search import Search
from recurjac.sweeps.files import write_atomically

ATTAINED = "attained"
PRODUCT = "product of norms"
OURS = "our default"
METHODS: dict[str, AbstractNormMethod] = {
    PRODUCT: ProductOfNorms(),
    "Fast-Lip": JacobianNorm(FastLip(), PlainSum()),
    "RecurJac-F1": JacobianNorm(ReversedAfterFirst(RecurJac()), SignSum()),
    "RecurJac-F0": JacobianNorm(Reversed(RecurJac()), SignSum()),
    "RecurJac-B": JacobianNorm(RecurJac(), SignSum()),
    OURS: JacobianNorm(),
}
"""The methods of the paper with its own row sums (its equations 22 and 23), and the library's default."""


@final
@dataclass(frozen=True)
class Task:
    """One bound: network, image, radius and method; the method `ATTAINED` stands for the result of a search."""

    subject: int
    sample: int
    radius: float
    method: str


@final
@dataclass(frozen=True)
class Curves(AbstractExperiment[Task]):
    """Local l∞ Lipschitz constants of the vector of all outputs, on l∞ balls that are not clipped.

    The paper does not clip either: its bounds only use ‖x - x_0‖ <= ε.  budget: multiply-adds above which a bound of
    RecurJac-F0 or F1 is not computed, counted as if every neuron were unstable.
    """

    label: str
    material: Material
    radii: tuple[float, ...] = RADII
    budget: float = BUDGET

    @property
    def name(self) -> str:
        return self.label

    @property
    def columns(self) -> tuple[str, ...]:
        return ("network", "image", "label", "radius", "method", "bound", "value", "rigorous", "remark")

    def identity(self) -> dict[str, Any]:
        settings = {
            "radii": list(self.radii),
            "budget": self.budget,
            "methods": [*METHODS, ATTAINED],
            OURS: METHODS[OURS].title,
        }
        return {"experiment": self.name, "settings": settings, **self.material.identity()}

    def tasks(self) -> dict[str, Task]:
        found = {}
        for i, subject in enumerate(self.material.subjects):
            for j, sample in enumerate(self.material.samples):
                for radius in self.radii:
                    for method in (*METHODS, ATTAINED):
                        key = f"{subject.name}/image {sample.index}/{radius:.6g}/{method}"
                        found[key] = Task(i, j, radius, method)
        return found

    def worker(self) -> Callable[[Task], list[Row]]:
        opened = cache(lambda i: self.material.subjects[i].opened())
        return lambda task: [self._row(task, opened(task.subject))]

    def _row(self, task: Task, network: Network) -> Row:
        sample = self.material.samples[task.sample]
        row: Row = {
            "network": self.material.subjects[task.subject].name,
            "image": sample.index,
            "label": sample.label,
            "radius": task.radius,
            "method": task.method,
            "bound": "lower" if task.method == ATTAINED else "upper",
        }
        price = cost(network, task.method)
        if price > self.budget:
            remark = f"not computed: about {price:.2g} multiply-adds, over the budget of {self.budget:.2g}"
            return {**row, "value": None, "rigorous": None, "remark": remark}
        ball = LpBall(sample.centre(network), task.radius, inf)
        if task.method == ATTAINED:
            found = lipschitz(network, ball, method=METHODS[PRODUCT], search=Search(seed=self.material.seed))
            value = float(found.lower[0])
        else:
            found = lipschitz(network, ball, method=METHODS[task.method], search=Search(work=0))
            value = float(found.upper[0])
        return {**row, "value": value, "rigorous": found.rigorous, "remark": found.reason}

    def report(self, rows: Sequence[Row], folder: Path) -> None:
        write_atomically(folder / f"{self.name}.md", self._text(rows))
        panels = [
            Panel(
                f"{s.name}, {100 * s.accuracy:.1f} % correct",
                self.radii,
                [Curve(m, means(rows, self.radii, s.name, m), m == PRODUCT) for m in (*METHODS, ATTAINED)],
            )
            for s in self.material.subjects
        ]
        files = [folder / f"{self.name}.{suffix}" for suffix in ("png", "svg")]
        log_log_panels(files, panels, "radius ε of the l∞ ball", "local l∞ Lipschitz constant")
        write_panels(folder / "panels.npz", self.material, self._gradients())

    def _gradients(self) -> list[Gradient]:
        """The output of the label around the first image, for every network, at a small, medium and large radius."""
        sample = self.material.samples[0]
        chosen = sorted({self.radii[len(self.radii) * k // 12] for k in (0, 4, 8)})
        return [
            Gradient(i, 0, sample.label, radius, inf, f"{s.name}: class {sample.label}, l∞ radius {radius:.3g}")
            for i, s in enumerate(self.material.subjects)
            for radius in chosen
        ]

    def _text(self, rows: Sequence[Row]) -> str:
        material, names = self.material, (*METHODS, ATTAINED)
        parts = [
            f"# {self.name}: local l∞ Lipschitz constants",
            f"Upper bounds of max ‖J(x)‖∞ over l∞ balls of radius ε around {len(material.samples)} test image(s) of "
            f"{material.data}, averaged over the images. The last column is attained: it is the largest value found at "
            f"some input. Balls are not clipped. This repeats figure {self.name[-1]} of {PAPER}. Seeds and weights are "
            f"in manifest.json, and all single bounds are in {self.name}.csv.",
            networks([(s.name, s.accuracy, s.given) for s in material.subjects]),
        ]
        for subject in material.subjects:
            curves = {m: means(rows, self.radii, subject.name, m) for m in names}
            cells = [
                [digits(r, 3), *(_bound(name, v[k]) for name, v in curves.items())] for k, r in enumerate(self.radii)
            ]
            parts += [f"## {subject.name}", markdown(("ε", *names), cells)]
        remarks = dict.fromkeys(f"{r['network']}, {r['method']}: {r['remark']}." for r in rows if r["remark"])
        parts += [*remarks, _comparison(material.shape), WHY_OTHER]
        return "\n\n".join(parts) + "\n"


def means(rows: Sequence[Row], radii: Sequence[float], network: str, method: str) -> list[float]:
    """The mean over the images for each radius; NaN if there is no value.

    A value attained in a ball is also attained in every larger ball.
    """
    own = [r for r in rows if (r["network"], r["method"]) == (network, method) and r["value"] is not None]
    found = []
    for radius in radii:
        best: dict[Any, float] = {}
        for r in own:
            if r["radius"] == radius or (method == ATTAINED and float(r["radius"] or 0) <= radius):
                best[r["image"]] = max(float(r["value"] or 0), best.get(r["image"], 0.0))
        value = mean(list(best.values()))
        found.append(float("nan") if value is None else value)
    return found


def _bound(name: str, value: float) -> str:
    """An upper bound rounded up, or an attained value rounded down; a dash if there is none."""
    number = None if isnan(value) else value
    return lower(number) if name == ATTAINED else upper(number)


def _comparison(shape: tuple[int, ...]) -> str:
    text = (
        "The paper shows these curves without numbers: Fast-Lip, RecurJac-B, F0, F1, and the product of norms (dotted)."
    )
    if prod(shape) != 3072:
        return text
    times = ", ".join(f"{name} {seconds:g} s" for name, seconds in CIFAR_SECONDS.items())
    reported = f"For one constant of this network on one core, its authors report {times}; our times are in times.csv."
    return f"{text} {reported}"


def cost(network: Network, method: str) -> float:
    """Multiply-adds of one bound from the input side if every neuron is unstable; 0 for methods that are cheap.

    From that side, every input (F0) or every neuron of the first layer (F1) is a row of its own.
    """
    start = {"RecurJac-F0": 0, "RecurJac-F1": 1}.get(method)
    return 0.0 if start is None or start >= network.depth else _forward_cost(network, start)


def _forward_cost(network: Network, start: int) -> float:
    """For each entry of node `start`, the recursion from there to the outputs."""
    each = [sum(e.operator.multiply_adds() for e in s.edges) for s in network.stages]
    rows = network.sizes[start]
    through, total = each[start] / rows, 0.0
    for stage, following in zip(network.stages[start:], [*each[start + 1 :], 0], strict=True):
        total += 2 * prod(stage.shape) * through
        through += following
    return rows * total
