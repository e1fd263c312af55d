"""Products of two terms that depend on the input: planes, ranges, Jacobians and their norms hold everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import product

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import AbstractActivation, Factor, ReLU
from recurjac.activations import Identity as NoActivation
from recurjac.activations.product import factors_over
from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous
from recurjac.errors import InvalidNetwork
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.loading.expression import Builder
from recurjac.network import Edge, Network, Stage
from recurjac.norms import AbstractNormMethod
from recurjac.operators import Dense, Identity
from recurjac.preactivation import AbstractPreactivation
from recurjac.search.jacobians import point_jacobian
from recurjac.testing.networks import random_network, true_jacobians
from tests.helpers import KINDS, exact, numbers

METHODS: dict[str, AbstractJacobianMethod] = {
    "fastlip": rj.FastLip(), "recurjac": rj.RecurJac(), "f0": rj.Reversed(rj.RecurJac()),
    "f1": rj.ReversedAfterFirst(rj.RecurJac()), "chords": rj.Chords(), "reversed-chords": rj.Reversed(rj.Chords()),
    "cut": rj.Cut(rj.Chords(), most=7), "tangents": rj.ForwardTangents(20), "gradient forms": rj.GradientForms(20),
    "xlinear": rj.XLinear(), "with": rj.WithTangents(rj.FastLip()),
    "searched": rj.XLinear(2), "centred": rj.Centred(), "clamped": rj.Clamped(rj.Chords(), rj.QuadraticNorm(2)),
}  # fmt: skip
RULES: dict[str, AbstractPreactivation] = {
    "ibp": rj.IBP(), "fastlin": rj.FastLin(), "crown": rj.Crown(), "alone": rj.Alone(rj.Crown()),
    "forward": rj.Forward(20), "secants": rj.Secants(3), "dual": rj.Dual(2, 2), "half-spaces": rj.HalfSpaces(2),
}  # fmt: skip
NORMS: dict[str, AbstractNormMethod] = {
    "entrywise": rj.JacobianNorm(rj.Chords()), "product": rj.ProductOfNorms(), "quadratic": rj.QuadraticNorm(2),
    "coupled": rj.CoupledNorm(2), "split": rj.SplitNorm(2, 2),
}  # fmt: skip
BALLS = ((0.0, 2), (0.1, 2), (0.4, rj.inf), (1e4, 1))
QUICK = (
    "fastlip", "recurjac", "f1", "chords", "tangents", "xlinear", "ibp", "fastlin", "crown", "forward", "entrywise",
    "product", "half-spaces",
)  # fmt: skip


class _Gates(nn.Module):
    """Gates, a product of two linear terms, and one of deep terms, beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(n, 5) for n in (3, 3, 5, 5))
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) * torch.sigmoid(self.b(x))
        y: Tensor = self.last(torch.relu(self.c(h)) * self.d(h))
        return y + x[:, :1] * x[:, 1:2]


class _Quadratic(nn.Module):
    """x'Px + q'x, and the same with a squared factor."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        value = (self.p(x) * x).sum(-1, keepdim=True)
        return torch.cat([value, value * x[:, :1]], 1)


class _Loop(nn.Module):
    """A step of a closed loop: u times the cosine of an angle."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        u = self.policy(x)
        return x + 0.1 * torch.cat([u * torch.cos(x[:, :1]), torch.sin(x[:, :1]), x[:, 1:2] * u], 1)


MODULES = {"gates": _Gates, "quadratic": _Quadratic, "loop": _Loop}


def cases(names: Iterable[str]) -> list[ParameterSet]:
    """Every module with every name; those that take long are slow."""
    return [
        pytest.param(m, n, id=f"{m}-{n}", marks=[] if n in QUICK and m == "gates" else pytest.mark.slow)
        for m, n in product(MODULES, names)
    ]


def network_of(name: str, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = MODULES[name]().double()
    return rj.load(module, torch.zeros(1, 3)).detached()


def region_of(radius: float, p: float, seed: int = 0) -> rj.LpBall:
    return rj.LpBall(torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), radius, p)


def points_of(region: rj.LpBall, network: Network, count: int = 60) -> Tensor:
    bound = region.bind(network.input_shape, network.dtype, network.device)
    return torch.cat([bound.x.unsqueeze(1), bound.sample(count, torch.Generator().manual_seed(1))], 1)


def slack(true: Tensor) -> float:
    return 1e-10 * float(true.abs().max()) + 1e-300


@pytest.mark.parametrize(("name", "method"), cases(METHODS))
def test_sampled_jacobians_are_inside(name: str, method: str) -> None:
    network = network_of(name)
    for radius, p in BALLS:
        region = region_of(radius, p)
        bounds = rj.jacobian_bounds(network, region, method=METHODS[method])
        for points, low, high in zip(points_of(region, network), bounds.lower, bounds.upper, strict=True):
            true = true_jacobians(network, points)
            assert bool((true >= low - slack(true)).all())
            assert bool((true <= high + slack(true)).all())
            if radius == 0:
                assert float(torch.maximum(high - true[0], true[0] - low).max()) <= slack(true)


