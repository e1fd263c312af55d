"""What methods of one intersection share does not change their bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import recurjac as rj
from recurjac.activations import AbstractActivation, ReLU, Tanh
from recurjac.jacobian import Gradients
from recurjac.jacobian.base import Descended
from recurjac.jacobian.combine import All
from recurjac.network import Network, chain
from recurjac.preactivation import IBP


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
def test_chords_and_recurjac_share_only_what_is_the_same(
    activation: AbstractActivation, outputs: int, radius: float
) -> None:
    differs = False
    for seed in range(2):
        net, x = _network(seed, activation, outputs)
        problem = rj.Problem(net, rj.LpBall(x, radius), pre=IBP())
        together = rj.Intersection(rj.Chords(), rj.RecurJac()).prepare(Gradients(problem))
        apart = [m.prepare(Gradients(problem)).push_all() for m in (rj.Chords(), rj.RecurJac())]
        expected = problem.arithmetic.intersect(*apart)
        found = together.push_all()
        assert torch.equal(found.lower, expected.lower)
        assert torch.equal(found.upper, expected.upper)
        differs |= isinstance(together, All)
    if radius == 0 and activation == ReLU():  # all slopes are known
        assert not differs
    if radius == 0.4:
        assert differs


def test_other_methods_are_not_left_out() -> None:
    net, x = _network(0, ReLU(), 2)
    gradients = Gradients(rj.Problem(net, rj.LpBall(x, 1e-6)))
    prepared = rj.Intersection(rj.Chords(), rj.FastLip(), rj.RecurJac()).prepare(gradients)
    assert isinstance(prepared, All)
    assert len(prepared.prepared) == 2


def test_gradients_of_the_second_method_are_its_own_where_signs_are_unknown() -> None:
    """Shared bounds are those of nodes after which no sign is unknown; earlier ones are RecurJac's own."""
    net, x = _network(1, ReLU(), 1)
    problem = rj.Problem(net, rj.LpBall(x[:1], 0.4), pre=IBP())
    together = rj.Intersection(rj.Chords(), rj.RecurJac()).prepare(Gradients(problem))
    assert isinstance(together, All)
    second, alone = together.prepared[1], rj.RecurJac().prepare(Gradients(problem))
    assert isinstance(second, Descended)
    assert isinstance(alone, Descended)
    for node in range(1, alone.known.chain.end):
        own, shared = alone.known.at(node), second.known.at(node)
        assert (own is None) == (shared is None)
        if own is not None and shared is not None:
            assert torch.equal(own.lower, shared.lower)
            assert torch.equal(own.upper, shared.upper)
