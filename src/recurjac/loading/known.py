"""What is stated of stages beside their sums, closed forms and matrix products, is compared with what they compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurjac.arithmetic import Fast
from recurjac.errors import ConversionError
from recurjac.network import Network, Stage

_NEAR = 1e-7
"""The largest difference, of the largest entry of a stage: that of a function in two orders, not of two functions."""


def check_known(network: Network, nodes: Sequence[Tensor]) -> None:
    """Raise ConversionError unless stages are what is stated of them, where that is finite.

    nodes: the values of all nodes at some inputs, as `Network.nodes` returns them.
    Bounds rest on these statements, of which the outputs alone show nothing.
    """
    for k, stage in enumerate(network.stages, 1):
        for what, stated in _stated(stage, nodes):
            gap = (stated.reshape(nodes[k].shape) - nodes[k]).abs()
            sizes = torch.where(nodes[k].isfinite(), nodes[k].abs(), 0.0).flatten(1)
            scale = sizes.amax(1).reshape(-1, *[1] * len(stage.shape))
            wrong = gap.isfinite() & ~(gap <= _NEAR * scale)
            if bool(wrong.any()):
                raise ConversionError(
                    f"stage {k} is read as {what}, from which it differs by {float(gap[wrong].max()):.2g} on a random "
                    "input; please report this with the network"
                )


def _stated(stage: Stage, nodes: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """What a stage is said to be, and its values (batch, entries…) by that."""
    fast, found = Fast(), []
    if stage.closed is not None:
        known = stage.closed
        values = known.function.value(known.rows.push(fast.exact(nodes[known.source])).mid)
        found.append((type(known.function).__name__, known.back.push(fast.exact(values)).mid))
    if stage.matrices is not None:
        a, b = (e.operator.push(fast.exact(nodes[e.source])).mid for e in (stage.matrices.first, stage.matrices.second))
        found.append(("a product of matrices", a @ b.mT))
    return found
