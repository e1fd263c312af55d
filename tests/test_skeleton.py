"""Sweeps over neurons that are not linear give what sweeps over the whole network give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import Tensor

import recurjac as rj
from benchmarks.measure import counted
from recurjac.activations import Identity as NoActivation
from recurjac.activations import LeakyReLU, ReLU
from recurjac.arithmetic import AbstractArithmetic
from recurjac.jacobian import AbstractJacobianMethod, Gradients
from recurjac.network import Edge, Network, Stage
from recurjac.norms import JacobianNorm
from recurjac.operators import Dense, Identity
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.preactivation import AbstractPreactivation
from recurjac.propagation import chain_rule
from recurjac.propagation.planning import AbstractPlanner, PlainOnly, Planner, PulledOnly, SkeletonOnly, Thresholds
from recurjac.testing.networks import KINDS, random_network, true_jacobians
from tests.conv_networks import CONVOLUTIONAL, PIECEWISE, convolutional
from tests.marks import every_dtype, in_turn

METHODS: dict[str, AbstractJacobianMethod] = {
    "chords": rj.Chords(), "in-time": rj.InTime(), "recurjac": rj.RecurJac(), "f0": rj.Reversed(rj.RecurJac()),
    "f1": rj.ReversedAfterFirst(rj.RecurJac()), "fastlip": rj.FastLip(),
}  # fmt: skip


def _convolutional(name: str) -> Network:
    return convolutional(name)[1]


RULES: dict[str, AbstractPreactivation] = {
    "crown": rj.Crown(), "fastlin": rj.FastLin(), "ibp": rj.IBP(), "alone": rj.Alone(rj.Crown()),
    "both": rj.PreIntersection(rj.Crown(), rj.FastLin()),
}  # fmt: skip
NETWORKS: dict[str, Callable[[], Network]] = {
    **{f"{kind}-chain": partial(random_network, kind, 0, False, width=9, depth=4) for kind in KINDS},
    **{f"{kind}-residual": partial(random_network, kind, 1, True, width=9, depth=4) for kind in KINDS},
    **{name: partial(_convolutional, name) for name in CONVOLUTIONAL},
}
OFTEN = ("relu-chain", "prelu-residual", "gelu-chain", "hard_tanh-residual", "residual", "smooth")
"""Those on which the tests run by default; on the others the slow tests do."""
RADII = (0.0, 0.01, 0.1, 0.5, math.inf)
"""From no unstable neuron to all of them."""


WAYS: dict[str, AbstractPlanner] = {"whole": PlainOnly(), "pushed": SkeletonOnly(), "pulled": PulledOnly()}
"""Along the whole network; on the skeleton whose columns are pushed; on one whose rows are pulled for the Jacobian."""


def all_ways(job: Callable[[AbstractPlanner], list[Tensor]]) -> list[list[Tensor]]:
    """The results of each way."""
    return [[t.detach() for t in job(planner)] for planner in WAYS.values()]


def agree(plain: list[Tensor], reduced: list[Tensor], tolerance: float) -> None:
    for a, b in zip(plain, reduced, strict=True):
        infinite = a.isinf() | b.isinf()
        assert torch.equal(torch.where(infinite, a, 0.0), torch.where(infinite, b, 0.0))
        gap = torch.where(infinite, 0.0, a - torch.where(infinite, a, b)).abs().max()
        assert float(gap) <= tolerance * float(torch.where(infinite, 0.0, a).abs().max())


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_the_results_are_the_same(name: str) -> None:
    network = NETWORKS[name]()
    x = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for i, radius in enumerate(RADII):
        region = rj.LpBall(x, radius, (math.inf, 2)[i % 2])
        rule = list(RULES.values())[i % len(RULES)]

        def job(
            planner: AbstractPlanner, region: rj.LpBall = region, rule: AbstractPreactivation = rule
        ) -> list[Tensor]:
            problem = rj.Problem(network, region, pre=rule, arithmetic=rj.Fast(), planner=planner)
            pre = rj.preactivation_bounds(problem).stages
            found = [end for z in pre for end in (z.lower, z.upper)]
            for method in METHODS.values():
                bounds = rj.jacobian_bounds(problem, method=method)
                found += [bounds.lower, bounds.upper]
            flat = problem.of(network.flattened_output())
            found.append(JacobianNorm(rj.Chords()).norm(Gradients(flat), math.inf, math.inf))
            return found

        plain, *others = all_ways(job)
        for other in others:
            agree(plain, other, 1e-12)


@pytest.mark.parametrize("way", ["pushed", "pulled"])
@pytest.mark.parametrize("name", ["relu-chain", "hard_tanh-residual", "max-pool", "residual", "concatenated"])
def test_rigorous_results_hold_those_of_plain_arithmetic(name: str, way: str) -> None:
    """And are hardly wider."""
    network = NETWORKS[name]()
    x = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for radius in RADII[:-1]:
        region = rj.LpBall(x, radius)
        fast, rigorous = (
            rj.jacobian_bounds(rj.Problem(network, region, arithmetic=a, planner=WAYS[way]), method=rj.Chords())
            for a in (rj.Fast(), rj.Rigorous())
        )
        assert rigorous.rigorous
        size = float(fast.upper.abs().max().detach())
        for outer, inner in ((rigorous.upper, fast.upper), (-rigorous.lower, -fast.lower)):
            gap = (outer - inner).detach()
            assert float(gap.min()) >= -1e-13 * size
            assert float(gap.max()) <= 1e-9 * size + 1e-300


@pytest.mark.parametrize(("kind", "residual"), in_turn(["relu", "hard_tanh", "leaky"], [False, True]))
def test_leaving_out_dead_neurons_changes_nothing(kind: str, residual: bool) -> None:
    """Plain sweeps without neurons that are always 0, for single samples and batches."""
    network = random_network(kind, 3, residual, width=48, depth=4)
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for radius, batch in ((0.01, 1), (0.1, 3), (math.inf, 1)):
        results = []
        for many in (10**9, 2):
            planner = PlainOnly(Thresholds(live_least=many))
            region, found = rj.LpBall(x[:batch], radius), []
            for arithmetic in (rj.Fast(), rj.Rigorous()):
                rule = rj.Alone(rj.Crown())
                problem = rj.Problem(network, region, pre=rule, arithmetic=arithmetic, planner=planner)
                pre = rj.preactivation_bounds(problem).stages
                problem = rj.Problem(network, region, arithmetic=arithmetic, planner=planner)
                found += [end for z in pre for end in (z.lower, z.upper)]
                for name in ("chords", "recurjac") if arithmetic.rigorous else METHODS:
                    bounds = rj.jacobian_bounds(problem, method=METHODS[name])
                    found += [bounds.lower, bounds.upper]
            results.append(found)
        agree(results[0], results[1], 1e-9)
        if kind == "relu" and radius == 0.01:
            shapes = [c.shapes for c in _chains(network, rj.LpBall(x[:1], radius), planner)]
            assert any(a != b for a, b in zip(*shapes, strict=True))


def test_a_kink_at_the_end_of_an_interval_is_no_linear_neuron() -> None:
    """Over z in [0, 1] ReLU is z, but at 0 Clarke's derivative is [0, 1]: such a neuron is kept."""
    one, two = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    network = rj.load([(one, None), (two, None), (one, None)], activation="relu")
    region = rj.Box(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))

    def job(planner: AbstractPlanner) -> list[Tensor]:
        problem = rj.Problem(network, region, arithmetic=rj.Fast(), planner=planner)
        found = [rj.jacobian_bounds(problem, method=method) for method in METHODS.values()]
        return [end for b in found for end in (b.lower, b.upper)]

    for ends in all_ways(job):
        assert all(float(low) == 0 and float(high) == 2 for low, high in zip(ends[::2], ends[1::2], strict=True))


