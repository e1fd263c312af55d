"""Questions take a module or a file in place of a network, and an input with a radius in place of a region."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.problem import Problem, as_network

X = torch.tensor([[0.3, -0.2, 0.5]])
Ask = Callable[..., Any]
QUESTIONS: dict[str, Ask] = {
    "lipschitz": lambda *a, **k: rj.lipschitz(*a, method=rj.FastLip(), search=rj.Search(work=0), **k),
    "jacobian_bounds": rj.jacobian_bounds,
    "preactivation_bounds": rj.preactivation_bounds,
    "deployed_error": rj.deployed_error,
    "monotone": lambda *a, **k: rj.monotone(*a, limit=rj.Limit(parts=1), **k),
    "directional_bounds": lambda *a, **k: rj.directional_bounds(*a, direction=torch.ones(3), **k),
    "hessian_bounds": lambda *a, **k: rj.hessian_bounds(*a, output=1, **k),
    "residual_bounds": lambda *a, **k: rj.residual_bounds(*a, residuals=rj.laplacian(0, 1), **k),
    "second_derivative": lambda *a, **k: rj.second_derivative(*a, directions=torch.ones(1, 3), **k),
    "curvature": rj.curvature,
    "stationary_points": lambda *a, **k: rj.stationary_points(*a, output=0, search=rj.Newton(starts=2), **k),
}


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_module_and_an_input_with_a_radius(name: str, module: torch.nn.Module) -> None:
    """The same result as with what is loaded and given explicitly."""
    ask, network = QUESTIONS[name], rj.load(module, X)
    assert ask(module, X, radius=0.1, norm=2) == ask(network, rj.LpBall(X, 0.1, 2))
    with pytest.raises(rj.InvalidRequest, match=r"radius=0\.1 is given beside LpBall"):
        ask(network, rj.LpBall(X, 0.1), radius=0.1)


def test_what_is_wrong_is_said(module: torch.nn.Module) -> None:
    ask, network = QUESTIONS["jacobian_bounds"], rj.load(module, X)
    assert ask(network, X, radius=0.1) == ask(network, rj.LpBall(X, 0.1))
    with pytest.raises(rj.InvalidRequest, match=r"radius=0\.1 is given without an input"):
        ask(rj.Problem(network, rj.LpBall(X, 0.1)), radius=0.1)
    with pytest.raises(rj.InvalidRequest, match="norm=2 is given without a radius; give radius"):
        ask(network, X, norm=2)
    with pytest.raises(rj.InvalidRequest, match=r"the region is a Tensor; give one such as LpBall.*radius="):
        ask(module, X)
    with pytest.raises(rj.InvalidRequest, match="the region is missing"):
        ask(module)
    with pytest.raises(rj.InvalidRegion, match="the centre x holds nan"):
        ask(module, torch.full((1, 3), torch.nan), radius=0.1)
    with pytest.raises(rj.InvalidRegion, match="must be 0 or more, not -1"):
        ask(module, X, radius=-1)


def test_radii_take_modules(module: torch.nn.Module) -> None:
    network, search = rj.load(module, X), rj.RadiusSearch(intervals=2, attack=rj.Attack(2, 1, 1))
    found = rj.certified_radius(module, X, search=search)
    assert found == rj.certified_radius(network, X, search=search)
    free = rj.stationary_free_radius(module, X, output=0, method=rj.FastLip())
    assert free == rj.stationary_free_radius(network, X, output=0, method=rj.FastLip())


def test_radius_zero_is_the_jacobian_of_the_module(module: torch.nn.Module) -> None:
    """Of a module that was never loaded, against automatic differentiation."""
    wide = copy.deepcopy(module).double()
    true = torch.func.jacrev(wide)(X[0].double())
    found = rj.jacobian_bounds(wide, X, radius=0.0)
    assert bool((found.lower[0] <= true + 1e-12).all())
    assert bool((true - 1e-12 <= found.upper[0]).all())
    assert float((found.upper - found.lower).detach().max()) < 1e-12


def test_files_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    np.savez(path, W0=np.eye(3), W1=np.ones((2, 3)), activation="relu")
    expected = rj.jacobian_bounds(rj.load(path), rj.LpBall(X, 0.1))
    assert rj.jacobian_bounds(path, X, radius=0.1) == expected
    assert rj.jacobian_bounds(str(path), X.numpy(), radius=0.1) == expected
    with pytest.raises(rj.UnreadableFile, match="there is no file"):
        rj.jacobian_bounds(tmp_path / "other.npz", X, radius=0.1)


@pytest.mark.parametrize(
    "region",
    [rj.Box([[-1.0, -rj.inf, -rj.inf]], [[rj.inf, 2.0, rj.inf]]), rj.Box([0.0] * 3, [1.0] * 3),
     rj.LpBall([0.0] * 3, rj.inf), rj.LpBall(torch.zeros(5, 3), 0.1, 2)],
    ids=repr,
)  # fmt: skip
def test_the_centre_is_a_finite_point_of_the_region(region: Any, module: torch.nn.Module) -> None:
    assert bool(region.centre.isfinite().all())
    network = as_network(module, region)
    bound = Problem(network, region).bound
    assert bool((bound.x == region.centre.reshape(-1, 3)).all())
    assert as_network(network, bound) is network
    assert as_network(module, bound).input_shape == (3,)


LARGE = 2**53 + 1
ROUNDED: dict[str, Callable[[Any], Any]] = {
    "weight": lambda n: rj.load([(n, None)], activation="relu"),
    "matrix": lambda n: rj.load([([[1.0]], None)], activation="relu").precompose(n),
    "row": lambda n: rj.load([([[1.0]], None)], activation="relu").combine(n),
    "centre": lambda n: rj.LpBall(n, 0.0),
    "box": lambda n: rj.Box(n, n),
    "radius": lambda n: rj.LpBall([[0.0]], n),
}


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("where", ROUNDED)
def test_whole_numbers_that_would_be_rounded_are_refused(where: str, kind: Callable[[Any], Any]) -> None:
    """2⁵³ + 1 becomes 2⁵³ in float64: the answer would be about another network or region."""
    with pytest.raises(rj.RecurJacError, match="cannot represent"):
        ROUNDED[where](kind([[LARGE]]))
    for exact in (2**53, -(2**60), 7):
        ROUNDED[where](kind([[abs(exact) if where == "radius" else exact]]))
