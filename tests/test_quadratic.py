"""The P-chain: what it states of every row holds for all slopes, and is what is known where that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import testing
from recurjac.activations import AbstractActivation, Identity, LeakyReLU, ReLU
from recurjac.arithmetic import Ball, Fast, least_eigenvalue
from recurjac.jacobian import Gradients
from recurjac.network import Constant, Edge, Network, Stage
from recurjac.operators import Dense, Reshape
from recurjac.preactivation import SecantRanges
from recurjac.quadratic import Multipliers, bends, layered, optimised, reach, system_of
from recurjac.quadratic.system import absorbed
from tests.helpers import examples
from tests.marks import every_seed, often, some_kinds

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
QUIET = rj.Search(work=0)


def whole(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Small whole numbers, of which sums and products are exact."""
    return torch.randint(-3, 4, shape, generator=generator).double()


def graph(seed: int) -> Network:
    """Two hidden layers, a branch around the first, and rows that read both: every kind of cut."""
    g = torch.Generator().manual_seed(seed)

    def edge(source: int, out: int, inn: int) -> Edge:
        return Edge(source, Dense.matrix(whole((out, inn), g)))

    end = Identity()
    return Network(
        (3,),
        (
            Stage((edge(0, 3, 3),), (), ReLU(), (3,)),
            Stage((edge(1, 2, 3), edge(0, 2, 3)), (), LeakyReLU(-0.5), (2,)),
            Stage((edge(2, 2, 2), edge(1, 2, 3)), (), end, (2,)),
        ),
    )


def jacobian(network: Network, slopes: list[Tensor]) -> Tensor:
    """For given slopes of the two hidden stages; exact for small whole numbers."""
    found = [torch.eye(3, dtype=torch.float64)]
    for k, stage in enumerate(network.stages):
        terms = [e.operator.push(rj.Fast().exact(found[e.source].mT)).mid.mT for e in stage.edges]
        total = torch.stack(terms).sum(0)
        found.append(total if k == 2 else slopes[k].unsqueeze(1) * total)
    return found[-1]


@every_seed
@pytest.mark.parametrize("steps", [0, 40])
@pytest.mark.parametrize("euclidean", [True, False])
def test_the_matrix_holds_for_all_slopes(seed: int, steps: int, euclidean: bool) -> None:
    """G - J P Jᵀ has no negative eigenvalue, proved, at every corner of the slopes and between them."""
    network = graph(seed)
    gradients = Gradients(rj.Problem(network, rj.LpBall(torch.zeros(3), 10.0)))
    system, radius = system_of(gradients.chain), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    assert [len(n.unstable) for n in system.nodes] == [3, 2]
    assert [n.kept for n in system.nodes] == [(0,), (1,)]
    begin = Multipliers.first(system, radius, euclidean)
    best = optimised(system, begin, radius, lambda g: g.diagonal().sum().log(), steps)
    start = best.start(radius)
    found = reach(system, start, best.choose)
    assert found is not None
    corners = [torch.tensor(c, dtype=torch.float64) for c in product((0.0, 0.5, 1.0), repeat=3)]
    for first, second in product(corners, [torch.tensor(c).double() for c in product((-0.5, 1.0), repeat=2)]):
        true = jacobian(network, [first, second])
        assert float(least_eigenvalue(found - rj.Rigorous().exact(true @ torch.diag(start) @ true.mT))) >= -1e-12


@every_seed
def test_known_slopes_lose_nothing(seed: int) -> None:
    network = graph(seed)
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    gradients = Gradients(rj.Problem(network, rj.LpBall(x, 0.0)))
    if any(not bool(s.is_point.all()) for s in gradients.chain.slopes if s is not None):
        pytest.skip("the centre is at a kink")
    true = testing.true_jacobians(network, x)[0]
    for q, norm in ((2, torch.linalg.matrix_norm(true, 2)), (inf, true.square().sum(1).sqrt().max())):
        found = rj.lipschitz(network, rj.LpBall(x, 0.0, 2), p=2, q=q, method=rj.QuadraticNorm(0), search=QUIET)
        assert float(norm) * (1 - 1e-15) <= float(found.upper) <= float(norm) * (1 + 1e-10)


