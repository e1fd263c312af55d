"""Every operation of PyTorch that is read: the network computes what the module does, and its bounds hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac import loading
from recurjac.loading import decompositions
from recurjac.loading.torch_export import Traced, trace
from recurjac.loading.wanted import Wanted
from recurjac.network import Network
from recurjac.registry import torch_ops
from tests import attention_cases, derivative_cases, torch_cases
from tests.torch_cases import CHOICES, MIXED, ONE_INPUT, SIMPLER, WIDE, Fn, norm

CASES = {**torch_cases.CASES, **attention_cases.TORCH, **derivative_cases.TORCH}
EVERY = {**CASES, **ONE_INPUT}
DECOMPOSED = (
    "norm2d", "classifier", "adaptive2d", "adaptive3d", "adaptive-most2d", "most3d", "zeros", "contiguous",
    "like-others", "linear-deep", "bmm", "transposed2d", "average3d", "detached", "unpixels", "group-sort", "clamped",
    "residual", "tokens", "stacked", "softmax", "log-softmax", "layer-norm", "group-norm", "variance",
    "encoder", "hidden", "causal", "rms-norm", "instance-norm", "multihead-masked",
    "gelu", "elu", "silu", "hard-swish", "square",
)  # fmt: skip
"""Cases that are also read in PyTorch's core operations, which `run_decompositions` leaves in a .pt2 file."""


@cache
def build(name: str) -> nn.Module:
    """The module in float32."""
    torch.manual_seed(len(name))
    return EVERY[name][0]()


@cache
def traced(name: str) -> Traced:
    return trace(build(name), torch.ones(1, *EVERY[name][1]), Wanted.all())


@cache
def decomposed(name: str) -> Traced:
    return replace(traced(name), program=traced(name).program.run_decompositions())


def wide(name: str) -> nn.Module:
    """The module in float64 and eval mode."""
    return copy.deepcopy(build(name)).double().eval()


def points(name: str, count: int, size: float = 1.5) -> Tensor:
    g = torch.Generator().manual_seed(len(name) + 1)
    return torch.randn(count, *EVERY[name][1], generator=g, dtype=torch.float64) * size


def jacobians(module: nn.Module, x: Tensor) -> Tensor:
    """∂f/∂x at each of the points: (points, *output, *input)."""
    each = [torch.autograd.functional.jacobian(module, row.unsqueeze(0)) for row in x]
    return torch.stack([j.reshape(*j.shape[1 : j.dim() - x.dim()], *x.shape[1:]) for j in each])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_read_and_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 to 1e-9, in float32 to its precision; at a point the bounds are the Jacobian, and nearby they hold."""

    def once(module: nn.Module, example: Tensor, wanted: Wanted) -> Traced:
        """What other tests trace as well."""
        assert (module, tuple(example.shape[1:]), wanted) == (build(name), CASES[name][1], Wanted.all())
        return traced(name)

    monkeypatch.setattr(loading, "trace", once)
    network = rj.load(build(name), torch.ones(2, *CASES[name][1]))
    original, x = wide(name), points(name, 4)
    torch.testing.assert_close(network(x), original(x), rtol=1e-9, atol=1e-9)
    narrow = traced(name).network(torch.float32)
    torch.testing.assert_close(narrow(x.float()).double(), original(x), rtol=1e-4, atol=1e-4)
    check_bounds(network, original, x[:1])


def check_bounds(network: Network, module: nn.Module, x: Tensor) -> None:
    exact = rj.jacobian_bounds(network, rj.LpBall(x, 0.0), method=rj.Chords())
    truth = jacobians(module, x)
    torch.testing.assert_close(exact.lower, truth, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(exact.upper, truth, rtol=1e-8, atol=1e-8)
    near = x + 0.05 * (2 * torch.rand(3, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype) - 1)
    bounds, found = rj.jacobian_bounds(network, rj.LpBall(x, 0.05), method=rj.Chords()), jacobians(module, near)
    # PyTorch's own derivative of hardsigmoid has the float32 number next to 1/6
    assert bool((bounds.lower - 1e-7 <= found).all())
    assert bool((found <= bounds.upper + 1e-7).all())


@pytest.mark.parametrize("name", ONE_INPUT)
def test_a_graph_of_one_input_is_read(name: str) -> None:
    """Modules that read only the first input of a batch, or fail on several, are read; those that mix are refused."""
    network, x, original = traced(name).network(torch.float64), points(name, 1), wide(name)
    torch.testing.assert_close(network(x), original(x), rtol=1e-9, atol=1e-9)
    check_bounds(network, original, x)
    example = torch.ones(1, *ONE_INPUT[name][1])
    if name in MIXED:
        with pytest.raises((rj.ConversionError, rj.InvalidNetwork)):
            rj.load(build(name), example)
    else:
        torch.testing.assert_close(rj.load(build(name), example)(x), original(x), rtol=1e-9, atol=1e-9)


def test_captured_constants_are_not_rounded() -> None:
    module = Fn(lambda _, x: F.linear(x, WIDE))
    with pytest.raises(rj.InvalidNetwork, match="another network"):
        rj.load(module, torch.ones(6), dtype=torch.float32)
    bounds = rj.jacobian_bounds(rj.load(module, torch.ones(6)), rj.LpBall(torch.ones(1, 6), 0.0))
    torch.testing.assert_close(bounds.upper[0], WIDE, rtol=1e-12, atol=0)
    short = WIDE.float().double()
    exact = Fn(lambda _, x: F.linear(x, short))
    assert rj.load(exact, torch.ones(6), dtype=torch.float32).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("name", DECOMPOSED)
def test_core_operations_are_read(name: str) -> None:
    x = points(name, 5)
    torch.testing.assert_close(decomposed(name).network(torch.float64)(x), wide(name)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_every_reader_has_a_case() -> None:
    """And so no reader is for an operation that PyTorch's export never gives."""
    programs = [traced(name).program for name in EVERY] + [decomposed(name).program for name in DECOMPOSED]
    programs += [p for p in (decompositions.decomposed(traced(name).program) for name in CHOICES) if p is not None]
    met = {str(node.target) for program in programs for node in program.graph.nodes}
    assert not set(torch_ops.readers) - met


