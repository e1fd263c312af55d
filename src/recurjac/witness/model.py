"""Which rows of an ONNX file's network a result is about."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from recurjac.digest import digest
from recurjac.errors import InvalidRequest
from recurjac.loading import load
from recurjac.network import Network
from recurjac.witness.literal import literal

_PAIRS = 64
"""The number of outputs up to which differences of two outputs are recognised."""


@final
@dataclass(frozen=True)
class Model:
    """An ONNX file, and its network in float64 with a vector of outputs.

    sha256: of the file's bytes.  network: as `load` reads it.  literal: the same function, as the checker reads it.
    """

    sha256: str
    network: Network
    literal: Network

    @classmethod
    def read(cls, path: Path) -> Model:
        """Read a file.  Raises as `load` does, and InvalidRequest for networks that certificates do not describe."""
        networks = (n.detached().flattened_output() for n in (load(path), literal(path)))
        return cls(hashlib.sha256(path.read_bytes()).hexdigest(), *networks)

    def rows_of(self, asked: Network) -> Tensor:
        """The rows (K, outputs) with asked = rows · network.

        Raises InvalidRequest if this is not the network of all outputs, of some one output, or of a difference of two.
        """
        own, other = self.network, asked.detached().flattened_output().to(torch.float64, torch.device("cpu"))
        if digest(own.stages[:-1]) == digest(other.stages[:-1]) and own.input_shape == other.input_shape:
            last = digest(other.stages[-1])
            for rows, network in self._candidates():
                if digest(network.stages[-1]) == last:
                    return rows
        raise InvalidRequest(
            "the result is not about the network in the file: nor about one of its outputs, nor about a difference of "
            "two; give the file from which the network was read"
        )

    def _candidates(self) -> Iterator[tuple[Tensor, Network]]:
        """Rows, each with the network of them."""
        own, size = self.network, self.network.output_shape[0]
        basis = torch.eye(size, dtype=torch.float64)
        yield basis, own
        for rows, network in self._single(basis):
            yield rows, network
            yield rows, network.output(0)

    def _single(self, basis: Tensor) -> Iterator[tuple[Tensor, Network]]:
        """The rows of one output, and of differences of two."""
        own, size = self.network, len(basis)
        yield from ((basis[k : k + 1], own.output(k)) for k in range(size))
        if size <= _PAIRS:
            pairs = ((a, b) for a in range(size) for b in range(size) if a != b)
            yield from ((basis[a : a + 1] - basis[b : b + 1], own.margin(a, b)) for a, b in pairs)
