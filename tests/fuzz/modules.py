"""Random PyTorch modules of products, attention, gates, norms, quotients and everything else that is read."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

from tests.torch_cases import Fn

Make = Callable[[int, int], nn.Module]
"""A block for `t` tokens of `d` features each, from (batch, t, d) to the same shape."""


def _of(count: int, function: Callable[..., Tensor]) -> Make:
    """A function of x and of `count` affine images of its tokens."""
    return lambda _, d: Fn(
        lambda parts, x: function(x, *(part(x) for part in parts)), *(nn.Linear(d, d) for _ in range(count))
    )


def _by(make: Callable[[int, int], nn.Module], function: Callable[[Any, Tensor], Tensor]) -> Make:
    """A function of a module and x."""
    return lambda t, d: Fn(lambda parts, x: function(parts[0], x), make(t, d))


def _attention(t: int, d: int) -> nn.Module:
    return nn.MultiheadAttention(d, 2 if d % 2 == 0 else 1, batch_first=True)


def _encoder(t: int, d: int) -> nn.Module:
    return nn.TransformerEncoderLayer(d, 1, d, 0.0, batch_first=True, norm_first=bool(t % 2))


def _turned(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def _causal(x: Tensor, q: Tensor, k: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1]).tril().bool()
    scores = (q @ k.mT).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ x


SMOOTH: dict[str, Make] = {
    "tanh": _of(1, lambda x, a: torch.tanh(a)),
    "sin": _of(1, lambda x, a: torch.sin(a)),
    "gelu": _of(1, lambda x, a: F.gelu(a)),
    "silu": _of(1, lambda x, a: F.silu(a)),
    "softplus": _of(1, lambda x, a: F.softplus(a)),
    "arctan": _of(1, lambda x, a: torch.atan(a)),
    "cube": _of(1, lambda x, a: x + 0.2 * a**3),
    "fourth": _of(1, lambda x, a: 0.2 * a**4),
    "gate": _of(2, lambda x, a, b: a * torch.sigmoid(b)),
    "swiglu": _of(2, lambda x, a, b: F.silu(a) * b + x),
    "product": _of(2, lambda x, a, b: a * b),
    "cosine": _of(2, lambda x, a, b: a * torch.cos(b)),
    "softmax": _of(1, lambda x, a: a.softmax(-1)),
    "log-softmax": _of(1, lambda x, a: a.log_softmax(-1)),
    "log-sum-exp": _of(1, lambda x, a: x + torch.logsumexp(a, -1, keepdim=True)),
    "sdpa": _of(2, lambda x, a, b: F.scaled_dot_product_attention(a, b, x)),
    "causal": _of(2, _causal),
    "attention": _by(_attention, lambda p, x: x + p(x, x, x, need_weights=False)[0]),
    "rnn": _by(lambda _, d: nn.RNN(d, d, batch_first=True), lambda p, x: p(x)[0]),
    "lstm": _by(lambda _, d: nn.LSTM(d, d, batch_first=True), lambda p, x: p(x)[0]),
    "gru": _by(lambda _, d: nn.GRUCell(d, d), lambda p, x: p(x[:, 0], torch.tanh(x[:, -1])).unsqueeze(1).expand_as(x)),
    "matrix-product": _of(2, lambda x, a, b: 0.3 * x @ (a.mT @ b)),
    "quadratic-form": _of(1, lambda x, a: x * (a * x).sum(-1, keepdim=True)),
    "quotient": _of(2, lambda x, a, b: a / (1 + b.square())),
    "reciprocal": _of(2, lambda x, a, b: a / (1.5 + torch.sin(b))),
    "logarithm": _of(1, lambda x, a: torch.log(1.5 + torch.sin(a))),
    "exponential": _of(1, lambda x, a: torch.exp(0.3 * a)),
    "root": _of(1, lambda x, a: torch.sqrt(1.5 + torch.sin(a))),
    "power": _of(1, lambda x, a: (1.5 + torch.tanh(a)) ** 1.3),
    "squeeze": _by(lambda _, d: nn.Linear(d, d), lambda p, x: x * torch.sigmoid(p(x.mean(1, keepdim=True)))),
}
"""Blocks with continuous second derivatives, unless a reader makes a floored power of them."""
OTHERS: dict[str, Make] = {
    "relu": _of(1, lambda x, a: torch.relu(a)),
    "leaky": _of(1, lambda x, a: F.leaky_relu(a, 0.3)),
    "absolute": _of(1, lambda x, a: a.abs()),
    "clamp": _of(1, lambda x, a: a.clamp(-0.4, 0.9)),
    "hard-swish": _of(1, lambda x, a: F.hardswish(a)),
    "elu": _of(1, lambda x, a: F.elu(a, 1.6)),
    "where": _of(1, lambda x, a: torch.where(a > 0, torch.tanh(a), 0.5 * a)),
    "maximum": _of(2, lambda x, a, b: torch.maximum(a, b)),
    "largest": _of(1, lambda x, a: x - a.amax(-1, keepdim=True)),
    "relu-product": _of(2, lambda x, a, b: torch.relu(a) * b),
    "relu-quotient": _of(2, lambda x, a, b: a / (1 + torch.relu(b))),
    "layer-norm": _by(lambda _, d: nn.LayerNorm(d), lambda p, x: p(x)),
    "normed": _by(lambda _, d: nn.Sequential(nn.Linear(d, d), nn.LayerNorm(d)), lambda p, x: x + p(x)),
    "rms-norm": _by(lambda _, d: nn.RMSNorm(d, eps=1e-3), lambda p, x: p(x)),
    "group-norm": _by(lambda t, _: nn.GroupNorm(1, t), lambda p, x: p(x)),
    "instance-norm": _by(lambda _, d: nn.InstanceNorm1d(d), lambda p, x: _turned(p(_turned(x)))),
    "batch-norm": _by(lambda _, d: nn.BatchNorm1d(d), lambda p, x: _turned(p(_turned(x)))),
    "normalised": _of(1, lambda x, a: a / (a.square().sum(-1, keepdim=True) + 0.3).sqrt()),
    "length": _of(1, lambda x, a: x * torch.linalg.vector_norm(a, dim=-1, keepdim=True)),
    "l1-norm": _of(1, lambda x, a: x + a.abs().sum(-1, keepdim=True)),
    "encoder": _by(_encoder, lambda p, x: p(x)),
    "convolution": _by(lambda t, _: nn.Conv1d(t, t, 3, padding=1), lambda p, x: torch.relu(p(x))),
    "pool": _of(1, lambda x, a: x + F.max_pool1d(a, 2).repeat_interleave(2, -1)[..., : x.shape[-1]]),
}
BLOCKS = {**SMOOTH, **OTHERS}
PROVED = (
    "relu", "leaky", "absolute", "clamp", "maximum", "largest", "relu-product", "relu-quotient", "product", "quotient",
    "matrix-product", "quadratic-form", "layer-norm", "normed", "rms-norm", "group-norm", "instance-norm", "normalised",
    "l1-norm", "convolution", "pool",
)  # fmt: skip
"""Blocks whose rounding is covered."""
POOLS = (tuple(SMOOTH), tuple(BLOCKS), tuple(SMOOTH), PROVED)
"""From which blocks the modules are made, in turns."""
SHAPES = ((1, 1), (1, 2), (1, 4), (2, 2), (2, 2), (3, 2), (2, 3))
"""Tokens and features: up to six inputs, also a single one."""


class Drawn(nn.Module):
    """Blocks one after the other, and an affine map of what they give."""

    def __init__(self, shape: tuple[int, int], names: list[str], outputs: int) -> None:
        super().__init__()
        self.shape, self.names = shape, names
        self.blocks = nn.ModuleList(BLOCKS[name](*shape) for name in names)
        self.last = nn.Linear(shape[0] * shape[1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, *self.shape)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.last(x.reshape(-1, self.shape[0] * self.shape[1]))
        return out

    def __repr__(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]} " + " > ".join(self.names)


SCALES = (1.0,) * 12 + (2.0, 4.0, 0.0, 1e-15, 1e5, 1e15)
"""Factors of all weights: mostly 1; 0 makes dead layers, others overflow or underflow."""


def drawn_module(seed: int) -> Drawn:
    """The module of that number, in float64 without gradients."""
    draw = random.Random(seed)  # noqa: S311  (reproducible test data)
    shape = draw.choice([s for s in SHAPES if s != (1, 1)] if draw.random() < 0.9 else SHAPES)
    names = [draw.choice(sorted(POOLS[seed % len(POOLS)])) for _ in range(draw.choice((1, 1, 2, 2, 3)))]
    if min(shape) == 1:
        names = [n for n in names if n not in _NEED_SEVERAL] or ["product"]
    square = draw.random() < 0.3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Drawn(shape, names, shape[0] * shape[1] if square else 2).double().eval().requires_grad_(False)
    factor = draw.choice(SCALES)
    for parameter in module.parameters():
        parameter.mul_(factor)
    if draw.random() < 0.1:
        _duplicate(module)
    return module


_NEED_SEVERAL = ("instance-norm", "pool", "group-norm")
"""Blocks that need two features and two tokens."""


def _duplicate(module: nn.Module) -> None:
    """Make rows of weights equal or opposite, so that neurons are."""
    for parameter in module.parameters():
        for row, other in pairwise(parameter if parameter.dim() > 1 else []):
            other.copy_(row if torch.rand(()) < 0.5 else -row)
