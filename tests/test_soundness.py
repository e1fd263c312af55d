"""No true Jacobian lies outside the bounds, whatever the network, the region and the method."""

from __future__ import annotations

from itertools import pairwise, product
from typing import TypeAlias

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

import recurjac as rj
from recurjac.activations import ReLU
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.network import Network, chain
from recurjac.preactivation import AbstractPreactivation
from recurjac.testing.networks import KINDS, random_network, true_jacobians
from tests.marks import in_turn

Balls: TypeAlias = tuple[tuple[float, float], ...]
METHODS: dict[str, AbstractJacobianMethod] = {
    "fastlip": rj.FastLip(),
    "recurjac": rj.RecurJac(),
    "f0": rj.Reversed(rj.RecurJac()),
    "f1": rj.ReversedAfterFirst(rj.RecurJac()),
    "chords": rj.Chords(),
    "reversed-chords": rj.Reversed(rj.Chords()),
    "default": rj.Intersection(rj.Chords(), rj.RecurJac()),
    "cut": rj.Cut(rj.Chords(), most=7),
    "tangents": rj.ForwardTangents(20),
    "with": rj.WithTangents(rj.FastLip()),
    "gradient forms": rj.GradientForms(20),
    "in-time": rj.InTime(),
}
RULES: dict[str, AbstractPreactivation] = {
    "ibp": rj.IBP(),
    "fastlin": rj.FastLin(),
    "crown": rj.Crown(),
    "crown-alone": rj.Alone(rj.Crown()),
    "forward": rj.Forward(20),
    "both": rj.PreIntersection(rj.FastLin(), rj.Crown()),
}
RADII = (0.0, 1e-6, 0.01, 0.3, 3.0, 1e4, rj.inf)
BALLS = (
    (0.0, 1), (1e-6, rj.inf), (0.01, 2), (0.1, rj.inf), (0.3, 1), (1.0, 2), (3.0, rj.inf), (1e4, 1), (rj.inf, rj.inf),
    (rj.inf, 2),
)  # fmt: skip
ALL_METHODS_ON = ("relu", "mixed", "gated")
"""Kinds on which every method runs by default; on the others the slow tests do."""
GATED = [(0, False), (0, True), (1, False), (1, True)]
"""Seeds of networks of products, and whether they are residual; by default, all tests run on the second one only."""
NETWORKS = [
    pytest.param(kind, seed, residual, id=f"{kind}-{'residual' if residual else 'chain'}-{seed}")
    for kind, residual in product([*KINDS, "mixed"], (False, True))
    for seed in ((0, 1) if kind == "mixed" else (0,))
] + [
    pytest.param("gated", seed, residual, id=f"gated-{'residual' if residual else 'chain'}-{seed}",
                 marks=[] if (seed, residual) == GATED[1] else pytest.mark.slow)
    for seed, residual in GATED
]  # fmt: skip
DEFAULT_KINDS = ("relu", "gelu", "mixed", "gated")
"""Kinds on which what hardly depends on the activation is tested by default; on the others the slow tests do."""
SOME_NETWORKS = [
    pytest.param(*n.values, id=n.id, marks=n.marks if n.values[0] in DEFAULT_KINDS else pytest.mark.slow)
    for n in NETWORKS
]

SOUND = [
    pytest.param(
        *n.values,
        m,
        id=f"{n.id}-{m}",
        marks=n.marks if n.values[0] in ALL_METHODS_ON or m == "default" else pytest.mark.slow,
    )
    for n in NETWORKS
    for m in METHODS
]
RULED = [
    pytest.param(
        *n.values,
        r,
        id=f"{n.id}-{r}",
        marks=n.marks if n.values[0] in ("mixed", "gated") or r == "crown" else pytest.mark.slow,
    )
    for n in NETWORKS
    for r in RULES
]


def in_halves(cases: list[ParameterSet]) -> list[ParameterSet]:
    """Each case with every other ball: by default those of even or of odd numbers, in turns; the others are slow."""
    found = []
    for number, case in enumerate(cases):
        for half in (0, 1):
            name = "even" if half == 0 else "odd"
            marks = case.marks if half == number % 2 else pytest.mark.slow
            found.append(pytest.param(*case.values, BALLS[half::2], id=f"{case.id}-{name}", marks=marks))
    return found


