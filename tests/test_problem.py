"""The request as an object, what is known of gradients, combined methods, and where results come from."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from functools import partial
from math import inf
from typing import Any

import pytest
import torch
from beartype.roar import BeartypeException
from torch import Tensor

import recurjac as rj
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.network import Network
from recurjac.propagation.planning import AbstractPlanner, PlainOnly, PulledOnly, SkeletonOnly
from recurjac.testing.networks import random_network, true_jacobians
from tests.helpers import refused
from tests.marks import in_turn

KINDS = ("relu", "falling", "hard_tanh", "tanh", "gelu", "mixed")
PLANNERS: dict[str, AbstractPlanner] = {"plain": PlainOnly(), "pushed": SkeletonOnly(), "pulled": PulledOnly()}
COMBINED: dict[str, AbstractJacobianMethod] = {
    "nodes": rj.NodeIntersection(rj.Chords(), rj.RecurJac()),
    "nodes-fastlip": rj.NodeIntersection(rj.FastLip(), rj.Chords()),
    "clamped": rj.Clamped(rj.Chords(), rj.ProductOfNorms()),
    "clamped-quadratic": rj.QuadraticClamped(steps=2),
    "clamped-recurjac": rj.Clamped(rj.RecurJac(), rj.ProductOfNorms()),
}


def inputs(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sampled(problem: rj.Problem, count: int = 60) -> list[Tensor]:
    """Points of each sample's region whose pre-activations satisfy the problem's constraints."""
    bound = problem.bound
    points = torch.cat([bound.x.unsqueeze(1), bound.sample(count, torch.Generator().manual_seed(1))], 1)
    kept = []
    for i, x in enumerate(points):
        fine = torch.ones(len(x), dtype=torch.bool)
        for k, known in problem.known.items():
            z = problem.network.preactivations(x)[k - 1]
            row = known[min(i, known.shape[0] - 1)]
            fine &= ((row.lower <= z) & (z <= row.upper)).flatten(1).all(1)
        kept.append(x[fine])
    return kept


def holds(problem: rj.Problem, bounds: rj.JacobianBounds) -> int:
    """How many true Jacobians were looked at; all are inside."""
    seen = 0
    for x, low, high in zip(sampled(problem), bounds.lower, bounds.upper, strict=True):
        true = true_jacobians(problem.network, x) if len(x) else torch.zeros(0, *low.shape, dtype=low.dtype)
        slack = 1e-12 * (float(true.abs().max()) if len(x) else 0.0) + 1e-300
        assert bool((true >= low - slack).all())
        assert bool((true <= high + slack).all())
        seen += len(x)
    return seen


@pytest.mark.parametrize(("kind", "method", "planner"), in_turn(KINDS, list(COMBINED), list(PLANNERS)))
def test_combined_methods_hold_true_jacobians(kind: str, method: str, planner: str) -> None:
    for residual in (False, True):
        network = random_network(kind, 3, residual)
        for radius, p in ((0.05, 2), (3.0, 1)) if residual else ((0.0, inf), (0.4, inf)):
            problem = rj.Problem(network, rj.LpBall(inputs(2), radius, p), planner=PLANNERS[planner])
            assert holds(problem, rj.jacobian_bounds(problem, method=COMBINED[method])) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_clamps_only_tighten(kind: str) -> None:
    network = random_network(kind, 5, False)
    for radius in (0.01, 0.5, 5.0):
        problem = rj.Problem(network, rj.LpBall(inputs(1), radius), arithmetic=rj.Fast())
        plain = rj.jacobian_bounds(problem, method=rj.RecurJac())
        clamped = rj.jacobian_bounds(problem, method=rj.Clamped(rj.RecurJac(), rj.ProductOfNorms()))
        assert bool((clamped.upper <= plain.upper).all())
        assert bool((clamped.lower >= plain.lower).all())


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("method", [rj.FastLip(), rj.Chords(), rj.Intersection(rj.Chords(), rj.RecurJac())], ids=repr)
@pytest.mark.parametrize("residual", [False, True], ids=["chain", "residual"])
def test_what_is_known_of_gradients_holds(residual: bool, method: AbstractJacobianMethod, planner: str) -> None:
    """Bounds of g at every node of the whole chain rule, also where a method worked on a skeleton."""
    network = random_network("leaky", 2, residual, width=40)
    problem = rj.Problem(network, rj.LpBall(inputs(1), 0.3), planner=PLANNERS[planner])
    gradients = rj.Gradients(problem)
    method.prepare(gradients)
    bounded = 0
    for x in sampled(problem)[0]:
        pre = network.preactivations(x.unsqueeze(0))
        nodes = [z.detach() for z in pre]
        for node in range(1, network.depth):
            known = gradients.known(node)
            bounded += int(known.lower.isfinite().sum())
            true = _gradient(network, nodes, node)
            assert bool(((known.lower[0] - 1e-12 <= true) & (true <= known.upper[0] + 1e-12)).all())
    assert bounded > 0


def _gradient(network: Network, pre: list[Tensor], node: int) -> Tensor:
    """∂f/∂h at a node, (K, *node), at a point whose pre-activations are `pre`."""
    h = network.stages[node - 1].activation.value(pre[node - 1])

    def output(value: Tensor) -> Tensor:
        nodes: dict[int, Tensor] = {node: value}
        z = value
        for k in range(node + 1, network.depth + 1):
            stage = network.stages[k - 1]
            through = [e for e in stage.edges if e.source in nodes]
            z = pre[k - 1]
            for e in through:
                before = network.stages[e.source - 1].activation.value(pre[e.source - 1])
                push = e.operator.push(rj.Fast().exact(nodes[e.source] - before)).mid
                z = z + push
            nodes[k] = stage.activation.value(z)
        return z[0]

    return torch.func.jacrev(output)(h)[:, 0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_constraints_hold_where_they_are_satisfied(kind: str) -> None:
    """Halves of a stage's pre-activations, each with the points that lie there."""
    network, seen = random_network(kind, 1, True), 0
    whole = rj.Problem(network, rj.LpBall(inputs(1), 0.6))
    free = rj.jacobian_bounds(whole)
    z = whole.preactivations().pre(2)
    for sign in (1, -1):
        end = torch.full_like(z.lower, inf)
        low, high = -end, end.clone()
        middle = (z.lower + z.upper)[0, 0] / 2
        (low if sign > 0 else high)[0, 0] = middle
        part = whole.constrained(2, rj.Interval(low, high))
        bounds = rj.jacobian_bounds(part)
        seen += holds(part, bounds)
        assert bool((bounds.upper <= free.upper + 1e-9).all())
        lip = rj.lipschitz(part, search=rj.Search(work=1e5))
        assert bool((lip.lower <= lip.upper).all())
    assert seen > 20


