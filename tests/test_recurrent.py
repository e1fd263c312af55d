"""Recurrent layers: bounds of sequences against sampled Jacobians, live weights, and what is refused.

That each layer computes what PyTorch and onnxruntime compute is tested with all other readers (`recurrent_cases`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from tests.marks import in_turn
from tests.onnx_models import model, node
from tests.recurrent_cases import Recurrent

LAYERS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def last(layer: Any, x: Tensor) -> Tensor:
    return layer(x)[0][:, -1]  # type: ignore[no-any-return]


def made(kind: str, seed: int, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    return Recurrent(LAYERS[kind](3, 4, batch_first=True, **settings), last).double().eval()


@pytest.mark.parametrize(("kind", "radius", "seed"), in_turn(list(LAYERS), [0.0, 0.05, 0.5], range(2)))
def test_bounds_of_a_sequence_hold(kind: str, radius: float, seed: int) -> None:
    layer = made(kind, seed, num_layers=1 + seed)
    for p in layer.parameters():
        p.data.mul_(2)
    x = torch.randn(1, 3 - seed, 3, dtype=torch.float64)
    bounds = rj.jacobian_bounds(rj.load(layer, x), rj.LpBall(x, radius))
    points = x + radius * (2 * torch.rand(20, *x.shape[1:], dtype=torch.float64) - 1)
    found = torch.stack([torch.autograd.functional.jacobian(layer, t.unsqueeze(0))[0, :, 0] for t in points])
    assert bool((bounds.lower - 1e-12 <= found).all())
    assert bool((found <= bounds.upper + 1e-12).all())
    if radius == 0:
        torch.testing.assert_close(bounds.lower[0], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_recurrent_network_follows_its_layer(kind: str) -> None:
    layer, x = made(kind, 0), torch.randn(1, 3, 3, dtype=torch.float64)
    network = rj.load(layer, x)
    rj.jacobian_bounds(network, rj.LpBall(x, 0.1)).upper.sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in layer.parameters())
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    torch.testing.assert_close(network(x), layer(x), rtol=1e-12, atol=1e-12)


def test_a_narrow_ball_around_a_sequence_is_tight() -> None:
    layer, x = made("lstm", 3), torch.randn(1, 6, 3, dtype=torch.float64)
    bounds = rj.jacobian_bounds(rj.load(layer, x), rj.LpBall(x, 0.001))
    exact = torch.autograd.functional.jacobian(layer, x)[:, :, 0]
    assert float((bounds.upper - bounds.lower).detach().max()) < 0.05 * float(exact.abs().max())


def test_a_sequence_with_the_time_first_is_no_batch() -> None:
    with pytest.raises(rj.ConversionError, match="depends on the size of the batch"):
        rj.load(Recurrent(nn.LSTM(4, 2)), torch.ones(5, 1, 4))


REFUSED = {
    "peepholes": (node("LSTM", "x w r - - - - p", hidden_size=2), 4, "peepholes"),
    "other activations": (node("GRU", "x w r", hidden_size=2, activations=["Relu", "Tanh"]), 3, "Relu"),
    "clipped": (node("GRU", "x w r", hidden_size=2, clip=1.0), 3, "clipped"),
    "lengths": (node("RNN", "x w r - n", hidden_size=2), 1, "several lengths"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_of_onnx_is_refused(name: str, tmp_path: Path) -> None:
    layer, gates, words = REFUSED[name]
    constants = {
        "w": np.ones((1, 2 * gates, 3)), "r": np.ones((1, 2 * gates, 2)), "p": np.ones((1, 6)),
        "n": np.array([2], dtype=np.int32),
    }  # fmt: skip
    used = {k: v for k, v in constants.items() if k in layer.input}
    (tmp_path / "m.onnx").write_bytes(model([layer], [3, 1, 3], used, 14).SerializeToString())
    with pytest.raises(rj.UnsupportedLayer, match=words):
        rj.load(tmp_path / "m.onnx")
