"""Neurons that no tangent reaches: their slopes do not matter, and what is known exactly is not bounded again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import final

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import ReLU
from recurjac.arithmetic import Interval
from recurjac.network import Network, chain
from recurjac.preactivation import IBP, AbstractPreactivation, Refine
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.chain_rule import ChainRule
from tests.marks import in_turn


def pooled(seed: int) -> Network:
    """Max-pooling of neurons most of which are always 0, twice."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3),
        ]  # fmt: skip
        module = nn.Sequential(*layers).double().requires_grad_(False)
        for part in module:
            if isinstance(part, nn.Conv2d) and part.bias is not None:
                part.bias -= 0.2
    return rj.load(module, torch.zeros(1, 1, 8, 8, dtype=torch.float64))


def problem(seed: int, radius: float, arithmetic: rj.Fast | rj.Rigorous, batch: int = 1) -> rj.Problem:
    x = torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rj.Problem(pooled(seed), rj.LpBall(x, radius, math.inf), arithmetic=arithmetic)


def jacobian(rule: ChainRule, slopes: list[Tensor | None]) -> Tensor:
    """J for these slopes, (batch, *output, inputs), with all products in plain floats."""
    at = [torch.eye(math.prod(rule.shapes[0]), dtype=rule.dtype).reshape(1, -1, *rule.shapes[0])]
    for node in range(1, rule.end + 1):
        parts = [e.operator.push(rj.Fast().exact(at[e.source])).mid for e in rule.edges[node]]
        slope = slopes[node]
        total = torch.stack(torch.broadcast_tensors(*parts)).sum(0)
        at.append(total if slope is None else total * slope.unsqueeze(1))
    return at[-1]


def unknown(rule: ChainRule) -> int:
    return sum(int(mask.sum()) for k in range(rule.end) if (mask := rule.unstable(k)) is not None)


@pytest.mark.parametrize(("seed", "arithmetic"), in_turn(range(4), [rj.Fast(), rj.Rigorous()]))
def test_any_slope_of_a_settled_neuron_gives_the_same_jacobian(seed: int, arithmetic: rj.Fast | rj.Rigorous) -> None:
    g = torch.Generator().manual_seed(seed)
    for batch, radius in ((1, 0.02), (3, 0.05)):
        state = problem(seed, radius, arithmetic, batch).preactivations()
        raw, settled = state.chain(), state.settled_chain()
        assert 0 < unknown(settled) < unknown(raw)
        for _ in range(5):
            some = [None if s is None else s.lower + s.width * torch.rand(s.lower.shape, generator=g)
                    for s in raw.slopes]  # fmt: skip
            less = [None if s is None or t is None else torch.where(t.is_point & (t.lower == 0), 0.0, s)
                    for s, t in zip(some, settled.slopes, strict=True)]  # fmt: skip
            assert torch.equal(jacobian(raw, some), jacobian(raw, less))


@pytest.mark.parametrize("seed", range(4))
def test_bounds_are_those_of_all_unknown_slopes(seed: int) -> None:
    asked = problem(seed, 0.02, rj.Rigorous())
    raw = replace(asked.preactivations().chain(), skeleton=None)
    for method in (rj.Chords(), rj.RecurJac(), rj.FastLip()):
        bounds = rj.jacobian_bounds(asked, method=method)
        g = torch.Generator().manual_seed(seed)
        for _ in range(20):
            ends = [None if s is None else torch.where(torch.rand(s.lower.shape, generator=g) < 0.5, s.lower, s.upper)
                    for s in raw.slopes]  # fmt: skip
            found = jacobian(raw, ends).transpose(1, 2).reshape(bounds.lower.shape)
            slack = 1e-12 * float(found.abs().max())
            assert bool(((found >= bounds.lower - slack) & (found <= bounds.upper + slack)).all())


def test_neurons_at_a_kink_that_tangents_reach_are_not_settled() -> None:
    """At a single point every pre-activation is known exactly; two paths to a neuron may cancel."""
    one = torch.ones(1, 1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    network = chain([(one, zero), (one, zero), (one, zero)], [ReLU(), ReLU()])
    state = rj.Problem(network, rj.LpBall(torch.zeros(1, 1, dtype=torch.float64), 0.0)).preactivations()
    for node in (1, 2):
        slopes = state.settled_chain().slopes[node]
        assert slopes is not None
        assert (slopes.lower.item(), slopes.upper.item()) == (0, 1)
    both = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    apart = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    network = chain([(both, zero.expand(2)), (apart, zero), (one, zero)], [ReLU(), ReLU()])
    state = rj.Problem(network, rj.LpBall(torch.zeros(1, 1, dtype=torch.float64), 0.0)).preactivations()
    slopes = state.settled_chain().slopes[2]
    assert slopes is not None
    assert (slopes.lower.item(), slopes.upper.item()) == (0, 1)


@final
@dataclass(frozen=True)
class Recording(AbstractPreactivation):
    """Interval propagation that notes the neurons that it is asked for, for each stage."""

    asked: dict[int, Tensor] = field(default_factory=dict, compare=False)

    @classmethod
    def command_names(cls) -> dict[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return "recording"

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        if chosen is not None:
            self.asked[k] = chosen
        return IBP().bound(state, k, chosen)


def test_a_dearer_rule_is_not_asked_for_what_is_known_exactly() -> None:
    rule = Recording()
    state = rj.Problem(pooled(0), problem(0, 0.02, rj.Rigorous()).region, pre=Refine(IBP(), rule)).preactivations()
    left = 0
    for k, chosen in rule.asked.items():
        z = state.pre(k)
        assert torch.equal(chosen, state.unstable(k, z) & (z.lower < z.upper))
        left += int((state.unstable(k, z) & ~chosen).sum())
    assert left > 10