@some_kinds
@pytest.mark.parametrize("steps", often((0, 2, 12), (2,)))
def test_norms_and_ranges_on_random_networks(steps: int, kinds: tuple[str, ...]) -> None:
    products = (*kinds, *({"gated"} - set(kinds)))
    testing.check_norm_method(rj.QuadraticNorm(steps), steps, products)
    testing.check_preactivation(rj.Secants(steps), steps, products)
    testing.check_preactivation(SecantRanges(steps), steps + 1, kinds)


def test_more_steps_prove_no_more_than_fewer_on_average() -> None:
    """The search is one: it must pay."""
    network = rj.load(
        [
            (torch.randn(n, m, generator=torch.Generator().manual_seed(m)), None)
            for m, n in ((6, 12), (12, 13), (13, 2))
        ],
        activation="relu",
    )
    region = rj.LpBall(torch.zeros(6), inf)
    for p in (1, 2, inf):
        bounds = [
            float(rj.lipschitz(network, region, p=p, method=rj.QuadraticNorm(s), search=QUIET).upper)
            for s in (0, 30, 90)
        ]
        assert bounds == sorted(bounds, reverse=True)
        assert bounds[2] < 0.99 * bounds[0]


def test_a_proof_is_as_tight_as_plain_floating_point() -> None:
    """Thirty layers deep, in float32 and in float64: rounding takes no more than the last digits."""
    g = torch.Generator().manual_seed(0)
    layers = [(torch.randn(9, 9, generator=g) / 2.5, torch.randn(9, generator=g)) for _ in range(30)]
    for dtype in (torch.float32, torch.float64):
        network = rj.load(layers, activation="relu", dtype=dtype)
        for p, radius in ((2, inf), (inf, inf), *([(2, 0.5)] if dtype == torch.float64 else [])):
            found = [
                rj.lipschitz(network, rj.LpBall(torch.zeros(9), radius, p), p=p, q=2, method=rj.QuadraticNorm(10),
                             arithmetic=a, search=QUIET)
                for a in (rj.Rigorous(), rj.Fast())
            ]  # fmt: skip
            assert (found[0].rigorous, found[1].rigorous) == (True, False)
            proved, plain = (float(f.upper) for f in found)
            assert plain * (1 - 1e-12) <= proved <= plain * (1 + (1e-6 if dtype == torch.float32 else 1e-8))


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e100])
def test_weights_of_any_size(scale: float) -> None:
    network = rj.load(
        [(torch.eye(2).double() * scale, None), (torch.ones(1, 2).double() / scale, None)], activation="relu"
    )
    found = rj.lipschitz(network, rj.LpBall(torch.zeros(2), 1.0), method=rj.QuadraticNorm(5), search=QUIET)
    assert float(found.upper) >= 2 * (1 - 1e-12)
    assert not bool(found.upper.isnan())


def test_dead_layers_and_wide_networks() -> None:
    def upper(network: Network, size: int) -> float:
        region = rj.LpBall(torch.zeros(size), 1.0)
        return float(rj.lipschitz(network, region, method=rj.QuadraticNorm(3), search=QUIET).upper)

    dead = rj.load([(torch.zeros(3, 2), None), (torch.ones(2, 3), None)], activation="relu")
    assert 0 <= upper(dead, 2) < 1e-130
    wide = rj.load([(torch.ones(1, 5000), None), (torch.ones(1, 1), None)], activation="relu")
    assert 5000 <= upper(wide, 5000) < 5000.0001  # the product of norms


