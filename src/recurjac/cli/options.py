"""The options that the commands share, and the objects that these options name."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Deployed, Fast, Rigorous
from recurjac.cli.output import stderr
from recurjac.errors import InvalidRegion, InvalidRequest
from recurjac.loading import load
from recurjac.loading.inputs import Boxes, Points, read_array, read_box, read_inputs
from recurjac.network import Network
from recurjac.region import AbstractRegion, Box, LpBall


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
        named = self.data.names
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
                f"{_source(self.args)} has inputs of shape {tuple(x.shape[1:])}, but the network takes {self.shape}"
            )
        return x.reshape(-1, *self.shape)


def read_inputs_for(network: Network, args: argparse.Namespace) -> Inputs:
    """The regions that the options name.  Raises the readers' errors, InvalidRequest for an index out of range."""
    data = _without_fixed(_read(args), network, args)
    inputs = Inputs(data, _index(data, args), network.input_shape, args)
    if isinstance(data, Points) and not args.radius:
        raise InvalidRequest(
            "--radius is missing: give the radius of the balls around the inputs (0 for the inputs alone)"
        )
    if isinstance(data, Boxes):
        _note_dropped(data, args)
        for option, given in (("--radius", args.radius), ("--clip", args.clip), ("--divide", args.divide != 1)):
            if given:
                raise InvalidRequest(f"{option}: {_source(args)} contains the whole box; leave the option out")
    _check_divide(args)
    for radius in inputs.radii:
        inputs.region(radius, slice(None))  # raises InvalidRegion before any work
    return inputs


def read_points_for(network: Network, args: argparse.Namespace) -> Inputs:
    """The inputs that the options name, without a radius.  Raises as `read_inputs_for` does, and for boxes."""
    data = _without_fixed(_read(args), network, args)
    inputs = Inputs(data, _index(data, args), network.input_shape, args)
    _check_divide(args)
    inputs.points(slice(None))
    return inputs


def _source(args: argparse.Namespace) -> str:
    """The file of the inputs; "" for a command without any."""
    return getattr(args, "input", None) or getattr(args, "box", None) or ""


def _read(args: argparse.Namespace) -> Points | Boxes:
    """The content of the file of the inputs."""
    return read_box(args.box) if getattr(args, "box", None) is not None else read_inputs(args.input)


def _fixed(args: argparse.Namespace) -> dict[int, float]:
    """The values of `--fix` by the numbers of the features.

    Raises InvalidRequest for a name that no header has, and for a feature that is fixed twice.
    """
    given = list(args.fix or ())
    named = any(isinstance(feature, str) for feature, _ in given)
    names = _read(args).names if named and _source(args) else None
    found = dict[int, float]()
    for feature, value in given:
        if isinstance(feature, str) and feature not in (names or ()):
            known = "has no header line with names" if names is None else f"names {', '.join(names)}"
            raise InvalidRequest(
                f"--fix {feature}={value:g}: {_source(args) or 'the command, which reads no inputs,'} {known}; "
                "give the number of the feature, from 0"
            )
        number = feature if isinstance(feature, int) else (names or ()).index(feature)
        if number in found:
            raise InvalidRequest("--fix: a feature is fixed twice; give each one value")
        found[number] = value
    return found


def _free(count: int, args: argparse.Namespace) -> list[int]:
    """The numbers of the `count` features that are not fixed."""
    fixed = _fixed(args)
    return [i for i in range(count + len(fixed)) if i not in fixed]


def _without_fixed(data: Points | Boxes, network: Network, args: argparse.Namespace) -> Points | Boxes:
    """The inputs without the features that `--fix` fixes, where the file has them."""
    free = _free(prod(network.input_shape), args)
    first = data.lower[0] if isinstance(data, Boxes) else data.values[0]
    if not args.fix or first.numel() != len(free) + len(args.fix):
        return data
    names = None if data.names is None else tuple(data.names[i] for i in free)
    if isinstance(data, Boxes):
        return Boxes(data.lower[:, free], data.upper[:, free], data.dropped, names)
    return Points(data.values.flatten(1)[:, free], data.moved.flatten(1)[:, free], names)


def _note_dropped(data: Boxes, args: argparse.Namespace) -> None:
    """Say which relations between inputs a box leaves out."""
    if data.dropped and not args.quiet:
        some = ", ".join(data.dropped[:3]) + (f" and {len(data.dropped) - 3} more" if len(data.dropped) > 3 else "")
        stderr().print(
            f"{_source(args)}: {some} relates several inputs and is left out; bounds hold on the whole box",
            markup=False,
        )


def _index(data: Points | Boxes, args: argparse.Namespace) -> tuple[int, ...]:
    """The numbers of the requested inputs.  Raises InvalidRequest for one that does not exist."""
    count = len(data.lower) if isinstance(data, Boxes) else len(data.values)
    index = tuple(range(count)) if args.index is None else tuple(args.index)
    for i in index:
        if not 0 <= i < count:
            raise InvalidRequest(f"--index {i}: {_source(args)} holds inputs 0 to {count - 1}")
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
        output_name=args.output_name, cut_at=args.cut_at, fixed_inputs=_fixed_inputs(args),
    )  # fmt: skip
    fixed = _fixed(args)
    return network.fix(fixed) if fixed else network


def _fixed_inputs(args: argparse.Namespace) -> dict[str, Any]:
    """The values of `--fix-inputs`: numbers, or the arrays of .npy files.  Raises as `read_array` does."""
    given = args.fix_inputs or ()
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"--fix-inputs: {name} is fixed twice; give it one value")
    return {name: _value(name, text) for name, text in given}


def _value(name: str, text: str) -> Any:
    if Path(text).suffix.lower() == ".npy":
        return read_array(text)
    try:
        number = float(text)
    except ValueError as error:
        raise InvalidRequest(f"--fix-inputs {name}={text}: give a number or a .npy file") from error
    return int(text) if text.strip("+-").isdigit() else number


def _example(args: argparse.Namespace) -> Tensor | None:
    """An example input, which a module needs."""
    if args.input_shape is not None:
        if min(args.input_shape) < 1:
            raise InvalidRequest(f"--input-shape {' '.join(map(str, args.input_shape))}: every size must be 1 or more")
        return torch.zeros(1, *args.input_shape)
    if ":" not in args.model or Path(args.model).exists() or not _source(args):
        return None
    data = _read(args)
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