@pytest.mark.parametrize("outputs", [3, 1])
@pytest.mark.parametrize("known", [(1,), (1, 2), (2,), (), (1, 2, 3)], ids=str)
def test_forms_that_travel_together_are_those_that_travel_apart(known: tuple[int, ...], outputs: int) -> None:
    """On random chain rules in which every node reads all earlier ones, some with known slopes; one row goes, too."""
    g = torch.Generator().manual_seed(0)
    sizes, fast = (5, 3, 4, 2, outputs), rj.Fast()

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    edges = [
        tuple(Edge(s, IntervalMatrix(fast.exact(random(n, sizes[s])), (sizes[s],), (n,))) for s in range(k))
        for k, n in enumerate(sizes)
    ]
    slopes: list[rj.Interval | None] = [None]
    for k, n in enumerate(sizes[1:-1], 1):
        low = random(1, n)
        slopes.append(rj.Interval(low, low if k in known else low + random(1, n).abs()))
    apart = chain_rule.ChainRule(
        tuple((n,) for n in sizes), tuple(edges), (*slopes, None), None, 1, torch.float64, torch.device("cpu"), fast,
        PlainOnly(),
    )  # fmt: skip
    together = replace(apart, skeleton=apart)
    for method in (rj.Chords(), rj.RecurJac()):
        a, b = (method.prepare(Gradients(given=c)).push_all() for c in (apart, together))
        agree([a.lower, a.upper], [b.lower, b.upper], 1e-12)