def points_of(region: rj.LpBall, network: Network, count: int = 45) -> Tensor:
    bound = region.bind(network.input_shape, network.dtype, network.device)
    return torch.cat([bound.x.unsqueeze(1), bound.sample(count, torch.Generator().manual_seed(1))], 1)


def slack(jacobian: Tensor) -> float:
    """The rounding of a reverse-mode Jacobian of these small networks."""
    return 1e-12 * float(jacobian.abs().max()) + 1e-300


@pytest.mark.parametrize(("kind", "seed", "residual", "method", "balls"), in_halves(SOUND))
def test_sampled_jacobians_are_inside(kind: str, seed: int, residual: bool, method: str, balls: Balls) -> None:
    network = random_network(kind, seed, residual)
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for radius, p in balls:
        region = rj.LpBall(x, radius, p)
        bounds = rj.jacobian_bounds(network, region, method=METHODS[method])
        for sample, low, high in zip(points_of(region, network), bounds.lower, bounds.upper, strict=True):
            true = true_jacobians(network, sample)
            assert bool((true >= low - slack(true)).all())
            assert bool((true <= high + slack(true)).all())


@pytest.mark.parametrize(("kind", "seed", "residual", "rule", "balls"), in_halves(RULED))
def test_sampled_preactivations_are_inside(kind: str, seed: int, residual: bool, rule: str, balls: Balls) -> None:
    network = random_network(kind, seed, residual)
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for number, (radius, p) in enumerate(balls):
        region = rj.LpBall(x, radius, p, (-4.0, 4.0) if number % 2 == seed % 2 else None)
        bounds = rj.preactivation_bounds(network, region, pre=RULES[rule]).stages
        sample = points_of(region, network)
        for b in range(2):
            for z, interval in zip(network.preactivations(sample[b]), bounds, strict=True):
                size = 1e-12 * (1 + z.abs())
                assert bool((z >= interval.lower[b] - size).all())
                assert bool((z <= interval.upper[b] + size).all())


@pytest.mark.parametrize(("kind", "seed", "residual", "method"), SOUND)
def test_radius_zero_gives_the_jacobian(kind: str, seed: int, residual: bool, method: str) -> None:
    network = random_network(kind, seed, residual)
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, 0.0), method=METHODS[method])
    true = true_jacobians(network, x)
    for end in (bounds.lower, bounds.upper):
        assert float((end - true).abs().max()) <= 1e-11 * float(true.abs().max())


def small(seed: int) -> Network:
    g = torch.Generator().manual_seed(seed)
    sizes = (3, 4, 4, 2)
    layers = [
        (torch.randn(b, a, generator=g, dtype=torch.float64), torch.randn(b, generator=g, dtype=torch.float64))
        for a, b in pairwise(sizes)
    ]
    return chain(layers, [ReLU(), ReLU()])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(6))
def test_every_activation_pattern_is_inside(seed: int, method: str) -> None:
    """J is linear in each slope, so its range over the slopes that a region allows is that over their ends."""
    network = small(seed)
    w = [s.edges[0].operator.weight for s in network.stages]  # type: ignore[attr-defined]
    x = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for radius in (0.05, 0.4, 2.0, rj.inf):
        region = rj.LpBall(x, radius)
        bounds = rj.jacobian_bounds(network, region, method=METHODS[method])
        bound = region.bind((3,), torch.float64, torch.device("cpu"))
        slopes = rj.Problem(network, bound, arithmetic=rj.Rigorous()).chain().slopes
        ends = [
            sorted({float(s.lower[0, i]), float(s.upper[0, i])}) for s in slopes[1:3] if s is not None for i in range(4)
        ]
        seen = []
        for pattern in product(*ends):
            d = torch.tensor(pattern, dtype=torch.float64)
            seen.append(w[2] @ torch.diag(d[4:]) @ w[1] @ torch.diag(d[:4]) @ w[0])
        all_of_them = torch.stack(seen)
        assert bool((all_of_them >= bounds.lower[0] - slack(all_of_them)).all())
        assert bool((all_of_them <= bounds.upper[0] + slack(all_of_them)).all())


