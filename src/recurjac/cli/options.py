"""The options that the commands share, and the objects that these options name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Deployed, Fast, Rigorous
from recurjac.cli.named import rules
from recurjac.cli.output import stderr
from recurjac.errors import InvalidRegion, InvalidRequest
from recurjac.loading import load
from recurjac.loading.inputs import Boxes, Points, read_inputs
from recurjac.network import Network
from recurjac.region import AbstractRegion, Box, LpBall


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
    group.add_argument("--input-shape", type=int, nargs="+", metavar="N", help="shape of one input, for a module")
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
        help="fix input features (row-major from 0) at values; bounds are for the others, in their order",
    )


def feature_value(text: str) -> tuple[int, float]:
    """I=V: the number of an input feature and its value."""
    feature, _, value = text.partition("=")
    try:
        return int(feature), number(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I=V, such as 3=0.5") from error


def add_region(parser: argparse.ArgumentParser, many: bool) -> None:
    add_balls(parser).add_argument(
        "--radius",
        type=number,
        nargs="+" if many else 1,
        metavar="R",
        help="radius of the ball around each input; inf: everywhere",
    )


def add_balls(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options for balls around inputs, except their radius."""
    group = parser.add_argument_group("region")
    group.add_argument(
        "--input",
        required=True,
        metavar="X",
        help="inputs: .npy, .npz (file.npz:key), .csv, an image, or a .vnnlib box",
    )
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
    return group


def add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs").add_mutually_exclusive_group()
    group.add_argument(
        "--class", dest="target", type=which_class, metavar="K", help="one output, or `each` (default: all as a vector)"
    )
    group.add_argument("--margin", type=int, nargs=2, metavar=("A", "B"), help="the difference of outputs A and B")


