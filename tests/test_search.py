"""The search for attained gains: where it looks, when it stops, and what it proves."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import AbstractActivation, LeakyReLU, ReLU, ReLU6, Tanh
from recurjac.deadline import Deadline
from recurjac.network import chain
from recurjac.region import BoundBox
from recurjac.search import Aim, Search, point_jacobian
from recurjac.search.directions import align, best_direction
from recurjac.search.plan import plan
from recurjac.search.proof import image
from recurjac.search.smoothed import slanted
from recurjac.testing.networks import KINDS, random_network, true_jacobians

NORMS = (1.0, 2.0, rj.inf)
PAIRS = list(product(NORMS, NORMS))
BRIEF = Search(work=1e7, kept=4)


def deep(activation: AbstractActivation, seed: int, *sizes: int) -> tuple[rj.Network, Tensor]:
    """Random dense layers and a point."""
    g = torch.Generator().manual_seed(seed)
    layers = [
        (
            torch.randn(n, m, generator=g, dtype=torch.float64) * (3.0 / m) ** 0.5,
            torch.randn(n, generator=g, dtype=torch.float64) / 10,
        )
        for m, n in pairwise(sizes)
    ]
    return rj.load(layers, activation=activation), torch.rand(sizes[0], generator=g, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("p", "q"), [(rj.inf, rj.inf), (2.0, 2.0), (1.0, rj.inf)])
def test_all_pieces_of_a_small_network_are_found(seed: int, p: float, q: float) -> None:
    """Over the whole space, every pattern of one layer of six neurons occurs; the largest gain is that of one."""
    network, x = deep(LeakyReLU(0.3), seed, 6, 6, 2)
    first, last = (next(iter(s.edges)).operator.transpose().transpose() for s in network.stages)
    patterns = torch.tensor(list(product((0.3, 1.0), repeat=6)), dtype=torch.float64)
    one, two = (o.weight for o in (first, last))  # type: ignore[attr-defined]
    truth = float(best_direction(two @ (patterns.unsqueeze(2) * one), p, q)[0].max())
    found = Search(work=2e8).attained(rj.Problem(network, rj.LpBall(x, rj.inf)), p, q)
    assert truth * 0.9 <= float(found.gain[0]) <= truth * (1 + 1e-9)


@pytest.mark.parametrize(
    "kind", ["relu", "tanh", *(pytest.param(k, marks=pytest.mark.slow) for k in ("abs", "hard_tanh", "sin", "mixed"))]
)
@pytest.mark.parametrize("ball", NORMS)
def test_witnesses_are_in_the_region_and_have_their_gains(kind: str, ball: float) -> None:
    """For each sample of a batch, whose regions differ, one of them a point."""
    network = random_network(kind, 3, True)
    x = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = torch.tensor([0.3, 0.0, 1.1], dtype=torch.float64)
    problem = rj.Problem(network.flattened_output(), rj.LpBall(x, radius, ball, clip=(0.0, 1.0)))
    for p, q in ((rj.inf, rj.inf), (2.0, 2.0), (1.0, 1.0)):
        found = BRIEF.attained(problem, p, q)
        way = found.direction.flatten(1)
        true = torch.einsum("nkr,nr->nk", true_jacobians(network, found.witness).flatten(2), way)
        assert torch.allclose(
            torch.linalg.vector_norm(true, q, dim=1) / torch.linalg.vector_norm(way, p, dim=1), found.gain, rtol=1e-9
        )
        assert bool((torch.linalg.vector_norm((found.witness - x).flatten(1), ball, dim=1) <= radius).all())
        assert bool(((found.witness >= 0) & (found.witness <= 1)).all())
        centre = best_direction(true_jacobians(network, x).flatten(2), p, q)[0]
        assert bool((found.gain >= centre * (1 - 1e-9)).all())
    assert torch.equal(BRIEF.attained(problem, p, q).gain, found.gain)


@pytest.mark.parametrize("kind", ["relu", pytest.param("tanh", marks=pytest.mark.slow)])
def test_a_batch_finds_what_its_samples_find(kind: str) -> None:
    """Up to chance: the samples share one generator."""
    network = random_network(kind, 5, False).flattened_output()
    x = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, 0.5))
    whole = Search(work=2e8, kept=16).attained(problem, rj.inf, rj.inf).gain
    each = torch.cat([Search(work=5e7, kept=16).attained(s, rj.inf, rj.inf).gain for s in problem.samples()])
    assert float((whole / each).min()) > 0.9
    assert float((whole / each).log().mean().exp()) == pytest.approx(1, abs=0.03)


FORMER = {
    ("leaky", 0, 1.0): 13.64, ("leaky", 0, 2.0): 27.39, ("leaky", 0, rj.inf): 120.9, ("leaky", 1, 1.0): 9.039,
    ("leaky", 1, 2.0): 8.409, ("leaky", 1, rj.inf): 41.63, ("relu", 0, 2.0): 26.70, ("relu", 0, rj.inf): 139.0,
    ("relu", 1, 2.0): 15.19, ("relu", 1, rj.inf): 41.15, ("tanh", 0, 2.0): 12.10, ("tanh", 0, rj.inf): 51.74,
    ("tanh", 1, rj.inf): 47.00,
}  # fmt: skip
"""What sampling and random steps attained in twice as much work."""


@pytest.mark.parametrize("part", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
def test_smoothed_gradients_find_more_than_random_steps(part: int) -> None:
    activations = {"leaky": LeakyReLU(0.3), "relu": ReLU(), "tanh": Tanh()}
    ratios = []
    for (kind, seed, p), former in [*FORMER.items()][2 * part :: 3]:
        network, x = deep(activations[kind], seed, 40, *[20] * 7, 1)
        radius = 0.1 * {1.0: 40, 2.0: 6.3, rj.inf: 1.0}[p]
        found = Search(work=2e8).attained(rj.Problem(network, rj.LpBall(x, radius, p)), p, rj.inf)
        ratios.append(float(found.gain[0]) / former)
    assert min(ratios) > 0.95
    assert float(torch.tensor(ratios).log().mean().exp()) > 1.25


@pytest.mark.parametrize("kind", ["tanh", "softplus", "gelu", "sin"])
@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_gradients_agree_with_finite_differences(kind: str, p: float, q: float) -> None:
    """Where widths are small and activations smooth; the direction and the weights are those of the middle point."""
    network = random_network(kind, 1, True).flattened_output()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 2, generator=g, dtype=torch.float64)
    weights = torch.randn(5, 3, generator=g, dtype=torch.float64)
    narrow = [torch.full((1,), 1e-5, dtype=torch.float64)] * network.depth
    here = slanted(network, x, weights, (p, q), narrow)
    move, step = torch.randn(5, 2, 2, generator=g, dtype=torch.float64), 1e-6
    pulled = torch.einsum("nk,nkr->nr", weights, point_jacobian(network, x))
    way = align(pulled, p)
    ends = [
        torch.einsum("nk,nkr,nr->n", weights, point_jacobian(network, x + sign * step * move), way) for sign in (1, -1)
    ]
    measured = (ends[0] - ends[1]) / (2 * step)
    assert torch.allclose((here.gradient * move).flatten(1).sum(1), measured, rtol=1e-4, atol=1e-6)
    gain = torch.linalg.vector_norm(torch.einsum("nkr,nr->nk", point_jacobian(network, x), way), q, dim=1)
    assert torch.allclose(here.gain, gain, rtol=1e-10)


def test_what_kinks_may_lose_is_not_counted() -> None:
    """|x| = relu(x) + relu(-x): at 0, the gain is anything from 0 to 1; beside it, it is 1."""
    weights = [(torch.tensor([[1.0], [-1.0]]), None), (torch.tensor([[1.0, 1.0]]), None)]
    network = rj.load(weights, activation="relu")
    x, one = torch.tensor([[0.0], [0.1]], dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    assert slanted(network, x, one, (rj.inf, rj.inf), [one[:1]] * 2).gain.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("residual", [False, True], ids=["chain", "residual"])
def test_images_contain_those_of_all_points(kind: str, residual: bool) -> None:
    """The chain rule of a region: J v at points of it."""
    network = random_network(kind, 0, residual)
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, 0.2))
    ways = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = image(problem.chain(), ways)
    points = problem.bound.sample(50, torch.Generator().manual_seed(2))
    for i in range(2):
        true = torch.einsum("nkr,r->nk", true_jacobians(network, points[i]).flatten(2), ways[i].flatten())
        assert bool(((found.lower[i] - 1e-12 <= true) & (true <= found.upper[i] + 1e-12)).all())


def test_ties_of_a_maximum_do_not_hide_what_is_attained() -> None:
    """At the centre and at the corners all inputs are equal, so that nothing is proved there."""
    torch.manual_seed(0)
    last = nn.Linear(4, 2).double()
    module = nn.Sequential(nn.MaxPool2d(2, 1, dilation=2), nn.Flatten(), last)
    x = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    network = rj.load(module, x).detached()
    found = BRIEF.attained(rj.Problem(network, rj.LpBall(x, 0.5)), rj.inf, rj.inf)
    assert float(found.gain[0]) == pytest.approx(float(last.weight.detach().abs().sum(1).max()), rel=1e-9)


def test_known_points_are_looked_at_first_and_upper_bounds_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = deep(ReLU(), 0, 8, 20, 20, 1)
    problem = rj.Problem(network, rj.LpBall(torch.stack([x, x + 0.1]), 0.5))
    found = BRIEF.attained(problem, rj.inf, rj.inf)
    centre = Search(work=0).attained(problem, rj.inf, rj.inf).gain
    assert bool((found.gain > centre * 1.01).all())
    points = found.witness.unsqueeze(1)
    again = Search(work=0).attained(problem, rj.inf, rj.inf, Aim(points=points))
    assert torch.allclose(again.gain, found.gain, rtol=1e-12)
    outside = Search(work=0).attained(problem, rj.inf, rj.inf, Aim(points=points + 7.0))
    assert bool(problem.holds(outside.witness.unsqueeze(1)).all())
    assert float((outside.witness - problem.bound.x).abs().max()) <= 0.5

    def refuse(self: BoundBox, count: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
        raise AssertionError("samples although nothing is left to find")

    monkeypatch.setattr(BoundBox, "sample", refuse)
    assert torch.equal(BRIEF.attained(problem, rj.inf, rj.inf, Aim(points, found.gain)).gain, again.gain)
    late = BRIEF.attained(problem, rj.inf, rj.inf, Aim(deadline=Deadline(0.0, 0.0)))
    assert torch.allclose(late.gain, centre, rtol=1e-12)
    with pytest.raises(AssertionError):
        BRIEF.attained(problem, rj.inf, rj.inf, Aim(upper=found.gain * 2))


def test_nothing_is_searched_where_slopes_are_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample far from all kinks, beside one that has some; an affine map."""
    seen: list[int] = []
    sample = BoundBox.sample

    def counted(self: BoundBox, count: int, generator: torch.Generator) -> Tensor:
        seen.append(self.batch)
        return sample(self, count, generator)

    monkeypatch.setattr(BoundBox, "sample", counted)
    network = rj.load([(torch.eye(2), torch.zeros(2)), (torch.ones(1, 2), None)], activation="relu")
    x = torch.tensor([[5.0, 5.0], [0.5, -0.5]], dtype=torch.float64)
    found = BRIEF.attained(rj.Problem(network, rj.LpBall(x, 1.0)), rj.inf, rj.inf)
    assert found.gain.tolist() == pytest.approx([2.0, 2.0], rel=1e-12)
    assert set(seen) == {1}
    seen.clear()
    affine = rj.load([(torch.eye(2), torch.zeros(2))], activation="relu")
    assert float(rj.lipschitz(affine, rj.LpBall(x, 1.0)).lower[0]) == pytest.approx(1.0, rel=1e-12)
    assert not seen


