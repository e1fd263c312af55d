"""Checks of rules and methods against sampled true values on random networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from math import inf

import torch
from torch import Tensor

from recurjac.applications.proofs import AbstractRadiusProof, MarginBalls
from recurjac.arithmetic import Fast
from recurjac.branching import AbstractBrancher
from recurjac.jacobian import AbstractJacobianMethod, Gradients, jacobian_bounds
from recurjac.lipschitz_constants import lipschitz
from recurjac.loading import load
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod
from recurjac.preactivation import AbstractPreactivation
from recurjac.problem import Problem
from recurjac.propagation.planning import PlainOnly, PulledOnly, SkeletonOnly
from recurjac.region import LpBall
from recurjac.search import Search
from recurjac.stage_bounds import preactivation_bounds
from recurjac.testing.networks import random_network, true_jacobians
from recurjac.testing.require import require

KINDS = ("relu", "falling", "hard_tanh", "tanh", "gelu", "mixed", "gated")
"""Activations of the networks: with slopes of either sign, with kinks, smooth, a mixture, and products."""
BALLS = ((0.0, inf), (0.05, 2.0), (0.4, inf), (3.0, 1.0), (inf, inf))
"""Radii and norms, from a point to the whole space."""
_EACH = 2
"""How many of these each network gets; the seed decides which, so that all have their turn in as many seeds."""
_DUAL = {1.0: inf, 2.0: 2.0, inf: 1.0}
"""The norm of a gradient that bounds the change over an l_p distance of 1."""


def problems(seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Iterator[Problem]:
    """Small random problems: chains and residual networks, batches of one and two, all planners.

    Five seeds in turn have each network with each of `BALLS`.
    """
    planners = (PlainOnly(), SkeletonOnly(), PulledOnly())
    number = 0
    for kind in kinds:
        for residual in (False, True):
            network = random_network(kind, seed, residual)
            for radius, p in islice(cycle(BALLS), (seed + number) % len(BALLS), (seed + number) % len(BALLS) + _EACH):
                generator = torch.Generator().manual_seed(seed + number)
                x = torch.randn(1 + number % 2, 2, 2, generator=generator, dtype=torch.float64)
                yield Problem(network, LpBall(x, radius, p), planner=planners[number % 3])
                number += 1
    for radius, p in BALLS[:3]:
        yield Problem(_tiny_network(seed), LpBall(torch.ones(1, 4) / 2, radius, p))


def _tiny_network(seed: int) -> Network:
    """In float32, with gradients whose squares underflow."""
    g = torch.Generator().manual_seed(seed)
    return load([(torch.randn(n, m, generator=g) * s, None) for n, m, s in ((4, 4, 1e-25), (3, 4, 1.0))],
                activation="relu", dtype=torch.float32)  # fmt: skip


def true_network(problem: Problem) -> Network:
    """The network of a problem in float64, so that bounds in float32 are compared with what they bound."""
    return problem.network.to(torch.float64)


def sampled(problem: Problem, count: int = 40) -> Tensor:
    """Points of the region of each sample, with its centre as the first: (batch, count + 1, *input)."""
    bound = problem.bound
    spread = bound.sample(count, torch.Generator().manual_seed(1))
    return torch.cat([bound.x.unsqueeze(1), spread], 1).double()


def check_jacobian_method(method: AbstractJacobianMethod, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> None:
    """No true Jacobian at a sampled point lies outside the bounds."""
    for problem in problems(seed, kinds):
        bounds = jacobian_bounds(problem, method=method)
        _no_nan(bounds.lower, bounds.upper, problem)
        for x, low, high in zip(sampled(problem), bounds.lower, bounds.upper, strict=True):
            true = true_jacobians(true_network(problem), x)
            slack = 1e-12 * float(true.abs().max()) + 1e-300
            _inside(low - slack, true, high + slack, f"{method.title}: a true Jacobian is outside the bounds", problem)


def check_preactivation(rule: AbstractPreactivation, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> None:
    """No true pre-activation at a sampled point lies outside the bounds."""
    for problem in problems(seed, kinds):
        asked = problem.by(rule)
        bounds = preactivation_bounds(asked)
        for k, z in enumerate(bounds.stages):
            _no_nan(z.lower, z.upper, problem)
            for i, x in enumerate(sampled(problem)):
                true = true_network(problem).preactivations(x)[k].detach()
                slack = 1e-12 * float(true.abs().max()) + 1e-300
                said = f"{rule.title}: a pre-activation of stage {k + 1} is outside its bounds"
                _inside(z.lower[i] - slack, true, z.upper[i] + slack, said, problem)


def check_norm_method(method: AbstractNormMethod, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> None:
    """No sampled Jacobian has a gain above the bound, nor a row above its own; norms that are supported take turns."""
    for number, problem in enumerate(problems(seed, kinds)):
        pairs = [(p, q) for p in (inf, 1.0, 2.0) for q in (inf, 1.0, 2.0) if method.supports(p, q)]
        require(bool(pairs), f"{method.title} supports no norm")
        p, q = pairs[number % len(pairs)]
        found = lipschitz(problem, p=p, q=q, method=method, search=Search(work=0))
        for x, upper in zip(sampled(problem, 20), found.upper, strict=True):
            true = true_jacobians(true_network(problem), x).flatten(2)
            least = max(_gain(j, p, q) for j in true)
            said = f"{method.title}: a Jacobian has an l{p:g} → l{q:g} gain of {least:.6g}, above {float(upper):.6g}"
            require(least <= float(upper) * (1 + 1e-9) + 1e-300, f"{said} on {problem}")
        if method.supports(p, inf):
            _check_rows(method, problem, p)


def _check_rows(method: AbstractNormMethod, problem: Problem, p: float) -> None:
    """The norm of a row, as a map from l_p to numbers, is the dual norm of its entries."""
    asked = problem.of(problem.network.flattened_output())
    rows = method.rows(Gradients(asked.covering(method.unproved_rounding(p, inf, 1))), p)
    dual = _DUAL[p]
    for x, upper in zip(sampled(problem, 20), rows, strict=True):
        norms = torch.linalg.vector_norm(true_jacobians(true_network(problem), x).flatten(2), dual, dim=2)
        wrong = norms > upper * (1 + 1e-9) + 1e-300
        require(not bool(wrong.any()), f"{method.title}: a row has an l{dual:g} norm above its bound on {problem}")


def _gain(jacobian: Tensor, p: float, q: float) -> float:
    """The largest gain ‖J v‖_q / ‖v‖_p of some directions: unit vectors, signs of rows, rows, and random ones."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(16, jacobian.shape[1], generator=generator, dtype=jacobian.dtype)
    ways = torch.cat([torch.eye(jacobian.shape[1], dtype=jacobian.dtype), jacobian.sign(), jacobian, random])
    length = torch.linalg.vector_norm(ways, p, dim=1)
    gains = torch.linalg.vector_norm(ways @ jacobian.mT, q, dim=1)
    return float((gains / torch.where(length > 0, length, 1.0))[length > 0].max())


