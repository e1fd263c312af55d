"""Modules whose weights are computed from parameters: bounds have gradients with respect to these parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import utils
from torch.nn.utils import parametrizations

import recurjac as rj


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.exp()


def own(layer: nn.Module) -> nn.Module:
    utils.parametrize.register_parametrization(layer, "weight", Positive())
    return layer


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "old weight norm": utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "cayley": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
    "own": own,
}


def net(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old functions
        made = nn.Sequential(WRAPPERS[name](nn.Linear(3, 4)), nn.ReLU(), WRAPPERS[name](nn.Linear(4, 2)))
    made(torch.rand(5, 3))  # a spectral norm starts its iteration in training mode
    return made.double().eval()


@pytest.mark.parametrize("name", WRAPPERS)
def test_gradients_reach_the_underlying_parameters(name: str) -> None:
    """At a point the bounds are the Jacobian, and so are their gradients; after a step, the module is read again."""
    module, x = net(name), torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    mix = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    network = rj.load(module, x)
    found = (mix * rj.jacobian_bounds(network, rj.LpBall(x, 0.0), method=rj.Chords()).upper[0]).sum()
    inputs = x.clone().requires_grad_()
    rows = [torch.autograd.grad(y, inputs, create_graph=True)[0][0] for y in module(inputs)[0]]
    truth = (mix * torch.stack(rows)).sum()
    weights = [p for k, p in module.named_parameters() if not k.endswith("bias")]
    ours, theirs = (torch.autograd.grad(t, weights, allow_unused=True) for t in (found, truth))
    assert any(g is not None and bool(g.any()) for g in ours)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        weights[-1].add_(0.1 * torch.randn_like(weights[-1]))
    with pytest.raises(rj.InvalidNetwork, match="read it again"):
        rj.jacobian_bounds(network, rj.LpBall(x, 0.0), method=rj.Chords())
    again = rj.load(module, x)
    torch.testing.assert_close(again(x), module(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WRAPPERS)
def test_training_lowers_a_bound(name: str) -> None:
    """The module stays in training mode, and is read in eval mode before each step."""
    module, x = net(name).train(), torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    optimizer, seen = torch.optim.SGD(module.parameters(), lr=0.02), []
    for _ in range(4):
        bounds = rj.jacobian_bounds(rj.load(module, x), rj.LpBall(x, 0.1), method=rj.FastLip())
        loss = torch.maximum(bounds.upper, -bounds.lower).square().sum()
        seen.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(part.training for part in module.modules())
    assert seen[-1] < seen[0]