def add_method(
    parser: argparse.ArgumentParser, methods: Mapping[str, Any], default: str = "default: as in Python"
) -> argparse._ArgumentGroup:
    """The options for the method, the rule and the arithmetic."""
    group = parser.add_argument_group("method")
    names = ", ".join(sorted(methods))
    group.add_argument("--method", metavar="NAME", help=f"{names}, or package.module:object ({default})")
    group.add_argument(
        "--pre",
        metavar="NAME",
        default="crown",
        help=f"rule for pre-activations: {', '.join(sorted(rules()))}, or package.module:object (crown)",
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


@final
@dataclass(frozen=True)
class Inputs:
    """The requested regions: balls around points, or boxes; `index` has their numbers in the file."""

    data: Points | Boxes
    index: tuple[int, ...]
    shape: tuple[int, ...]
    args: argparse.Namespace

    @property
    def radii(self) -> list[float | None]:
        """The radii, or None for boxes, which have none."""
        return [None] if isinstance(self.data, Boxes) else list(self.args.radius)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the input's features: from the header of a table, otherwise their row-major numbers."""
        named = self.data.names if isinstance(self.data, Points) else None
        return tuple(str(i) for i in _free(prod(self.shape), self.args)) if named is None else named

    def region(self, radius: float | None, rows: slice) -> AbstractRegion:
        """The region of some of the inputs."""
        chosen = list(self.index[rows])
        if isinstance(self.data, Boxes):
            return Box(self._shaped(self.data.lower[chosen]), self._shaped(self.data.upper[chosen]))
        return self._ball(radius, chosen)

    def points(self, rows: slice) -> LpBall:
        """Some of the inputs, as balls of radius 0.  Raises InvalidRequest for boxes."""
        if isinstance(self.data, Boxes):
            raise InvalidRequest(f"--input {self.args.input}: a box has no centre; give points")
        return self._ball(0.0, list(self.index[rows]))

    @property
    def count(self) -> int:
        """The number of inputs in the file."""
        return len(self.data.lower if isinstance(self.data, Boxes) else self.data.values)

    def _ball(self, radius: float | None, chosen: list[int]) -> LpBall:
        assert isinstance(self.data, Points)  # noqa: S101  # (narrows the type; the callers have checked)
        clip = None if self.args.clip is None else tuple(self.args.clip)
        x = self._shaped(self.data.values[chosen]) / self.args.divide
        return LpBall(x, radius, self.args.norm, clip)

    def _shaped(self, x: Tensor) -> Tensor:
        if x[0].numel() != prod(self.shape):
            raise InvalidRegion(
                f"{self.args.input} has inputs of shape {tuple(x.shape[1:])}, but the network takes {self.shape}"
            )
        return x.reshape(-1, *self.shape)


def read_inputs_for(network: Network, args: argparse.Namespace) -> Inputs:
    """The regions that the options name.  Raises the readers' errors, InvalidRequest for an index out of range."""
    data = _without_fixed(read_inputs(args.input), network, args)
    inputs = Inputs(data, _index(data, args), network.input_shape, args)
    if isinstance(data, Points) and not args.radius:
        raise InvalidRequest(
            "--radius is missing: give the radius of the balls around the inputs (0 for the inputs alone)"
        )
    if isinstance(data, Boxes):
        _note_dropped(data, args)
        for option, given in (("--radius", args.radius), ("--clip", args.clip), ("--divide", args.divide != 1)):
            if given:
                raise InvalidRequest(f"{option}: a .vnnlib file contains the whole box; leave the option out")
    _check_divide(args)
    for radius in inputs.radii:
        inputs.region(radius, slice(None))  # raises InvalidRegion before any work
    return inputs


def read_points_for(network: Network, args: argparse.Namespace) -> Inputs:
    """The inputs that the options name, without a radius.  Raises as `read_inputs_for` does, and for boxes."""
    data = _without_fixed(read_inputs(args.input), network, args)
    inputs = Inputs(data, _index(data, args), network.input_shape, args)
    _check_divide(args)
    inputs.points(slice(None))
    return inputs


def _free(count: int, args: argparse.Namespace) -> list[int]:
    """The numbers of the `count` features that are not fixed."""
    fixed = dict(args.fix or ())
    return [i for i in range(count + len(fixed)) if i not in fixed]


def _without_fixed(data: Points | Boxes, network: Network, args: argparse.Namespace) -> Points | Boxes:
    """The inputs without the features that `--fix` fixes, where the file has them."""
    free = _free(prod(network.input_shape), args)
    first = data.lower[0] if isinstance(data, Boxes) else data.values[0]
    if not args.fix or first.numel() != len(free) + len(args.fix):
        return data
    if isinstance(data, Boxes):
        return Boxes(data.lower[:, free], data.upper[:, free], data.dropped)
    names = None if data.names is None else tuple(data.names[i] for i in free)
    return Points(data.values.flatten(1)[:, free], data.moved.flatten(1)[:, free], names)


def _note_dropped(data: Boxes, args: argparse.Namespace) -> None:
    """Say which relations between inputs a box leaves out."""
    if data.dropped and not args.quiet:
        some = ", ".join(data.dropped[:3]) + (f" and {len(data.dropped) - 3} more" if len(data.dropped) > 3 else "")
        stderr().print(
            f"{args.input}: {some} relates several inputs and is left out; bounds hold on the whole box", markup=False
        )


def _index(data: Points | Boxes, args: argparse.Namespace) -> tuple[int, ...]:
    """The numbers of the requested inputs.  Raises InvalidRequest for one that does not exist."""
    count = len(data.lower) if isinstance(data, Boxes) else len(data.values)
    index = tuple(range(count)) if args.index is None else tuple(args.index)
    for i in index:
        if not 0 <= i < count:
            raise InvalidRequest(f"--index {i}: {args.input} holds inputs 0 to {count - 1}")
    return index


def _check_divide(args: argparse.Namespace) -> None:
    if not 0 < args.divide < inf:
        raise InvalidRequest(f"--divide {args.divide}: it must be positive and finite")


def read_network(args: argparse.Namespace) -> Network:
    """The network that the options name, with all outputs; modules are also searched in the current directory."""
    if ":" in args.model and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    network = load(
        args.model, _example(args), activation=args.activation, dtype=getattr(torch, args.dtype), device=args.device,
        output_name=args.output_name, cut_at=args.cut_at,
    )  # fmt: skip
    fixed = dict(args.fix or ())
    if len(fixed) < len(args.fix or ()):
        raise InvalidRequest("--fix: a feature is fixed twice; give each one value")
    return network.fix(fixed) if fixed else network


def _example(args: argparse.Namespace) -> Tensor | None:
    """An example input, which a module needs."""
    if args.input_shape is not None:
        if min(args.input_shape) < 1:
            raise InvalidRequest(f"--input-shape {' '.join(map(str, args.input_shape))}: every size must be 1 or more")
        return torch.zeros(1, *args.input_shape)
    if ":" not in args.model or Path(args.model).exists() or getattr(args, "input", None) is None:
        return None
    data = read_inputs(args.input)
    return (data.lower if isinstance(data, Boxes) else data.values)[:1]


def chosen_outputs(network: Network, args: argparse.Namespace) -> list[tuple[int | str | None, Network]]:
    """The networks to bound, each after its class in the report: a number, "A-B", or None for all outputs."""
    if args.margin is not None:
        a, b = args.margin
        return [(f"{a}-{b}", network.margin(a, b))]
    if args.target == "each":
        return [(k, network.output(k)) for k in range(prod(network.output_shape))]
    if args.target is not None:
        return [(args.target, network.output(args.target))]
    return [(None, network)]


def chosen_arithmetic(args: argparse.Namespace) -> AbstractArithmetic:
    precision = args.arithmetic.removeprefix("deployed-")
    if precision != args.arithmetic:
        return Deployed(precision)
    return Rigorous() if args.arithmetic == "rigorous" else Fast()
