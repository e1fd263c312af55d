"""Recurrent layers in PyTorch and ONNX, for the tests of the readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.onnx_models import Shape, model, node

SEQUENCE = (3, 4)


class Recurrent(nn.Module):
    """The result f(layer, x) of a recurrent layer."""

    def __init__(self, layer: nn.Module, f: Callable[[Any, Tensor], Tensor] = lambda layer, x: layer(x)[0]) -> None:
        super().__init__()
        self.layer, self.f = layer, f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.layer, x)


def _last(layer: Any, x: Tensor) -> Tensor:
    """The last c, from constant states, of a layer that has the time first."""
    start = torch.linspace(-1, 1, 5, dtype=x.dtype).expand(1, len(x), 5)
    return layer(x.transpose(0, 1), (start, -start))[1][1][-1]  # type: ignore[no-any-return]


def _decoded(layer: Any, x: Tensor) -> Tensor:
    """States that depend on the input, and inputs that do not."""
    steps = torch.ones(len(x), 2, 4, dtype=x.dtype)
    return layer(steps, x.unsqueeze(0).contiguous())[0]  # type: ignore[no-any-return]


TORCH: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "rnn": (lambda: Recurrent(nn.RNN(4, 5, batch_first=True)), SEQUENCE),
    "rnn-relu": (lambda: Recurrent(nn.RNN(4, 5, 2, batch_first=True, nonlinearity="relu")), SEQUENCE),
    "lstm": (lambda: Recurrent(nn.LSTM(4, 5, batch_first=True)), SEQUENCE),
    "lstm-both": (lambda: Recurrent(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)), SEQUENCE),
    "lstm-projected": (lambda: Recurrent(nn.LSTM(4, 5, batch_first=True, proj_size=2, bias=False)), SEQUENCE),
    "lstm-last": (lambda: Recurrent(nn.LSTM(4, 5), _last), SEQUENCE),
    "gru": (lambda: Recurrent(nn.GRU(4, 5, batch_first=True, bidirectional=True)), SEQUENCE),
    "gru-decoder": (lambda: Recurrent(nn.GRU(4, 5, batch_first=True), _decoded), (5,)),
    "gru-without-bias": (lambda: Recurrent(nn.GRU(4, 5, batch_first=True, bias=False)), SEQUENCE),
    "rnn-cell": (lambda: Recurrent(nn.RNNCell(4, 5), lambda cell, x: cell(x[:, 1], cell(x[:, 0]))), SEQUENCE),
    "relu-cell": (lambda: Recurrent(nn.RNNCell(4, 5, nonlinearity="relu"), lambda cell, x: cell(x)), (4,)),
    "lstm-cell": (lambda: Recurrent(nn.LSTMCell(4, 5), lambda cell, x: cell(x[:, 1], cell(x[:, 0]))[0]), SEQUENCE),
    "gru-cell": (lambda: Recurrent(nn.GRUCell(4, 5), lambda cell, x: cell(x[:, 1], cell(x[:, 0]))), SEQUENCE),
}


def _numbers(*shape: int) -> Any:
    """Normal numbers that float32 holds."""
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) / 2


def _layer(kind: str, gates: int, inputs: str = "", directions: int = 1, **attributes: Any) -> Any:
    """A recurrent operator with 3 inputs and 2 states in the way that PyTorch exports it: batch first."""
    constants = {
        "w": _numbers(directions, 2 * gates, 3), "r": _numbers(directions, 2 * gates, 2),
        "b": _numbers(directions, 4 * gates), "h": _numbers(directions, 1, 2), "c": _numbers(directions, 2, 1) * 2,
    }  # fmt: skip
    constants["c"] = constants["c"].reshape(directions, 1, 2)
    used = {k: v for k, v in constants.items() if k in ("w", "r", *inputs.split())}
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node(kind, f"t w r {inputs}", "s", hidden_size=2, **attributes),
        node("Transpose", "s", "y", perm=[2, 0, 1, 3]),
    ]
    shape: Shape = [1, 3, 3]
    return model(nodes, shape, used, 14)


def _state(kind: str, gates: int, which: str, **attributes: Any) -> Any:
    """The last state; the time comes first, so that the network has no batch axis."""
    names = "s h k" if kind == "LSTM" else "s h"
    constants = {"w": _numbers(1, 2 * gates, 3), "r": _numbers(1, 2 * gates, 2), "b": _numbers(1, 4 * gates)}
    nodes = [node(kind, "x w r b", names, hidden_size=2, **attributes), node("Identity", which, "y")]
    return model(nodes, [3, 1, 3], constants, 14)


def _both(**more: Any) -> dict[str, Any]:
    return {"directions": 2, "direction": "bidirectional", **more}


ONNX: dict[str, Any] = {
    "LSTM": _layer("LSTM", 4, "b"),
    "LSTM of a state": _layer("LSTM", 4, "b - h c"),
    "LSTM reversed": _layer("LSTM", 4, direction="reverse"),
    "LSTM of both directions": _layer("LSTM", 4, "b - h c", **_both()),
    "LSTM, last h": _state("LSTM", 4, "h"),
    "LSTM, last c": _state("LSTM", 4, "k"),
    "GRU": _layer("GRU", 3, "b"),
    "GRU of both directions": _layer("GRU", 3, "b - h", **_both(linear_before_reset=1)),
    "GRU reset before": _layer("GRU", 3, "b - h"),
    "GRU, last h": _state("GRU", 3, "h", linear_before_reset=1),
    "RNN": _layer("RNN", 1, "b"),
    "RNN of both directions": _layer("RNN", 1, "b - h", **_both()),
}