def test_a_part_in_which_nothing_is_left_is_empty() -> None:
    network = random_network("relu", 1, False)
    problem = rj.Problem(network, rj.LpBall(inputs(2), 0.1))
    z = problem.preactivations().pre(1)
    low = z.upper + 1.0
    low[1] = -inf
    part = problem.constrained(1, rj.Interval(low, torch.full_like(low, inf)))
    assert part.preactivations().empty.tolist() == [True, False]


def test_a_problem_stands_for_network_and_region() -> None:
    network, region = random_network("relu", 0, False), rj.LpBall(inputs(3), 0.1)
    problem = rj.Problem(network, region, pre=rj.FastLin(), arithmetic=rj.Fast())
    whole = partial(rj.monotone, limit=rj.Limit(parts=1))  # the number of parts would depend on the clock
    for call in (rj.jacobian_bounds, rj.lipschitz, whole):
        a, b = call(problem), call(network, region, pre=rj.FastLin(), arithmetic=rj.Fast())
        assert str(a) == str(b)
    assert torch.equal(
        rj.jacobian_bounds(problem.over(rj.LpBall(inputs(3), 0.2))).upper,
        rj.jacobian_bounds(network, rj.LpBall(inputs(3), 0.2), pre=rj.FastLin(), arithmetic=rj.Fast()).upper,
    )
    refused(lambda: rj.lipschitz(problem, region), rj.InvalidRequest, ["Problem", "region"])
    refused(lambda: rj.lipschitz(network), rj.InvalidRequest, ["region is missing"])
    refused(lambda: problem.constrained(9, rj.Interval.point(inputs(1))), rj.InvalidRequest, ["stage 9"])
    refused(lambda: problem.constrained(1, rj.Interval.point(inputs(1))), rj.InvalidRequest, ["(1, 2, 2)", "(3, 7)"])
    single = random_network("relu", 0, False, torch.float32)
    refused(lambda: rj.Problem(single, problem.bound), rj.InvalidRegion, ["float32", "float64"])