@every_seed
@pytest.mark.parametrize("size", [1e-200, 1.0, 1e100])
def test_errors_are_absorbed_by_the_diagonal(seed: int, size: float) -> None:
    """The result minus any symmetric matrix of the ball has no negative eigenvalue, proved; corners of it are tried."""
    g = torch.Generator().manual_seed(seed)
    shape = 10.0 ** (3 * torch.rand(6, generator=g).double() - 1.5)  # diagonals of several sizes
    root = torch.randn(6, 6, generator=g).double() * shape.unsqueeze(1)
    mid, rad = root @ root.mT * size, torch.rand(6, 6, generator=g).double() * size / 10
    rad = torch.where(torch.eye(6) > 0, rad, torch.minimum(rad, rad.mT))
    found = absorbed(rj.Rigorous().ball(mid, rad))
    assert found.exact
    assert torch.equal(found.mid, found.mid.mT)
    for _ in range(20):
        sign = torch.randint(0, 2, (6, 6), generator=g).triu() * 2.0 - 1
        error = torch.triu(rad * sign) + torch.triu(rad * sign, 1).mT
        true = (mid + mid.mT) / 2 + (1 - 1e-9) * error
        assert float(least_eigenvalue(rj.Rigorous().exact((found.mid - true) / size))) >= -1e-9


def test_slopes_without_bound_prove_nothing() -> None:
    """Infinite slopes, and numbers that overflow, end in an infinite bound (this raised from LAPACK)."""
    layers = [(torch.randn(n, m, generator=torch.Generator().manual_seed(n)), None) for m, n in pairwise((3, 4, 5, 2))]
    network = rj.load(layers, activation="square")
    for radius in (inf, 1e200):
        for method in (rj.QuadraticNorm(2), rj.Auto(1)):
            found = rj.lipschitz(network, rj.LpBall(torch.zeros(3), radius), method=method, search=QUIET)
            assert float(found.upper) == inf
        bounds = rj.preactivation_bounds(network, rj.LpBall(torch.zeros(3), radius), pre=rj.Secants(2))
        assert not any(bool(t.isnan().any()) for t in (*bounds.lower, *bounds.upper))


@pytest.mark.parametrize("scale", [1e-160, 1e-155, 1e-150, 1e-100, 1e100, 1e150])
def test_what_underflows_is_absorbed(scale: float) -> None:
    """Numbers whose squares underflow: never below what the same network with weights of ordinary size has."""
    g = torch.Generator().manual_seed(0)
    first, middle, last = (torch.randn(n, m, generator=g).double() for m, n in pairwise((4, 5, 5, 2)))
    networks = (rj.load([(first * a, None), (middle, None), (last / a, None)], activation="relu") for a in (scale, 1.0))
    region = rj.LpBall(torch.zeros(4), inf)
    odd, plain = (float(rj.lipschitz(n, region, method=rj.QuadraticNorm(0), search=QUIET).upper) for n in networks)
    assert odd >= plain * (1 - 1e-9)
    if scale > 1e-110:
        assert odd <= plain * (1 + 1e-6)


@pytest.mark.parametrize("radius", [1e-150, 1e-165, 1e-200, 5e-324])
@pytest.mark.parametrize("p", [2, inf])
@pytest.mark.parametrize("rule", [rj.Secants(2), rj.Dual(2, 2)])
def test_radii_whose_squares_underflow(rule: rj.Refine, p: float, radius: float) -> None:
    net = rj.load([(torch.ones(2, 1).double(), None), (torch.ones(1, 2).double(), None)], activation="relu")
    ball = rj.LpBall(torch.zeros(1, 1).double(), radius, p)
    for pre in (rule, rj.Alone(rule)):
        first, last = rj.preactivation_bounds(net, ball, pre=pre).stages
        assert bool((first.lower <= -radius).all() & (first.upper >= radius).all() & (last.upper >= 2 * radius).all())


@pytest.mark.parametrize("norm", [bends._frobenius, layered._frobenius])
def test_frobenius_norms_of_the_smallest_numbers(norm: Callable[[Ball], Tensor]) -> None:
    least = torch.full((3, 3), 5e-324, dtype=torch.float64)
    assert float(norm(Ball(least, None))) >= 3 * 5e-324


