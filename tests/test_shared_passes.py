"""What methods of one intersection share does not change their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

import pytest
import torch

import recurjac as rj
from recurjac import testing
from recurjac.activations import GELU, AbstractActivation, LeakyReLU, ReLU, Tanh
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.jacobian import AbstractJacobianMethod, AbstractRecursion, Gradients
from recurjac.jacobian.base import Descended
from recurjac.jacobian.combine import All
from recurjac.network import Edge, Network, chain
from recurjac.operators import Dense
from recurjac.preactivation import IBP
from recurjac.relaxations import LinearRelaxation


def _network(seed: int, activation: AbstractActivation, outputs: int) -> tuple[Network, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    sizes = (4, 10, 10, 10, outputs)
    layers = [
        (torch.randn(b, a, generator=g, dtype=torch.float64) / a**0.5, torch.randn(b, generator=g).double() / 4)
        for a, b in pairwise(sizes)
    ]
    return chain(layers, [activation] * 3), torch.randn(2, 4, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("activation", [ReLU(), Tanh()], ids=lambda a: a.name)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("radius", [0.0, 0.02, 0.1, 0.4])
def test_recurjac_and_chords_share_only_what_is_the_same(
    activation: AbstractActivation, outputs: int, radius: float
) -> None:
    differs = False
    for seed in range(2):
        net, x = _network(seed, activation, outputs)
        problem = rj.Problem(net, rj.LpBall(x, radius), pre=IBP())
        together = rj.Intersection(rj.RecurJac(), rj.Chords()).prepare(Gradients(problem))
        apart = [m.prepare(Gradients(problem)).push_all() for m in (rj.RecurJac(), rj.Chords())]
        expected = problem.arithmetic.intersect(*apart)
        found = together.push_all()
        _near(found, expected, 1e-13)
        differs |= isinstance(together, All)
    if radius == 0 and activation == ReLU():  # all slopes are known
        assert not differs
    if radius == 0.4:
        assert differs


@pytest.mark.parametrize("activation", [ReLU(), Tanh(), LeakyReLU(2.0), GELU()], ids=lambda a: a.name)
@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()])
@pytest.mark.parametrize("radius", [1e-9, 0.05, 0.4, 3.0])
def test_after_chords_nothing_is_left_for_recurjac(
    activation: AbstractActivation, arithmetic: AbstractArithmetic, radius: float
) -> None:
    """Of the matrix of entries, and of tangents that mix inputs: docs/mathematics.md, §5.3."""
    for seed in range(3):
        net, x = _network(seed, activation, 2)
        problem = rj.Problem(net, rj.LpBall(x[: 1 + seed % 2], radius), arithmetic=arithmetic)
        chords, recurjac = (m.prepare(Gradients(problem)) for m in (rj.Chords(), rj.RecurJac()))
        tangents = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for mine, its in ((chords.push_all(), recurjac.push_all()),
                          (chords.push_each(tangents), recurjac.push_each(tangents))):  # fmt: skip
            slack = 1e-13 * (its.upper.abs() + its.lower.abs())
            assert bool((mine.upper <= its.upper + slack).all())
            assert bool((mine.lower >= its.lower - slack).all())
        together = rj.Intersection(rj.Chords(), rj.RecurJac()).prepare(Gradients(problem))
        assert isinstance(together, Descended)
        assert together.methods == (rj.Chords(),)


def test_recurjac_is_not_left_out_where_chords_know_nothing() -> None:
    """A chord over a half-line says nothing, and a constant may."""
    net, x = _network(0, Tanh(), 2)
    gradients = Gradients(rj.Problem(net, rj.LpBall(x, 0.4)))
    for node in range(1, net.depth - 1):
        chords = rj.Chords().prepare(gradients)
        assert isinstance(chords, Descended)
        assert rj.RecurJac().prepare_beside(gradients, [chords]) is chords
        bounds = chords.known.at(node)
        assert bounds is not None
        chords.known._bounds[node] = Interval(bounds.lower, torch.full_like(bounds.upper, torch.inf))
        assert rj.RecurJac().prepare_beside(gradients, [chords]) is not chords


def test_other_methods_are_not_left_out() -> None:
    net, x = _network(0, ReLU(), 2)
    gradients = Gradients(rj.Problem(net, rj.LpBall(x, 1e-6)))
    prepared = rj.Intersection(rj.Chords(), rj.FastLip(), rj.RecurJac()).prepare(gradients)
    assert isinstance(prepared, All)
    assert len(prepared.prepared) == 2


def test_gradients_of_the_second_method_are_its_own_where_signs_are_unknown() -> None:
    """Shared bounds are those of nodes after which no sign is unknown; earlier ones are Chords' own."""
    net, x = _network(1, ReLU(), 1)
    problem = rj.Problem(net, rj.LpBall(x[:1], 0.4), pre=IBP())
    together = rj.Intersection(rj.RecurJac(), rj.Chords()).prepare(Gradients(problem))
    assert isinstance(together, All)
    second, alone = together.prepared[1], rj.Chords().prepare(Gradients(problem))
    assert isinstance(second, Descended)
    assert isinstance(alone, Descended)
    for node in range(1, alone.known.chain.end):
        own, shared = alone.known.at(node), second.known.at(node)
        assert (own is None) == (shared is None)
        if own is not None and shared is not None:
            used = shared.lower.isfinite()
            _near(own.map(lambda t, u=used: t[u]), shared.map(lambda t, u=used: t[u]), 1e-13)


