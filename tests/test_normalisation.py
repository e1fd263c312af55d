"""Normalisation by the input's own statistics: the eps that it is read with, and how tight its bounds are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import recurjac as rj
from recurjac.activations import FlooredPower


def least_of(network: rj.Network) -> float:
    (found,) = (s.activation.least for s in network.stages if isinstance(s.activation, FlooredPower))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_without_an_eps_it_is_that_of_the_dtype(dtype: torch.dtype, affine: bool, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4, dtype=dtype), nn.RMSNorm(4, elementwise_affine=affine, dtype=dtype))
    example = torch.ones(1, 4, dtype=dtype)
    path = tmp_path / "norm.pt2"
    torch.export.save(torch.export.export(module, (example,)), path)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    for network in (rj.load(module, example, dtype=torch.float64), rj.load(path)):
        assert least_of(network) == pytest.approx(torch.finfo(dtype).eps, rel=1e-5)
        stated = nn.Sequential(
            copy.deepcopy(module[0]), nn.RMSNorm(4, float(torch.finfo(dtype).eps), affine, dtype=dtype)
        )
        if affine:
            stated[1].load_state_dict(module[1].state_dict())
        torch.testing.assert_close(network.to(torch.float64)(x), stated.double()(x), rtol=1e-12, atol=1e-12)


def test_without_eps_bounds_are_finite_where_the_variance_is_positive() -> None:
    x = torch.tensor([[1.0, 2.0, -0.3, 0.1]], dtype=torch.float64)
    for module in (nn.RMSNorm(4, eps=0.0), nn.LayerNorm(4, eps=0.0)):
        network = rj.load(module.double(), x)
        assert bool(rj.jacobian_bounds(network, rj.LpBall(x, 0.1)).upper.isfinite().all())
        assert bool(rj.jacobian_bounds(network, rj.LpBall(x, 9.0)).upper.isinf().all())
