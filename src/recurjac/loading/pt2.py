"""Reading files of `torch.export.save`, which hold the same graphs as traced modules, for one input."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from math import prod
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from recurjac._types import Shape
from recurjac.errors import InvalidNetwork, UnreadableFile, UnsupportedLayer
from recurjac.loading.decompositions import state_eps
from recurjac.loading.expression import LARGEST
from recurjac.loading.graph_ends import end_of, evaluated
from recurjac.loading.messages import first_line, quiet_failure
from recurjac.loading.pt2_archive import check
from recurjac.loading.torch_export import read_program
from recurjac.loading.wanted import Wanted
from recurjac.network import Network


@final
@dataclass(frozen=True)
class Pt2File:
    """An exported program with one input, and its wanted part; batched: whether it accepts a batch of any size."""

    program: ExportedProgram
    input_shape: Shape
    batched: bool
    wanted: Wanted

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters, buffers and constants by their names in the graph."""
        every = {**self.program.state_dict, **self.program.constants}
        return {name: t.detach() for name, t in every.items() if isinstance(t, Tensor)}

    @property
    def device(self) -> torch.device:
        return next((t.device for t in self.program.state_dict.values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the floating-point parameters and buffers."""
        floats = [t.dtype for t in self.program.state_dict.values() if t.is_floating_point()]
        return reduce(torch.promote_types, floats, torch.float32)

    @property
    def cancelling(self) -> float:
        """As of a traced module: 1 if the program has derivatives in it, otherwise 0."""
        return float(any("_backward" in str(node.target) for node in self.program.graph.nodes))

    def network(self, dtype: torch.dtype) -> Network:
        """The normal form.  Raises UnsupportedLayer, naming an operation that has no normal form and its place."""
        return read_program(self.program, self.wanted, self.tensors, self.input_shape, dtype, self.device)

    def evaluate(self, x: Tensor) -> Tensor:
        """The output of the program in float64 on x (batch, *input), computed at once if it accepts a batch.

        Raises InvalidNetwork if it fails.
        """
        batches = [x] if self.batched else list(x.split(1))
        try:
            with torch.no_grad():
                return torch.cat([self._run(b) for b in batches])
        except Exception as error:  # a graph can raise any exception
            raise InvalidNetwork(
                f"the program fails on {len(batches[0])} float64 inputs of shape {self.input_shape}: "
                f"{first_line(error)}; it must compute in float32 or float64"
            ) from error

    def _run(self, x: Tensor) -> Tensor:
        return evaluated(self.program, self.tensors, x, end_of(self.program, self.wanted))


def read_pt2(path: Path, wanted: Wanted) -> Pt2File:
    """The program in a file of `torch.export.save`, whose batch axis has one entry or an open size.

    Raises UnreadableFile if the file is damaged or of another version, InvalidNetwork or UnsupportedLayer if it does
    not hold a network with one input, or holds anything but numbers and a graph of ATen operations (`pt2_archive`).
    """
    data = path.read_bytes()
    check(path, data)
    try:
        with _silence():
            program = state_eps(torch.export.load(io.BytesIO(data)))
    except Exception as error:  # a damaged file can cause any exception
        raise UnreadableFile(
            f"{path} cannot be read by PyTorch {torch.__version__}: {first_line(error)}; export it with that version"
        ) from error
    return _described(path, program, wanted)


def _described(path: Path, program: ExportedProgram, wanted: Wanted) -> Pt2File:
    """The program with the shape of its one input."""
    specs = program.graph_signature.input_specs
    inputs = [s.arg.name for s in specs if s.kind == InputKind.USER_INPUT]
    if len(inputs) != 1 or any(not isinstance(s.arg, TensorArgument) for s in specs):
        raise UnsupportedLayer(
            f"{path} has {len(inputs)} inputs; it must have exactly one, which must be a tensor: load the module "
            "itself, with fixed_inputs, or export it with the others fixed"
        )
    value = next(n.meta["val"] for n in program.graph.nodes if n.name == inputs[0])
    shown = ", ".join(str(n) for n in value.shape)
    if not value.is_floating_point():
        raise UnsupportedLayer(f"the input of {path} has type {value.dtype}; only floating-point numbers are read")
    batch, rest = (value.shape[0], value.shape[1:]) if value.dim() else (0, ())
    if not all(isinstance(n, int) for n in rest):
        raise InvalidNetwork(f"the input of {path} has shape ({shown}); only the first axis may be of open size")
    if not rest or (isinstance(batch, int) and batch != 1):
        raise InvalidNetwork(
            f"the input of {path} has shape ({shown}), whose first axis is not a batch of one input or of any size; "
            "export with one input of shape (1, …), or with dynamic_shapes"
        )
    if prod(rest) > LARGEST:
        raise InvalidNetwork(f"the input of {path} has {prod(rest)} entries; at most {LARGEST} are read")
    return Pt2File(program, tuple(rest), not isinstance(batch, int), wanted)


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress PyTorch's warnings and logs."""
    with warnings.catch_warnings(), quiet_failure():
        warnings.simplefilter("ignore")
        yield
