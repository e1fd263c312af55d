"""The parser of the whole command line."""

from __future__ import annotations

import argparse
from typing import Any

from recurjac.cli.grammar import (
    bounds,
    certify,
    checking,
    contraction,
    demo,
    doctor,
    experiments,
    hessian,
    inspection,
    landscape,
    monotone,
    page,
    sweeping,
    train,
)
from recurjac.version import __version__

_QUESTIONS = (bounds, certify, landscape, monotone, contraction)
"""The commands that a sweep can ask."""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="recurjac", description="Certified bounds on the Jacobian of a neural network over a region of inputs."
    )
    top.add_argument("--version", action="version", version=f"recurjac {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        demo,
        inspection,
        bounds,
        hessian,
        contraction,
        certify,
        landscape,
        monotone,
        checking,
        sweeping,
        train,
        experiments,
        page,
        doctor,
    ):
        module.add_commands(commands)
    return top


def add_questions(commands: Any) -> None:
    """The commands that a sweep can ask."""
    for module in _QUESTIONS:
        module.add_commands(commands)