def test_a_bound_that_comes_first_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that make no use of what is attained bound before the search, which then ends where both meet."""
    given: list[Aim] = []
    attained = Search.attained

    def recorded(self: Search, problem: rj.Problem, p: float, q: float, aim: Aim) -> object:
        given.append(aim)
        return attained(self, problem, p, q, aim)

    monkeypatch.setattr(Search, "attained", recorded)
    network, x = deep(ReLU(), 0, 4, 6, 1)
    lip = rj.lipschitz(network, rj.LpBall(x, 0.1), method=rj.Chords(), search=BRIEF)
    assert given[0].upper is not None
    assert torch.equal(given[0].upper, lip.upper)


@pytest.mark.parametrize("batch", [1, 3, 100, 5000])
@pytest.mark.parametrize("work", [1.0, 1e6, 1e9, 1e12])
def test_plans_fit_the_work(batch: int, work: float) -> None:
    network, _ = deep(ReLU(), 0, 8, 64, 64, 2)
    made = plan(network, batch, work, 32)
    steps = made.rounds * made.steps * made.climbers * batch * network.multiply_adds * 5
    least = 8 * 4 * batch * network.multiply_adds * 5
    assert min(made.climbers, made.samples) >= 2
    assert made.rounds >= 1
    assert steps <= max(work, least) * (1 + 1e-9)


@pytest.mark.slow
def test_large_batches_are_searched_in_groups() -> None:
    network, x = deep(Tanh(), 0, 8, 64, 2)
    centres = x + torch.randn(600, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(centres, 0.1))
    found, centre = (s.attained(problem, rj.inf, rj.inf).gain for s in (Search(work=1e9), Search(work=0)))
    assert bool((found >= centre * (1 - 1e-9)).all())
    assert float((found / centre).median()) > 1.01


@pytest.mark.parametrize("scale", [1e-250, 1e200, 1e300])
@pytest.mark.parametrize("norms", [(2, 2), (rj.inf, 2), (2, 1), (1, 2)])
def test_directions_of_huge_and_tiny_jacobians_are_finite(scale: float, norms: tuple[float, float]) -> None:
    """The squares of their entries are not numbers of the dtype; the norm is bounded all the same."""
    g = torch.Generator().manual_seed(0)
    first, last = (
        torch.randn(4, 2, generator=g, dtype=torch.float64),
        torch.randn(2, 4, generator=g, dtype=torch.float64),
    )
    network = rj.load([(first, None), (last * scale, None)], activation="relu", dtype=torch.float64)
    found = rj.lipschitz(network, rj.LpBall(torch.ones(1, 2), 1.0, 2), p=norms[0], q=norms[1], method=rj.Chords())
    assert 0 <= found.lower < found.upper < rj.inf
    assert found.direction.isfinite().all()


def test_points_where_a_clamp_overflows_are_no_error() -> None:
    """It is infinity less infinity there: no slope is known, and nothing is attained."""
    weights = [[[1e30], [1e30]], [[1.0, -1.0]], [[1.0]]]
    layers = [(torch.tensor(w, dtype=torch.float32), None) for w in weights]
    network = chain(layers, [ReLU(), ReLU6()])
    found = rj.lipschitz(network, rj.Box([[1e15]], [[2e15]]), method=rj.Chords())
    assert bool((found.lower == 0).all() & (found.upper >= 0).all())