def test_results_say_where_they_come_from() -> None:
    network = random_network("tanh", 0, False)
    found = rj.jacobian_bounds(network, rj.LpBall(inputs(1), 0.1), method=rj.Chords())
    origin = found.provenance
    assert (origin.method, origin.pre, origin.arithmetic) == ("Chords", "CROWN", "Rigorous")
    assert origin.version == rj.__version__
    assert origin.rigorous
    assert origin.reason == ""
    other = random_network("tanh", 1, False)
    assert origin.weights == network.digest() != other.digest()
    parsed = json.loads(found.to_json())
    assert parsed["provenance"]["weights"] == origin.weights
    assert torch.equal(torch.tensor(parsed["lower"], dtype=torch.float64), found.lower)
    pre = rj.preactivation_bounds(network, rj.LpBall(inputs(1), 0.1), arithmetic=rj.Rigorous())
    assert pre.rigorous
    assert len(pre.lower) == network.depth


def test_results_without_live_weights_are_plain_numbers() -> None:
    for found in (
        rj.jacobian_bounds(random_network("relu", 0, True), rj.LpBall(inputs(1), 0.1)),
        rj.lipschitz(random_network("relu", 0, True), rj.LpBall(inputs(1), inf)),
    ):
        assert not found.upper.requires_grad
        assert (copy.deepcopy(found).upper.numpy() == asdict(found)["upper"].numpy()).all()


def test_the_tightest_norm_is_the_least() -> None:
    network = random_network("relu", 4, False)
    methods = (rj.JacobianNorm(rj.FastLip()), rj.ProductOfNorms(), rj.JacobianNorm(rj.Chords()))
    for p, q in ((inf, inf), (1, 1), (2, inf)):
        problem = rj.Problem(network, rj.LpBall(inputs(2), 2.0), arithmetic=rj.Fast())
        each = [rj.lipschitz(problem, p=p, q=q, method=m, search=rj.Search(work=0)).upper for m in methods]
        least = rj.lipschitz(problem, p=p, q=q, method=rj.TightestNorm(*methods), search=rj.Search(work=0)).upper
        assert torch.equal(least, torch.stack(each).amin(0))


def test_hessians_are_public() -> None:
    network = random_network("tanh", 0, False)
    found = rj.hessian_bounds(network, rj.LpBall(inputs(1), 0.05), output=1)
    assert found.lower.shape == (1, 2, 2, 2, 2)
    for x in sampled(rj.Problem(network, rj.LpBall(inputs(1), 0.05)), 20)[0]:
        true = torch.autograd.functional.hessian(lambda y: network(y.unsqueeze(0))[0, 1], x)
        assert bool(((found.lower[0] <= true + 1e-12) & (true <= found.upper[0] + 1e-12)).all())
    refused(
        lambda: rj.hessian_bounds(random_network("relu", 0, False), rj.LpBall(inputs(1), 0.1)),
        rj.InvalidRequest,
        ["relu"],
    )