@pytest.mark.parametrize("method", [rj.Chords(), rj.RecurJac()], ids=lambda m: m.title)
def test_live_covectors_of_forms_that_travel_together_have_a_gradient(method: AbstractJacobianMethod) -> None:
    """All slopes of a node are 1, so that the forms that meet the rows there are those that arrived (a bug once)."""
    g = torch.Generator().manual_seed(1)
    sizes, fast = (5, 3, 4, 2), rj.Fast()

    def reads(n: int, k: int) -> list[Tensor]:
        return [torch.randn(n, sizes[s], generator=g, dtype=torch.float64) for s in range(k)]

    def edges(into: list[Tensor]) -> tuple[Edge, ...]:
        return tuple(Edge(s, IntervalMatrix(fast.exact(m), (sizes[s],), (len(m),))) for s, m in enumerate(into))

    inner = [edges(reads(n, k)) for k, n in enumerate(sizes)]
    last = [m.requires_grad_() for m in reads(3, len(sizes))]
    low = [torch.rand(1, n, generator=g, dtype=torch.float64) for n in sizes]
    slopes = [None, *(rj.Interval(m, m + 1) for m in low[1:]), None]
    slopes[2] = rj.Interval.point(torch.ones_like(low[2]))
    shapes = (*((n,) for n in sizes), (3,))
    apart = chain_rule.ChainRule(
        shapes, (*inner, edges(last)), tuple(slopes), None, 1, torch.float64, torch.device("cpu"), fast, PlainOnly()
    )  # fmt: skip
    found = []
    for chain in (apart, replace(apart, skeleton=apart)):
        upper = method.prepare(Gradients(given=chain)).push_all().upper
        found.append(torch.autograd.grad(upper.sum(), last))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def _chains(network: Network, region: rj.LpBall, planner: AbstractPlanner) -> list[chain_rule.ChainRule]:
    chain = rj.Problem(network, region, arithmetic=rj.Fast(), planner=planner).chain()
    return [chain, chain.without_dead()]


