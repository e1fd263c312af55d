"""Gradients that are carried back as affine functions of the input (docs/mathematics.md, §5.12)."""

from __future__ import annotations

from math import inf, prod

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from benchmarks.architectures import ARCHITECTURES
from recurjac import testing
from recurjac.jacobian.carried import spread
from recurjac.propagation.forms import DenseForms
from recurjac.testing.networks import KINDS, random_network, true_jacobians
from tests.conv_networks import convolutional

FAST = ("relu", "tanh")


@pytest.mark.slow
@pytest.mark.parametrize("noises", [0, 3, 512])
def test_gradient_forms_are_sound(noises: int) -> None:
    testing.check_jacobian_method(rj.GradientForms(noises), seed=noises)


def hold(bounds: rj.Interval, true: Tensor, share: float = 1e-11) -> bool:
    off = share * float(true.abs().max()) + 1e-300
    return bool(((bounds.lower - off <= true) & (true <= bounds.upper + off)).all())


@pytest.mark.parametrize("noises", [0, 300])
@pytest.mark.parametrize("kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_entries_and_combinations_of_them(kind: str, noises: int) -> None:
    """Over balls of all norms, boxes that are clipped, points and huge ones."""
    network, chance = random_network(kind, 3, True), torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, 2, generator=chance, dtype=torch.float64)
    tangents = torch.randn(1, 1, 3, 2, 2, generator=chance, dtype=torch.float64)
    for radius, p, clip in (
        (0.0, 2, None),
        (1e-3, 2, (-1, 1)),
        (0.2, inf, (-1.5, 0.7)),
        (1.0, 1, None),
        (1e4, 2, None),
    ):
        region = rj.LpBall(x.clamp(*clip) if clip else x, radius, p, clip)
        problem = rj.Problem(network, region, pre=rj.Forward())
        prepared = rj.GradientForms(noises).prepare(rj.Gradients(problem))
        entries, along = prepared.push_all(), prepared.push(DenseForms(tangents, problem.arithmetic))
        for i, points in enumerate(problem.bound.sample(20, chance)):
            true = true_jacobians(network, points).detach().flatten(-2).reshape(len(points), -1, 4)
            assert hold(entries[i], true)
            assert hold(along[i], true @ tangents.reshape(3, 4).mT)


def test_a_small_radius_loses_little() -> None:
    """The slack is of second order: a tenth of the radius has a hundredth of it."""
    network, x = random_network("tanh", 5, True), torch.zeros(1, 2, 2, dtype=torch.float64)
    slack: list[float] = []
    for radius in (1e-3, 1e-4):
        problem = rj.Problem(network.output(0), rj.LpBall(x, radius), pre=rj.Forward())
        bounds = rj.jacobian_bounds(problem, method=rj.GradientForms())
        true = true_jacobians(
            network.output(0), problem.bound.sample(4000, torch.Generator().manual_seed(0))[0]
        ).detach()
        slack.append(float((bounds.upper - bounds.lower).sum() - (true.amax(0) - true.amin(0)).sum()))
        assert 0 <= slack[-1] <= 0.5 * float((bounds.upper - bounds.lower).sum())
    assert slack[1] <= 0.2 * slack[0]


def test_convolutions_without_rounding_errors() -> None:
    _, network = convolutional("plain")
    x = torch.rand(1, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, 0.05), arithmetic=rj.Rigorous())
    bounds = rj.jacobian_bounds(problem, method=rj.GradientForms(60))
    true = true_jacobians(network, problem.bound.sample(20, torch.Generator().manual_seed(1))[0]).detach()
    assert hold(rj.Interval(bounds.lower, bounds.upper), true)


def test_where_forms_do_not_fit_it_is_chords() -> None:
    network = random_network("tanh", 1, False)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 2, 2), 0.3), arithmetic=rj.Fast(memory=64))
    a, b = (rj.jacobian_bounds(problem, method=m) for m in (rj.GradientForms(), rj.Chords()))
    assert torch.equal(a.upper, b.upper)


def test_a_softmax_of_many_entries_keeps_errors() -> None:
    """What is known of entries up to ρ is known of their logarithm of a sum up to about ρ, however many there are."""
    network = rj.load(nn.LogSoftmax(1), torch.zeros(1, 64, dtype=torch.float64))
    half = rj.preactivation_bounds(network, rj.LpBall(torch.zeros(1, 64), 0.1), pre=rj.IBP()).stages[-2].width / 2
    assert float(half.max()) <= 0.8


def bounded(name: str, radius: float) -> rj.Lipschitz:
    """The constant of one output of a small architecture; it is compared with derivatives at random points."""
    module, x = ARCHITECTURES[name].made(False)
    network = rj.load(module, x)
    assert torch.allclose(network.preactivations(x)[-1].reshape(-1), module(x).reshape(-1), rtol=1e-9, atol=1e-9)
    chosen = prod(network.output_shape) // 2
    question = rj.Problem(network.output(chosen), rj.LpBall(x, radius), pre=rj.Forward(4096))
    found = rj.lipschitz(question, method=rj.JacobianNorm(rj.GradientForms()))
    points = question.bound.sample(8, torch.Generator().manual_seed(0))[0].requires_grad_()
    (true,) = torch.autograd.grad(module(points).flatten(1)[:, chosen].sum(), points)
    assert float(true.flatten(1).abs().sum(1).max()) <= float(found.upper) * (1 + 1e-9)
    return found


QUICK = ("encoder layer",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES])
def test_small_architectures(name: str) -> None:
    found = bounded(name, 1e-4)
    if name != "U-Net":  # its kinks are not smooth
        assert float(found.upper) <= 1.5 * float(found.lower)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_small_architectures_over_larger_balls(name: str) -> None:
    bounded(name, 0.1)


@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()], ids=str)
def test_sums_of_rests_are_infinite_where_one_is_that_is_read(arithmetic: rj.Fast | rj.Rigorous) -> None:
    weights = torch.tensor([[[[1.0, 0.0], [0.0, -2.0], [0.0, 0.0], [-1e-30, 1.0]]]], dtype=torch.float64)
    rests = torch.tensor([[[torch.inf, 3.0]]], dtype=torch.float64)
    found = spread(weights, rests, arithmetic)
    assert found.shape == (1, 1, 4)
    assert found[0, 0, 0] == found[0, 0, 3] == torch.inf
    assert 6.0 <= float(found[0, 0, 1]) <= 6.0 + 1e-12
    assert float(found[0, 0, 2]) <= 1e-300
