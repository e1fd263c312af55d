"""The tables and their cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeVar, final

import torch

import recurjac as rj
from benchmarks.cases import (
    AbstractLayers,
    AbstractOpponent,
    Case,
    Generated,
    OnnxFile,
    Ours,
    Reference,
    Textbook,
    radius_with,
)

T = TypeVar("T")
RADII = (0.001, 0.005, 0.02)
SHAPE = Generated(784, 200, 9, 10)
"""The replacement for a missing reference network: the same shape, with random weights."""

FAST = Ours(rj.Chords(), rj.Fast())
RIGOROUS = Ours(rj.Chords(), rj.Rigorous())
RECURJAC_FAST = Ours(rj.RecurJac(), rj.Fast())
RECURJAC_RIGOROUS = Ours(rj.RecurJac(), rj.Rigorous())
TEXTBOOK = Textbook()
ALL: tuple[AbstractOpponent, ...] = (FAST, RIGOROUS, RECURJAC_FAST, RECURJAC_RIGOROUS, TEXTBOOK)


@final
@dataclass(frozen=True)
class Plan:
    """The available networks, and whether the run is a short one."""

    reference: Path | None
    onnx: Path | None
    quick: bool

    @property
    def main(self) -> AbstractLayers:
        """The reference network, or its replacement."""
        return SHAPE if self.reference is None else Reference(self.reference)


def reference_cases(plan: Plan) -> Iterator[Case]:
    """The reference network at its radii, with one output and with all."""
    short = ((RADII[0], 1), (RADII[0], None), (RADII[-1], 1))
    for radius, outputs in short if plan.quick else product(RADII, (1, None)):
        for opponent in ALL:
            yield Case("reference", "radius", radius, plan.main, radius, opponent, outputs)


def wide_cases(plan: Plan) -> Iterator[Case]:
    """A wide network from an ONNX file, with peak memory; no cases if there is no file."""
    if plan.onnx is not None:
        for opponent in (RIGOROUS,) if plan.quick else ALL[:4]:
            yield Case("wide", "radius", 0.01, OnnxFile(plan.onnx), 0.01, opponent, memory=True)


def thread_cases(plan: Plan) -> Iterator[Case]:
    """The reference network, all outputs, on one thread and on two."""
    for radius in RADII[:1] if plan.quick else (RADII[0], RADII[-1]):
        for threads in (1, 2):
            for opponent in (FAST, RIGOROUS):
                case = Case("threads", "threads", threads, plan.main, radius, opponent, threads=threads)
                yield replace(case, table=f"threads, radius {radius:g}")


def device_cases(plan: Plan) -> Iterator[Case]:
    """The reference network on one thread of the CPU and on the accelerator, if there is one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        return
    cases = product(RADII[:1] if plan.quick else RADII[:2], ((1, 1), (None, 1), (None, 16)))
    for (radius, (outputs, batch)), device in product(cases, ("cpu", found.type)):
        for opponent in (FAST, RIGOROUS):
            case = Case("devices", "radius", radius, plan.main, radius, opponent, outputs, batch, device=device)
            yield replace(case, table=f"devices, {device}, batch {batch}")


BASE = Generated(200, 100, 6, 10)
"""The base network of the growth table."""
UNSTABLE = 20
"""The total number of its unstable neurons."""
TEXTBOOK_AT_MOST = 5 * 10**10
"""The number of multiply-adds above which the textbook implementation is omitted."""


def growth_cases(plan: Plan) -> Iterator[Case]:
    """One size varies; everything else is fixed, including a total of about `UNSTABLE` unstable neurons."""
    yield from _networks(plan, "depth", (3, 6, 12, 24, 48), lambda n: replace(BASE, depth=n))
    yield from _networks(plan, "width", (50, 100, 200, 400, 800), lambda n: replace(BASE, width=n))
    yield from _networks(plan, "inputs", (100, 200, 400, 800, 1600), lambda n: replace(BASE, inputs=n))
    yield from _networks(plan, "outputs", (1, 4, 16, 64, 256), lambda n: replace(BASE, outputs=n))
    radius = radius_with(BASE, UNSTABLE)
    for batch in _steps(plan, (1, 2, 4, 8, 16)):
        for opponent in (FAST, RIGOROUS):
            yield Case("growth", "batch", batch, BASE, radius, opponent, batch=batch)
    neurons = BASE.width * (BASE.depth - 1)
    for share in _steps(plan, (0.02, 0.05, 0.1, 0.2, 0.5)):
        radius = radius_with(BASE, share * neurons)
        yield from _each(Case("growth", "share unstable", share, BASE, radius, FAST))


def _networks(plan: Plan, variable: str, values: tuple[int, ...], source: Callable[[int], Generated]) -> Iterator[Case]:
    for value in _steps(plan, values):
        net = source(value)
        radius = radius_with(net, UNSTABLE)
        yield from _each(Case("growth", variable, value, net, radius, FAST))


def _each(case: Case) -> Iterator[Case]:
    work = TEXTBOOK.work(case).multiply_adds
    for opponent in (FAST, RIGOROUS) if work > TEXTBOOK_AT_MOST else (FAST, RIGOROUS, TEXTBOOK):
        yield replace(case, opponent=opponent)


def _steps(plan: Plan, values: tuple[T, ...]) -> tuple[T, ...]:
    return values[0:3:2] if plan.quick else values


TABLES: Mapping[str, Callable[[Plan], Iterator[Case]]] = {
    "reference": reference_cases,
    "wide": wide_cases,
    "growth": growth_cases,
    "threads": thread_cases,
    "devices": device_cases,
}
"""The tables, by their names on the command line."""
