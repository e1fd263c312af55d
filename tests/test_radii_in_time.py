"""Certified radii within a time limit: an early adversary, an early radius, and what is said where time was short."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.applications.adversaries import EARLY, FOUND, NONE, NOT_ATTACKED, Adversaries
from recurjac.applications.centres import Centres, around
from recurjac.applications.radii import RadiusBound, least_proved
from recurjac.applications.radius_search import answered, few_radii, search_radii, within_time
from recurjac.deadline import NEVER, Deadline
from recurjac.propagation.planning import Planner, Thresholds

WATCHED = Planner(Thresholds(watched_work=0))
"""Small networks are treated like large ones."""
MARGIN = (rj.MarginBound(),)


class Looks:
    """A clock that advances by one second with every look."""

    def __init__(self) -> None:
        self.count = 0

    def monotonic(self) -> float:
        self.count += 1
        return float(self.count)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    for module in ("recurjac.deadline", "recurjac.preactivation.state"):
        monkeypatch.setattr(f"{module}.time", looks)
    return looks


def flat(value: float = 1.0) -> rj.Network:
    """Two outputs that do not depend on the two inputs: the first is larger by `value`."""
    return rj.load([(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([value, 0.0], dtype=torch.float64))])


def margin_at(seed: int, x: Tensor) -> rj.Network:
    """The margin of the class that a random network gives to an input, over another one."""
    network = testing.random_network("relu", seed, False).flattened_output()
    label = int(network(x).argmax())
    return network.margin(label, (label + 1) % 3)


def status_after(network: rj.Network, attack: rj.Attack, deadline: Deadline) -> str:
    problem, ball = around(network.margin(0, 1), torch.zeros(1, 2, dtype=torch.float64), inf)
    known = Adversaries(attack, problem, Centres.of(ball, network.input_shape))
    known.rush([0], deadline)
    known.search([0], [1.0], deadline)
    return known.of(0).status


@pytest.mark.parametrize("p", [1.0, 2.0, inf])
def test_rushed_attacks_find_adversaries(p: float) -> None:
    x, count = torch.full((1, 2, 2), 0.3, dtype=torch.float64), 0
    for seed in range(12):
        margin, ball = margin_at(seed, x), rj.LpBall(x, 0.0, p, clip=(-2, 2))
        found = rj.Attack().rushed(margin, ball, rj.Rigorous())
        slow = rj.Attack().nearest(margin, ball, torch.ones(1, dtype=torch.float64), rj.Rigorous())
        if float(found.distance) < inf:
            away = float(torch.linalg.vector_norm((found.point - x).flatten(), p))
            assert away <= float(found.distance) <= away * (1 + 1e-12)
            assert float(margin(found.point)) <= 0
            assert bool((found.point.abs() <= 2).all())
            assert float(found.distance) < 4 * float(slow.distance)
            count += 1
        assert not bool(rj.Attack(rounds=0).rushed(margin, ball, rj.Rigorous()).distance.isfinite())
    assert count >= 4  # the others keep their class in the clip box


@pytest.mark.usefixtures("clock")
def test_an_attack_says_what_was_tried() -> None:
    assert status_after(flat(), rj.Attack(rounds=0), NEVER) == NOT_ATTACKED
    assert status_after(flat(), rj.Attack(), NEVER) == NONE
    assert status_after(flat(0.0), rj.Attack(), NEVER) == FOUND
    assert status_after(flat(), rj.Attack(), Deadline(0.0, 0.0)) == NOT_ATTACKED
    seen = [status_after(flat(), rj.Attack(2, 1, 2), Deadline.after(4.0**k)) for k in range(9)]
    assert list(dict.fromkeys(seen)) == [NOT_ATTACKED, EARLY, NONE]


@pytest.mark.usefixtures("clock")
def test_results_say_why_no_adversary_is_known() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64)
    quiet = rj.RadiusSearch(attack=rj.Attack(rounds=0))
    found = rj.certified_radius(flat(), x, search=quiet)
    assert (found.attack_status, "… not attacked" in repr(found)) == ((NOT_ATTACKED,), True)
    assert rj.certified_radius(flat(), x).attack_status == (NONE,)
    wrong = rj.certified_radius(flat(), x, label=1, target=0)
    assert (wrong.attack_status, float(wrong.attack)) == ((FOUND,), 0.0)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("seed", range(4))
def test_what_is_cut_short_says_so(seed: int) -> None:
    x = torch.full((1, 2, 2), 0.3, dtype=torch.float64)
    problem = rj.Problem(testing.random_network("relu", seed, False), rj.LpBall(x, 0.0, clip=(-4, 4)), planner=WATCHED)
    search = rj.RadiusSearch(8, attack=rj.Attack(2, 1, 2))
    whole = rj.certified_radius(problem, proofs=MARGIN, search=search)
    assert whole.status[0] in ("bounded", "exact")
    brief = rj.certified_radius(problem, proofs=MARGIN, search=search, time_limit=2)
    assert (float(brief.radius), brief.status, brief.attack_status) == (0.0, ("time",), (NOT_ATTACKED,))
    assert brief.remark == ("no positive radius is proved in the time",)
    for limit in (2e3, 4e3, 1e9):
        found = rj.certified_radius(problem, proofs=MARGIN, search=search, time_limit=limit)
        assert 0 <= float(found.radius) <= float(found.attack)
        assert found.status[0] in ("time", "bounded", "exact")
    assert float(found.radius) >= 0.85 * float(whole.radius)  # eight intervals, and bounds that are not monotone


@pytest.mark.parametrize("seed", range(4))
def test_something_is_proved_early(seed: int, clock: Looks) -> None:
    """Before the proofs that divide balls are asked, more than half of what the margin's bound can prove is proved."""
    x = torch.full((1, 2, 2), 0.3, dtype=torch.float64)
    problem = rj.Problem(testing.random_network("relu", seed, False), rj.LpBall(x, 0.0, clip=(-4, 4)), planner=WATCHED)
    whole = rj.certified_radius(problem, proofs=MARGIN)
    seen: list[tuple[float, float]] = []
    began, limit = clock.count, 1e5
    search = rj.RadiusSearch(
        time_limit=limit, progress=lambda now: seen.append(((clock.count - began) / limit, now.radius))
    )
    rj.certified_radius(problem, search=search, proofs=(*MARGIN, rj.LipschitzIntegral(), rj.BranchedMargin()))
    assert max(radius for share, radius in seen if share < 0.4) > 0.5 * float(whole.radius)


