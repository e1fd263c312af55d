"""Recurrent layers, unrolled step by step: RNN, LSTM and GRU, as cells, and as sequences of one or several layers.

Gates are products of two stages (docs/mathematics.md, §3.9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation, ReLU, Sigmoid, Tanh
from recurjac.loading.readers.moves import beside
from recurjac.operators.dense import along_last
from recurjac.operators.gather import gather
from recurjac.operators.reindex import Reshape
from recurjac.operators.scale import scaled
from recurjac.registry import Expression, onnx_ops, torch_ops

State = tuple[Any, ...]
"""What a cell hands on: h, and c of an LSTM; each is an expression, a constant tensor, or None for zeros."""


@final
@dataclass(frozen=True)
class Weights:
    """The weights of one direction of one layer, gate by gate: (H, inputs), (H, H), and two biases (H,) or none.

    projection: a matrix (outputs, H) that is applied to h, or None.
    """

    inputs: Sequence[Tensor]
    hidden: Sequence[Tensor]
    input_bias: Sequence[Tensor | None]
    hidden_bias: Sequence[Tensor | None]
    projection: Tensor | None = None

    @classmethod
    def stacked(cls, order: Sequence[int], matrices: Sequence[Any], biases: Sequence[Any]) -> Weights:
        """From matrices (and biases) of all gates, one upon another; gate k is block `order[k]`."""
        if not all(isinstance(t, Tensor) for t in (*matrices, *biases)):
            raise ValueError("weights that depend on the input")
        nothing = [None] * len(order)
        first, second = (_blocks(b, order) for b in biases) if biases else (nothing, nothing)
        projection = matrices[2] if len(matrices) > 2 else None
        return cls(_blocks(matrices[0], order), _blocks(matrices[1], order), first, second, projection)

    def from_input(self, gate: int, x: Expression) -> Any:
        """W x + b of one gate."""
        return _shifted(along_last(x, self.inputs[gate]), self.input_bias[gate])

    def from_hidden(self, gate: int, h: Any, like: Expression) -> Any:
        """R h + b of one gate, a value as in a state; `like` is any expression of the network."""
        if h is None:
            return self.hidden_bias[gate]
        known = like.constant(h) if isinstance(h, Tensor) else h
        return _shifted(along_last(known, self.hidden[gate]), self.hidden_bias[gate])

    def gate(self, gate: int, x: Expression, h: Any) -> Any:
        """The sum of both."""
        inputs = self.from_input(gate, x)
        return _plus(inputs, self.from_hidden(gate, h, inputs))


def _blocks(whole: Tensor, order: Sequence[int]) -> list[Tensor]:
    """The blocks of rows of a tensor, in an order; as views, they follow its changes."""
    size = len(whole) // len(order)
    return [whole.narrow(0, k * size, size) for k in order]


def _shifted(x: Any, bias: Tensor | None) -> Any:
    return x if bias is None else x.shift(bias)


def _plus(x: Any, y: Any) -> Any:
    """The sum of an expression and a value as in a state."""
    if y is None:
        return x
    return x.shift(y) if isinstance(y, Tensor) else x.plus(y)


def _times(x: Any, y: Any) -> Any:
    """The product of an expression and a value as in a state."""
    if y is None:
        return None
    return scaled(x, y) if isinstance(y, Tensor) else x.times(y)


Cell = Callable[[Weights, Any, State], State]
"""One step of a recurrent layer."""


def lstm(weights: Weights, x: Expression, state: State) -> State:
    """i, f, o = σ(…), g = tanh(…), c' = f c + i g, h' = o tanh(c'); the gates are in the order i, f, g, o."""
    h, c = state
    i, f, g, o = (weights.gate(k, x, h).activate(Tanh() if k == 2 else Sigmoid()) for k in range(4))
    new = _plus(i.times(g), _times(f, c))
    out = o.times(new.activate(Tanh()))
    return (out if weights.projection is None else along_last(out, weights.projection)), new


def gru(weights: Weights, x: Expression, state: State) -> State:
    """r, z = σ(…), n = tanh(W x + b + r (R h + b')), h' = n + z (h - n); the gates are in the order r, z, n."""
    (h,) = state
    r, z = (weights.gate(k, x, h).activate(Sigmoid()) for k in range(2))
    own = weights.from_input(2, x)
    return _mixed(z, _plus(own, _times(r, weights.from_hidden(2, h, own))).activate(Tanh()), h)


def gru_before(weights: Weights, x: Expression, state: State) -> State:
    """Like `gru` with n = tanh(W x + b + R (r h) + b')."""
    (h,) = state
    r, z = (weights.gate(k, x, h).activate(Sigmoid()) for k in range(2))
    own = weights.from_input(2, x)
    return _mixed(z, _plus(own, weights.from_hidden(2, _times(r, h), own)).activate(Tanh()), h)


def _mixed(z: Any, n: Any, h: Any) -> State:
    """(1 - z) n + z h, as n + z (h - n), so that there is one product."""
    return (n.plus(z.times(_plus(scaled(n, -1.0), h))),)


def plain(activation: AbstractActivation, weights: Weights, x: Expression, state: State) -> State:
    """h' = σ(W x + R h + biases)."""
    return (weights.gate(0, x, state[0]).activate(activation),)


@final
@dataclass(frozen=True)
class Run:
    """What one direction of one layer gives: the outputs (batch, H) in the order of the inputs, and the last state."""

    outputs: list[Any]
    last: State


def run(cell: Cell, weights: Weights, inputs: Sequence[Expression], state: State, backward: bool) -> Run:
    """A cell at each of the inputs (batch, features), in their order, or `backward` in the reverse order."""
    outputs = []
    for x in reversed(inputs) if backward else inputs:
        state = cell(weights, x, state)
        outputs.append(state[0])
    return Run(outputs[::-1] if backward else outputs, state)


def part(x: Any, axis: int, k: int) -> Any:
    """Entry k along an axis, which is left out."""
    return x.select(axis, k) if isinstance(x, Tensor) else x.apply(gather(lambda t: t.select(axis, k), x.shape))


def stacked(parts: Sequence[Any], axis: int) -> Any:
    """Expressions side by side along a new axis."""
    shapes = [(*p.shape[:axis], 1, *p.shape[axis:]) for p in parts]
    return beside([p.apply(Reshape(p.shape, s)) for p, s in zip(parts, shapes, strict=True)], axis)


def started(state: Any) -> Any:
    """A value of an initial state, or None if it is zero and no gradient can reach it."""
    if isinstance(state, Tensor) and not state.requires_grad and not bool(state.any()):
        return None
    return state


def _expressions(values: Sequence[Any]) -> Expression:
    """The first of some values that depends on the input."""
    found: Expression = next(v for v in values if not isinstance(v, Tensor | None))
    return found


@final
@dataclass(frozen=True)
class Layers:
    """How a call of PyTorch stacks layers; `forward` takes one direction, both directions are joined."""

    cell: Cell
    order: tuple[int, ...]
    biases: bool
    count: int
    directions: int

    def weights(self, params: Sequence[Any]) -> list[Weights]:
        """Those of each direction of each layer."""
        each = len(params) // (self.count * self.directions)
        groups = [params[k : k + each] for k in range(0, len(params), each)]
        if not self.biases:
            return [Weights.stacked(self.order, g, ()) for g in groups]
        return [Weights.stacked(self.order, (*g[:2], *g[4:]), g[2:4]) for g in groups]

    def of(self, x: Any, first: Sequence[Any], params: Sequence[Any], axis: int) -> tuple[Any, ...]:
        """The outputs of the last layer, and the last states (layers · directions, batch, H).

        x: (time, batch, features), or (batch, time, features) if `axis` is 1; first: initial states of that shape.
        """
        like, weights = _expressions((x, *first)), self.weights(params)
        known = like.constant(x) if isinstance(x, Tensor) else x
        steps, last = [part(known, axis, t) for t in range(known.shape[axis])], []
        for layer in range(self.count):
            places = range(layer * self.directions, (layer + 1) * self.directions)
            starts = [tuple(started(part(s, 0, k)) for s in first) for k in places]
            runs = [run(self.cell, weights[k], steps, s, k != places[0]) for k, s in zip(places, starts, strict=True)]
            last += [r.last for r in runs]
            pairs = zip(*(r.outputs for r in runs), strict=True)
            steps = [beside(pair, 1) if len(pair) > 1 else pair[0] for pair in pairs]
        return (stacked(steps, axis), *(stacked([s[k] for s in last], 0) for k in range(len(first))))


def _torch(
    cell: Cell, order: tuple[int, ...], x: Any, first: Any, params: Sequence[Any], biases: bool, layers: int,
    _dropout: float, train: bool, both: bool, batch_first: bool,
) -> Any:  # fmt: skip
    if train:
        raise ValueError("a recurrent layer in training mode; export the module in eval mode")
    states = list(first) if isinstance(first, list | tuple) else [first]
    return Layers(cell, order, biases, layers, 1 + both).of(x, states, params, int(batch_first))


_LSTM, _GRU = (0, 1, 2, 3), (0, 1, 2)
torch_ops.reads("aten.lstm.input")(partial(_torch, lstm, _LSTM))
torch_ops.reads("aten.gru.input")(partial(_torch, gru, _GRU))
torch_ops.reads("aten.rnn_tanh.input")(partial(_torch, partial(plain, Tanh()), (0,)))
torch_ops.reads("aten.rnn_relu.input")(partial(_torch, partial(plain, ReLU()), (0,)))


def _cell(
    cell: Cell, order: tuple[int, ...], x: Any, first: Any, w: Any, r: Any, b: Any = None, c: Any = None
) -> State:
    states = list(first) if isinstance(first, list | tuple) else [first]
    known = _expressions((x, *states)).constant(x) if isinstance(x, Tensor) else x
    weights = Weights.stacked(order, (w, r), () if b is None else (b, c))
    return cell(weights, known, tuple(started(s) for s in states))


def _only(cell: Cell, order: tuple[int, ...], *args: Any) -> Any:
    return _cell(cell, order, *args)[0]


torch_ops.reads("aten.lstm_cell.default")(partial(_cell, lstm, _LSTM))
torch_ops.reads("aten.gru_cell.default")(partial(_only, gru, _GRU))
torch_ops.reads("aten.rnn_tanh_cell.default")(partial(_only, partial(plain, Tanh()), (0,)))
torch_ops.reads("aten.rnn_relu_cell.default")(partial(_only, partial(plain, ReLU()), (0,)))


@final
@dataclass(frozen=True)
class Sequences:
    """What an ONNX operator says of a recurrent layer, besides its kind."""

    cell: Cell
    order: tuple[int, ...]
    default: tuple[str, ...]
    direction: str
    layout: int

    def check(self, x: Any, lengths: Any, activations: Any, clip: Any) -> None:
        """Raise ValueError for what is not read."""
        names = [a.decode() if isinstance(a, bytes) else str(a) for a in activations or ()]
        whole = self.default * (len(names) // len(self.default))
        if [n.lower() for n in names] != [n.lower() for n in whole]:
            raise ValueError(f"activations {', '.join(names)}; only {', '.join(self.default)} are read")
        if clip:
            raise ValueError("clipped gates")
        if lengths is not None and not bool((torch.as_tensor(lengths) == x.shape[self.layout]).all()):
            raise ValueError("sequences of several lengths; export the network for one length")

    def of(self, x: Any, w: Any, r: Any, b: Any, first: Sequence[Any]) -> list[Any]:
        """Y (time, directions, batch, H), and the last states (directions, batch, H), or with the batch first."""
        like = _expressions((x, *first))
        known = like.constant(x) if isinstance(x, Tensor) else x
        steps, runs = [part(known, self.layout, t) for t in range(known.shape[self.layout])], []
        for k, backward in enumerate({"forward": (False,), "reverse": (True,)}.get(self.direction, (False, True))):
            biases = () if b is None else b[k].chunk(2)
            weights = Weights.stacked(self.order, (w[k], r[k]), biases)
            state = tuple(None if s is None else started(part(s, self.layout, k)) for s in first)
            runs.append(run(self.cell, weights, steps, state, backward))
        joined = [stacked(pair, self.layout) for pair in zip(*(a.outputs for a in runs), strict=True)]
        y = stacked(joined, self.layout)
        return [y, *(stacked([a.last[s] for a in runs], self.layout) for s in range(len(first)))]


@onnx_ops.reads("LSTM")
def _onnx_lstm(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, peepholes: Any = None,
    *, activations: Any = None, clip: Any = None, direction: str = "forward", layout: int = 0, input_forget: int = 0,
    **_: Any,
) -> Any:  # fmt: skip
    if input_forget or (peepholes is not None and bool(peepholes.any())):
        raise ValueError("an LSTM with peepholes or coupled gates")
    how = Sequences(lstm, (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh"), direction, layout)
    how.check(x, lengths, activations, clip)
    return how.of(x, w, r, b, (h, c))


@onnx_ops.reads("GRU")
def _onnx_gru(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, activations: Any = None,
    clip: Any = None, direction: str = "forward", layout: int = 0, linear_before_reset: int = 0, **_: Any,
) -> Any:  # fmt: skip
    how = Sequences(gru if linear_before_reset else gru_before, (1, 0, 2), ("Sigmoid", "Tanh"), direction, layout)
    how.check(x, lengths, activations, clip)
    return how.of(x, w, r, b, (h,))


@onnx_ops.reads("RNN")
def _onnx_rnn(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, activations: Any = None,
    clip: Any = None, direction: str = "forward", layout: int = 0, **_: Any,
) -> Any:  # fmt: skip
    first = (activations or ("Tanh",))[0]
    relu = (first.decode() if isinstance(first, bytes) else str(first)).lower() == "relu"
    cell, name = (partial(plain, ReLU()), "Relu") if relu else (partial(plain, Tanh()), "Tanh")
    how = Sequences(cell, (0,), (name,), direction, layout)
    how.check(x, lengths, activations, clip)
    return how.of(x, w, r, b, (h,))
