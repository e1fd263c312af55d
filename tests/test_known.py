"""A network of which something wrong is stated is not loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import LengthRows, NormalisedRows, SoftmaxRows
from recurjac.loading.known import check_known
from recurjac.network import Network
from tests.helpers import refused
from tests.torch_cases import Fn

X = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _wrong(network: Network, **changes: object) -> Network:
    """The network with other statements about every stage that has one of this kind."""
    (name,) = changes
    stages = tuple(
        s if getattr(s, name) is None else replace(s, **{name: replace(getattr(s, name), **changes[name])})  # type: ignore[arg-type]
        for s in network.stages
    )
    return replace(network, stages=stages)


@pytest.mark.parametrize(
    ("formula", "other"),
    [
        (lambda t: nn.functional.layer_norm(t, (4,), eps=0.01), NormalisedRows(0.02, True)),
        (lambda t: nn.functional.layer_norm(t, (4,), eps=0.01), NormalisedRows(0.01, False)),
        (lambda t: t.square().sum(-1).sqrt(), LengthRows(4)),
        (lambda t: t.softmax(-1), SoftmaxRows(torch.eye(3, 4, dtype=torch.bool))),
    ],
)
def test_another_function_is_noticed(formula: object, other: object) -> None:
    network = rj.load(Fn(lambda _, t: formula(t), nn.Identity()).double(), X[:1])  # type: ignore[operator]
    assert any(s.closed is not None for s in network.stages)
    check_known(network, network.nodes(X))
    refused(
        lambda: check_known(_wrong(network, closed={"function": other}), network.nodes(X)),
        rj.ConversionError,
        ["is read as"],
    )


def test_other_matrices_are_noticed() -> None:
    class Squared(nn.Module):
        def forward(self, t: Tensor) -> Tensor:
            return torch.tanh(t) @ torch.sin(t).mT

    network = rj.load(Squared(), X[:1])
    check_known(network, network.nodes(X))
    (product,) = [s.matrices for s in network.stages if s.matrices is not None]
    swapped = _wrong(network, matrices={"first": product.second, "second": product.first})
    refused(lambda: check_known(swapped, network.nodes(X)), rj.ConversionError, ["a product of matrices"])


def test_what_is_not_finite_is_not_compared() -> None:
    """Rows of zeros have no direction; where their neighbours have one, these are compared."""
    network = rj.load(Fn(lambda _, t: t / t.square().mean(-1, keepdim=True).sqrt(), nn.Identity()).double(), X[:1])
    dead = X.clone()
    dead[:, 1] = 0
    check_known(network, network.nodes(dead))
    wrong = _wrong(network, closed={"function": NormalisedRows(0.1, False)})
    refused(lambda: check_known(wrong, network.nodes(dead)), rj.ConversionError, ["NormalisedRows"])
