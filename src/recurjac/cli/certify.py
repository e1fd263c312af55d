"""`recurjac certify`: certified radii, and the nearest adversaries found."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from recurjac.applications.adversaries import FOUND
from recurjac.applications.attack import Attack
from recurjac.applications.branched_margin import BranchedMargin
from recurjac.applications.proofs import AbstractRadiusProof, LipschitzIntegral, MarginBound, SecantMargin
from recurjac.applications.radius_search import RadiusProgress, RadiusSearch
from recurjac.applications.robustness import CertifiedRadius, certified_radius
from recurjac.applications.targets import read_labels, rivals
from recurjac.cli import named, options
from recurjac.cli.checking import Certificates
from recurjac.cli.output import AbstractBar, Row, origin, remarks, show_lower, show_upper, table, write_json
from recurjac.cli.tasks import Keep, Prepared, answer, ignored
from recurjac.deadline import Budget
from recurjac.errors import InvalidRequest
from recurjac.loading.inputs import Boxes, read_inputs
from recurjac.network import Network
from recurjac.problem import Problem
from recurjac.region import LpBall

_TOGETHER = 16
"""The number of inputs in one call for small networks."""
_LARGE = 10**8
"""Multiply-adds of a bound above which inputs are certified one by one."""


_PROOFS = {
    "integral": LipschitzIntegral(), "margin": MarginBound(), "secants": SecantMargin(), "branched": BranchedMargin(),
}  # fmt: skip
_IN_TIME = ("margin", "integral", "branched")
"""The proofs of the default; those by splitting begin with secants."""


def run(args: argparse.Namespace) -> int:
    """Certify every input; after an interruption, the finished results are reported."""
    certificates = Certificates.asked(args)
    rows, code = answer(args, "certified radii", partial(prepare, keep=certificates.add))
    if not args.quiet and rows:
        _table(rows)
    certificates.write()
    write_json(args, args.model, rows)
    return code


def prepare(args: argparse.Namespace, keep: Keep = ignored) -> Prepared:
    """One task for each call: some inputs with their labels and targets."""
    if args.input.lower().endswith(".vnnlib"):
        raise InvalidRequest(f"--input {args.input}: a box has no centre to certify; give the inputs themselves")
    search = RadiusSearch(args.intervals, args.limit, Attack(seed=args.seed), 10.0 if _timed(args) else torch.inf)
    network = options.read_network(args).flattened_output()
    inputs = options.read_points_for(network, args)
    proofs = _proofs(args)
    tasks = _tasks(network, inputs, args)
    budget = Budget.of(args.time_limit or torch.inf, len(inputs.index))

    def rows_of(number: int, bar: AbstractBar) -> list[Row]:
        index, x, labels, target = tasks[number]
        ball = LpBall(x, 0.0, args.norm, None if args.clip is None else tuple(args.clip))
        began = time.perf_counter()
        problem = Problem(network, ball, pre=named.rule_for_ball(args.pre), arithmetic=options.chosen_arithmetic(args))
        each = search.time_limit if args.time_limit is None else budget.share(len(index)) / len(index)
        how = replace(search, time_limit=each, progress=lambda now: bar.say(_gap(now)))
        found = certified_radius(problem, label=labels, target=target, proofs=proofs, search=how)
        seconds = (time.perf_counter() - began) / len(index)
        keep(found)
        return _rows(index, found, seconds)

    return Prepared([" ".join(map(str, index)) for index, *_ in tasks], rows_of, network.digest())


def _timed(args: argparse.Namespace) -> bool:
    """Whether everything that fits in the time is done."""
    return args.method in (None, "auto")


def _gap(now: RadiusProgress) -> str:
    return f"{show_lower(now.radius)} … {show_upper(now.attack)}"


def _proofs(args: argparse.Namespace) -> tuple[AbstractRadiusProof, ...]:
    """The proofs of --proofs; the integral is that of --method."""
    if _timed(args):
        return tuple(_PROOFS[name] for name in dict.fromkeys(args.proofs or _IN_TIME))
    names = dict.fromkeys(args.proofs or ("margin", "integral"))
    if "integral" not in names:
        raise InvalidRequest("--method names the method of the integral; add integral to --proofs")
    integral = LipschitzIntegral(named.for_ball(named.norm_method(args.method)))
    return tuple(integral if name == "integral" else _PROOFS[name] for name in names)


_Task = tuple[tuple[int, ...], Tensor, list[int], str | list[int]]
"""Some inputs: their numbers, the inputs themselves, their labels and their targets."""


def _tasks(network: Network, inputs: options.Inputs, args: argparse.Namespace) -> list[_Task]:
    """What to certify, in one part for each call; labels and targets are checked first."""
    x = inputs.points(slice(None)).x
    outputs = network(x.to(network.device, network.dtype)).detach()
    labels = read_labels(_labels(inputs, args), outputs)
    against = rivals(args.target, labels, outputs, args.seed)
    size = 1 if network.cost > _LARGE or args.time_limit is not None else _TOGETHER
    parts = [slice(begin, begin + size) for begin in range(0, len(labels), size)]
    return [
        (inputs.index[s], x[s], labels[s], "all" if args.target == "all" else [k for (k,) in against[s]]) for s in parts
    ]


def _labels(inputs: options.Inputs, args: argparse.Namespace) -> list[float] | None:
    """The labels of the chosen inputs, in order; a file may have labels for all inputs or for the chosen ones only."""
    if args.labels is None:
        return None
    if all(text.isdigit() for text in args.labels):
        return [float(text) for text in args.labels]
    if len(args.labels) > 1:
        raise InvalidRequest(f"--labels {' '.join(args.labels)}: give the numbers of classes, or one file")
    found = read_inputs(args.labels[0])
    if isinstance(found, Boxes):
        raise InvalidRequest(f"--labels {args.labels[0]}: a box is not a label; give numbers of classes")
    labels: list[float] = found.values.flatten().tolist()
    return [labels[i] for i in inputs.index] if len(labels) == inputs.count else labels


def _rows(index: Sequence[int], found: CertifiedRadius, seconds: float) -> list[Row]:
    return [
        {
            "index": number,
            "label": int(found.label[i]),
            "target": int(found.target[i]),
            "radius": float(found.radius[i]),
            "method": found.proof[i],
            "seconds": seconds,
            "attack": float(found.attack[i]),
            "norm": found.p,
            "margin": float(found.margin[i]),
            "rounding": float(found.rounding[i]),
            "by_integral": float(found.by_integral[i]),
            "by_margin": float(found.by_margin[i]),
            "remark": found.remark[i],
            "status": found.status[i],
            "attack_status": found.attack_status[i],
            **origin(found),
        }
        for i, number in enumerate(index)
    ]


def _how(row: Row) -> str:
    """What proves the radius, and the remark on it if there is one."""
    proof = row["method"] if row["radius"] > 0 else ""
    return ": ".join(part for part in (proof, row["remark"]) if part)


def _attacked(row: Row) -> str:
    """The distance of the nearest adversary, or how the attack ended without one."""
    return show_upper(row["attack"]) if row["attack_status"] == FOUND else str(row["attack_status"])


def _table(rows: Sequence[Row]) -> None:
    columns = ["index", "label", "target", "certified", "attacked", "method or remark", "seconds"]
    cells = [
        [
            str(r["index"]), str(r["label"]), str(r["target"]), show_lower(r["radius"]), _attacked(r),
            _how(r), f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    table(f"Certified l{rows[0]['norm']:g} radii, and the nearest adversaries found", columns, cells)
    remarks(rows)
