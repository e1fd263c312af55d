"""Cases that an audit found; each was wrong once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import recurjac as rj

NOTHING, BRIEF = rj.Search(work=0), rj.Search(work=1e5)


def two_layers(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype)


def change(module: nn.Module) -> None:
    with torch.no_grad():
        for w in module.parameters():
            w.mul_(2)


def test_a_bound_of_weights_that_have_changed_is_refused() -> None:
    module, region = two_layers(torch.float32), rj.LpBall(torch.ones(1, 4), 0.1)
    copied, shared = rj.load(module, torch.ones(1, 4)), rj.load(module, torch.ones(1, 4), dtype=torch.float32)
    before = float(rj.lipschitz(shared, region, search=NOTHING).upper.detach()[0])
    change(module)
    assert float(rj.lipschitz(shared, region, search=NOTHING).upper.detach()[0]) > 2 * before
    for bound in (rj.lipschitz, rj.jacobian_bounds, rj.preactivation_bounds):
        with pytest.raises(rj.InvalidNetwork, match="changed after"):
            bound(copied, region)
        with pytest.raises(rj.InvalidNetwork, match="changed after"):
            bound(copied.output(1), region)


def test_float32_copies_of_float64_weights_are_watched() -> None:
    module = two_layers(torch.float32).double()
    network = rj.load(module, torch.ones(1, 4), dtype=torch.float32)
    change(module)
    with pytest.raises(rj.InvalidNetwork, match="changed after"):
        rj.lipschitz(network, rj.LpBall(torch.ones(1, 4), 0.1))


def test_weights_that_became_nan_are_named() -> None:
    module = two_layers(torch.float64)
    network = rj.load(module, torch.ones(1, 4))
    with torch.no_grad():
        module[0].weight[0, 0] = torch.nan  # type: ignore[index]
    with pytest.raises(rj.InvalidNetwork, match="NaN"):
        rj.jacobian_bounds(network, rj.LpBall(torch.ones(1, 4), 0.1))


def test_a_file_and_an_option_that_state_different_activations(tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    np.savez(path, W0=np.ones((3, 2)), W1=np.ones((1, 3)), activation="relu")
    with pytest.raises(rj.InvalidNetwork, match=r"'relu', not 'tanh'"):
        rj.load(path, activation="tanh")
    assert rj.load(path, activation="relu").depth == 2


@pytest.mark.parametrize("p", [1, 2, rj.inf])
def test_a_witness_lies_in_the_float64_ball_of_a_float32_network(p: float) -> None:
    """The region grows where float32 cannot hold its centre; `lower` must not be found in what it grew by."""
    t = torch.tensor
    layers = [(t([[-1.0]]), t([5e-6])), (t([[1.0]]), t([0.0]))]
    network = rj.load(layers, activation="relu", dtype=torch.float32)
    lip = rj.lipschitz(network, rj.LpBall(t([[1000.00001]], dtype=torch.float64), 1000.0, p))
    assert float(lip.lower[0]) == 0.0
    centre = 1 / 3 * torch.ones(1, 1, dtype=torch.float64)
    wide = rj.lipschitz(rj.load([(t([[2.0]]), None)], dtype=torch.float32), rj.LpBall(centre, 0.5, p))
    assert float(wide.lower[0]) == pytest.approx(2.0, rel=1e-5)
    assert float((wide.witness.double() - centre).abs()) <= 0.5


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 1), (rj.inf, rj.inf), (rj.inf, 1)])
def test_overflow_is_no_lower_bound(p: float, q: float) -> None:
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        scale = (1e8, 1e10)[seed % 2]
        sizes = ((2, 7), (7, 7), (7, 7), (7, 3))
        layers = [(torch.randn(b, a, generator=g) * scale, torch.randn(b, generator=g)) for a, b in sizes]
        network = rj.load(layers, activation="relu", dtype=torch.float32)
        lip = rj.lipschitz(network, rj.LpBall(torch.rand(1, 2, generator=g), 0.1), p=p, q=q, search=BRIEF)
        assert bool((lip.lower <= lip.upper).all())
    ones = rj.load([(torch.ones(3, 2), None), (torch.ones(1, 3), None)], activation="relu")
    for radius in (1e308, rj.inf):
        lip = rj.lipschitz(
            ones, rj.LpBall(torch.full((1, 2), 1e308, dtype=torch.float64), radius), p=p, q=q, search=BRIEF
        )
        assert float(lip.upper[0]) >= 3.0


def test_softplus_with_a_jump_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Softplus(1.0, 1.0))
    with pytest.raises(rj.UnsupportedLayer, match="softplus with threshold=1"):
        rj.load(module, torch.zeros(1, 2))


def test_a_slope_that_is_nan_is_named() -> None:
    with pytest.raises(rj.InvalidNetwork, match="NaN or infinite"):
        rj.load(nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(float("nan"))), torch.zeros(1, 2))


def test_a_network_that_overflows_is_named() -> None:
    with pytest.raises(rj.InvalidNetwork, match="overflows"):
        rj.load([(torch.full((2, 2), 1e300, dtype=torch.float64), None)] * 2, activation="relu")


TYPES = """
import torch, recurjac as rj
net, region = rj.load([(torch.ones(2, 2), None)]), rj.LpBall(torch.zeros(2), 0.1)
for bound in (rj.lipschitz, rj.jacobian_bounds):
    wrong = ({"method": "chords"}, {"pre": "crown"}, {"region": region.x}, {"network": 3}, {"arithmetic": "x"})
    for bad in wrong:
        try:
            bound(**{"network": net, "region": region, **bad})
        except rj.InvalidRequest as error:
            print(error)
