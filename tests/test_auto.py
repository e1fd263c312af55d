"""`Auto`: never looser than a method in one pass, in time, anytime; and the parts that it is made of."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.auto import STEPS, AbstractStep, BranchStep, ExactStep, ForwardStep, NormStep, Progress, RangeStep
from recurjac.auto.work import Work
from recurjac.cli import main, named
from recurjac.deadline import Deadline
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod
from recurjac.preactivation import SecantRanges
from recurjac.preactivation.anytime import Known, Within, refined
from recurjac.propagation.planning import PlainOnly

QUIET = rj.Search(work=0)


@final
class CpuTime:
    """A clock of the time that this process works, so that limits do not depend on what else the machine does."""

    monotonic = staticmethod(time.process_time)


@pytest.fixture(autouse=True)
def cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("recurjac.deadline", "recurjac.preactivation.state"):
        monkeypatch.setattr(f"{module}.time", CpuTime)


PLAIN = tuple(step for step in STEPS if not isinstance(step, BranchStep | ExactStep))
"""The steps without branch and bound, which makes small networks exact."""
FORWARD = tuple(step for step in STEPS if isinstance(step, ForwardStep))
BRIEF = (RangeStep(SecantRanges(2)), NormStep(rj.QuadraticNorm(2)), *FORWARD)
"""Steps that take little time."""
ONE_PASS: tuple[AbstractNormMethod, ...] = (
    rj.ProductOfNorms(),
    *(
        rj.JacobianNorm(m)
        for m in (
            rj.FastLip(), rj.RecurJac(), rj.Chords(), rj.Reversed(rj.RecurJac()), rj.ReversedAfterFirst(rj.RecurJac()),
            rj.Intersection(rj.Chords(), rj.RecurJac()),
        )
    ),
)  # fmt: skip


def net(seed: int, sizes: Sequence[int] = (4, 12, 12, 12, 3), activation: str = "relu") -> Network:
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(n, m, generator=g).double() / m**0.5 * 1.5, torch.randn(n, generator=g).double() / 4)
        for m, n in pairwise(sizes)
    ]
    return rj.load(layers, activation=activation)


def ball(radius: float, size: int = 4, batch: int = 1) -> rj.LpBall:
    return rj.LpBall(torch.linspace(-0.5, 0.5, size * batch).double().reshape(batch, size), radius)


@final
@dataclass(frozen=True)
class Interruption(AbstractStep):
    """A step that is interrupted."""

    @property
    def title(self) -> str:
        return "interruption"

    @property
    def rungs(self) -> int:
        return 1

    def suits(self, work: Work) -> bool:
        return True

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("p", "q"), [(inf, inf), (2, 2), (1, 1)])
@pytest.mark.parametrize(("kind", "residual"), [("relu", True), ("tanh", False)])
def test_never_looser_than_one_pass(kind: str, residual: bool, p: float, q: float) -> None:
    _never_looser(testing.random_network(kind, 3, residual), (0.02, 0.5), p, q, BRIEF)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "q"), [(inf, inf), (2, 2), (1, inf), (inf, 2), (2, 1)])
@pytest.mark.parametrize("kind", ["relu", "falling", "tanh", "gelu", "mixed"])
@pytest.mark.parametrize("seed", range(2))
def test_never_looser_than_one_pass_with_all_steps(kind: str, seed: int, p: float, q: float) -> None:
    _never_looser(testing.random_network(kind, seed, bool(seed)), (0.01, 0.3, inf), p, q, PLAIN)


def _never_looser(
    network: Network, radii: Sequence[float], p: float, q: float, steps: tuple[AbstractStep, ...]
) -> None:
    for radius in radii:
        region = rj.LpBall(torch.full((1, 2, 2), 0.4), radius, p)
        found = rj.lipschitz(network, region, p=p, q=q, method=rj.Auto(60, steps), search=rj.Search(work=1e5))
        assert found.status in ("exact", "stuck")
        for method in ONE_PASS:
            other = rj.lipschitz(network, region, p=p, q=q, method=method, search=QUIET)
            assert float(found.upper) <= float(other.upper) * (1 + 1e-12), method.title
        assert float(found.lower) <= float(found.upper)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_on_random_networks(seed: int) -> None:
    testing.check_norm_method(rj.Auto((0.02, 0.2, 1.0)[seed]), seed=seed)


def test_secants_pay_and_the_note_says_so() -> None:
    network, region = net(0, (6, 20, 20, 20, 20, 2)), ball(0.3, 6)
    found = rj.lipschitz(network, region, method=rj.Auto(20, BRIEF), search=QUIET)
    plain = rj.lipschitz(network, region, search=QUIET)
    assert float(found.upper) < 0.9 * float(plain.upper)
    assert found.note == "least by P-chain"
    (line,) = found.steps
    assert line.startswith("product of norms ")
    assert all(word in line for word in ("Fast-Lip", "Chords ∩ RecurJac-B", "ranges by secants"))
    assert found.provenance.method == "auto"


def test_it_stops_as_soon_as_the_bounds_meet() -> None:
    network = net(0)
    began = time.process_time()
    for radius in (0.0, 1e-9):
        found = rj.lipschitz(network, ball(radius), method=rj.Auto(60))
        assert found.status == "exact"
        assert float(found.upper) <= float(found.lower) * (1 + 1e-6)
    zero = rj.load([(torch.zeros(3, 4), None), (torch.ones(2, 3), None)], activation="relu")
    assert rj.lipschitz(zero, ball(1.0), method=rj.Auto(60), search=QUIET).status == "exact"
    assert time.process_time() - began < 10


def test_few_inputs_are_divided() -> None:
    network = net(1, (2, 12, 12, 1))
    found = rj.lipschitz(network, ball(0.5, 2), method=rj.Auto(30))
    assert found.status == "exact"
    assert float(found.upper) <= float(found.lower) * (1 + 2e-6)
    assert found.note == "least by branch and bound"


def test_it_ends_in_time() -> None:
    network = net(0, (30, 60, 60, 60, 60, 60, 3))
    for seconds in (0.05, 0.5):
        began = time.process_time()
        found = rj.lipschitz(network, ball(0.3, 30), method=rj.Auto(seconds), search=QUIET)
        assert time.process_time() - began < seconds + 2
        assert found.status == "time"
        plain = rj.lipschitz(network, ball(0.3, 30), method=rj.ProductOfNorms(), search=QUIET)
        assert float(found.upper) <= float(plain.upper) * (1 + 1e-12)


def test_samples_are_bounded_as_each_alone_if_there_is_time() -> None:
    network, steps = net(0), (RangeStep(SecantRanges(5)), NormStep(rj.QuadraticNorm(5)))
    whole = rj.lipschitz(network, ball(0.2, batch=3), method=rj.Auto(20, steps), search=QUIET)
    centres = ball(0.2, batch=3).x
    for i in range(3):
        one = rj.Problem(network, rj.LpBall(centres[i], 0.2), planner=PlainOnly())  # as if bounded with others
        alone = rj.lipschitz(one, method=rj.Auto(20, steps), search=QUIET)
        assert float(whole.upper[i]) == pytest.approx(float(alone.upper), rel=1e-6)
    assert len(whole.steps) == 3


def test_an_interruption_returns_what_is_proved() -> None:
    network, region = net(0), ball(0.2, batch=3)
    plain = rj.lipschitz(network, region, search=QUIET)
    found = rj.lipschitz(network, region, method=rj.Auto(20, (Interruption(),)), search=QUIET)
    assert "interrupted" in found.status
    assert torch.allclose(found.upper, plain.upper, rtol=1e-12)
    one = rj.lipschitz(network, region, method=rj.Auto(20, (NormStep(rj.QuadraticNorm(9)), Interruption())),
                       search=QUIET)  # fmt: skip
    found_before = one.upper < plain.upper * (1 - 1e-9)
    assert int(found_before.sum()) == 1  # the sample with the largest gap, which comes first
    assert torch.allclose(one.upper[~found_before], plain.upper[~found_before], rtol=1e-12)


def test_an_interruption_before_any_bound_is_one() -> None:
    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    found = rj.lipschitz(net(0), ball(0.2), method=rj.Auto(20, progress=stop), search=QUIET)
    assert found.status == "interrupted"
    assert float(found.upper) < inf


def test_progress_closes_the_gap() -> None:
    seen: list[Progress] = []
    found = rj.lipschitz(net(1), ball(0.3), method=rj.Auto(3, PLAIN, seen.append), search=QUIET)
    assert len(seen) > 5
    for before, now in pairwise(seen):
        assert now.upper <= before.upper
        assert now.lower >= before.lower
        assert now.seconds >= before.seconds
    assert seen[-1].upper == float(found.upper)
    assert seen[-1].lower <= float(found.lower) * (1 + 1e-12)


def test_rows_and_parts_of_chain_rules() -> None:
    network, region = net(0), ball(0.2)
    each = [
        float(rj.lipschitz(network.output(k), region, method=rj.Auto(5, BRIEF), search=QUIET).upper) for k in range(3)
    ]
    gradients = rj.Gradients(rj.Problem(network, region))
    rows = rj.Auto(5, BRIEF).rows(gradients, inf)
    plain = rj.JacobianNorm().rows(gradients, inf)
    assert bool((rows <= plain * (1 + 1e-12)).all())
    assert bool((rows[0] >= torch.tensor(each) * 0.5).all())
    part = rj.Gradients(given=gradients.chain.starting_at(1))
    found, known = rj.Auto(5, BRIEF).norm(part, inf, inf), rj.QuadraticNorm(2).norm(part, inf, inf)
    assert bool((found <= known * (1 + 1e-12)).all())


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), True])
def test_no_time_is_refused(seconds: object) -> None:
    for make in (rj.Auto, lambda seconds: rj.QuadraticNorm(3, seconds), lambda seconds: SecantRanges(3, seconds)):
        with pytest.raises(rj.InvalidRequest, match="positive number of seconds"):
            make(seconds=seconds)  # type: ignore[arg-type]


@pytest.mark.default
def test_it_is_the_default_unless_gradients_are_recorded() -> None:
    network = rj.load(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double(),
                      torch.zeros(1, 2).double())  # fmt: skip
    region = rj.LpBall(torch.zeros(2), 0.5)
    assert network.live
    recorded = rj.lipschitz(network, region, search=QUIET)
    assert recorded.method == "Chords ∩ RecurJac-B"
    recorded.upper.sum().backward()
    with torch.no_grad():
        found = rj.lipschitz(network, region)
    assert found.method == "auto"
    assert not found.upper.requires_grad
    assert float(found.upper) <= float(recorded.upper.detach()) * (1 + 1e-12)


# Ranges


def ranges(problem: rj.Problem) -> list[tuple[Tensor, Tensor]]:
    state = problem.preactivations()
    return [(state.pre(k).lower, state.pre(k).upper) for k in range(1, problem.network.depth)]


def inside(tight: list[tuple[Tensor, Tensor]], wide: list[tuple[Tensor, Tensor]]) -> bool:
    return all(
        bool((a >= c - 1e-12 * c.abs()).all() & (b <= d + 1e-12 * d.abs()).all())
        for (a, b), (c, d) in zip(tight, wide, strict=True)
    )


@pytest.mark.parametrize("kind", ["relu", "gelu", "mixed"])
def test_what_is_known_is_never_lost(kind: str) -> None:
    network = testing.random_network(kind, 1, True)
    problem = rj.Problem(network, rj.LpBall(torch.full((2, 2, 2), 0.3), 0.3))
    state = problem.preactivations()
    again = problem.by(Known.of(state, problem.pre))
    assert inside(ranges(again), ranges(problem))
    assert inside(ranges(problem), ranges(again))
    better = problem.by(refined(state, problem.pre, Within(SecantRanges(8), Deadline.after(60))))
    secants = problem.by(rj.Secants(8))
    assert inside(ranges(better), ranges(problem))
    width, other = (sum(float((b - a).sum()) for a, b in ranges(p)) for p in (better, secants))
    assert width <= 1.02 * other  # the searches of both start from ranges that differ by rounding
    late = problem.by(refined(state, problem.pre, Within(SecantRanges(8), Deadline.after(0))))
    assert inside(ranges(late), ranges(problem))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_ranges_within_a_time_are_sound(seed: int) -> None:
    for seconds in (0.0, 1e-3, 0.05):
        rule = rj.Refine(rj.Crown(), Within(SecantRanges(20), Deadline.after(seconds)))
        testing.check_preactivation(rule, seed=seed)


def test_the_search_for_multipliers_ends_in_time() -> None:
    network, region = net(0, (60, 90, 90, 90, 90, 2)), ball(0.3, 60)
    for method in (rj.QuadraticNorm(10**6, 0.3),):
        began = time.process_time()
        rj.lipschitz(network, region, method=method, search=QUIET)
        assert time.process_time() - began < 3
    began = time.process_time()
    rj.preactivation_bounds(network, region, pre=replace(rj.Secants(), then=SecantRanges(10**6, 0.2)))
    assert time.process_time() - began < 4


def test_deadlines() -> None:
    never, gone, soon = Deadline.after(inf), Deadline.after(0), Deadline.after(100)
    assert (never.over, never.share, never.left) == (False, 0.0, inf)
    assert (gone.over, gone.share, gone.left) == (True, 1.0, 0.0)
    assert not soon.over
    assert 0 <= soon.share < 0.1
    assert soon.left <= 100 <= soon.left + 10


# Entries, and rules


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_entries_are_never_looser_and_sound(activation: str) -> None:
    network = net(2, (6, 16, 16, 16, 2), activation)
    region = ball(0.3, 6, 2)
    plain = rj.jacobian_bounds(network, region)
    found = rj.jacobian_bounds(network, region, method=rj.AutoEntries(5))
    assert bool((found.lower >= plain.lower).all() & (found.upper <= plain.upper).all())
    assert float((found.upper - found.lower).mean()) < float((plain.upper - plain.lower).mean())
    late = rj.jacobian_bounds(network, region, method=rj.AutoEntries(1e-6))
    assert bool((late.lower >= plain.lower).all() & (late.upper <= plain.upper).all())
    points = region.bind((6,), torch.float64, torch.device("cpu")).sample(40, torch.Generator().manual_seed(0))
    for i in range(2):
        true = testing.true_jacobians(network, points[i])
        assert bool((found.lower[i] - 1e-12 <= true).all() & (true <= found.upper[i] + 1e-12).all())


@pytest.mark.slow
def test_entries_on_random_networks() -> None:
    testing.check_jacobian_method(rj.AutoEntries(0.2, rules=(SecantRanges(3),)))


def test_auto_stands_for_a_rule() -> None:
    network, region = net(2, (6, 16, 16, 16, 2)), ball(0.3, 6)
    found = rj.preactivation_bounds(network, region, pre=rj.Auto(5))
    same = rj.preactivation_bounds(network, region, pre=rj.AutoRanges(5))
    plain = rj.preactivation_bounds(network, region)
    secants = rj.preactivation_bounds(network, region, pre=rj.Secants(40))
    assert found.provenance.pre == "auto"
    for a, b, c, d in zip(found.stages, same.stages, plain.stages, secants.stages, strict=True):
        assert torch.equal(a.lower, b.lower)
        assert bool((a.lower >= c.lower).all() & (a.upper <= c.upper).all())
        assert torch.allclose(a.lower, d.lower)
    assert rj.Problem(network, region).by(rj.Auto(3)).pre == rj.AutoRanges(3)
    late = rj.preactivation_bounds(network, region, pre=rj.AutoRanges(1e-9))
    quick = rj.preactivation_bounds(network, region, pre=rj.IBP())
    within = [bool((a.lower >= b.lower - 1e-14).all()) for a, b in zip(late.stages, quick.stages, strict=True)]
    assert all(within), "the intervals of a skeleton may be wider than others by rounding only"
    assert rj.AutoRanges(5).within(2) == rj.AutoRanges(2)
    assert rj.AutoEntries(5).within(2) == rj.AutoEntries(2)
    for make in (rj.AutoRanges, rj.AutoEntries):
        with pytest.raises(rj.InvalidRequest, match="positive number of seconds"):
            make(0)


def test_certified_radii_with_ranges_by_auto() -> None:
    """Chords is monotone in the ranges; the search for radii may still end elsewhere, within its tolerance."""
    network, x = net(4, (6, 10, 10, 3)), torch.full((6,), 0.2).double()
    plain = rj.certified_radius(network, x)
    better = rj.certified_radius(rj.Problem(network, rj.LpBall(x, 0.0), pre=rj.Auto(0.05)))
    assert float(better.radius) >= float(plain.radius) * 0.999
    assert float(better.radius) <= float(better.attack)


# The command line


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    np.savez("net.npz", W0=g.normal(size=(9, 4)), W1=g.normal(size=(9, 9)), W2=g.normal(size=(2, 9)), activation="relu")
    np.save("x.npy", g.random((2, 4)))


COMMON = ("net.npz", "--input", "x.npy", "--radius", "0.3", "--json", "r.json")


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path("r.json").read_text())["results"]
    return found


@pytest.mark.usefixtures("_files")
def test_the_command_line_takes_a_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.process_time()
    assert main(["lipschitz", *COMMON, "--time-limit", "1"]) == 0
    assert time.process_time() - began < 2 * (1 + 1)
    network, x = rj.load("net.npz"), np.load("x.npy")
    for i, row in enumerate(rows()):
        plain = rj.lipschitz(network, rj.LpBall(x[i], 0.3), search=QUIET)
        assert (row["method"], row["index"]) == ("auto", i)
        assert row["lower"] <= row["upper"] <= float(plain.upper) * (1 + 1e-12)
        assert row["status"] in ("time", "exact", "stuck")
        assert row["steps"].startswith("product of norms")
    assert "least by" in capsys.readouterr().err
    for command in ("jacobian", "monotone"):
        assert main([command, *COMMON, "--time-limit", "0.3", "--quiet"]) == 0
        assert {row["method"] for row in rows()} == {"auto"}
    for command, method in (("lipschitz", "chords"), ("jacobian", "fastlip")):
        assert main([command, *COMMON, "--time-limit", "0.3", "--method", method]) == 2
        assert "--time-limit" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["lipschitz", *COMMON, "--time-limit", "0"])
    assert main(["lipschitz", *COMMON, "--time-limit", "0.2", "--method", "branched"]) == 0
    assert main(["lipschitz", *COMMON, "--time-limit", "0.2", "--method", "quadratic"]) == 0


@pytest.mark.usefixtures("_files")
def test_an_interrupted_question_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recurjac.cli.bounds.named.timed", lambda *_: rj.Auto(steps=(Interruption(),)))
    assert main(["lipschitz", *COMMON]) == 1
    (row,) = rows()
    assert (row["index"], row["status"]) == (0, "interrupted")
    assert row["lower"] <= row["upper"] < inf
    assert "interrupted; the 1 finished results are reported" in capsys.readouterr().err


def test_a_search_for_radii_shares_the_time() -> None:
    assert named.for_ball(rj.Auto(20)) == rj.Auto(0.5)
    assert named.for_ball(rj.ProductOfNorms()) == rj.ProductOfNorms()
    assert named.rule_for_ball("auto") == rj.AutoRanges(0.25)
    assert named.rule_for_ball("crown") == rj.Crown()
