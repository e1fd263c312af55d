"""Functions that are not finite everywhere: division, roots, powers, logarithms, norms, and choices at a threshold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import Length, Log, Power, Reciprocal
from recurjac.arithmetic import Fast, Interval
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.preactivation import AbstractPreactivation
from recurjac.testing.networks import true_jacobians
from tests.torch_cases import Fn

Formula = Callable[[Tensor], Tensor]
FORMULAS: dict[str, Formula] = {
    "quotient": lambda x: torch.tanh(x) / (x.flip(1).square() + 0.5),
    "share": lambda x: torch.exp(x) / torch.exp(x).sum(1, keepdim=True),
    "share-of-relu": lambda x: torch.relu(x) / (torch.relu(x).sum(1, keepdim=True) + 0.1),
    "standardised": lambda x: (x - x.mean(1, keepdim=True)) * torch.rsqrt((x - x.mean(1, True)).square() + 0.01),
    "root": lambda x: torch.sqrt(x.square() + 0.1),
    "powers": lambda x: (x.abs() + 0.5) ** 1.7 + (x.square() + 1) ** -2,
    "logarithm": lambda x: torch.log(x.square() + 0.2),
    "log-sum": lambda x: torch.logsumexp(x, 1, keepdim=True) - x,
    "length": lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "sum-norm": lambda x: torch.linalg.vector_norm(x, 1, 1, True),
    "largest": lambda x: torch.linalg.vector_norm(x, float("inf"), 1, True),
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "choice": lambda x: torch.where(x > 0.1, x - 0.1, torch.exp(2 * x - 0.2) - 1),
}  # fmt: skip
METHODS: dict[str, AbstractJacobianMethod] = {
    "fastlip": rj.FastLip(), "recurjac": rj.RecurJac(), "chords": rj.Chords(), "reversed": rj.Reversed(rj.Chords()),
    "xlinear": rj.XLinear(), "tangents": rj.ForwardTangents(20),
    "gradient forms": rj.GradientForms(20), "centred": rj.Centred(),
}  # fmt: skip
RULES: dict[str, AbstractPreactivation] = {
    "ibp": rj.IBP(), "crown": rj.Crown(), "fastlin": rj.FastLin(), "forward": rj.Forward(20), "secants": rj.Secants(2),
}  # fmt: skip


def network_of(formula: Formula) -> rj.Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Fn(lambda p, x: p[1](formula(p[0](x)).expand(-1, 4)), nn.Linear(3, 4), nn.Linear(4, 2)).double()
    return rj.load(module, torch.ones(1, 3)).detached()


@pytest.mark.parametrize(
    "name", [n if n in ("root", "choice") else pytest.param(n, marks=pytest.mark.slow) for n in FORMULAS]
)
def test_sampled_values_and_jacobians_are_inside(name: str) -> None:
    network = network_of(FORMULAS[name])
    for radius, p in ((0.0, 2), (0.1, rj.inf), (3.0, 2)):
        region = rj.LpBall(torch.full((1, 3), 0.3), radius, p)
        bound = region.bind((3,), network.dtype, network.device)
        points = torch.cat([bound.x, bound.sample(80, torch.Generator().manual_seed(0))[0]])
        true = true_jacobians(network, points)
        slack = 1e-9 * (1 + true.abs())
        for method in METHODS.values():
            bounds = rj.jacobian_bounds(network, region, method=method)
            assert bool((true >= bounds.lower - slack).all() & (true <= bounds.upper + slack).all()), method
            if radius == 0:
                torch.testing.assert_close(bounds.upper[0] + bounds.lower[0], 2 * true[0], rtol=1e-9, atol=1e-9)
        for rule in RULES.values():
            stages = rj.preactivation_bounds(network, region, pre=rule).stages
            for z, range_ in zip(network.preactivations(points), stages, strict=True):
                size = 1e-9 * (1 + z.abs())
                assert bool((z >= range_.lower - size).all() & (z <= range_.upper + size).all()), rule


@pytest.mark.parametrize("name", ["sum-norm", "largest", "log-sum"])
def test_norms_and_logarithms_of_sums_are_bounded_everywhere(name: str) -> None:
    """Their slopes are, whatever the region is."""
    bounds = rj.jacobian_bounds(network_of(FORMULAS[name]), rj.LpBall(torch.zeros(1, 3), rj.inf), method=rj.Chords())
    assert bool((bounds.upper.isfinite() & bounds.lower.isfinite()).all())


@pytest.mark.parametrize("activation", [Log(), Power(0.5), Power(-0.5), Reciprocal(), Length()], ids=lambda a: a.name)
def test_outside_the_domain_nothing_is_known_and_nothing_fails(activation: Log | Power | Reciprocal | Length) -> None:
    """In one batch with an interval inside it, which has finite bounds."""
    z = Interval(torch.tensor([[-1.0, 0.0, 0.5, -3.0]]), torch.tensor([[1.0, 0.0, 2.0, 0.0]]))
    for found in (activation.value_range(z, Fast()), activation.slope_range(z, Fast())):
        assert not bool(found.lower.isnan().any() | found.upper.isnan().any())
        assert bool(found.lower[0, 2].isfinite() & found.upper[0, 2].isfinite())
    if not isinstance(activation, Length):
        assert activation.value_range(z, Fast()).lower[0, 0] == -rj.inf
        assert activation.value_range(z, Fast()).upper[0, 0] == rj.inf
    assert activation.slope_range(z, Fast()).magnitude[0, 0] == rj.inf
    for lines in (activation.lines(z, Fast()), activation.parallel_lines(z, Fast())):
        assert bool((lines.lower_slope.isfinite() & lines.upper_slope.isfinite()).all())
        assert not bool(lines.lower_intercept.isnan().any() | lines.upper_intercept.isnan().any())


def test_a_network_outside_its_domain_has_no_bounds() -> None:
    network = network_of(lambda x: 1 / x)
    bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(2, 3), torch.tensor([1e-6, 50.0])))
    assert bool(bounds.upper[0].isfinite().all())
    assert bool((bounds.upper[1] == rj.inf).all())


def test_a_network_is_compared_where_it_is_finite() -> None:
    network = rj.load(Fn(lambda _, x: torch.log(x[:, :1]) + torch.sqrt(x[:, 1:])), torch.ones(1, 2))
    bounds = rj.jacobian_bounds(network, rj.LpBall(torch.ones(2), 0.5, rj.inf))
    torch.testing.assert_close(bounds.upper.flatten(), torch.tensor([2.0, 0.5 / 0.5**0.5], dtype=torch.float64))
    with pytest.raises(rj.InvalidNetwork, match="not finite on any"):
        rj.load(Fn(lambda _, x: torch.log(-1 - x.square())), torch.ones(1, 2))
