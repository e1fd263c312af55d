"""Ranges and lengths of gradients by a linear network with noises, against sampled values and Jacobians."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from math import inf, prod

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from benchmarks.architectures import ARCHITECTURES
from recurjac.auto.order import OPENING
from recurjac.auto.steps import LinearNetworkStep
from recurjac.auto.work import Question, Work
from recurjac.deadline import NEVER, Deadline
from recurjac.jacobian import Gradients
from recurjac.jacobian.linear_network import lengths_of
from recurjac.network import Network
from recurjac.propagation.affine_forms import gap_beside
from recurjac.propagation.planning import Thresholds
from recurjac.search import proof
from recurjac.search.jacobians import gains_at, point_jacobian
from tests.helpers import points_of
from tests.marks import in_turn, often
from tests.torch_cases import Fn

NAMES = ("MobileNetV3-like", "EfficientNet-like", "U-Net")
RADII = (1e-5, 1e-3, 0.03, 0.5)


@cache
def small(name: str, outputs: bool = False) -> tuple[Network, Tensor]:
    """A small architecture, and an input; one output of it, or all."""
    module, x = ARCHITECTURES[name].made(False)
    network = rj.load(module, x)
    return (network if outputs else network.output(prod(network.output_shape) // 2)), x


def check(problem: rj.Problem, deadline: Deadline) -> float:
    """Ranges hold all sampled values, and rows all sampled gradients; returns the largest bound."""
    found = lengths_of(Gradients(problem).state, deadline)
    assert found is not None
    points = points_of(problem)
    wide = problem.network.to(dtype=torch.float64)
    for z, values in zip(found.ranges, wide.preactivations(points.double()), strict=True):
        slack = 1e-10 * values.abs().amax()  # of this evaluation in float64
        assert bool((z.lower <= values + slack).all())
        assert bool((values - slack <= z.upper).all())
    true = point_jacobian(wide, points.double()).abs().sum(2).amax(0)
    assert bool((true * (1 - 1e-9) <= found.rows).all())
    return float(found.rows.max() / true.max())


@pytest.mark.parametrize(("name", "seconds", "radius"), in_turn(NAMES, (inf, 0.0), RADII))
def test_ranges_and_lengths_hold(name: str, seconds: float, radius: float) -> None:
    """Also where there is no time for noises."""
    network, x = small(name)
    check(rj.Problem(network, rj.LpBall(x, radius), pre=rj.IBP()), Deadline.after(seconds))


@pytest.mark.parametrize("name", NAMES)
def test_noises_are_worth_their_time(name: str) -> None:
    """At a small radius the bound is near the truth, and noises are the reason."""
    network, x = small(name)
    problem = rj.Problem(network, rj.LpBall(x, 1e-4), pre=rj.IBP())
    with_noises, without = check(problem, NEVER), check(problem, Deadline.after(0.0))
    assert with_noises < 1.2
    assert with_noises <= without


@pytest.mark.parametrize("name", often(NAMES, ("MobileNetV3-like", "U-Net")))
def test_all_outputs_of_a_batch_in_other_norms(name: str) -> None:
    network, x = small(name, outputs=True)
    network = network.flattened_output() if name == "U-Net" else network
    region = rj.LpBall(torch.cat([x, 0.9 * x]), torch.tensor([1e-3, 2e-3], dtype=x.dtype), p=2)
    method = rj.LinearNetworkNorm()
    for q in (1, 2, inf):
        found = rj.lipschitz(network, region, q=q, method=method, pre=rj.IBP(), search=rj.Search(work=0))
        assert bool((found.lower <= found.upper).all())
        alone = rj.lipschitz(network, rj.LpBall(x, 1e-3, p=2), q=q, method=method, pre=rj.IBP(),
                             search=rj.Search(work=0))  # fmt: skip
        assert float(found.upper[0]) == pytest.approx(float(alone.upper), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.1])
def test_float32_covers_its_rounding(seed: int, radius: float) -> None:
    """Gradients of the same weights in float64 are within the bounds in float32."""
    torch.manual_seed(seed)
    activations = (nn.ReLU(), nn.SiLU(), nn.Tanh(), nn.Hardswish(), nn.GELU(), nn.LeakyReLU())
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        activations[seed],
        nn.Conv2d(4, 4, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).requires_grad_(False)
    x = torch.randn(1, 2, 6, 6)
    problem = rj.Problem(rj.load(module, x), rj.LpBall(x, radius), pre=rj.IBP())
    ratio = check(problem, NEVER)
    assert radius > 0 or ratio < 1.001


def layers(*weights: Tensor, bias: Tensor) -> Network:
    """Two dense layers with a ReLU in between; the first one has a bias."""
    first, second = weights
    return rj.load([(first, bias), (second, torch.zeros(len(second), dtype=second.dtype))], activation="relu")


@pytest.mark.parametrize("weight", [1.0, -1.0])
@pytest.mark.parametrize("shift", [-1.5, -1.0, 1.0, 1.5])
def test_a_kink_beside_the_middle_counts_with_its_steepest_slope(shift: float, weight: float) -> None:
    """z lies in [shift - 2, shift + 2], so that the secant is not the middle of both slopes; the constant is exact."""
    one = torch.ones(1, 1, dtype=torch.float64)
    network = layers(one, weight * one, bias=torch.tensor([shift], dtype=torch.float64))
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 1, dtype=torch.float64), 2.0), pre=rj.IBP())
    found = lengths_of(Gradients(problem).state, NEVER)
    assert found is not None
    assert 1.0 <= float(found.rows) <= 1.0 + 1e-9


@pytest.mark.parametrize(("dtype", "large"), [(torch.float32, 2.0**30), (torch.float64, 2.0**60)])
def test_pushes_that_cancel_count_with_their_sizes(dtype: torch.dtype, large: float) -> None:
    """large + 1 - large is 1, but 0 as computed, in most orders of the three."""
    cancelling, same = nn.Linear(3, 6), nn.Linear(6, 6, bias=False)
    cancelling.weight.data = torch.tensor(list(permutations((large, 1.0, -large))), dtype=dtype)
    cancelling.bias.data, same.weight.data = torch.full((6,), 4 * large, dtype=dtype), torch.eye(6, dtype=dtype)
    module = Fn(lambda p, x: p[1](p[0](x.expand(-1, 3)).relu()), cancelling, same).to(dtype).requires_grad_(False)
    network = rj.load(module, torch.zeros(1, 1, dtype=dtype), dtype=dtype)
    for radius in (0.0, 0.5):
        problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 1, dtype=dtype), radius), pre=rj.IBP())
        found = lengths_of(Gradients(problem).state, NEVER)
        assert found is not None
        assert bool((found.rows >= 1.0).all())


@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()])
def test_arithmetics_agree(arithmetic: rj.Fast | rj.Rigorous) -> None:
    network, x = small("MobileNetV3-like")
    problem = rj.Problem(network, rj.LpBall(x, 1e-3), pre=rj.IBP(), arithmetic=arithmetic)
    assert check(problem, NEVER) < 2.5


def test_tighter_ranges_give_no_looser_bounds() -> None:
    network, x = small("U-Net")
    region = rj.LpBall(x, 3e-3)
    wide, tight = (rj.Problem(network, region, pre=pre) for pre in (rj.IBP(), rj.Crown()))
    assert check(tight, NEVER) <= check(wide, NEVER) * (1 + 1e-9)


def test_where_nothing_is_known() -> None:
    """Unbounded regions, constraints, and other norms of the input have no bound; none is claimed."""
    network, x = small("EfficientNet-like")
    assert lengths_of(Gradients(rj.Problem(network, rj.LpBall(x, inf), pre=rj.IBP())).state, NEVER) is None
    assert not rj.LinearNetworkNorm().supports(2, inf)


def test_of_combinations_of_outputs_nothing_is_claimed() -> None:
    """Those of a sample may be as many as there are outputs, so that no shape tells them apart."""
    network, x = small("EfficientNet-like", True)
    problem = rj.Problem(network, rj.LpBall(x, 1e-4))
    hundredfold = 100 * torch.eye(prod(network.output_shape), dtype=x.dtype).reshape(1, -1, *network.output_shape)
    rows = rj.LinearNetworkNorm().rows(Gradients(problem, combinations=hundredfold), inf)
    assert bool((rows >= 100 * point_jacobian(network, x).abs().sum(2).amax(0) * (1 - 1e-9)).all())


@pytest.mark.parametrize("seed", range(3))
def test_gaps_hold_beside_any_slope(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    arithmetic = rj.Rigorous()
    low = torch.randn(1, 50, generator=generator, dtype=torch.float64)
    z = rj.arithmetic.Interval(low, low + torch.rand(1, 50, generator=generator, dtype=torch.float64))
    slope = torch.randn(1, 50, generator=generator, dtype=torch.float64)
    for module in (nn.ReLU(), nn.SiLU(), nn.Hardswish(), nn.Sigmoid()):
        activation = (
            rj.load(nn.Sequential(nn.Linear(1, 1), module, nn.Linear(1, 1)).double(), torch.zeros(1, 1).double())
            .stages[0]
            .activation
        )
        gap = gap_beside(
            slope, z, [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)], arithmetic
        )
        for share in torch.linspace(0, 1, 21, dtype=torch.float64):
            at = z.lower + share * (z.upper - z.lower)
            off = module(at) - slope * at
            assert bool(((gap.lower <= off + 1e-14) & (off - 1e-14 <= gap.upper)).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_default_takes_it_for_large_convolutional_networks(name: str) -> None:
    """The step of `Auto` gives a bound, and ranges from which other methods give more than before."""
    network, x = small(name)
    planner = rj.Planner(Thresholds(watched_work=1))
    problem = rj.Problem(network, rj.LpBall(x, 1e-3), planner=planner, pre=rj.IBP())
    question = Question(lambda method, known: method.norm(known, inf, inf), (inf, inf))
    work, step = Work(question, Gradients(problem), Deadline.after(1e6), problem), LinearNetworkStep()
    before = rj.JacobianNorm(rj.FastLip()).norm(work.gradients, inf, inf)
    assert step in OPENING
    assert step.suits(work)
    assert step.least(work) < 60
    found = step.run(work, 0, 1e6)
    after = rj.JacobianNorm(rj.FastLip()).norm(work.gradients, inf, inf)
    assert found is not None
    true = float(gains_at(network, points_of(problem).unsqueeze(0), (inf, inf))[0].max()) * (1 - 1e-9)
    assert true <= found <= 3 * true
    assert true <= float(after) < float(before)


def test_points_with_many_unknown_slopes_get_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is attained stays proved, and RecurJac is not asked."""
    network, x = small("MobileNetV3-like")
    problem = rj.Problem(network, rj.LpBall(x, 0.0), pre=rj.IBP())
    points, claimed = x.unsqueeze(1), torch.full((1, 1), 1e9, dtype=x.dtype)
    asked: list[Tensor] = []
    original = proof._again

    def again(problem: rj.Problem, points: Tensor, inside: Tensor, norms: tuple[float, float]) -> rj.search.Attained:
        asked.append(points)
        return original(problem, points, inside, norms)

    monkeypatch.setattr(proof, "_again", again)
    monkeypatch.setattr(proof, "_SECOND_LOOK", -1)
    found = proof.proved(problem, points, claimed, (inf, inf), NEVER)
    assert not asked
    true = float(gains_at(network, points, (inf, inf))[0])
    assert 0.999 * true <= float(found.gain) <= true * (1 + 1e-9)
    monkeypatch.setattr(proof, "_SECOND_LOOK", 10**18)
    proof.proved(problem, points, claimed, (inf, inf), NEVER)
    assert asked
