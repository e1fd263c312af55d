"""Euclidean norms in the bases of singular vectors, and parts that are halved several times at once."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.branching import BranchAndBound
from recurjac.branching.branched import NormOver
from recurjac.norms import turned as module
from recurjac.search import point_jacobian
from recurjac.testing.networks import KINDS, random_network
from tests.marks import in_turn

METHODS = {"xlinear": rj.XLinear(), "chords": rj.Chords(), "tangents": rj.ForwardTangents(5)}


def smooth(seed: int, activation: str = "tanh", outputs: int = 3, dtype: torch.dtype = torch.float64) -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    layers = [
        (
            (torch.randn(n, m, generator=g).double() / m**0.5).to(dtype),
            (torch.randn(n, generator=g).double() / 3).to(dtype),
        )
        for m, n in pairwise((3, 6, 5, outputs))
    ]
    return rj.load(layers, activation=KINDS[activation], dtype=dtype)


def norms(rows: Tensor, q: float) -> Tensor:
    """The norms l2 → l_q of matrices, from below for q = 1."""
    found: Tensor = torch.linalg.matrix_norm(rows, 2)
    if q == inf:
        found = torch.linalg.vector_norm(rows, dim=2).amax(1)
    if q == 1:
        found = (rows @ torch.linalg.svd(rows).Vh[:, :1].mT).abs().sum((1, 2))
    return found


@pytest.mark.parametrize(("activation", "q", "name"), in_turn(["gelu", "relu", "mixed"], [1, 2, inf], list(METHODS)))
def test_norms_hold(activation: str, q: float, name: str) -> None:
    seed = 1
    network = random_network("mixed", seed, True) if activation == "mixed" else smooth(seed, activation)
    network = network.flattened_output()
    x = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(seed)).double()
    for radius, ball in ((0.5, inf), (0.05, 2), (0.0, inf)):
        problem = rj.Problem(network, rj.LpBall(x, radius, ball))
        points = problem.bound.sample(200, torch.Generator().manual_seed(1))
        true = torch.stack([norms(point_jacobian(network, p), q).amax() for p in points])
        upper = module.TurnedNorm(METHODS[name]).norm(rj.Gradients(problem), 2, q)
        rows = module.TurnedNorm(METHODS[name]).rows(rj.Gradients(problem), 2)
        each = torch.stack([torch.linalg.vector_norm(point_jacobian(network, p), dim=2).amax(0) for p in points])
        assert bool((upper >= true * (1 - 1e-12)).all())
        assert bool((rows >= each * (1 - 1e-12)).all())
        if radius == 0 and q != 1:
            assert bool((upper <= true * (1 + 1e-9) + 1e-12).all())


@pytest.mark.parametrize(("q", "outputs"), [(2, 3), (2, 1), (inf, 3)])
def test_the_slack_is_of_second_order(q: float, outputs: int) -> None:
    """With a tenth of the radius, it is about a hundredth; that of the entries is a tenth."""
    network, slack = smooth(2, outputs=outputs), dict[str, list[float]]()
    x = torch.full((1, 3), 0.3).double()
    for radius in (0.02, 0.002):
        problem = rj.Problem(network, rj.LpBall(x, radius))
        points = problem.bound.sample(4000, torch.Generator().manual_seed(1))[0]
        true = float(norms(point_jacobian(network, points), q).max())
        for name, method in (("turned", rj.TurnedNorm()), ("entries", rj.JacobianNorm())):
            slack.setdefault(name, []).append(float(method.norm(rj.Gradients(problem), 2, q)) - true)
    assert slack["turned"][1] < slack["turned"][0] / 50 + 1e-12
    assert slack["turned"][1] < slack["entries"][1] / 5


def test_nearly_orthogonal_bases_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bases are given, the bound holds."""
    network, x = smooth(0), torch.full((1, 3), 0.3).double()
    problem, g = rj.Problem(network, rj.LpBall(x, 0.01)), torch.Generator().manual_seed(0)
    true = float(torch.linalg.matrix_norm(point_jacobian(network, x), 2))
    plain = module._bases
    for size in (1e-3, 0.05, 10.0):

        def bent(matrix: Tensor, size: float = size) -> tuple[Tensor, Tensor]:
            return tuple(b * (1 - size * torch.rand(b.shape[-1], generator=g).double()) for b in plain(matrix))  # type: ignore[return-value]

        monkeypatch.setattr(module, "_bases", bent)
        for q in (2.0, inf):
            least = true if q == 2 else float(torch.linalg.vector_norm(point_jacobian(network, x), dim=2).max())
            assert float(module.TurnedNorm().norm(rj.Gradients(problem), 2, q)) >= least