# What a search for counterexamples found


def absolute() -> rj.Network:
    """|x|."""
    return rj.load([(torch.tensor([[1.0], [-1.0]]), torch.zeros(2)), (torch.ones(1, 2), None)], activation="relu")


def test_two_points_that_refute_satisfy_the_constraints() -> None:
    """|x| is increasing where x >= 0.5; a point at -0.5 says nothing of that."""
    half = rj.Interval(torch.tensor([[0.5, -inf]], dtype=torch.float64), torch.full((1, 2), inf, dtype=torch.float64))
    problem = rj.Problem(absolute(), rj.Box([[-2.0]], [[1.0]])).constrained(1, half)
    assert rj.monotone(problem).trend(0, 0, 0) is not rj.Trend.VIOLATED
    assert rj.monotone(rj.Problem(absolute(), rj.Box([[-2.0]], [[1.0]]))).trend(0, 0, 0) is rj.Trend.VIOLATED


def test_constraints_do_not_move_to_another_network() -> None:
    """A stage of that number is another one there, or there is none."""
    problem = rj.Problem(absolute(), rj.Box([[-1.0]], [[1.0]]))
    end = torch.ones(1, 2, dtype=torch.float64)
    constrained = problem.constrained(1, rj.Interval(0 * end, end))
    assert constrained.of(absolute_with(constrained.network)).known
    for other in (absolute(), rj.load([(torch.ones(1, 1), None)])):
        with pytest.raises(rj.InvalidRequest, match="restricts pre-activations of stage 1"):
            constrained.of(other)
        assert problem.of(other).network is other


def absolute_with(network: rj.Network) -> rj.Network:
    return network.combine([[2.0]])


def test_provenance_names_constraints_and_parts() -> None:
    problem = rj.Problem(absolute(), rj.Box([[-1.0]], [[1.0]]))
    end = torch.ones(1, 2, dtype=torch.float64)
    found = rj.lipschitz(problem.constrained(1, rj.Interval(0 * end, end)))
    assert "where the pre-activations of stage 1 lie in given intervals" in found.provenance.region
    left, _ = problem.bound.halves(torch.zeros(1, dtype=torch.int64))
    assert rj.lipschitz(problem.part(left)).provenance.region == "a part of Box(lower=[[-1.0]], upper=[[1.0]])"
    assert repr(left) == "BoundBox(1 of shape (1,))"


@pytest.mark.parametrize("stage", [True, 1.0, "1", 0, 2])
def test_stages_that_are_no_numbers_are_refused(stage: Any) -> None:
    end = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises((rj.InvalidRequest, BeartypeException)):
        rj.Problem(absolute(), rj.Box([[-1.0]], [[1.0]])).constrained(stage, rj.Interval(0 * end, end))


def test_a_module_whose_dtype_changed_is_refused() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    network = rj.load(module, torch.zeros(1, 2), dtype=torch.float32)
    module.double()
    with pytest.raises(rj.InvalidNetwork, match=r"has become torch.float64 since the network was read"):
        rj.lipschitz(network, rj.LpBall(torch.zeros(2), 0.1))


def test_results_are_compared_by_their_numbers() -> None:
    region = rj.LpBall(torch.zeros(1), 0.5)
    results = [
        rj.lipschitz(absolute(), region), rj.jacobian_bounds(absolute(), region), rj.monotone(absolute(), region),
        rj.preactivation_bounds(absolute(), region), rj.directional_bounds(absolute(), region, direction=[1.0]),
    ]  # fmt: skip
    for i, result in enumerate(results):
        assert result == copy.deepcopy(result)
        assert hash(result) == hash(copy.deepcopy(result))
        assert [other == result for other in results] == [j == i for j in range(len(results))]
    assert results[0] != rj.lipschitz(absolute(), rj.LpBall(torch.zeros(1), 0.25))
