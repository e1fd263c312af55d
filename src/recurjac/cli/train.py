"""`recurjac train`: the networks of the paper's experiments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recurjac.cli.output import Row, progress, show, stderr, table, write_json
from recurjac.errors import InvalidRequest
from recurjac.experiments.data import read_images
from recurjac.experiments.recipes import EXPERIMENTS, RECIPES, recipes
from recurjac.experiments.training import Recipe, Trained, check, trained


def run(args: argparse.Namespace) -> int:
    """Train the requested networks that are missing; after an interruption, the finished ones are reported."""
    chosen = [_changed(recipe, args) for recipe in recipes(args.names or (list(EXPERIMENTS) if args.list else []))]
    if args.list:
        return _list(chosen, args)
    if not chosen:
        raise InvalidRequest(f"no network is named; give names, or {', '.join(EXPERIMENTS)}; --list shows all")
    for option in ("data", "out"):
        if not getattr(args, option):
            raise InvalidRequest(f"--{option} is missing: training needs --data SOURCE and --out FOLDER")
    images, folder = read_images(args.data), Path(args.out)
    for recipe in chosen:
        check(recipe, images, folder)
    rows: list[Row] = []
    try:
        with progress(args.quiet, "epochs", sum(recipe.epochs for recipe in chosen)) as step:
            for recipe in chosen:
                found = trained(recipe, images, folder, step)
                rows.append(_row(found))
                if not args.quiet:
                    stderr().print(f"{recipe.name}: {100 * found.accuracy:.2f} % of {len(images.y_test)} test images")
        code = 0
    except KeyboardInterrupt:
        stderr().print(f"interrupted; {len(rows)} of {len(chosen)} networks are finished; the same command continues")
        code = 1
    if not args.quiet and rows:
        _table(rows, images.name)
    write_json(args, None, rows)
    return code


def _changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with the seed and the epochs of the command line, if given."""
    seed = recipe.seed if args.seed is None else args.seed
    return replace(recipe, seed=seed, epochs=recipe.epochs if args.epochs is None else args.epochs)


def _row(found: Trained) -> Row:
    return {
        "name": found.recipe.name,
        "layers": found.recipe.layers,
        "accuracy": found.accuracy,
        "adversarial_radius": found.recipe.adversarial or None,
        "adversarial_accuracy": found.robust,
        "seconds": found.seconds,
        "file": str(found.path),
        "sha256": found.sha256,
    }


def _table(rows: Sequence[Row], data: str) -> None:
    columns = ["network", "layers", "accuracy", "under attack", "seconds", "file"]
    cells = [
        [
            r["name"], str(r["layers"]), _percent(r["accuracy"]), _percent(r["adversarial_accuracy"]),
            f"{r['seconds']:.1f}", r["file"],
        ]
        for r in rows
    ]  # fmt: skip
    table(f"Networks trained on {data}: accuracy on the test images", columns, cells)


def _percent(part: float | None) -> str:
    return show(None) if part is None else f"{100 * part:.2f} %"


def _list(chosen: Sequence[Recipe], args: argparse.Namespace) -> int:
    rows: list[Row] = [
        {
            "name": recipe.name,
            "layers": recipe.layers,
            "hidden": list(recipe.hidden),
            "activation": recipe.activation,
            "slope": recipe.slope,
            "adversarial_radius": recipe.adversarial or None,
            "epochs": recipe.epochs,
            "experiments": [name for name, of in EXPERIMENTS.items() if RECIPES[recipe.name] in of],
        }
        for recipe in chosen
    ]
    if not args.quiet:
        columns = ["network", "layers", "hidden neurons", "activation", "adversary", "epochs", "experiments"]
        cells = [
            [
                r["name"], str(r["layers"]), "-".join(map(str, r["hidden"])),
                r["activation"] + (f" {r['slope']:g}" if r["slope"] else ""), show(r["adversarial_radius"]),
                str(r["epochs"]), ", ".join(r["experiments"]),
            ]
            for r in rows
        ]  # fmt: skip
        table("Networks of the paper's experiments", columns, cells)
    write_json(args, None, rows)
    return 0