def test_an_output_that_reads_nothing_has_no_slope() -> None:
    end = Stage((), (Constant(Reshape((2,), (2,)), torch.ones(2).double()),), Identity(), (2,))
    first = Stage((Edge(0, Dense.matrix(torch.eye(3).double())),), (), ReLU(), (3,))
    network = Network((3,), (first, end))
    for p, q in product((1, 2, inf), repeat=2):
        found = rj.lipschitz(
            network, rj.LpBall(torch.zeros(3), 1.0), p=p, q=q, method=rj.QuadraticNorm(3), search=QUIET
        )
        assert float(found.upper) < 1e-100


# Secants

ALL = [e for e in examples(AbstractActivation) if isinstance(e.values[0], AbstractActivation)]


@every_seed
@pytest.mark.parametrize("activation", ALL)
def test_secants_lie_in_their_range(activation: AbstractActivation, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    shape = (1, 40) if not isinstance(vars(activation).get("slope"), Tensor) else (1, *activation.slope.shape)  # type: ignore[attr-defined]
    ends = (torch.randn(3, *shape, generator=g, dtype=torch.float64) * 3).sort(0).values
    ends = (ends.abs() + 0.2).sort(0).values if activation.limited else ends  # inside of every domain
    z, centre = rj.Interval(ends[0], ends[2]), rj.Interval(ends[1] - 0.1, ends[1] + 0.1)
    found = activation.secant_range(z, centre, rj.Rigorous())
    hull = rj.Interval(torch.minimum(z.lower, centre.lower), torch.maximum(z.upper, centre.upper))
    slopes = activation.slope_range(hull, rj.Rigorous())
    assert bool((found.lower >= slopes.lower).all() & (found.upper <= slopes.upper).all())
    for share, other in product(torch.linspace(0, 1, 9), repeat=2):
        v = z.lower + share * z.width
        c = centre.lower + other * centre.width
        rise, run = activation.value(v) - activation.value(c), v - c
        slack = 1e-12 * (1 + activation.value(v).abs() + activation.value(c).abs())
        ends_of = (found.lower * run, found.upper * run)
        assert bool((rise >= torch.minimum(*ends_of) - slack).all())
        assert bool((rise <= torch.maximum(*ends_of) + slack).all())


def test_secants_of_two_pieces_are_exact_to_rounding() -> None:
    z = rj.Interval(torch.tensor([[-1.0, -3.0, 2.0, 0.0]]).double(), torch.tensor([[3.0, -1.0, 5.0, 1.0]]).double())
    centre = rj.Interval.point(torch.tensor([[1.0, -2.0, 3.0, 0.5]]).double())
    found = ReLU().secant_range(z, centre, rj.Rigorous())
    assert torch.allclose(found.lower, torch.tensor([[0.5, 0.0, 1.0, 1.0]]).double(), rtol=0, atol=1e-14)
    assert torch.allclose(found.upper, torch.tensor([[1.0, 0.0, 1.0, 1.0]]).double(), rtol=0, atol=1e-14)


@every_seed
@pytest.mark.parametrize("activation", ALL)
def test_secants_from_a_point_are_tight(activation: AbstractActivation, seed: int) -> None:
    """The range is that of dense samples, and holds for them, also for steep, tiny, huge and disjoint intervals.

    With rounding, it is no narrower by more than rounding.
    """
    if isinstance(vars(activation).get("slope"), Tensor):
        pytest.skip("a slope for each neuron; the class is tested by others")
    g = torch.Generator().manual_seed(seed)
    width = 10 ** (torch.rand(1, 60, generator=g, dtype=torch.float64) * 6 - 4)
    a = torch.randn(1, 60, generator=g, dtype=torch.float64) * 2
    c = a + width * (torch.rand(1, 60, generator=g, dtype=torch.float64) * 1.6 - 0.3)
    c[0, :6], a[0, :3] = a[0, :6], 0.0
    if activation.limited:  # inside of every domain
        low = torch.minimum(a, c).clamp(max=0) - 0.1
        a, c = a - low, c - low
    z, centre = rj.Interval(a, a + width), rj.Interval.point(c)
    found, covered = (activation.secant_range(z, centre, arithmetic) for arithmetic in (rj.Fast(), rj.Rigorous()))
    own = 1e-9 * (1 + found.lower.abs() + found.upper.abs())
    assert bool((covered.lower <= found.lower + own).all() and (covered.upper >= found.upper - own).all())
    v = a + torch.linspace(0, 1, 4001, dtype=torch.float64).reshape(-1, 1, 1) * width
    rise, run = activation.value(v) - activation.value(c), v - c
    far = run.abs() > 1e-3 * width
    slack = 1e-14 * (1 + activation.value(v).abs() + activation.value(c).abs()) / torch.where(far, run, 1.0).abs()
    secant = torch.where(far, rise / torch.where(far, run, 1.0), torch.nan)
    assert bool((far.logical_not() | (secant >= found.lower - slack)).all())
    assert bool((far.logical_not() | (secant <= found.upper + slack)).all())
    at = activation.slope_range(centre, rj.Fast())
    inside = (a <= c) & (c <= a + width)
    low = torch.minimum(secant.nan_to_num(torch.inf).amin(0), torch.where(inside, at.lower, torch.inf))
    high = torch.maximum(secant.nan_to_num(-torch.inf).amax(0), torch.where(inside, at.upper, -torch.inf))
    scale = activation.slope_range(rj.Interval(torch.minimum(a, c), torch.maximum(a + width, c)), rj.Fast())
    loose = 2e-3 * scale.width + slack.amax(0)
    if activation.name in ("sin", "cos"):  # all slopes are assumed beyond two periods
        loose = torch.where(width > 9, torch.inf, loose)
    assert bool((found.lower >= low - loose).all())
    assert bool((found.upper <= high + loose).all())


# Figures of other tools


def reference(name: str) -> tuple[dict[str, Any], list[tuple[Tensor, Tensor | None]]]:
    path = REFERENCE / f"{name}.npz"
    if not path.exists():
        pytest.skip("the reference networks are kept beside the repository")
    arrays = dict(np.load(path))
    count = sum(k.startswith("W") for k in arrays)
    layers = [(torch.from_numpy(arrays[f"W{i}"]).double(), arrays.get(f"b{i}")) for i in range(count)]
    return arrays, [(w, None if b is None else torch.from_numpy(b).double()) for w, b in layers]


@pytest.mark.parametrize(("name", "lower", "most"), [("lipsdp_random_weights", 36.48222959637795, 36.4824),
                                                     ("lipsdp_mnist_weights", 24.29922, 24.38)])  # fmt: skip
def test_global_constants_of_lipsdp(name: str, lower: float, most: float) -> None:
    _, layers = reference(name)
    region = rj.LpBall(torch.zeros(layers[0][0].shape[1]), inf, 2)
    found = rj.lipschitz(
        rj.load(layers, activation="relu"), region, p=2, q=2, method=rj.QuadraticNorm(100), search=QUIET
    )
    assert found.rigorous
    assert lower <= float(found.upper) <= most


def test_local_constants_of_an_image_network() -> None:
    """At 0.02 secants decide half of the neurons that CROWN does not, and bounds are a hundred times tighter."""
    arrays, layers = reference("mnist_6x100_relu")
    x = torch.from_numpy(arrays["x"]).double()
    network = rj.load(layers, activation="relu")
    network = network.output(int(network(x.unsqueeze(0)).argmax()))
    problem = rj.Problem(network, rj.LpBall(x, 0.02), pre=rj.Secants())
    state = problem.preactivations()
    unstable = [int(state.unstable(k, state.pre(k)).sum()) for k in range(1, network.depth)]
    assert all(found <= most for found, most in zip(unstable, (54, 54, 50, 52, 56), strict=True))
    found = rj.lipschitz(problem, method=rj.QuadraticNorm(40), search=rj.Search(work=10**8))
    assert found.rigorous
    assert 160 < float(found.lower) <= float(found.upper) < 610


def test_rows_beside_replacement() -> None:
    """The rows of a margin and of its sign are bounded alike."""
    network = graph(1)
    up, down = (
        rj.lipschitz(network.combine(rows), rj.LpBall(torch.zeros(3), 1.0), method=rj.QuadraticNorm(8), search=QUIET)
        for rows in ([[1.0, -1.0]], [[-1.0, 1.0]])
    )
    assert float(up.upper) == pytest.approx(float(down.upper), rel=1e-12)
    assert replace(rj.QuadraticNorm(), steps=3) == rj.QuadraticNorm(3)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("p", [1, 2, inf])
def test_numbers_that_under_or_overflow_end_no_search(activation: str, p: float) -> None:
    """Squares of weights leave the dtype, so that no eigenvalue converges, or not even the first node is proved."""
    g = torch.Generator().manual_seed(0)
    first, inner, last = (torch.randint(-2, 3, s, generator=g).double() for s in ((5, 2), (4, 5), (1, 4)))
    network = rj.load([(first, None), (inner * 1e-160, None), (last * 1e160, None)], activation=activation)
    problem = rj.Problem(network, rj.LpBall(torch.ones(1, 2), 1.0, 2))
    least = rj.lipschitz(problem, method=rj.Chords(), p=p).lower
    for method in (rj.QuadraticNorm(5), rj.CoupledNorm(5), rj.SplitNorm(5, 5)):
        assert bool((method.norm(Gradients(problem), p, inf) >= least).all())
    assert rj.jacobian_bounds(problem, method=rj.QuadraticClamped()).upper.isfinite().all()


def scaled(activation: str, scale: float, wide: bool) -> rj.Network:
    """Weights of size `scale`, then of 1 / `scale`, as dense layers or as convolutions."""
    g = torch.Generator().manual_seed(3)
    sizes = ((6, 1, 3, 3), (6,), (5, 6, 3, 3), (2, 5 * 16)) if wide else ((6, 2), (6,), (5, 6), (2, 5))
    first, bias, inner, last = (torch.randn(*s, generator=g, dtype=torch.float64) for s in sizes)
    if not wide:
        return rj.load([(first, bias), (inner * scale, None), (last / scale, None)], activation=activation)
    bend = nn.Tanh() if activation == "tanh" else nn.ReLU()
    one, two, three = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1), nn.Linear(80, 2)
    module = nn.Sequential(one, bend, two, bend, nn.Flatten(), three).double()
    with torch.no_grad():
        for layer, weight in ((one, first), (two, inner * scale), (three, last / scale)):
            layer.weight.copy_(weight)
            layer.bias.zero_()  # type: ignore[union-attr]
    return rj.load(module, torch.zeros(1, 1, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("scale", [1e-170, 1e-300])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_squares_that_underflow_are_covered_without_rounding(
    activation: str, scale: float, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The squares of small weights are 0 in float64, but later weights are as large as these are small."""
    network = scaled(activation, scale, wide)
    x = torch.zeros(1, *network.input_shape, dtype=torch.float64)
    for pre in (rj.Dual(5), rj.Secants(5)) if not wide else (rj.Secants(5),):
        problem = rj.Problem(network, rj.LpBall(x, 3.0), pre=pre, arithmetic=Fast())
        found, true = rj.preactivation_bounds(problem), network(problem.bound.sample(50, torch.Generator())[0])
        assert bool((found.lower[-1] <= true).all())
        assert bool((found.upper[-1] >= true).all())
    monkeypatch.setattr("recurjac.norms.quadratic._NARROW", 0 if wide else 1024)  # 0: along layers
    least = rj.lipschitz(problem, method=rj.Chords(), search=rj.Search(work=10**6)).lower
    methods = (rj.QuadraticNorm(5), rj.CoupledNorm(5), rj.SplitNorm(5, 5), rj.JacobianNorm(rj.QuadraticClamped()))
    for method in methods[: 1 if wide else 4]:
        assert bool((method.norm(Gradients(problem), inf, inf) >= least).all())


def test_radii_of_squares_that_underflow() -> None:
    network, x = scaled("tanh", 1e-170, False), torch.zeros(1, 2, dtype=torch.float64)
    found = rj.certified_radius(network, x, p=inf, proofs=(rj.MarginBound(), rj.SecantMargin()))
    assert 0.4 < float(found.radius) <= float(found.attack)
