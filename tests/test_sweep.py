"""What sweeps do on their way: memory that others read stays as it is, and forms of which nothing is left stop."""

from __future__ import annotations

import math
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from benchmarks.measure import counted
from recurjac.activations import Identity as NoActivation
from recurjac.activations import LeakyReLU, ReLU
from recurjac.arithmetic import AbstractArithmetic
from recurjac.network import Constant, Edge, Network, Stage, chain
from recurjac.operators import AbstractOperator, Dense, Identity, Reshape
from recurjac.propagation.planning import PlainOnly, SkeletonOnly
from recurjac.relaxations import LinearRelaxation
from recurjac.testing.networks import true_jacobians
from tests.marks import every_dtype

ARITHMETICS = [rj.Fast(), rj.Rigorous()]
N = 12


def _matrix(seed: int) -> Tensor:
    numbers = torch.randn(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers / math.sqrt(N)


def _skipping(skip: AbstractOperator) -> Network:
    """z3 = skip h2 + A h1, so that forms of stage 3 come to stage 2 along `skip` alone and go to stage 1 as well."""
    bias = Constant(Identity((N,)), _matrix(9)[0])
    stages = (
        Stage((Edge(0, Dense.matrix(_matrix(1))),), (bias,), ReLU(), (N,)),
        Stage((Edge(1, Dense.matrix(_matrix(2))),), (bias,), ReLU(), (N,)),
        Stage((Edge(2, skip), Edge(1, Dense.matrix(_matrix(3)))), (bias,), ReLU(), (N,)),
        Stage((Edge(3, Dense.matrix(_matrix(4))),), (), NoActivation(), (N,)),
    )
    return Network((N,), stages)


@pytest.mark.parametrize("whole", [False, True], ids=["plain", "skeleton"])
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=["fast", "rigorous"])
@pytest.mark.parametrize("skip", [Identity((N,)), Reshape((N,), (N,))], ids=["identity", "reshape"])
def test_an_operator_that_moves_nothing_is_as_one_that_multiplies_by_one(
    skip: AbstractOperator, arithmetic: AbstractArithmetic, whole: bool
) -> None:
    """Forms that come along it share their memory with those on their way to another stage."""
    planner = SkeletonOnly() if whole else PlainOnly()
    region = rj.LpBall(torch.zeros(1, N, dtype=torch.float64), 0.3)
    for method in (rj.Chords(), rj.RecurJac(), rj.Reversed(rj.Chords())):
        moved, multiplied = (
            rj.jacobian_bounds(rj.Problem(_skipping(s), region, arithmetic=arithmetic, planner=planner), method=method)
            for s in (skip, Dense.matrix(torch.eye(N, dtype=torch.float64)))
        )
        torch.testing.assert_close(moved.lower, multiplied.lower, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(moved.upper, multiplied.upper, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=["fast", "rigorous"])
def test_a_stage_that_only_shifts_leaves_what_it_reads_as_it_is(arithmetic: AbstractArithmetic) -> None:
    """z2 = h1 + b, and z3 reads h1 as well: on the skeleton E of the former begins as that of the latter."""
    bias, leaky = Constant(Identity((N,)), _matrix(9)[0]), LeakyReLU(0.3)
    stages = (
        Stage((Edge(0, Dense.matrix(_matrix(1))),), (bias,), leaky, (N,)),
        Stage((Edge(1, Identity((N,))),), (bias,), leaky, (N,)),
        Stage((Edge(2, Dense.matrix(_matrix(2))), Edge(1, Dense.matrix(_matrix(3)))), (bias,), leaky, (N,)),
        Stage((Edge(3, Dense.matrix(_matrix(4))),), (), NoActivation(), (N,)),
    )
    found = []
    for planner in (PlainOnly(), SkeletonOnly()):
        region, rule = rj.LpBall(torch.zeros(1, N, dtype=torch.float64), 0.3), rj.Alone(rj.Crown())
        problem = rj.Problem(Network((N,), stages), region, pre=rule, arithmetic=arithmetic, planner=planner)
        found.append(problem.preactivations().pre(3))
    torch.testing.assert_close(found[0].lower, found[1].lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0].upper, found[1].upper, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=["fast", "rigorous"])
@pytest.mark.parametrize("radius", [0.3, 3.0, inf])
@every_dtype
def test_forms_of_which_nothing_is_left_stop(
    dtype: torch.dtype, radius: float, arithmetic: AbstractArithmetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no gradient has a known sign RecurJac's lines are constants.

    The results are those of going on, or tighter by a rounding, and hold true Jacobians of all outputs.
    """
    network = chain([(_matrix(i).to(dtype), None) for i in range(6)], [ReLU()] * 5)
    region = rj.LpBall(torch.zeros(1, N, dtype=dtype), radius)
    found: list[rj.JacobianBounds] = []

    def job() -> None:
        found.append(rj.jacobian_bounds(network, region, method=rj.RecurJac(), arithmetic=arithmetic))

    stopped = counted(job).multiply_adds
    monkeypatch.setattr(LinearRelaxation, "all_constant", False)
    assert stopped < 0.7 * counted(job).multiply_adds
    assert bool((found[0].lower >= found[1].lower).all())
    assert bool((found[0].upper <= found[1].upper).all())
    close = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].lower, found[1].lower, rtol=close, atol=0)
    torch.testing.assert_close(found[0].upper, found[1].upper, rtol=close, atol=0)
    points = region.bind((N,), dtype, torch.device("cpu")).sample(200, torch.Generator().manual_seed(0))
    truth = true_jacobians(network.to(torch.float64), points[0].double())
    assert bool(((found[0].lower <= truth) & (truth <= found[0].upper)).all())


def test_a_slope_or_its_derivative_is_not_stopped() -> None:
    """The slopes of a line may be 0 and still change with the weights."""
    zero = torch.zeros(1, 1, 3, dtype=torch.float64)
    one = torch.tensor([[[0.0, 0.0, 1e-300]]], dtype=torch.float64)
    assert LinearRelaxation(zero, zero, zero, zero + 1, zero + 1).all_constant
    assert not LinearRelaxation(one, zero, zero, zero + 1, zero + 1).all_constant
    assert not LinearRelaxation(zero, zero, -one, zero + 1, zero + 1).all_constant
    assert not LinearRelaxation(zero, zero, zero.clone().requires_grad_(), zero + 1, zero + 1).all_constant
