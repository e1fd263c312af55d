"""`recurjac demo`: local Lipschitz constants of the bundled digits network."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import as_file, files
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from recurjac.cli import named
from recurjac.cli.output import (
    Row,
    origin,
    progress,
    show,
    show_lower,
    show_upper,
    stderr,
    table,
    write_json,
)
from recurjac.cli.writable import check_writable
from recurjac.errors import InvalidRequest, MissingDependency
from recurjac.lipschitz_constants import lipschitz
from recurjac.loading import load, load_arrays
from recurjac.machine import one_thread
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod
from recurjac.plot.figures import Curve, check_format, log_log
from recurjac.region import LpBall
from recurjac.search import Search

METHODS = ("product", "fastlip", "recurjac", "recurjac-f0", "recurjac-f1", "chords")
ATTAINED = "attained"


def digits() -> tuple[Network, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The bundled network, ten images (10, 64) and their labels."""
    with as_file(files("recurjac") / "data" / "digits.npz") as path:
        arrays = load_arrays(path)
        return load(path), arrays["x"], arrays["labels"]


def run(args: argparse.Namespace) -> int:
    """Compute the bounds, print the table, and write the plot."""
    check_writable("--plot", args.plot)
    with suppress(MissingDependency):  # reported when the plot is due
        check_format(Path(args.plot))
    network, images, labels = digits()
    if not 0 <= args.digit < len(images):
        raise InvalidRequest(f"--digit {args.digit}: there are images 0 to {len(images) - 1}")
    regions = [LpBall(images[args.digit], radius, clip=(0, 1)) for radius in args.radius]
    methods = {name: named.norm_methods()[name] for name in METHODS}
    began = time.perf_counter()
    rows: list[Row] = []
    with one_thread(), progress(args.quiet, "Lipschitz constants", len(args.radius) * len(methods)) as step:
        for radius, region in zip(args.radius, regions, strict=True):
            rows += _rows(network, region, radius, int(args.digit), methods, step)
    _share(rows)
    if not args.quiet:
        _print(rows, methods, int(labels[args.digit]), time.perf_counter() - began)
    _plot(rows, methods, args)
    write_json(args, None, rows)
    return 0


def _rows(
    network: Network,
    region: LpBall,
    radius: float,
    index: int,
    methods: Mapping[str, AbstractNormMethod],
    step: Callable[[], None],
) -> list[Row]:
    rows: list[Row] = []
    for method in methods.values():
        began = time.perf_counter()
        # the lower bound does not depend on the method, so one search is enough
        found = lipschitz(network, region, method=method, search=None if not rows else Search(work=0))
        lower = rows[0]["lower"] if rows else float(found.lower[0])
        rows.append(
            {
                "index": index,
                "radius": radius,
                "norm": inf,
                "output_norm": inf,
                "class": None,
                "method": method.title,
                "upper": float(found.upper[0]),
                "lower": lower,
                "seconds": time.perf_counter() - began,
                **origin(found),
            }
        )
        step()
    return rows


def _share(rows: Sequence[Row]) -> None:
    """What is attained in a ball is attained in all larger ones."""
    best = 0.0
    for row in sorted(rows, key=lambda row: row["radius"]):
        best = row["lower"] = max(best, row["lower"])


def _print(rows: Sequence[Row], methods: Mapping[str, AbstractNormMethod], label: int, seconds: float) -> None:
    titles = [m.title for m in methods.values()]
    cells = []
    for radius in dict.fromkeys(r["radius"] for r in rows):
        of = {r["method"]: r for r in rows if r["radius"] == radius}
        cells.append([show(radius), *(show_upper(of[t]["upper"]) for t in titles), show_lower(of[titles[0]]["lower"])])
    table(f"Local l∞ Lipschitz constant around a handwritten {label}: certified upper bounds, and the largest attained",
          ["radius", *titles, ATTAINED], cells)  # fmt: skip
    console = stderr()
    if all(r["rigorous"] for r in rows):
        console.print("Every bound holds in real arithmetic: floating-point rounding is covered.")
    console.print(f"{seconds:.1f} s for {len(rows)} bounds")


def _plot(rows: Sequence[Row], methods: Mapping[str, AbstractNormMethod], args: argparse.Namespace) -> None:
    titles = [m.title for m in methods.values()]
    curves = [Curve(t, [r["upper"] for r in rows if r["method"] == t], dotted=t == titles[0]) for t in titles]
    curves.append(Curve(ATTAINED, [r["lower"] for r in rows if r["method"] == titles[0]], dotted=False))
    console = stderr()
    try:
        log_log(Path(args.plot), args.radius, curves, "radius ε of the l∞ ball", "local l∞ Lipschitz constant")
    except (InvalidRequest, MissingDependency) as error:
        console.print(f"no plot: {error}")
        return
    if not args.quiet:
        console.print(f"plot written to {args.plot}")
