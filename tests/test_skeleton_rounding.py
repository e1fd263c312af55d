"""The columns of a skeleton are off by no more than is paid for them, in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import LeakyReLU, ReLU
from recurjac.arithmetic import AbstractArithmetic
from recurjac.network import Network, chain
from recurjac.preactivation import PreactivationState
from recurjac.propagation.planning import PlainOnly, SkeletonOnly
from recurjac.propagation.skeleton_pushed import Affine, Skeleton
from recurjac.propagation.skeleton_rounding import INPUTS, KEPT, VALUE
from tests import exact

DTYPES = (torch.float32, torch.float64)
SCALES = (1.0, 1e-12, 1e12)


def layers(seed: int, dtype: torch.dtype, sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    found = []
    for a, b in pairwise(sizes):
        weight = torch.randn(b, a, generator=g, dtype=torch.float64) * SCALES[seed % 3] ** (0.5 if a == sizes[0] else 0)
        weight = torch.where(torch.rand(b, a, generator=g) < 0.1, 0.0, weight)
        found.append((weight.to(dtype), torch.randn(b, generator=g, dtype=torch.float64).to(dtype)))
    return found


def pushed(network: Network, radius: float, seed: int) -> PreactivationState:
    """Bounds along a skeleton that is never dropped."""
    g = torch.Generator().manual_seed(seed + 100)
    x = torch.randn(1, *network.input_shape, generator=g, dtype=torch.float64).to(network.dtype)
    return rj.Problem(network, rj.LpBall(x, radius), planner=SkeletonOnly()).preactivations()


def exact_columns(skeleton: Skeleton, weights: list[tuple[Tensor, Tensor]], slopes: list[Tensor]) -> list[exact.Exact]:
    """Rows of E of each stage in rational arithmetic, for the slopes of the neurons that are not kept."""
    n = weights[0][0].shape[1]
    length = skeleton.length
    rows = exact.rational(torch.eye(length, dtype=torch.float64)[:n])
    one = exact.rational(torch.eye(length, dtype=torch.float64)[n])
    found = []
    for k, (weight, bias) in enumerate(weights, 1):
        z = exact.rational(weight).dot(rows) + exact.rational(bias)[:, None] * one[None]
        found.append(z)
        if k < len(weights):
            post = skeleton.post[k]
            rows = exact.rational(slopes[k - 1])[:, None] * z
            for i, j in enumerate(post.kept.tolist()):
                rows[j] = exact.rational(torch.eye(length, dtype=torch.float64)[post.begin + i])
    return found


def excess(affine: Affine, true: exact.Exact, skeleton: Skeleton, share: float) -> tuple[int, int]:
    """How often columns are off by more than that share of what is stated, and how often they are off."""
    assert affine.rounding is not None
    n, errors = skeleton.inputs, affine.rounding.errors
    off = abs(exact.rational(affine.columns.mT.contiguous()) - true[:, : len(affine.columns)])
    m = exact.rational(skeleton.known.sizes[: len(affine.columns)])
    wrong = lost = 0
    for i, row in enumerate(off):
        measures = {VALUE: sum(row * m), INPUTS: max(row[:n]), KEPT: max(row[n + 1 :], default=Fraction(0))}
        for kind, value in measures.items():
            wrong += value > Fraction(float(errors[kind, i])) * Fraction(share)
            lost += value > 0
    return wrong, lost


def all_excess(seed: int, dtype: torch.dtype, share: float) -> tuple[int, int]:
    weights = layers(seed, dtype, (7, 9, 8, 9, 8, 3))
    hidden = len(weights) - 1
    activation = ReLU() if seed % 2 else LeakyReLU(0.3).rounded(dtype)
    network = chain(weights, [activation] * hidden)
    state = pushed(network, (0.0, 0.01, 0.1)[seed % 3], seed)
    skeleton = state.skeleton
    assert skeleton is not None
    slopes = [state.slopes(k).lower[0].double() for k in range(1, hidden + 1)]
    output = state.affine(network.depth)
    assert output is not None
    true = exact_columns(skeleton, [(w.double(), b.double()) for w, b in weights], slopes)
    rows = [(a, true[k - 1][skeleton.post[k].kept.numpy()]) for k, a in skeleton.kept_rows.items()]
    found = [excess(a, t, skeleton, share) for a, t in [*rows, (output, true[-1])]]
    return sum(w for w, _ in found), sum(lost for _, lost in found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_columns_are_off_by_no_more_than_is_stated(seed: int, dtype: torch.dtype) -> None:
    wrong, _ = all_excess(seed, dtype, 1.0)
    assert wrong == 0


def test_stating_a_hundredth_is_not_enough() -> None:
    """The test above can fail."""
    found = [all_excess(seed, torch.float32, 0.01) for seed in range(6)]
    assert sum(wrong for wrong, _ in found) > 5
    assert sum(lost for _, lost in found) > 50


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_derivatives_between_kept_neurons_are_within_their_radii(seed: int, dtype: torch.dtype) -> None:
    """The matrices of the chain rule contain the exact ones."""
    weights = layers(seed, dtype, (7, 9, 8, 9, 8, 3))
    network = chain(weights, [ReLU()] * (len(weights) - 1))
    state = pushed(network, (0.0, 0.01, 0.1)[seed % 3], seed)
    reduced, skeleton = state.chain().skeleton, state.skeleton
    assert reduced is not None
    assert skeleton is not None
    slopes = [state.slopes(k).lower[0].double() for k in range(1, network.depth)]
    true = exact_columns(skeleton, [(w.double(), b.double()) for w, b in weights], slopes)
    groups = [0, *skeleton.kept_rows]
    for target, into in enumerate(reduced.edges[1:], 1):
        stage = groups[target] if target < len(groups) else network.depth
        rows = true[stage - 1] if stage == network.depth else true[stage - 1][skeleton.post[stage].kept.numpy()]
        for e in into:
            post = skeleton.post[groups[e.source]]
            matrix = e.operator.matrix  # type: ignore[attr-defined]
            off = abs(exact.rational(matrix.mid) - rows[:, post.begin : post.end])
            assert bool((off <= exact.rational(matrix.rad.expand_as(matrix.mid))).all())


def test_entries_that_are_0_by_structure_stay_0() -> None:
    """Two networks side by side: the outputs of one do not depend on the inputs of the other."""
    first, second = layers(1, torch.float64, (4, 8, 8, 8, 2)), layers(4, torch.float64, (4, 8, 8, 8, 2))
    joined = [
        (torch.block_diag(a, c), torch.cat([b, d])) for (a, b), (c, d) in zip(first, second, strict=True)
    ]  # fmt: skip
    network = chain(joined, [ReLU()] * 3)
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for radius in (0.0, 0.05, 0.5):
        problem = rj.Problem(network, rj.LpBall(x, radius), planner=SkeletonOnly())
        bounds = rj.jacobian_bounds(problem, method=rj.Chords())
        for ends in (bounds.lower[0], bounds.upper[0]):
            assert bool((ends[:2, 4:] == 0).all())
            assert bool((ends[2:, :4] == 0).all())
            assert bool((ends[:2, :4] != 0).any())


@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()], ids=lambda a: a.title)
@pytest.mark.parametrize("seed", range(3))
def test_intervals_along_the_skeleton_are_inside_those_of_the_layers(seed: int, arithmetic: AbstractArithmetic) -> None:
    """And hold what is computed at points of the region."""
    network = chain(layers(3 * seed, torch.float64, (7, 9, 8, 9, 8, 3)), [ReLU()] * 4)
    x = torch.randn(1, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    region = rj.LpBall(x, 0.05)
    state = rj.Problem(network, region, arithmetic=arithmetic, planner=SkeletonOnly()).preactivations()
    layered = rj.Problem(network, region, pre=rj.IBP(), arithmetic=arithmetic, planner=PlainOnly()).preactivations()
    points = x + 0.05 * (2 * torch.rand(50, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1)
    z = points
    for k, (weight, bias) in enumerate(layers(3 * seed, torch.float64, (7, 9, 8, 9, 8, 3))[:-1], 1):
        z = (z if k == 1 else z.relu()) @ weight.mT + bias
        found, wide = state.pre(k), layered.pre(k)
        size = 1e-9 * float(wide.magnitude.max())
        assert bool(((found.lower - size <= z) & (z <= found.upper + size)).all())
        assert bool(((found.lower >= wide.lower - size) & (found.upper <= wide.upper + size)).all())
        assert k == 1 or bool((found.width < wide.width - size).any())


def test_there_is_no_skeleton_over_an_unbounded_region() -> None:
    network = chain(layers(0, torch.float64, (7, 9, 3)), [ReLU()])
    x = torch.zeros(1, 7, dtype=torch.float64)
    for radius in (1.0, inf):
        state = rj.Problem(network, rj.LpBall(x, radius), planner=SkeletonOnly()).preactivations()
        assert (state.skeleton is None) == (radius == inf)


def test_many_paths_are_followed_once() -> None:
    """Thirty residual blocks have 2³⁰ paths from the input to the output."""
    torch.manual_seed(0)
    blocks = [_Residual(6) for _ in range(30)]
    network = rj.load(nn.Sequential(*blocks).double(), torch.zeros(1, 6).double())
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 6).double(), 1e-3), planner=SkeletonOnly())
    found = rj.jacobian_bounds(problem, method=rj.Chords())
    assert bool((found.lower[0].diagonal() > 0).all())


class _Residual(nn.Module):
    """x + 0 · ReLU of what is 0 in part, so that entries are 0 by structure."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n, n, bias=False)
        nn.init.zeros_(self.inner.weight)
        self.inner.weight.data[0, 1] = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.inner(x))