def test_it_is_the_norm_of_entries_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = smooth(0), torch.full((1, 3), 0.3).double()
    problem = rj.Problem(network, rj.LpBall(x, 0.1))
    given = rj.Gradients(given=rj.Gradients(problem).chain)
    for p, q in ((inf, inf), (1, 2), (2, 1)):
        assert torch.equal(
            rj.TurnedNorm().norm(rj.Gradients(problem), p, q),
            rj.JacobianNorm(rj.XLinear()).norm(rj.Gradients(problem), p, q),
        )
    assert torch.equal(rj.TurnedNorm().norm(given, 2, 2), rj.JacobianNorm(rj.XLinear()).norm(given, 2, 2))
    monkeypatch.setattr(module, "_MOST", 2)
    assert torch.equal(
        rj.TurnedNorm().rows(rj.Gradients(problem), 2), rj.JacobianNorm(rj.XLinear()).rows(rj.Gradients(problem), 2)
    )


def test_rounding_is_covered_in_float32() -> None:
    """Against float64, without tolerance."""
    network = smooth(1, "relu", dtype=torch.float32)
    x = torch.full((1, 3), 0.3)
    for q in (2.0, inf):
        found = rj.lipschitz(network, rj.LpBall(x, 1e-3), p=2, q=q, method=rj.TurnedNorm(rj.Chords()))
        true = norms(testing.true_jacobians(network.to(dtype=torch.float64), x.double()), q)
        assert found.rigorous
        assert float(found.upper) >= float(true) > 0


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("most", [2, 7, 8, 100])
def test_fine_parts_cover_the_region(most: int, batch: int) -> None:
    network = smooth(0)
    x = torch.randn(batch, 3, generator=torch.Generator().manual_seed(0)).double()
    problem, brancher = rj.Problem(network, rj.LpBall(x, 0.5)), rj.InputBisection()
    effects = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 9.0]])[:batch].double()
    parts = brancher.finely(problem, effects, most)
    assert len(parts) == 2 or len(parts) * batch <= most
    points = problem.bound.sample(300, torch.Generator().manual_seed(3))
    inside, volume = torch.zeros(points.shape[:2], dtype=torch.bool), torch.zeros(batch).double()
    for part in parts:
        box = part.bound.box(rj.Rigorous())
        inside |= ((box.lower.unsqueeze(1) <= points) & (points <= box.upper.unsqueeze(1))).all(2)
        volume += box.width.prod(1)
    assert bool(inside.all())
    assert torch.allclose(volume, torch.ones(batch).double(), rtol=1e-9)
    assert len(brancher.finely(problem, None, 100)) == 2
    assert [p.bound.x.tolist() for p in rj.VertexCaps().finely(problem, effects, most)] == [
        p.bound.x.tolist() for p in parts
    ]


def test_limits_of_parts_are_kept() -> None:
    problem = rj.Problem(smooth(0), rj.LpBall(torch.full((1, 3), 0.3).double(), 0.5))
    for most in (1, 3, 20):
        limit = rj.Limit(seconds=600, parts=most, tolerance=1e-12)
        bound = NormOver(rj.TurnedNorm(), 2, 2, problem)
        last = BranchAndBound(rj.InputBisection(), limit).last(problem, bound)
        assert last.parts <= max(most, 2) + 1


@pytest.mark.parametrize("p", [2, inf])
def test_small_smooth_networks_become_exact(p: float) -> None:
    problem = rj.Problem(smooth(3, outputs=2), rj.LpBall(torch.full((1, 3), 0.3).double(), 0.1))
    method = rj.Branched(rj.TurnedNorm(), limit=rj.Limit(seconds=600, parts=1500, tolerance=1e-6))
    found = rj.lipschitz(problem, p=p, q=p, method=method)
    assert found.status == "exact"
    assert float(found.upper) <= float(found.lower) * (1 + 1e-6)


@pytest.mark.slow
def test_norms_on_random_networks() -> None:
    testing.check_norm_method(rj.TurnedNorm(), seed=3)