@pytest.mark.parametrize("name", SIMPLER)
def test_an_operation_without_a_reader_is_read_in_simpler_ones(name: str) -> None:
    targets = {str(n.target) for n in traced(name).program.graph.nodes}
    simpler = decompositions.decomposed(traced(name).program)
    assert simpler is not None
    left = {str(n.target) for n in simpler.graph.nodes} if targets - set(torch_ops.readers) else set()
    assert left - targets or name == "tanhshrink"


def changed(x: Tensor) -> Tensor:
    x[:, 1] = 0.5
    return x * 2


def changed_later(x: Tensor) -> Tensor:
    y = x + 1
    z = y.view(-1, 2, 3)
    y.mul_(3)
    return z.flatten(1)


def changed_by_name(x: Tensor) -> Tensor:
    y = x + 1
    y.mul_(3).add_(2)
    return y


@pytest.mark.parametrize("function", [changed, changed_later, changed_by_name])
def test_changes_in_place_are_seen_under_every_name(function: Callable[[Tensor], Tensor]) -> None:
    x = points("square", 4)
    network = rj.load(Fn(lambda _, t: function(t)), x.float())
    torch.testing.assert_close(network(x), function(x.clone()), rtol=1e-12, atol=1e-12)


class Level(nn.Module):
    """A level that is compared with nothing, and used a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.level) + self.level


def test_a_level_that_a_comparison_copies_is_watched() -> None:
    module, x = Level().double(), torch.ones(1, 3)
    network = rj.load(module, x)
    with torch.no_grad():
        module.level.add_(0.5)
    with pytest.raises(rj.InvalidNetwork, match="read it again"):
        rj.jacobian_bounds(network, rj.LpBall(x.double(), 0.1))
    with pytest.raises(rj.UnsupportedLayer, match="such a jump"):
        rj.load(module, x)


# Gradients


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2, padding=1), norm(nn.BatchNorm2d), nn.Tanh(), nn.ConvTranspose2d(3, 2, 2), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


def total(network: Network) -> Tensor:
    x = torch.linspace(-1, 1, 18).reshape(2, 3, 3)
    return rj.jacobian_bounds(network, rj.LpBall(x, 0.02)).upper.sum()


def test_bounds_have_gradients_with_respect_to_convolutions_and_normalisations() -> None:
    """Those of float32 bounds on live float32 parameters, against finite differences in float64."""
    module, shape = small(), (1, 2, 3, 3)
    total(rj.load(module, torch.ones(shape), dtype=torch.float32)).backward()
    for name, parameter in module.named_parameters():
        if name in (
            "3.bias",
            "7.bias",
        ):  # they shift a ReLU, and the output
            continue
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        step, ends = 1e-6, []
        for sign in (1, -1):
            moved = copy.deepcopy(module).double()
            with torch.no_grad():
                moved.get_parameter(name).add_(direction, alpha=sign * step)
            ends.append(float(total(rj.load(moved, torch.ones(shape))).detach()))
        wanted = (ends[0] - ends[1]) / (2 * step)
        assert float((parameter.grad.double() * direction).sum()) == pytest.approx(wanted, rel=2e-2, abs=1e-3), name
