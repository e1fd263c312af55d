"""Forward forms and tangents: sound, exact where nothing is lost, tight with few inputs, cheap in wide networks."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import testing
from recurjac.activations import Identity as NoActivation
from recurjac.activations import ReLU
from recurjac.network import Edge, Network, Stage
from recurjac.operators import Identity, Negate
from recurjac.preactivation import AbstractPreactivation
from recurjac.preactivation.forward import Quick
from recurjac.propagation.affine_forms import Symbols, band
from recurjac.testing.networks import KINDS, random_network, true_jacobians
from tests.conv_networks import CONVOLUTIONAL, convolutional
from tests.marks import some_kinds

NOISES = (pytest.param(0, marks=pytest.mark.slow), 3, pytest.param(512, marks=pytest.mark.slow))
FAST_KINDS = ("relu", "falling", "hard_tanh", "tanh")
SOME_KINDS = [k if k in FAST_KINDS else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
"""Kinds on which the tests run by default."""


def dense(seed: int, *sizes: int, activation: str = "relu") -> Network:
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(b, a, generator=g, dtype=torch.float64) * (2 / a) ** 0.5,
         torch.randn(b, generator=g, dtype=torch.float64) / 4)
        for a, b in pairwise(sizes)
    ]  # fmt: skip
    return rj.load(layers, activation=activation)


def loop(steps: int, seed: int = 0) -> Network:
    """A pendulum under a small policy, unrolled."""
    torch.manual_seed(seed)
    policy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1, bias=False)).double().requires_grad_(False)

    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(steps):
                u = 3 * torch.clamp(policy(x), -2, 2)
                x = torch.cat([x[:, :1] + 0.1 * x[:, 1:], x[:, 1:] + 0.1 * (9 * torch.sin(x[:, :1]) + u)], 1)
            return x

    return rj.load(Loop(), torch.zeros(1, 2, dtype=torch.float64))


def widths(network: Network, region: rj.LpBall | rj.Box, pre: AbstractPreactivation) -> list[float]:
    stages = rj.preactivation_bounds(network, region, pre=pre).stages
    return [float(z.width.mean()) for z in stages]


# Soundness


@some_kinds
@pytest.mark.parametrize("noises", NOISES)
def test_forms_are_sound(noises: int, kinds: tuple[str, ...]) -> None:
    testing.check_preactivation(rj.ForwardForms(noises), noises, kinds)


@pytest.mark.slow
def test_crown_after_forms_is_sound() -> None:
    testing.check_preactivation(rj.Refine(rj.Forward(), rj.Alone(rj.Crown())), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("noises", [0, 3, 512])
def test_tangents_are_sound(noises: int) -> None:
    testing.check_jacobian_method(rj.ForwardTangents(noises), seed=noises)


@pytest.mark.parametrize("kind", SOME_KINDS)
@pytest.mark.parametrize("residual", [False, True])
def test_every_activation(kind: str, residual: bool) -> None:
    """Values and Jacobians of sampled points over balls of all norms, boxes that are clipped, points and huge ones."""
    network = random_network(kind, 3, residual)
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for radius, p, clip in ((1e-3, 2, (-1, 1)), (0.2, inf, (-1.5, 0.7)), (1.0, 1, None), (1e4, 2, None)):
        region = rj.LpBall(x.clamp(*clip) if clip else x, radius, p, clip)
        problem = rj.Problem(network, region, pre=rj.Forward())
        points = torch.cat(
            [problem.bound.x.unsqueeze(1), problem.bound.sample(20, torch.Generator().manual_seed(2))], 1
        )
        stages = rj.preactivation_bounds(problem).stages
        bounds = rj.jacobian_bounds(problem, method=rj.ForwardTangents())
        for i, sample in enumerate(points):
            for z, interval in zip(network.preactivations(sample), stages, strict=True):
                size = 1e-12 * (1 + z.abs())
                assert bool(((interval.lower[i] - size <= z) & (z <= interval.upper[i] + size)).all())
            true = true_jacobians(network, sample)
            off = 1e-12 * float(true.abs().max()) + 1e-300
            assert bool(((bounds.lower[i] - off <= true) & (true <= bounds.upper[i] + off)).all())


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_convolutions_branches_and_pools(kind: str) -> None:
    _, network = convolutional(kind)
    x = torch.rand(2, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for radius, memory in ((0.02, None), (0.3, None), (0.1, 2**18)):
        region = rj.LpBall(x, radius)
        problem = rj.Problem(network, region, pre=rj.ForwardForms(60), arithmetic=rj.Rigorous(memory))
        stages, bounds = (
            rj.preactivation_bounds(problem).stages,
            rj.jacobian_bounds(problem, method=rj.ForwardTangents(60)),
        )
        for i, sample in enumerate(problem.bound.sample(20, torch.Generator().manual_seed(1))):
            for z, interval in zip(network.preactivations(sample), stages, strict=True):
                size = 1e-12 * (1 + z.abs())
                assert bool(((interval.lower[i] - size <= z) & (z <= interval.upper[i] + size)).all())
            true = true_jacobians(network, sample).detach()
            off = 1e-11 * float(true.abs().max())
            assert bool(((bounds.lower[i] - off <= true) & (true <= bounds.upper[i] + off)).all())


@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_where_pre_activations_are_restricted(seed: int) -> None:
    network = dense(seed, 3, 8, 8, 2)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 3), 0.7), pre=rj.Forward())
    z = problem.preactivations().pre(1)
    known = rj.Interval(torch.where(torch.arange(8) < 3, 0.0, z.lower), z.upper.clamp(min=0))
    asked = problem.constrained(1, known)
    stages, bounds = rj.preactivation_bounds(asked).stages, rj.jacobian_bounds(asked, method=rj.ForwardTangents())
    points = problem.bound.sample(3000, torch.Generator().manual_seed(seed))[0]
    first = network.preactivations(points)[0]
    points = points[((first >= known.lower) & (first <= known.upper)).all(1)]
    for value, interval in zip(network.preactivations(points), stages, strict=True):
        assert bool(((interval.lower - 1e-12 <= value) & (value <= interval.upper + 1e-12)).all())
    true = true_jacobians(network, points[:50])
    assert bool(((bounds.lower - 1e-11 <= true) & (true <= bounds.upper + 1e-11)).all())


def test_huge_and_tiny_weights_fail_closed() -> None:
    for scale in (1e-30, 1e-18, 1e15, 1e30):
        layers = [(scale * torch.randn(4, 4, generator=torch.Generator().manual_seed(k)), None) for k in range(3)]
        network = rj.load(layers, activation="relu", dtype=torch.float32)
        x = torch.ones(1, 4)
        true = network.to(torch.float64).preactivations(x.double())
        for radius in (0.0, 1.0, 1e30, inf):
            problem = rj.Problem(network, rj.LpBall(x, radius), pre=rj.Forward())
            for z, interval in zip(true, rj.preactivation_bounds(problem).stages, strict=True):
                assert not bool(interval.lower.isnan().any() | interval.upper.isnan().any())
                size = 1e-12 * z.abs()
                assert bool(((interval.lower - size <= z) & (z <= interval.upper + size)).all())
            bounds = rj.jacobian_bounds(problem, method=rj.ForwardTangents())
            jacobian = true_jacobians(network.to(torch.float64), x.double())
            size = 1e-12 * jacobian.abs()
            assert bool(((bounds.lower - size <= jacobian) & (jacobian <= bounds.upper + size)).all())


def test_unbounded_samples_have_interval_bounds_and_leave_the_others_alone() -> None:
    network, x = dense(0, 3, 6, 6, 2), torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    both = rj.LpBall(x, torch.tensor([0.1, inf], dtype=torch.float64))
    mixed = rj.preactivation_bounds(network, both, pre=rj.ForwardForms()).stages
    alone = rj.preactivation_bounds(network, rj.LpBall(x[:1], 0.1), pre=rj.ForwardForms()).stages
    for z, one in zip(mixed, alone, strict=True):
        assert torch.allclose(z.lower[0], one.lower[0], rtol=1e-13, atol=1e-13)
        assert torch.allclose(z.upper[0], one.upper[0], rtol=1e-13, atol=1e-13)
        assert bool(z.upper[1].isinf().all())
    bounds = rj.jacobian_bounds(network, both, method=rj.ForwardTangents(), pre=rj.Forward())
    whole = rj.jacobian_bounds(network, rj.LpBall(x[1:], inf), method=rj.ForwardTangents(), pre=rj.Forward())
    assert bool((bounds.upper[1] >= whole.upper[0] - 1e-9).all() & bounds.upper[1].isfinite().all())


# What nothing is lost for


@pytest.mark.parametrize("p", [1, 2, inf])
def test_affine_networks_are_exact(p: float) -> None:
    network, ball = dense(1, 4, 7, 5, 3, activation="linear"), rj.LpBall(torch.rand(4, dtype=torch.float64), 0.3, p)
    jacobian = true_jacobians(network, torch.as_tensor(ball.x).reshape(1, -1))[0]
    half = 0.3 * torch.linalg.vector_norm(jacobian, {1: inf, 2: 2, inf: 1}[p], dim=1)
    output = rj.preactivation_bounds(network, ball, pre=rj.ForwardForms()).stages[-1]
    assert torch.allclose(output.width[0], 2 * half, rtol=1e-12)
    bounds = rj.jacobian_bounds(network, ball, method=rj.ForwardTangents())
    assert torch.allclose(bounds.lower[0], jacobian, rtol=1e-12)
    assert torch.allclose(bounds.upper[0], jacobian, rtol=1e-12)


def test_a_point_is_exact() -> None:
    for kind in ("relu", "tanh", "mixed"):
        network, x = random_network(kind, 2, True), torch.rand(2, 2, 2, dtype=torch.float64)
        problem = rj.Problem(network, rj.LpBall(x, 0.0), pre=rj.ForwardForms())
        for z, interval in zip(network.preactivations(x), rj.preactivation_bounds(problem).stages, strict=True):
            assert float((interval.width).max()) <= 1e-12 * (1 + float(z.abs().max()))
        assert (
            float(
                (rj.jacobian_bounds(problem, method=rj.ForwardTangents()).upper - true_jacobians(network, x))
                .abs()
                .max()
            )
            <= 1e-11
        )


def test_losses_that_are_read_twice_cancel() -> None:
    """relu(x) - relu(x) through a stage in between: 0 if the loss has a name, otherwise twice its size."""
    one, n = (1,), NoActivation()
    stages = (
        Stage((Edge(0, Identity(one)),), (), ReLU(), one),
        Stage((Edge(1, Identity(one)),), (), n, one),
        Stage((Edge(1, Identity(one)), Edge(2, Negate(one))), (), n, one),
    )
    network = Network(one, stages, torch.float64, torch.device("cpu"))
    ball = rj.LpBall(torch.zeros(1, 1, dtype=torch.float64), 1.0)
    named, plain = (widths(network, ball, rj.ForwardForms(m))[-1] for m in (1, 0))
    assert named <= 1e-15
    assert 0.9 <= plain <= 1.1


# Tightness


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_noises_are_worth_it_and_forms_are_about_as_tight_as_parallel_lines(seed: int, activation: str) -> None:
    network = dense(seed, 4, 20, 20, 20, 3, activation=activation)
    ball = rj.LpBall(torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), 0.1)
    ibp, few, many, lines = (
        widths(network, ball, r)[-1] for r in (rj.IBP(), rj.ForwardForms(0), rj.ForwardForms(), rj.FastLin())
    )
    assert many < few < ibp
    assert many <= (1.3 if activation == "relu" else 1.02) * lines


def test_the_rest_is_of_second_order() -> None:
    """With smooth activations, halving the radius divides what is lost by four."""
    network = dense(0, 3, 12, 12, 2, activation="tanh")
    x = torch.rand(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lost = []
    for radius in (0.02, 0.01):
        ball = rj.LpBall(x, radius)
        bounds = rj.jacobian_bounds(network, ball, method=rj.ForwardTangents(), pre=rj.Forward())
        corners = x + radius * (torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3))
        true = true_jacobians(network, corners)
        lost.append(float((bounds.upper - bounds.lower)[0].sum() - (true.amax(0) - true.amin(0)).sum()))
    assert 3.0 < lost[0] / lost[1] < 5.5


def test_an_unrolled_loop() -> None:
    """A step costs the same however many steps there are, and the Jacobian is tighter than by Chords."""
    network = loop(5)
    box = rj.LpBall(torch.zeros(2), 0.02)
    points = (torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) / 25
    true = true_jacobians(network, points)
    wide = (true.amax(0) - true.amin(0)).max()
    for pre in (rj.Forward(), rj.Crown()):
        bounds = rj.jacobian_bounds(network, box, method=rj.ForwardTangents(), pre=pre)
        chords = rj.jacobian_bounds(network, box, method=rj.Chords(), pre=pre)
        assert bool(((bounds.lower[0] <= true) & (true <= bounds.upper[0])).all())
        assert (bounds.upper - bounds.lower).max() <= min(1.4 * wide, (chords.upper - chords.lower).max())


@pytest.mark.slow
def test_constants_of_the_entries() -> None:
    testing.check_norm_method(rj.JacobianNorm(rj.ForwardTangents()), seed=4)


# Memory, the planner, and derivatives


def test_parts_give_the_same_and_little_memory_gives_less() -> None:
    network, ball = dense(2, 3, 40, 40, 40, 2), rj.LpBall(torch.zeros(2, 3), 0.2)
    whole = rj.preactivation_bounds(network, ball, pre=rj.ForwardForms(100)).stages[-1]
    parts = rj.preactivation_bounds(network, ball, pre=rj.ForwardForms(100), arithmetic=rj.Rigorous(104 * 640)).stages[
        -1
    ]
    assert torch.allclose(whole.upper, parts.upper, rtol=1e-10)
    for memory in (640 * 20, 640 * 5):
        less = rj.preactivation_bounds(network, ball, pre=rj.ForwardForms(100), arithmetic=rj.Rigorous(memory)).stages[
            -1
        ]
        assert float(less.width.sum()) > float(whole.width.sum())
    nothing = rj.preactivation_bounds(network, ball, pre=rj.ForwardForms(), arithmetic=rj.Rigorous(1)).stages[-1]
    assert bool(nothing.upper.isinf().all())
    ibp, forward = (
        rj.preactivation_bounds(network, ball, pre=r, arithmetic=rj.Rigorous(1)).stages[-1]
        for r in (rj.IBP(), rj.Forward())
    )
    assert torch.equal(ibp.upper, forward.upper)


def test_crown_begins_with_forms_where_they_save_work() -> None:
    """Few inputs into wide layers; not where few neurons are unstable, nor with many inputs, nor in small networks."""
    few, many = dense(0, 4, 1500, 1500, 3), dense(0, 700, 1500, 1500, 3)
    planner = rj.Planner()
    assert planner.carries_forms(few, 2, 1500, 256)
    assert not planner.carries_forms(few, 2, 400, 256)
    assert not planner.carries_forms(many, 2, 1500, 256)
    assert not planner.carries_forms(dense(0, 4, 20, 20, 3), 2, 20, 1)
    ball = rj.LpBall(torch.zeros(4), 0.3)
    problem = rj.Problem(few, ball, pre=Quick(), arithmetic=rj.Fast())
    forms, intervals = problem.preactivations(), problem.by(rj.IBP()).preactivations()
    assert float(forms.pre(2).width.sum()) < 0.7 * float(intervals.pre(2).width.sum())


def test_bounds_are_differentiable() -> None:
    """Against differences."""
    weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    last = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def upper(w: Tensor) -> Tensor:
        network = rj.load([(w, None), (last, None)], activation="tanh")
        ball = rj.LpBall(torch.ones(3, dtype=torch.float64) / 3, 0.1)
        problem = rj.Problem(network, ball, pre=rj.ForwardForms())
        return (
            rj.preactivation_bounds(problem).stages[-1].upper.sum()
            + rj.jacobian_bounds(problem, method=rj.ForwardTangents()).upper.sum()
        )

    upper(weight).backward()
    assert weight.grad is not None
    with torch.no_grad():
        step = 1e-6 * torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        change = float(upper(weight + step) - upper(weight - step)) / 2
    assert change == pytest.approx(float((weight.grad * step).sum()), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_bands_contain_the_function(kind: str) -> None:
    """Also where an end is infinite, and at points."""
    network = random_network(kind, 0, False)
    activation = network.stages[0].activation
    g = torch.Generator().manual_seed(0)
    low = 3 * torch.randn(1, 400, generator=g, dtype=torch.float64)
    high = low + 3 * torch.rand(1, 400, generator=g, dtype=torch.float64) ** 3
    low[:, :5], high[:, 5:10], high[:, 10:20] = -inf, inf, low[:, 10:20]
    z, arithmetic = rj.Interval(low, high), rj.Rigorous() if activation.rigorous else rj.Fast()
    found = band(z, [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)], arithmetic)
    for share in torch.linspace(0, 1, 21, dtype=torch.float64):
        at = low.clamp(min=-50) + share * (high.clamp(max=50) - low.clamp(min=-50))
        gap = activation.value(at) - found.slope * at
        assert bool(((found.gap.lower - 1e-12 <= gap) & (gap <= found.gap.upper + 1e-12)).all())


def test_symbols_of_a_region_that_is_too_wide() -> None:
    bound = rj.LpBall(torch.zeros(1, 50, dtype=torch.float64), 1.0).bind((50,), torch.float64, torch.device("cpu"))
    assert Symbols.fitting(bound, rj.Rigorous(8 * 50 * 50), 10, 50) is None
    some = Symbols.fitting(bound, rj.Rigorous(8 * 50 * 55), 10, 50)
    assert some is not None
    assert some.limit == 4
