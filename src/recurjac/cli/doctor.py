"""`recurjac doctor`: what is installed, and whether this machine rounds as the proofs assume."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import final

import numpy as np
import torch

from recurjac.arithmetic import check_convolution
from recurjac.arithmetic.probes import rounding_failures
from recurjac.cli.checking import CHECKER
from recurjac.cli.output import Row, stderr, table, write_json
from recurjac.version import __version__


@final
@dataclass(frozen=True)
class Extra:
    """An optional package: the extra that installs it, its distribution, its module, and what needs it."""

    extra: str
    distribution: str
    module: str
    what: str


EXTRAS = (
    Extra("onnx", "onnx", "onnx", "ONNX files"),
    Extra("plot", "matplotlib", "matplotlib", "figures"),
    Extra("experiments", "scikit-learn", "sklearn", "data sets of the paper's experiments"),
    Extra("sweep", "pyarrow", "pyarrow", "Parquet files"),
    Extra("ray", "ray", "ray", "sweeps on a cluster"),
    Extra("dataframe", "pandas", "pandas", "results as DataFrames"),
    Extra("notebooks", "jupytext", "jupytext", "the examples as notebooks"),
    Extra("completion", "argcomplete", "argcomplete", "completion in the shell"),
)


def run(args: argparse.Namespace) -> int:
    """Say what there is; the exit code is 1 if rounding is not as assumed."""
    rounding = list(_rounding())
    rows = [*_versions(), *_extras(), *_machine(), *rounding]
    failed = [row for row in rounding if not row["fine"]]
    if not args.quiet:
        cells = [[row["part"], row["found"], row["remark"]] for row in rows]
        table(f"recurjac {__version__}", ["part", "found", "remark"], cells)
    if failed:
        stderr().print("rounding is not as the proofs assume: results here may not hold, or are not rigorous")
    write_json(args, None, rows)
    return 1 if failed else 0


def _row(part: str, found: str, remark: str = "", fine: bool = True) -> Row:
    return {"part": part, "found": found, "remark": remark, "fine": fine}


def _versions() -> Iterator[Row]:
    yield _row("Python", platform.python_version(), platform.platform())
    yield _row("PyTorch", torch.__version__)
    yield _row("NumPy", np.__version__)


def _extras() -> Iterator[Row]:
    for each in EXTRAS:
        if find_spec(each.module) is None:
            yield _row(each.distribution, "missing", f"{each.what}: pip install {each.distribution}", fine=False)
        else:
            yield _row(each.distribution, _version(each.distribution), each.what)
    if find_spec(CHECKER) is None:
        yield _row("recurjac-check", "missing", "checks of certificates: pip install ./checker", fine=False)
    else:
        yield _row("recurjac-check", "installed", "checks of certificates")


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # a module without metadata
        return "installed"


def _devices() -> list[torch.device]:
    return [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]


def _machine() -> Iterator[Row]:
    for device in _devices():
        name = platform.processor() or platform.machine()
        yield _row(str(device), name if device.type == "cpu" else torch.cuda.get_device_name(device))
    limit = os.environ.get("OMP_NUM_THREADS")
    remark = f"of {os.cpu_count()} processors" + ("" if limit is None else f"; OMP_NUM_THREADS={limit}")
    yield _row("threads", str(torch.get_num_threads()), remark)


def _rounding() -> Iterator[Row]:
    for device in _devices():
        for dtype in (torch.float64, torch.float32):
            failures = rounding_failures(dtype, device)
            part = f"rounding of {str(dtype).removeprefix('torch.')} on {device}"
            remark = "; ".join(failures) or (check_convolution(dtype, device) or "")
            yield _row(part, "differs" if failures else "as assumed", remark, fine=not failures)
