"""The options that the commands share, and the types of their values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import inf

from recurjac.cli.grammar.names import RULES


def number(text: str) -> float:
    """A number, or inf; NaN is refused."""
    value = float(text)
    if value != value:
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return value


def norm(text: str) -> float:
    """1, 2 or inf."""
    if text not in ("1", "2", "inf"):
        raise argparse.ArgumentTypeError(f"the norm {text!r} is not known; use inf, 2 or 1")
    return float(text)


def which_class(text: str) -> int | str:
    """The number of an output, or `each`."""
    if text == "each":
        return text
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"the class {text!r} is neither a number nor `each`")
    return int(text)


def add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "model",
        metavar="MODEL",
        help="a .npz weight list, an .onnx or .pt2 file, or package.module:factory for a module",
    )
    group.add_argument(
        "--activation", metavar="NAME", help="activation of all hidden layers, if the file does not state it"
    )
    group.add_argument(
        "--input-shape",
        type=int,
        nargs="+",
        metavar="N",
        help="shape of one input, for a module or an .onnx file with axes of open size",
    )
    group.add_argument(
        "--fix-inputs",
        type=input_value,
        nargs="+",
        metavar="NAME=V",
        help="values of all inputs but one, of a module or an .onnx file with several: numbers, or .npy files",
    )
    group.add_argument(
        "--dtype", choices=["float64", "float32"], default="float64", help="precision of the computation (float64)"
    )
    group.add_argument("--device", metavar="DEVICE", help="device of the computation, such as cpu or cuda")
    group.add_argument("--output-name", metavar="NAME", help="which output of a file or module with several")
    group.add_argument("--cut-at", metavar="NODE", help="the node of an .onnx or .pt2 file whose result is bounded")
    group.add_argument(
        "--fix",
        type=feature_value,
        nargs="+",
        metavar="I=V",
        help="fix input features (their numbers, row-major from 0, or names of the header line) at values; bounds are "
        "for the others, in their order",
    )


def input_value(text: str) -> tuple[str, str]:
    """NAME=V: the name of an input, and its value."""
    name, _, value = text.rpartition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=V, such as h0=0 or state=state.npy")
    return name, value


def feature_value(text: str) -> tuple[int | str, float]:
    """I=V: the number or the name of an input feature, and its value."""
    feature, _, value = text.rpartition("=")
    try:
        found = number(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I=V, such as 3=0.5 or age=40") from error
    if not feature:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I=V, such as 3=0.5 or age=40")
    return int(feature) if feature.isdecimal() else feature, found


def add_region(parser: argparse.ArgumentParser, many: bool) -> None:
    group = parser.add_argument_group("region")
    either = group.add_mutually_exclusive_group(required=True)
    _add_input(either)
    either.add_argument(
        "--box",
        metavar="FILE.csv",
        help="a box in place of balls: a line of names (optional), a row of lower and a row of upper ends",
    )
    _add_samples(group)
    group.add_argument(
        "--radius",
        type=number,
        nargs="+" if many else 1,
        metavar="R",
        help="radius of the ball around each input; inf: everywhere",
    )


def add_balls(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options for balls around inputs, except their radius."""
    group = parser.add_argument_group("region")
    _add_input(group).required = True
    _add_samples(group)
    return group


def _add_input(group: argparse._ArgumentGroup) -> argparse.Action:
    return group.add_argument(
        "--input", metavar="X", help="inputs: .npy, .npz (file.npz:key), .csv, an image, or a .vnnlib box"
    )


def _add_samples(group: argparse._ArgumentGroup) -> None:
    """Which inputs are used, and how far the region around each reaches."""
    group.add_argument("--index", type=int, nargs="+", metavar="I", help="numbers of the inputs to use (all)")
    group.add_argument(
        "--divide",
        type=number,
        default=1.0,
        metavar="D",
        help="divide arrays by D (255 for 8-bit pixels; image files are divided already)",
    )
    group.add_argument(
        "--norm", type=norm, default=inf, metavar="inf|2|1", help="norm of the ball and of the inputs (inf)"
    )
    group.add_argument("--clip", type=number, nargs=2, metavar=("LO", "HI"), help="range of valid inputs")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs").add_mutually_exclusive_group()
    group.add_argument(
        "--class", dest="target", type=which_class, metavar="K", help="one output, or `each` (default: all as a vector)"
    )
    group.add_argument("--margin", type=int, nargs=2, metavar=("A", "B"), help="the difference of outputs A and B")


def add_method(
    parser: argparse.ArgumentParser, methods: Sequence[str], default: str = "default: as in Python"
) -> argparse._ArgumentGroup:
    """The options for the method, the rule and the arithmetic."""
    group = parser.add_argument_group("method")
    names = ", ".join(methods)
    group.add_argument("--method", metavar="NAME", help=f"{names}, or package.module:object ({default})")
    group.add_argument(
        "--pre",
        metavar="NAME",
        default="crown",
        help=f"rule for pre-activations: {', '.join(RULES)}, or package.module:object (crown)",
    )
    group.add_argument(
        "--arithmetic",
        choices=["rigorous", "fast", "deployed-float32", "deployed-float64"],
        default="rigorous",
        help="rigorous covers rounding where possible; deployed-… is for radii of the network as it runs (rigorous)",
    )
    return group


def add_time_limit(group: argparse._ArgumentGroup, what: str) -> None:
    group.add_argument(
        "--time-limit",
        type=seconds,
        metavar="S",
        help="seconds for all questions together, for methods that go on while there is time; the question of each "
        f"{what} gets an equal part of what is left (10 for each question)",
    )


def seconds(text: str) -> float:
    """A positive number of seconds."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time; give a positive number of seconds")
    return value


def add_report(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("report")
    group.add_argument(
        "--json",
        metavar="FILE",
        help="write the results to FILE, or - for standard output (add --quiet to omit the table)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress and no table")


def add_certificate(parser: argparse.ArgumentParser) -> None:
    """The option `--certificate`."""
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        help="write certificates of the results to FILE, which `recurjac check` verifies; MODEL must be an .onnx file, "
        "and the command is one run of one process, without --jobs and without a table of rows by --output",
    )


def add_many(parser: argparse.ArgumentParser) -> None:
    """The options for many inputs."""
    group = parser.add_argument_group("many inputs")
    group.add_argument("--jobs", type=int, default=1, metavar="J", help="number of processes, each with one thread (1)")
    group.add_argument(
        "--output", metavar="FILE",
        help="also write the results to a .csv, .jsonl or .parquet file as they are found; after an interruption, the "
        "same command continues",
    )  # fmt: skip