"""


def test_arguments_of_another_type_are_named() -> None:
    """In a process of its own: here the tests' type checker would speak first."""
    done = subprocess.run([sys.executable, "-c", TYPES], capture_output=True, text=True, check=True)  # noqa: S603
    said = done.stdout.splitlines()
    assert len(said) == 10
    for words in ("method is a str", "pre-activations is a str", "region is a Tensor", "network is a int", "a str"):
        assert sum(words in line for line in said) >= 2


class _Scalar(nn.Module):
    """One number for each sample, without a dimension of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).reshape(-1)  # type: ignore[no-any-return]


def test_a_network_of_one_number_without_a_dimension() -> None:
    network = rj.load(_Scalar(), torch.ones(3, 4))
    assert network.output_shape == ()
    assert rj.jacobian_bounds(network, rj.LpBall(torch.ones(2, 4), 0.1)).upper.shape == (2, 4)
    assert rj.lipschitz(network, rj.LpBall(torch.ones(2, 4), 0.1), search=BRIEF).upper.shape == (2,)


class _AlwaysDropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.layer(x), 1e-11, training=True)


def test_dropout_that_is_on_in_eval_mode_is_refused() -> None:
    with pytest.raises(rj.UnsupportedLayer, match="random"):
        rj.load(_AlwaysDropping(), torch.ones(1, 4))


def _stale_cases() -> dict[str, Callable[[Any], object]]:
    def batch_statistics(m: Any) -> None:
        m.train()
        m(torch.rand(4, 1, 4, 4) * 5 + 3)
        m.eval()

    return {
        "training forward": batch_statistics,
        "running mean": lambda m: m[1].running_mean.add_(0.5),
        "state dict": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
        "data": lambda m: m[0].weight.data.mul_(2),
        "new parameter": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight * 2)),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["own", "copy"])
@pytest.mark.parametrize("change", _stale_cases())
def test_a_network_follows_its_module_or_refuses(change: str, dtype: torch.dtype) -> None:
    """Also changes that PyTorch does not count: batch statistics of a training step, `.data` (an audit found these)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(8, 2))
    module.eval()
    x = torch.rand(2, 1, 4, 4)
    network = rj.load(module, x, dtype=dtype)
    with torch.no_grad():
        _stale_cases()[change](module)
    try:
        bounds = rj.jacobian_bounds(network, rj.LpBall(x.to(dtype), 0.0))
    except rj.InvalidNetwork as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "changed" in refusal
        return
    assert dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)
    true = torch.func.vmap(torch.func.jacrev(lambda v: module(v[None])[0]))(x).detach()
    assert bool(((true >= bounds.lower - 1e-5) & (true <= bounds.upper + 1e-5)).all())