def check_radius_proof(proof: AbstractRadiusProof, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> None:
    """No sampled margin lies below its bound, and no sampled gradient of one is longer than the bound of its slopes."""
    reached = False
    for problem in problems(seed, kinds):
        ball = problem.region
        if isinstance(ball, LpBall) and proof.supports(ball.p):
            reached = True
            _check_facts(proof, problem, ball)
    require(reached, f"{type(proof).__name__} supports no norm")


def _check_facts(proof: AbstractRadiusProof, problem: Problem, ball: LpBall) -> None:
    asked = problem.of(problem.network.flattened_output()).covering(proof.unproved_rounding(ball.p))
    radii = torch.full((problem.bound.batch,), float(ball.radius), dtype=torch.float64)
    facts, title = proof.facts(MarginBalls(asked, Gradients(asked), radii, ball.p)), proof.title(problem)
    for i, x in enumerate(sampled(problem, 20)):
        values = true_network(problem)(x).detach().flatten(1)
        sizes = torch.linalg.vector_norm(true_jacobians(true_network(problem), x).flatten(2), _DUAL[ball.p], dim=2)
        if facts.margins is not None:
            below = (
                values < facts.margins[i].nan_to_num(nan=-inf, posinf=-inf, neginf=-inf) - 1e-9 * values.abs().amax()
            )
            require(not bool(below.any()), f"{title}: a margin lies below its bound on {problem}")
        if facts.slopes is not None:
            steep = sizes > facts.slopes[i].nan_to_num(nan=inf, posinf=inf, neginf=inf) * (1 + 1e-9) + 1e-300
            require(not bool(steep.any()), f"{title}: a gradient is longer than its bound on {problem}")


def check_brancher(brancher: AbstractBrancher, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> None:
    """The parts cover the region: every sampled point lies in the region of a part and satisfies its constraints."""
    for problem in problems(seed, kinds):
        if not brancher.supports(problem):
            continue
        parts, points = brancher.divide(problem), sampled(problem)
        covered = torch.zeros(points.shape[:2], dtype=torch.bool)
        for part in parts:
            require(part.bound.batch == problem.bound.batch, f"{brancher.title}: a part has another batch size")
            covered |= _members(part, points)
        require(bool(covered.all()), f"{brancher.title}: a point of the region is in no part of {problem}")


def _members(part: Problem, points: Tensor) -> Tensor:
    """Whether each point is in a part, up to rounding: (batch, N)."""
    box = part.bound.box(Fast())
    slack = 1e-12 * (1 + points.abs())
    low, high = box.lower.unsqueeze(1) - slack, box.upper.unsqueeze(1) + slack
    member = ((low <= points) & (points <= high)).flatten(2).all(2)
    for k, known in part.known.items():
        z = true_network(part).preactivations(points.flatten(0, 1))[k - 1].reshape(*points.shape[:2], *known.shape[1:])
        near = 1e-12 * (1 + z.abs())
        held = (known.lower.unsqueeze(1) - near <= z) & (z <= known.upper.unsqueeze(1) + near)
        member = member & held.flatten(2).all(2)
    return member


def _no_nan(lower: Tensor, upper: Tensor, problem: Problem) -> None:
    require(not bool(lower.isnan().any() | upper.isnan().any()), f"a bound is NaN for {problem}")


def _inside(low: Tensor, true: Tensor, high: Tensor, said: str, problem: Problem) -> None:
    wrong = ~((low <= true) & (true <= high))
    require(not bool(wrong.any()), f"{said} by {float(torch.maximum(low - true, true - high).max()):.3g} for {problem}")