@pytest.mark.parametrize(("name", "rule"), cases(RULES))
def test_sampled_preactivations_are_inside(name: str, rule: str) -> None:
    network = network_of(name)
    for radius, p in BALLS:
        region = region_of(radius, p)
        bounds = rj.preactivation_bounds(network, region, pre=RULES[rule]).stages
        for i, points in enumerate(points_of(region, network)):
            for z, interval in zip(network.preactivations(points), bounds, strict=True):
                size = 1e-10 * (1 + float(z.abs().max()))
                assert bool((z >= interval.lower[i] - size).all())
                assert bool((z <= interval.upper[i] + size).all())


@pytest.mark.parametrize(("name", "method"), cases(NORMS))
def test_no_sampled_gain_is_larger(name: str, method: str) -> None:
    network = network_of(name)
    for (radius, _), (p, q) in product(((0.01, 2), (0.5, 2)), ((2.0, 2.0), (rj.inf, rj.inf), (1.0, 2.0))):
        region = region_of(radius, p)
        if not NORMS[method].supports(p, q):
            continue
        found = rj.lipschitz(network, region, p=p, q=q, method=NORMS[method], search=rj.Search(work=0))
        for points, upper in zip(points_of(region, network), found.upper, strict=True):
            ways = torch.randn(40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            ways = ways / torch.linalg.vector_norm(ways, p, dim=1, keepdim=True)
            gains = torch.linalg.vector_norm(true_jacobians(network, points) @ ways.T, q, dim=1)
            assert float(gains.max()) <= float(upper) * (1 + 1e-9)


@pytest.mark.parametrize("name", MODULES)
def test_search_and_points_agree_with_automatic_differentiation(name: str) -> None:
    network = network_of(name)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    true = true_jacobians(network, x)
    assert torch.allclose(point_jacobian(network, x), true, rtol=1e-12, atol=1e-13)
    found = rj.lipschitz(network, region_of(0.3, 2), p=2, q=2, method=rj.JacobianNorm(rj.Chords()))
    assert bool((found.lower <= found.upper * (1 + 1e-9)).all())
    assert bool((found.lower > 0).all())
    at = true_jacobians(network, found.witness)
    assert bool((torch.linalg.matrix_norm(at, 2) >= found.lower * (1 - 1e-9)).all())


def test_default_methods_take_products() -> None:
    network = network_of("gates")
    region = region_of(0.1, 2)
    found = rj.lipschitz(network, region, p=2, q=2, method=rj.Auto(seconds=1))
    true = torch.stack(
        [torch.linalg.matrix_norm(true_jacobians(network, x), 2).max() for x in points_of(region, network)]
    )
    assert bool((true <= found.upper * (1 + 1e-9)).all())
    assert float((found.upper / found.lower).max()) < 1.5
    assert rj.certified_radius(network, region.x, label=0, p=2, target=1).radius.shape == (2, 1)[:1]


def test_the_jacobian_of_a_quadratic_form_is_exact() -> None:
    """J is linear in x, and the slopes of a product are linear in the pre-activations."""
    network = network_of("quadratic").output(0)
    region = region_of(0.7, rj.inf)
    bounds = rj.jacobian_bounds(network, region, method=rj.XLinear())
    bound = region.bind((3,), torch.float64, torch.device("cpu"))
    ends = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    for x, low, high in zip(bound.x, bounds.lower, bounds.upper, strict=True):
        true = true_jacobians(network, x + 0.7 * ends)
        assert torch.allclose(true.amin(0), low, atol=1e-12)
        assert torch.allclose(true.amax(0), high, atol=1e-12)


@pytest.mark.parametrize("method", ["fastlip", "recurjac", "chords", "xlinear", "tangents", "gradient forms"])
def test_an_unbounded_region_has_unbounded_slopes(method: str) -> None:
    network = network_of("quadratic")
    bounds = rj.jacobian_bounds(network, region_of(rj.inf, 2), method=METHODS[method])
    assert not bool(bounds.lower.isnan().any() | bounds.upper.isnan().any())
    assert bool((bounds.upper == rj.inf).all() & (bounds.lower == -rj.inf).all())


def test_a_factor_that_is_constant_leaves_the_other_one() -> None:
    """With x_1 fixed, x_0 x_1 is linear."""
    builder = Builder((2,), False, torch.float64, torch.device("cpu"))
    x = builder.input()
    one, other = (x.apply(Dense.matrix(torch.eye(2, dtype=torch.float64)[[i]])) for i in (0, 1))
    network = builder.finish(one.times(other)).fix({1: 3.0})
    bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(1), 1e3))
    assert abs(float(bounds.lower) - 3) < 1e-12
    assert abs(float(bounds.upper) - 3) < 1e-12


