"""Files of closed loops with a Lyapunov function: they are read from ONNX, and bounded near what is sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.network import Network
from tests.lyapunov_cases import CASES

pytest.importorskip("onnx")
FILE = Path(__file__).parents[2] / "shared" / "cases" / "lsnc_state.onnx"


def exported(module: nn.Module, inputs: int, path: Path) -> Path:
    """A file by the exporter that published files were made with, for any number of inputs at a time."""
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        module, (torch.zeros(1, inputs),), path, dynamo=False, input_names=["input"], output_names=["output"],
        dynamic_axes=axes, opset_version=17,
    )  # fmt: skip
    return path


def near(x: Tensor, radius: float, count: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    points = 2 * torch.rand(count, x.shape[1], generator=g, dtype=x.dtype) - 1
    return x + radius * torch.cat([points, points.sign()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_file_is_read_and_bounded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(len(name))
    make, inputs = CASES[name]
    module, radius = make().eval(), 0.05
    network = rj.load(exported(module, inputs, tmp_path / "loop.onnx"))
    module, x = module.double(), 0.3 * torch.randn(1, inputs, dtype=torch.float64)
    points = near(x, radius, 300)
    torch.testing.assert_close(network(points), module(points), rtol=1e-5, atol=1e-5)  # the file has float32 numbers
    check(network, x, radius, points)


def check(network: Network, x: Tensor, radius: float, points: Tensor) -> None:
    """Bounds hold for the sampled Jacobians, and are at most four times as wide."""
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, radius))
    found = torch.func.vmap(torch.func.jacrev(lambda t: network(t.unsqueeze(0))[0]))(points)
    assert bool((bounds.lower - 1e-9 <= found).all())
    assert bool((found <= bounds.upper + 1e-9).all())
    wide, seen = (bounds.upper - bounds.lower)[0].amax(1), (found.amax(0) - found.amin(0)).amax(1)
    assert bool((wide <= 4 * seen + 1e-9).all())


@pytest.mark.skipif(not FILE.exists(), reason="the file is kept beside the repository")
def test_a_published_file_is_read_and_bounded() -> None:
    """State feedback of a planar quadrotor, of VNN-COMP 2024."""
    network, radius = rj.load(FILE), 0.05
    x = torch.tensor([[0.3, -0.2, 0.1, 0.2, -0.3, 0.1]], dtype=torch.float64)
    check(network, x, radius, near(x, radius, 300))