@final
@dataclass(frozen=True)
class Swept(AbstractRecursion):
    """Chords by sweeps alone."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return "swept"

    def lines(self, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        return rj.Chords().lines(y, slope, arithmetic)


@pytest.mark.parametrize("kind", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("residual", [False, True])
def test_products_before_the_last_node_are_what_a_sweep_gives(kind: str, residual: bool) -> None:
    for seed in range(3):
        net = testing.random_network(kind, seed, residual=residual)
        x = torch.randn(3, *net.input_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for radius, batch in ((0.05, 3), (1.0, 3), (0.3, 1)):
            problem = rj.Problem(net, rj.LpBall(x[:batch], radius))
            a, b = (m.prepare(Gradients(problem)) for m in (rj.Chords(), Swept()))
            assert isinstance(a, Descended)
            assert isinstance(b, Descended)
            _near(a.push_all(), b.push_all(), 1e-12)
            for node in range(1, a.known.chain.end):
                own, swept = a.known.at(node), b.known.at(node)
                assert (own is None) == (swept is None)
                if own is not None and swept is not None:
                    used = swept.lower.isfinite()
                    _near(own.map(lambda t, u=used: t.expand_as(u)[u]), swept.map(lambda t, u=used: t[u]), 1e-12)


def _near(a: Interval, b: Interval, share: float) -> None:
    slack = share * float(b.magnitude.max()) if b.lower.numel() else 0.0
    assert bool(((a.lower - b.lower).abs() <= slack).all())
    assert bool(((a.upper - b.upper).abs() <= slack).all())


def test_forms_that_cancel_before_the_last_node_are_swept() -> None:
    """y = 3 σ(2 σ(x) - 2 σ(x)): along two edges into a node, interval products would not see that nothing is left."""
    one, two = torch.ones(1, 1, dtype=torch.float64), 2 * torch.ones(1, 1, dtype=torch.float64)
    plain = chain([(one, torch.zeros(1).double()), (one, torch.zeros(1).double()), (3 * one, torch.zeros(1).double())],
                  [Tanh(), Tanh()])  # fmt: skip
    state = rj.Problem(plain, rj.LpBall(torch.zeros(1, 1, dtype=torch.float64), 0.5)).chain()
    both = (Edge(1, Dense.matrix(two)), Edge(1, Dense.matrix(-two)))
    whole = replace(state, edges=(*state.edges[:2], both, *state.edges[3:]), skeleton=None)
    found = rj.Chords().prepare(Gradients(given=whole)).push_all()
    assert float(found.magnitude.max()) < 1e-12
    assert float(rj.FastLip().prepare(Gradients(given=whole)).push_all().magnitude.max()) > 1


def test_a_known_slope_before_the_last_node_is_no_reason_to_leave_it_out() -> None:
    """Nodes whose slopes are all known have no bounds of their own, and still pass gradients on."""
    eye = torch.eye(2, dtype=torch.float64)
    net = chain([(eye, torch.zeros(2).double()), (eye, torch.full((2,), 9.0).double()), (eye, torch.zeros(2).double())],
                [ReLU(), ReLU()])  # fmt: skip
    found = rj.jacobian_bounds(net, rj.LpBall(torch.zeros(3, 2, dtype=torch.float64), 0.5), method=rj.Chords())
    assert bool((found.upper >= eye).all())
    assert bool((found.lower <= 0).all())