@pytest.mark.parametrize("end", [0.05, 0.3, 0.95])
@pytest.mark.parametrize("power", [1.0, 2.0, 5.0])
def test_first_radii_come_near_the_end_below_the_adversary(end: float, power: float) -> None:
    """The margin is 1 - (r / end)^power, and an adversary is at distance 1."""
    asked: list[float] = []

    def bound(_: Any, radii: Any) -> list[RadiusBound]:
        asked.extend(radii)
        return [RadiusBound(r, (1 - (r / end) ** power,), (inf,)) for r in radii]

    start = RadiusBound(0.0, (1.0,), (inf,))
    rungs = answered({0: few_radii([start], rj.RadiusSearch(), inf, 1 / 6, 1.0)}, bound)[0]
    assert asked[0] == 1 / 6
    assert 0 < max(asked) < 1
    assert 0.95 * end < least_proved(rungs) <= end


def test_a_grid_begins_at_what_is_known_and_asks_for_slopes_there() -> None:
    """The margin is 1 - r; its bounds are known up to 0.9, and slopes of 1 prove the rest."""

    def rung(r: float) -> RadiusBound:
        return RadiusBound(r, (1 - r,), (1.0,), ("margin",), ("integral",))

    known, asked = RadiusBound(0.9, (0.1,), (inf,), ("margin",)), list[float]()

    def bound(_: Any, radii: Any) -> list[RadiusBound]:
        asked.extend(radii)
        return [rung(r) for r in radii]

    search = rj.RadiusSearch(10, limit=0.9)
    rungs = answered({0: search_radii(search, rung(0.0), inf, 4, (known,))}, bound)[0]
    assert asked[0] == 0.9 / 4
    assert 0.9 in asked
    assert len(set(asked)) == len(asked)
    assert known in rungs
    again = answered({0: search_radii(search, rungs[0], inf, 4, rungs[1:])}, bound)[0]
    assert len(again) <= len(rungs) + 1  # all but the first step are known


def test_nothing_is_asked_after_the_deadline() -> None:
    start = [RadiusBound(0.0, (1.0,), (1.0,))]
    over, ahead = Deadline(0.0, 0.0), NEVER

    def bound(_: Any, radii: Any) -> list[RadiusBound]:
        return [RadiusBound(r, (1 - r,), (inf,)) for r in radii]

    def run(deadline: Deadline) -> list[RadiusBound]:
        return answered({0: within_time(few_radii(start, rj.RadiusSearch(), inf), start, deadline)}, bound)[0]

    assert run(over) == start
    assert run(ahead) == answered({0: few_radii(start, rj.RadiusSearch(), inf)}, bound)[0]