def _ranges(kind: str, seed: int, dtype: torch.dtype) -> Interval:
    a, b = numbers(kind, 60, seed, dtype), numbers(kind, 60, seed + 1, dtype)
    b = torch.where(torch.arange(60) % 7 == 0, a, b)
    return Interval(torch.minimum(a, b).unsqueeze(0), torch.maximum(a, b).unsqueeze(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["ordinary", "huge", "tiny"])
def test_planes_hold_in_rational_arithmetic(kind: str, other: str) -> None:
    """Where both parts' lines are added up, the plane is above and below u v at all corners, without a tolerance."""
    for dtype, arithmetic in ((torch.float64, Rigorous()), (torch.float32, Rigorous())):
        v, u = _ranges(kind, 0, dtype), _ranges(other, 5, dtype)
        parts = factors_over(v, u, arithmetic)
        lines = [p.lines(p.own, arithmetic) for p in parts]
        for name, sign in (("upper", 1), ("lower", -1)):
            slopes = [exact(getattr(t, f"{name}_slope")) for t in lines]
            shifts = [getattr(t, f"{name}_intercept").flatten().tolist() for t in lines]
            for at_v, at_u in product((v.lower, v.upper), (u.lower, u.upper)):
                rows = zip(exact(at_v), exact(at_u), *slopes, *shifts, strict=True)
                for y, x, slope_v, slope_u, shift_v, shift_u in rows:
                    if abs(shift_v) == abs(shift_u) == rj.inf or rj.inf in (abs(shift_v), abs(shift_u)):
                        assert sign * (shift_v + shift_u) == rj.inf
                        continue
                    line = slope_v * y + slope_u * x + Fraction(shift_v) + Fraction(shift_u)
                    assert sign * (line - x * y) >= 0
        _check_sizes(parts, lines, arithmetic)


def _check_sizes(parts: tuple, lines: list, arithmetic: AbstractArithmetic) -> None:  # type: ignore[type-arg]
    """Both parts lie between their lines at the ends of their arguments, within the ranges that they state."""
    for part, between in zip(parts, lines, strict=True):
        values = part.value_range(part.own, arithmetic)
        assert bool((values.magnitude <= between.size[:, 0]).all())


@pytest.mark.parametrize("infinite", ["first", "second", "both"])
def test_unbounded_factors_have_constant_or_exact_lines(infinite: str) -> None:
    bounded = Interval(torch.tensor([[-1.0, 2.0, 0.0]]), torch.tensor([[3.0, 2.0, 0.0]]))
    whole = Interval(torch.full((1, 3), -rj.inf), torch.full((1, 3), rj.inf))
    v, u = (whole if infinite in (name, "both") else bounded for name in ("first", "second"))
    for arithmetic in (Fast(), Rigorous()):
        for part in factors_over(v, u, arithmetic):
            lines = part.lines(part.own, arithmetic)
            assert bool((lines.lower_slope.isfinite() & lines.upper_slope.isfinite()).all())
            assert not bool(lines.lower_intercept.isnan().any() | lines.upper_intercept.isnan().any())
            if infinite != "both":
                assert bool((lines.upper_intercept[..., 1:] == 0).all())  # a multiple


def test_bounds_of_products_are_rigorous_and_hold_in_float32() -> None:
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        builder = Builder((3,), False, torch.float32, torch.device("cpu"))
        h = builder.input()
        for _ in range(2):
            z, w = (h.apply(Dense.matrix(torch.randn(4, h.shape[0], generator=g))) for _ in range(2))
            h = z.activate(ReLU()).times(w)
        network = builder.finish(h)
        region = rj.LpBall(torch.randn(2, 3, generator=g), 0.1, rj.inf)
        bounds = rj.jacobian_bounds(network, region, method=rj.Chords())
        assert bounds.rigorous
        wide = network.to(torch.float64)
        for points, low, high in zip(points_of(region, network, 200), bounds.lower, bounds.upper, strict=True):
            true = true_jacobians(wide, points.double())
            assert bool((true >= low.double()).all() & (true <= high.double()).all())


def test_gradients_flow_through_bounds_of_products() -> None:
    module = _Gates().double()
    network = rj.load(module, torch.zeros(1, 3))
    bounds = rj.jacobian_bounds(network, region_of(0.1, 2), method=rj.Chords())
    bounds.upper.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in (module.a.weight, module.d.weight))


def test_factors_must_be_read_together() -> None:
    def stage(source: int, activation: AbstractActivation, *more: int) -> Stage:
        return Stage(tuple(Edge(i, Identity((2,))) for i in (source, *more)), (), activation, (2,))

    pair = (stage(0, Factor(1)), stage(0, Factor(-1)))
    assert Network((2,), (*pair, stage(1, NoActivation(), 2))).has_products
    for stages in (
        (*pair, stage(1, NoActivation())), (*pair, stage(2, NoActivation())), (pair[0], stage(1, NoActivation())),
        (*pair[::-1], stage(1, NoActivation(), 2)), (*pair, stage(1, NoActivation(), 2, 2)),
    ):  # fmt: skip
        with pytest.raises(InvalidNetwork, match="factor of a product"):
            Network((2,), stages)


def test_gated_networks_are_in_the_checks_of_extensions() -> None:
    assert random_network("gated", 0, True).has_products
