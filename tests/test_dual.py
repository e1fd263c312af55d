"""The quadratic dual: its products hold on every graph, and whatever multipliers are given, what they prove is true."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.activations import AbstractActivation, HardTanh, LeakyReLU
from recurjac.preactivation import AbstractPreactivation, DualRanges, Refine
from recurjac.preactivation.centred import AbstractCentred, SecantSystem
from recurjac.preactivation.range_dual import RangeDual, graphs
from recurjac.quadratic import Rows, lifted, proved
from recurjac.quadratic.dual_proof import Expansion
from recurjac.quadratics import Coefficients
from tests.helpers import examples
from tests.marks import SEEDS, every_seed, in_turn, often

ALL = [e for e in examples(AbstractActivation) if isinstance(e.values[0], AbstractActivation)]


@pytest.mark.parametrize("seed", often(SEEDS, (0, 1)))
@pytest.mark.parametrize("activation", ALL)
def test_products_hold_on_the_graph(activation: AbstractActivation, seed: int) -> None:
    """Also in terms of y = z - c and w, at every c of the enclosure, and at the ends of z."""
    g = torch.Generator().manual_seed(seed)
    shape = (1, 40) if not isinstance(vars(activation).get("slope"), Tensor) else (1, *activation.slope.shape)  # type: ignore[attr-defined]
    ends = (torch.randn(3, *shape, generator=g, dtype=torch.float64) * 3).sort(0).values
    ends = (ends.abs() + 0.1).sort(0).values if activation.limited else ends  # inside of every domain
    z, c = rj.Interval(ends[0], ends[2]), ends[1]
    centre = rj.Interval(c - 1e-9, c + 1e-9)
    products = activation.quadratics(z, centre, rj.Rigorous())
    found = Coefficients.of(products, torch.zeros(2, 1, c.numel()).double(), rj.Rigorous())
    assert not bool(found.zero[0].any())
    for share, other in product(torch.linspace(0, 1, 9), torch.linspace(0, 1, 3)):
        v, at = z.lower + share * z.width, centre.lower + other * centre.width
        y, w = (v - at).flatten(), (activation.value(v) - activation.value(at)).flatten()
        powers = torch.stack([y * y, y * w, w * w, y, w, torch.ones_like(y)]).unsqueeze(1)
        middle, size = (found.terms.mid * powers).sum(0), (found.terms.mid * powers).abs().sum(0)
        assert found.terms.rad is not None
        spread = (found.terms.rad.expand_as(found.terms.mid) * powers.abs()).sum(0)
        low, high = middle - spread, middle + spread
        slack = 1e-13 * (size + (1 + y.abs() + w.abs()).square())  # values in plain floating point, which may cancel
        assert bool((high >= -slack).all())
        assert bool((low <= slack)[found.zero].all())


@pytest.mark.parametrize(
    "activation", [LeakyReLU(0.01), LeakyReLU(-0.7), HardTanh(-0.3, 0.7), HardTanh(0.1, 0.1 + 1e-9)], ids=repr
)
def test_products_are_those_of_rounded_parameters(activation: AbstractActivation) -> None:
    """In float32 parameters are rounded, and products are formed in float64."""
    net = rj.load([(torch.eye(4), None), (torch.ones(1, 4), None)], activation=activation, dtype=torch.float32)
    probe, x = Probe(), torch.tensor([[0.1, -0.1, 0.2, -0.2]])
    rj.preactivation_bounds(net, rj.LpBall(x, 1.0), pre=Refine(rj.IBP(), probe))
    system = probe.systems[-1]
    found, (z, at) = graphs(system, ((1, torch.arange(4)),))[0], system.known(1)
    for share in torch.linspace(0, 1, 9):
        v = (z.lower + share * z.width).float()
        value, start = (_in_float32(activation, t.float()) for t in (v, at.lower))
        y, w = (v - at.lower).flatten(), (value - start).flatten()
        powers = torch.stack([y * y, y * w, w * w, y, w, torch.ones_like(y)]).unsqueeze(1)
        middle, size = (found.terms.mid * powers).sum(0), (found.terms.mid * powers).abs().sum(0)
        assert found.terms.rad is not None
        spread = (found.terms.rad.expand_as(found.terms.mid) * powers.abs()).sum(0) + 1e-13 * (1 + size)
        assert bool((middle >= -spread).all())
        assert bool((middle <= spread)[found.zero].all())


def _in_float32(activation: AbstractActivation, z: Tensor) -> Tensor:
    """The value with parameters that are rounded to float32, in float64."""
    if isinstance(activation, LeakyReLU):
        return torch.where(z < 0, activation.slope_below(z), 1.0).double() * z.double()
    return activation.value(z).double()


@pytest.mark.slow
@pytest.mark.parametrize("decide", [0, 3, 40])
def test_ranges_on_random_networks(decide: int) -> None:
    testing.check_preactivation(rj.Dual(decide, 2), seed=decide)
    testing.check_preactivation(DualRanges(decide, 2, 3), seed=decide + 1)


def network(seed: int, activation: str) -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    sizes = (3, 4, 4, 3) if seed % 2 else (5, 3, 4, 3)  # with more inputs than first neurons, and with fewer
    layers = [
        (torch.randn(n, m, generator=g).double(), torch.randn(n, generator=g).double() / 2) for m, n in pairwise(sizes)
    ]
    return rj.load(layers, activation=activation)


ACTIVATIONS = ("relu", "abs", "hard_tanh", "tanh", "softplus", "gelu")


@pytest.mark.parametrize(("activation", "p", "seed"), in_turn(ACTIVATIONS, [inf, 2], [0, 1]))
def test_ranges_hold_and_pay(activation: str, p: float, seed: int) -> None:
    """All outputs, against dense samples; on the whole tighter than secants, and CROWN is intersected."""
    net = network(seed, activation)
    region = rj.LpBall(torch.full((1, net.input_shape[0]), 0.1).double(), 0.6, p)
    problem = rj.Problem(net, region, pre=Refine(rj.Secants(5), DualRanges(60, 60, 5)))
    bounds = rj.preactivation_bounds(problem)
    points = problem.bound.sample(3000, torch.Generator().manual_seed(1))[0]
    for z, low, high in zip(net.preactivations(points), bounds.lower, bounds.upper, strict=True):
        assert bool((z >= low - 1e-12).all())
        assert bool((z <= high + 1e-12).all())
    plain = rj.preactivation_bounds(problem.by(rj.Secants(5)))
    widths = [float((b.upper[-1] - b.lower[-1]).mean()) for b in (bounds, plain)]
    true = float((net(points).amax(0) - net(points).amin(0)).mean())
    gained = 0.8 if activation == "relu" else 1.0
    assert true <= widths[0] <= true + gained * (widths[1] - true)


class Probe(AbstractCentred):
    """Collects what it is asked, so that a test can ask more of it."""

    def __init__(self) -> None:
        self.systems: list[SecantSystem] = []

    @classmethod
    def command_names(cls) -> dict[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return "probe"

    def ranges(self, system: SecantSystem) -> tuple[Tensor, Tensor]:
        self.systems.append(system)
        nothing = torch.full((len(system.index),), inf, dtype=torch.float64)
        return -nothing, nothing


def asked(seed: int, activation: str, p: float) -> tuple[SecantSystem, RangeDual, Tensor]:
    """The system of the outputs, its dual, and what samples reach: z - z_c, (N, K)."""
    net, probe = network(seed, activation), Probe()
    region = rj.LpBall(torch.full((1, net.input_shape[0]), 0.1).double(), 0.4, p)
    problem = rj.Problem(net, region, pre=Refine(rj.Crown(), probe))
    rj.preactivation_bounds(problem)
    system = probe.systems[-1]
    chain = system.system()
    shared = system.multipliers(chain, 10)
    lift = lifted(system.chain, system.radius)
    dual = RangeDual.of(system, lift, chain, shared, system.half_widths(chain, shared))
    points = problem.bound.sample(3000, torch.Generator().manual_seed(1))[0]
    return system, dual, net(points) - net(system.centre)


@pytest.mark.parametrize("p", [inf, 2])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@every_seed
def test_the_expansion_holds_around_every_point(seed: int, activation: str, p: float) -> None:
    """Far from the maximum the gradient counts, and the bound is still one."""
    _, dual, rise = asked(seed, activation, p)
    rows = Rows(dual.rows.base.mid.unsqueeze(1), dual.rows.units.mid.unsqueeze(1))
    units = dual.units(rows)
    begin, plain = dual.begin(dual.half, units), dual.system.plain()
    weights, multipliers = begin.logs.exp() * 1.5, begin.numbers * units
    best = plain.maximum(rows, weights, multipliers)
    assert bool(best.concave.all())
    g = torch.Generator().manual_seed(seed)
    for size in (0.0, 0.1, 1.0):
        moved = replace(best, v=best.v + size * torch.randn(best.v.shape, generator=g).double(),
                        w=best.w + size * torch.randn(best.w.shape, generator=g).double())  # fmt: skip
        around = Expansion(plain, rows, weights, plain.totals(multipliers), moved, dual.system.ranges)
        bound = around.value() + around.gradient() + around.indefinite()
        assert bool((bound >= best.value - 1e-9).all()) or size > 0
        assert bool((bound >= rise.amax(0) - 1e-9).all())
        assert size > 0 or bool((bound <= best.value + 1e-6 * (1 + best.value)).all())
        if size == 1.0:
            assert bool((around.value() < best.value).any())


@pytest.mark.parametrize(("activation", "p", "seed"), in_turn(ACTIVATIONS, [inf, 2], [0, 1]))
def test_any_multipliers_prove_something_true(activation: str, p: float, seed: int) -> None:
    """Each product alone and all together, weak and strong: never below the best sample, and sometimes close to it."""
    _, dual, rise = asked(seed, activation, p)
    g = torch.Generator().manual_seed(seed)
    finite = 0
    for sign in (1.0, -1.0):
        rows = dual.rows.times(torch.full_like(dual.half, sign))
        most = (sign * rise).amax(0)
        units = dual.units(Rows(rows.base.mid.unsqueeze(1), rows.units.mid.unsqueeze(1)))
        begin = dual.begin(dual.half, units)
        for number, strength in product([*range(units.shape[1]), None], (0.01, 0.3, 3.0)):
            extra = torch.zeros_like(units)
            chosen = slice(None) if number is None else slice(number, number + 1)
            extra[:, chosen] = strength * torch.rand(units.shape, generator=g).double()[:, chosen]
            signs = torch.where(dual.free & (torch.rand(units.shape, generator=g) > 0.5), -1.0, 1.0)
            for raised in (-2.0, -0.3, 0.0, 1.0):
                numbers = (begin.numbers + extra) * units * signs.where(extra > 0, torch.ones_like(signs))
                bound = proved(dual.system, rows.with_copies(0, 1), (begin.logs + raised).exp(), numbers)
                assert bool((bound >= most - 1e-12).all())
                finite += int(bound.isfinite().sum())
    assert finite > 100


def test_a_proof_costs_only_the_last_digits() -> None:
    """What is proved is the maximum in plain floating point up to a relative error of 1e-6."""
    net = network(0, "relu")
    region = rj.LpBall(torch.full((1, 5), 0.1).double(), 0.6)
    found = [
        rj.preactivation_bounds(net, region, pre=rj.Dual(20, 20), arithmetic=a).upper[-1]
        for a in (rj.Rigorous(), rj.Fast())
    ]
    assert torch.allclose(found[0], found[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1e30, 1e100])
def test_weights_of_any_size_prove_nothing_false(scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    layers = [
        (torch.randn(n, m, generator=g).double() * s, None)
        for (m, n), s in zip(pairwise((3, 4, 4, 2)), (scale, 1.0, 1 / scale), strict=True)
    ]
    net = rj.load(layers, activation="relu")
    region = rj.LpBall(torch.full((1, 3), 0.1).double(), 0.6)
    bounds = rj.preactivation_bounds(net, region, pre=rj.Dual(3, 3))
    points = rj.Problem(net, region).bound.sample(500, torch.Generator().manual_seed(1))[0]
    for z, low, high in zip(net.preactivations(points), bounds.lower, bounds.upper, strict=True):
        slack = 1e-9 * z.abs()
        assert bool((z >= low - slack).all())
        assert bool((z <= high + slack).all())


def test_degenerate_regions_and_dead_layers() -> None:
    """A point, one pixel, the whole space, and layers that are 0 or constant."""
    net = network(0, "relu")
    x = torch.full((1, 5), 0.1).double()
    pixel = torch.zeros(1, 5).double()
    pixel[0, 2] = 1.0
    dead = rj.load(
        [(torch.zeros(3, 5), -torch.ones(3)), (torch.ones(4, 3), torch.ones(4)), (torch.ones(1, 4), None)],
        activation="relu",
    )
    for one in (net, dead):
        for region in (rj.LpBall(x, 0.0), rj.Box(x - pixel, x + pixel), rj.LpBall(x, inf), rj.LpBall(x, 1.0, 1)):
            bounds = rj.preactivation_bounds(one, region, pre=rj.Dual(4, 4))
            points = rj.Problem(one, region).bound.sample(200, torch.Generator().manual_seed(1))[0]
            for z, low, high in zip(one.preactivations(points), bounds.lower, bounds.upper, strict=True):
                assert bool((z.double() >= low.double() - 1e-5).all() & (z.double() <= high.double() + 1e-5).all())