@pytest.mark.parametrize("planner", [SkeletonOnly(), PlainOnly()], ids=["skeleton", "plain"])
@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()], ids=lambda a: a.title)
def test_forms_that_are_sent_along_identities_are_not_changed(
    arithmetic: AbstractArithmetic, planner: AbstractPlanner
) -> None:
    """A sum of two stages as they are: what one of them does to its forms must not reach the other."""
    g = torch.Generator().manual_seed(0)
    dense = [Dense(torch.randn(4, 4, generator=g, dtype=torch.float64), (4,), (4,)) for _ in range(4)]
    stages = (
        Stage((Edge(0, dense[0]),), (), ReLU(), (4,)),
        Stage((Edge(1, dense[1]),), (), ReLU(), (4,)),
        Stage((Edge(1, Identity((4,))), Edge(2, Identity((4,)))), (), ReLU(), (4,)),
        Stage((Edge(3, dense[2]),), (), ReLU(), (4,)),
        Stage((Edge(4, dense[3]),), (), NoActivation(), (4,)),
    )
    network = Network((4,), stages)
    x = torch.randn(1, 4, generator=g, dtype=torch.float64)
    points = x + 2 * torch.rand(400, 4, generator=g, dtype=torch.float64) - 1
    problem = rj.Problem(network, rj.LpBall(x, 1.0), pre=rj.Alone(rj.Crown()), arithmetic=arithmetic, planner=planner)
    state = problem.preactivations()
    h1 = (points @ dense[0].weight.mT).relu()
    h2 = (h1 @ dense[1].weight.mT).relu()
    for k, true in ((3, h1 + h2), (4, (h1 + h2) @ dense[2].weight.mT)):
        z = state.pre(k)
        assert bool(((z.lower - 1e-12 <= true) & (true <= z.upper + 1e-12)).all())
    for method in (rj.Chords(), rj.RecurJac(), rj.Reversed(rj.Chords())):
        bounds = rj.jacobian_bounds(problem, method=method)
        slopes = true_jacobians(network, points)
        assert bool(((bounds.lower - 1e-12 <= slopes) & (slopes <= bounds.upper + 1e-12)).all())


def test_bounds_are_differentiable_through_the_skeleton() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(), torch.nn.Linear(9, 9), torch.nn.ReLU(),
                                 torch.nn.Linear(9, 2)).double()  # fmt: skip
    x, weights = torch.randn(1, 4, dtype=torch.float64), [p for p in module.parameters() if p.dim() == 2]
    gradients = []
    for planner in WAYS.values():
        problem = rj.Problem(rj.load(module, x), rj.LpBall(x, 0.2), planner=planner)
        bounds = rj.jacobian_bounds(problem, method=rj.Chords())
        gradients.append(torch.autograd.grad(bounds.upper.sum(), weights))
    for a, b, c in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-11)


def test_the_choice_is_by_counting() -> None:
    """Few unstable neurons: the skeleton; nearly all: plain sweeps."""
    network = random_network("relu", 0, False, width=200, depth=8)
    wide = network.combine(torch.eye(3, dtype=torch.float64)[:1])
    assert Planner().pushes_skeleton(wide, [2, 2, 2])
    assert not Planner().pushes_skeleton(wide, [190, 190, 190])


def test_where_the_skeleton_cannot_pay_nothing_of_it_is_made() -> None:
    """Of a convolutional network, one sample needs no more work than two."""
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    network = rj.load(torch.nn.Sequential(*layers).double(), x)
    one, two = (counted(partial(rj.jacobian_bounds, network, rj.LpBall(x[:n], 0.01))).multiply_adds for n in (1, 2))
    assert one <= two


def _image_network() -> Network:
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, 2), torch.nn.ReLU(),
              torch.nn.Flatten(), torch.nn.Linear(100, 10))  # fmt: skip
    return rj.load(torch.nn.Sequential(*layers), torch.zeros(1, 3, 12, 12))


@pytest.mark.parametrize("radius", [1e-5, 0.003, math.inf])
def test_rows_are_pulled_where_that_is_cheaper(radius: float) -> None:
    """With few unstable neurons a tenth of the work and less; with all of them no more than along the whole network."""
    region = rj.LpBall(torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1)), radius)
    network = _image_network()
    chosen, whole = (
        counted(partial(rj.jacobian_bounds, rj.Problem(network, region, planner=p), method=rj.Chords())).multiply_adds
        for p in (Planner(), PlainOnly())
    )
    assert chosen < 0.1 * whole if radius < 1e-4 else chosen <= whole


