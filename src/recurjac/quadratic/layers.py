"""A chain rule as a chain of layers: an operator that mixes, then windows that bend, and so on up to the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Fast
from recurjac.network import Edge
from recurjac.operators import AbstractOperator
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic.proving import proving, taken_exactly
from recurjac.quadratic.windows import Windows, links_of, windows_of
from recurjac.tensors import without_gradients


@final
@dataclass(frozen=True)
class Layer:
    """y = Σ A h for the operators A into the layer, and the windows from y to the next h, of `size` entries."""

    operators: tuple[AbstractOperator, ...]
    windows: Windows
    size: int

    @property
    def inputs(self) -> int:
        return prod(self.operators[0].in_shape)

    def push(self, roots: Ball) -> Ball:
        """y for each of some h: (r, inputs) -> (r, entries)."""
        images = (a.push(roots.map(lambda t, a=a: t.reshape(-1, *a.in_shape))) for a in self.operators)
        return reduce(Ball.__add__, (i.map(lambda t: t.flatten(1)) for i in images))

    def pull(self, forms: Ball) -> Ball:
        """The forms of h that forms of y are: (r, entries) -> (r, inputs)."""
        backward = (a.transpose() for a in self.operators)
        images = (a.push(forms.map(lambda t, a=a: t.reshape(-1, *a.in_shape))) for a in backward)
        return reduce(Ball.__add__, (i.map(lambda t: t.flatten(1)) for i in images))


@final
@dataclass(frozen=True)
class Layers:
    """The layers of a chain rule of one sample, and the rows at its end, (K, n), of what the last layer gives.

    inputs: the number of inputs.  All numbers are in float64.
    """

    inputs: int
    layers: tuple[Layer, ...]
    rows: Ball
    arithmetic: AbstractArithmetic

    @property
    def work(self) -> int:
        """About the number of multiply-adds of one chain."""
        total, rank = 0, self.inputs
        for layer in self.layers:
            live = min(layer.windows.size, layer.windows.entries.numel())
            out = min(layer.size, layer.windows.outputs.numel())
            rank = min(rank, live)
            total += rank * rank * (live + 2 * rank + out) + out * out * (rank + out)
            rank = out
        return total

    @property
    def widest(self) -> int:
        """The size of the largest matrix that is formed."""
        found, rank = 0, self.inputs
        for layer in self.layers:
            rank = min(rank, layer.windows.size)
            out = min(layer.size, layer.windows.outputs.numel())
            found, rank = max(found, rank, out), out
        return found

    @property
    def room(self) -> int:
        """The number of entries of the largest factor."""
        found, rank = 0, self.inputs
        for layer in self.layers:
            found = max(found, rank * layer.windows.size, rank * layer.size)
            rank = min(layer.size, layer.windows.outputs.numel())
        return found

    def middle_rows(self) -> Tensor:
        """The rows carried back to the input with the middle of every slope, in plain floating point: (K, inputs)."""
        plain = self.plain(torch.float64)
        forms = plain.rows.mid
        for layer in reversed(plain.layers):
            windows = layer.windows
            middle = windows.left.mid[..., : windows.entries.shape[1]]  # (g, o, a)
            inside = torch.einsum("kgo,goa->kga", forms[:, windows.outputs], middle).flatten(1)
            blank = torch.zeros(len(forms), windows.size, dtype=forms.dtype, device=forms.device)
            forms = layer.pull(Fast().exact(blank.index_add(1, windows.entries.flatten(), inside))).mid
        return forms

    def plain(self, dtype: torch.dtype) -> Layers:
        """The same numbers in another dtype, in plain floating point."""
        device = self.rows.mid.device
        layers = tuple(
            Layer(tuple(a.to(dtype, device) for a in c.operators), c.windows.to(dtype), c.size) for c in self.layers
        )
        return Layers(self.inputs, layers, Ball(self.rows.mid.to(dtype), None), Fast())


def layers_of(chain: ChainRule) -> Layers | None:
    """The chain rule of one sample as layers; None if it is no such chain, or has windows that are too large."""
    device, layers, source, k = chain.device, [], 0, 1
    while k < chain.end:
        nodes = _together(chain, k)
        after = nodes[-1] + 1
        read = {e.source for into in chain.edges[after:] for e in into}
        outs = [n for n in nodes if n in read]
        if len(outs) != 1 or any(n < k for n in read) or not _reads_only(chain.edges[k], source):
            return None
        windows = windows_of(chain, nodes, outs[0])
        if windows is None:
            return None
        operators = (without_gradients(e.operator.to(torch.float64, device)) for e in chain.edges[k])
        layers.append(Layer(taken_exactly(tuple(operators)), windows, prod(chain.shapes[outs[0]])))
        source, k = outs[0], after
    if not _reads_only(chain.edges[chain.end], source):
        return None
    parts = [chain.gradient_rows(e.operator).map(lambda t: t.flatten(2)[0]) for e in chain.edges[chain.end]]
    rows = reduce(Ball.__add__, (p.to(torch.float64, device) for p in parts))
    rows = taken_exactly(Ball(rows.mid.detach(), rows.rad))
    return Layers(prod(chain.shapes[0]), tuple(layers), rows, proving(chain.arithmetic))


def _reads_only(edges: Sequence[Edge], source: int) -> bool:
    return len(edges) > 0 and all(e.source == source for e in edges)


def _together(chain: ChainRule, first: int) -> list[int]:
    """The nodes from `first` on that read only each other through links."""
    nodes = [first]
    for k in range(first + 1, chain.end):
        into = chain.edges[k]
        if not into or any(e.source < first for e in into):
            break
        if any(links_of(e.operator, chain.device) is None for e in into):
            break
        nodes.append(k)
    return nodes