@pytest.mark.parametrize("method", METHODS)
def test_one_hidden_layer_is_exact(method: str) -> None:
    """With one hidden layer the entries' exact range is a sum of independent intervals: nothing may be lost."""
    g = torch.Generator().manual_seed(5)
    first, last = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((6, 4), (3, 6)))
    network = chain([(first, None), (last, None)], [ReLU()])
    bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(4), rj.inf), method=METHODS[method])
    terms = last[:, :, None] * first[None]
    assert torch.allclose(bounds.upper[0], terms.clamp(min=0).sum(1), rtol=1e-13, atol=1e-13)
    assert torch.allclose(bounds.lower[0], terms.clamp(max=0).sum(1), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("kind", "seed", "residual"), SOME_NETWORKS)
def test_chords_are_never_worse_than_recurjac_nor_that_than_fast_lip(kind: str, seed: int, residual: bool) -> None:
    network = random_network(kind, seed, residual)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for radius in RADII:
        region = rj.LpBall(x, radius)
        found = [
            rj.jacobian_bounds(network, region, method=m, arithmetic=rj.Fast())
            for m in (rj.Chords(), rj.RecurJac(), rj.FastLip())
        ]
        for better, worse in pairwise(found):
            size = 1e-12 * float(worse.upper.abs().max() + worse.lower.abs().max())
            assert bool((better.upper <= worse.upper + size).all())
            assert bool((better.lower >= worse.lower - size).all())


@pytest.mark.parametrize(("kind", "seed", "residual", "arithmetic"), in_turn(SOME_NETWORKS, [rj.Fast(), rj.Rigorous()]))
def test_small_memory_gives_the_same_bounds(
    kind: str, seed: int, residual: bool, arithmetic: rj.Fast | rj.Rigorous
) -> None:
    """Tangents one at a time or all together."""
    network, x = random_network(kind, seed, residual), torch.zeros(2, 2, 2, dtype=torch.float64)
    problem, small = (
        rj.Problem(network, rj.LpBall(x, 0.3), pre=_without_forms(network), arithmetic=a)
        for a in (arithmetic, type(arithmetic)(memory=1))
    )
    for name, method in METHODS.items():
        if name in _KEEPING:  # as many losses are kept apart as memory allows
            continue
        whole, parts = (rj.jacobian_bounds(p, method=method) for p in (problem, small))
        assert torch.allclose(whole.upper, parts.upper, rtol=1e-12)
        assert torch.allclose(whole.lower, parts.lower, rtol=1e-12)


@pytest.mark.parametrize(("kind", "seed", "residual"), SOME_NETWORKS)
def test_a_batch_is_its_samples(kind: str, seed: int, residual: bool) -> None:
    """Also where the samples' unstable neurons differ, and with a radius of its own for each."""
    network = random_network(kind, seed, residual)
    x = 2 * torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    radius = torch.tensor([0.0, 0.01, 0.1, 1.0, 0.05], dtype=torch.float64)
    for name, method in METHODS.items():
        if name in _KEEPING:  # samples share the losses that are kept apart
            continue
        pre = _without_forms(network)
        together = rj.jacobian_bounds(network, rj.LpBall(x, radius), method=method, pre=pre)
        for b in (1, 3):
            alone = rj.jacobian_bounds(network, rj.LpBall(x[b], radius[b]), method=method, pre=pre)
            assert torch.allclose(together.upper[b], alone.upper[0], rtol=1e-10, atol=1e-12)
            assert torch.allclose(together.lower[b], alone.lower[0], rtol=1e-10, atol=1e-12)


_KEEPING = {"tangents", "with", "gradient forms"}
"""Methods with forms that keep some losses apart."""


def _without_forms(network: Network) -> AbstractPreactivation:
    """A rule that does not carry forms of products, which keep losses apart as above."""
    return rj.Alone(rj.Crown()) if network.has_products else rj.Crown()


def test_permuting_neurons_changes_nothing() -> None:
    network = small(3)
    w = [s.edges[0].operator.weight for s in network.stages]  # type: ignore[attr-defined]
    b = [s.constants[0].tensor for s in network.stages]
    p, q = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 3, 0, 2])
    shuffled = chain([(w[0][p], b[0][p]), (w[1][q][:, p], b[1][q]), (w[2][:, q], b[2])], [ReLU(), ReLU()])
    region = rj.LpBall(torch.ones(3), 0.4)
    for method in METHODS.values():
        one, other = (rj.jacobian_bounds(n, region, method=method) for n in (network, shuffled))
        assert torch.allclose(one.upper, other.upper, rtol=1e-12)
        assert torch.allclose(one.lower, other.lower, rtol=1e-12)