@every_dtype
@pytest.mark.parametrize("name", ["image", *PIECEWISE])
def test_pulled_rows_hold_true_jacobians(name: str, dtype: torch.dtype) -> None:
    """Of every kind of network, from a point to all inputs; all rows at once and a few at a time."""
    network = _image_network().to(dtype) if name == "image" else convolutional(name, dtype=dtype)[1]
    x = torch.rand(1, *network.input_shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    widths = []
    for i, radius in enumerate((0.0, 1e-5, 0.003, 0.3, math.inf)):
        region = rj.LpBall(x, radius, (math.inf, 2)[i % 2])
        arithmetic = rj.Rigorous((2**15, None)[i % 2])
        problem = rj.Problem(network, region, arithmetic=arithmetic, planner=WAYS["pulled"])
        bounds = rj.jacobian_bounds(problem, method=rj.Chords())
        bound = region.bind(network.input_shape, network.dtype, network.device)
        points = bound.sample(20, torch.Generator().manual_seed(0))[0].double()
        truth = true_jacobians(network.to(torch.float64), points).reshape(20, *bounds.lower.shape[1:])
        assert bounds.rigorous
        assert bounds.lower.dtype == dtype
        assert bool(((bounds.lower <= truth) & (truth <= bounds.upper)).all())
        widths.append(float((bounds.upper - bounds.lower).detach().max()))
    assert widths[0] < 500 * torch.finfo(dtype).eps
    assert widths == sorted(widths)
    assert math.isfinite(widths[-1])


def test_a_batch_of_a_convolutional_network_is_its_samples() -> None:
    """Each with a skeleton of its own, in the order of the batch."""
    planner = Planner(Thresholds(batch_work=0))
    network = _image_network()
    x = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1)).double()
    found: list[rj.JacobianBounds] = []

    def job(x: Tensor) -> None:
        found.append(rj.jacobian_bounds(rj.Problem(network, rj.LpBall(x, 0.001), planner=planner)))

    together = counted(partial(job, x)).multiply_adds
    assert together == sum(counted(partial(job, x[i : i + 1])).multiply_adds for i in range(3))
    for ends in ([b.lower for b in found], [b.upper for b in found]):
        assert torch.equal(ends[0], torch.cat(ends[1:]))


@pytest.mark.parametrize("way", ["pushed", "pulled"])
def test_every_product_by_a_slope_is_covered(way: str) -> None:
    """Nothing else rounds here, and exact fractions tell the truth."""
    same, slope = Identity((1,)), 0.3
    for n in range(2, 40):
        inner = [Stage((Edge(k, same),), (), LeakyReLU(slope), (1,)) for k in range(n)]
        network = Network((1,), (*inner, Stage((Edge(n, same),), (), NoActivation(), (1,))))
        region = rj.LpBall(torch.full((1, 1), -1.0, dtype=torch.float64), 0.0)
        problem = rj.Problem(network, region, arithmetic=rj.Rigorous(), planner=WAYS[way])
        bounds = rj.jacobian_bounds(problem, method=rj.Chords())
        truth = Fraction(slope) ** n
        assert Fraction(float(bounds.lower)) <= truth <= Fraction(float(bounds.upper))
        assert float(bounds.upper - bounds.lower) < 1e-13 * float(truth)


@pytest.mark.parametrize("method", list(METHODS.values()), ids=list(METHODS))
@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()], ids=["fast", "rigorous"])
def test_an_output_that_is_one_number_goes_every_way(
    arithmetic: rj.Fast | rj.Rigorous, method: AbstractJacobianMethod
) -> None:
    """Reversed, it is an input without dimensions."""
    torch.manual_seed(0)
    first, second = (torch.randn(9, n, dtype=torch.float64) for n in (4, 9))
    mean = Dense(torch.full((1, 9), 1 / 9, dtype=torch.float64), (9,), ())
    stages = (
        Stage((Edge(0, Dense.matrix(first)),), (), LeakyReLU(0.3), (9,)),
        Stage((Edge(1, Dense.matrix(second)),), (), LeakyReLU(0.3), (9,)),
        Stage((Edge(2, mean),), (), NoActivation(), ()),
    )
    region = rj.LpBall(torch.randn(1, 4, dtype=torch.float64), 0.3)

    def job(planner: AbstractPlanner) -> list[Tensor]:
        problem = rj.Problem(Network((4,), stages), region, arithmetic=arithmetic, planner=planner)
        bounds = rj.jacobian_bounds(problem, method=method)
        assert bounds.lower.shape == (1, 4)
        return [bounds.lower, bounds.upper]

    plain, *others = all_ways(job)
    for other in others:
        agree(plain, other, 1e-12)
