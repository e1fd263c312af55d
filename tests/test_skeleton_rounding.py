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
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.network import Network, chain
from recurjac.preactivation import PreactivationState
from recurjac.propagation.planning import PlainOnly, SkeletonOnly
from recurjac.propagation.skeleton_pushed import Affine, Skeleton
from recurjac.propagation.skeleton_rounding import INPUTS, KEPT, VALUE, Ranges, Rounding
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_magnitudes_of_all_entries_are_added_up(dtype: torch.dtype) -> None:
    """Underflow is weighed by their sum, of every group of kept neurons that was added."""
    g, arithmetic = torch.Generator().manual_seed(0), rj.Rigorous()
    known = Ranges.of(Interval.point(1e3 * torch.rand(7, generator=g, dtype=dtype)), arithmetic)
    for n in (1, 40):
        known = known.followed_by(Interval.point(torch.rand(n, generator=g, dtype=dtype)), arithmetic)
        assert Fraction(known.total) >= sum(exact.rational(known.sizes))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_forms_lose_holds_for_sums_in_any_order(dtype: torch.dtype) -> None:
    """n products and sums lose up to γ_n times the sizes of rows as stored, beside what the rows are off by."""
    n, u = 60, Fraction(torch.finfo(dtype).eps) / 2
    gamma = n * u / (1 - n * u)
    sizes = torch.tensor([1.0, 1.0, 1e-3, 0.0], dtype=dtype).expand(3, 4)
    errors = torch.tensor([0.0, 1.0, 2e-3, 0.0], dtype=dtype).expand(3, 4)
    lost = exact.rational(Rounding(sizes, errors).lost(n, 50.0))
    size, error = exact.rational(sizes[VALUE]), exact.rational(errors[VALUE])
    tiny = Fraction(torch.finfo(dtype).tiny)  # a product that is flushed to zero
    assert bool((lost >= error + gamma * size + n * tiny * 50).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_intervals_of_entries_hold_for_sums_in_any_order(dtype: torch.dtype) -> None:
    """At a point, the ends are γ_n Σ |E| |v| away from what is computed, however the products are added up."""
    g, arithmetic = torch.Generator().manual_seed(0), rj.Rigorous()
    known = Ranges.of(Interval.point(torch.randn(59, generator=g, dtype=dtype)), arithmetic)
    columns = torch.randn(60, 20, generator=g, dtype=dtype)
    centre, half, sizes = known.seen(columns, arithmetic)
    assert sizes is not None
    found = known.range(centre, half, Rounding(sizes, torch.zeros_like(sizes)), arithmetic)
    u = Fraction(torch.finfo(dtype).eps) / 2
    most = 60 * u / (1 - 60 * u) * exact.rational(columns.abs().mT.contiguous()).dot(exact.rational(known.sizes))
    middle = exact.rational(centre)
    assert bool((exact.rational(found.lower[0]) <= middle - most).all())
    assert bool((exact.rational(found.upper[0]) >= middle + most).all())


def test_sums_with_negative_biases_are_off_by_no_more_than_is_stated() -> None:
    """The sum of both biases is rounded, and nothing beside it is."""
    x = torch.full((1, 1), 1e-6, dtype=torch.float64)
    for sign in (-1.0, 1.0):
        last = torch.eye(1, dtype=torch.float64)
        biases = [torch.tensor([b], dtype=torch.float64) for b in (1 / 3, sign * 1000.1)]
        network = chain([(last, b) for b in biases], [ReLU()])
        state = rj.Problem(network, rj.LpBall(x, 1e-9), planner=SkeletonOnly()).preactivations()
        output = state.affine(2)
        assert output is not None
        assert output.rounding is not None
        off = abs(sum(Fraction(float(b)) for b in biases) - Fraction(float(output.columns[1, 0])))
        assert 0 < off <= Fraction(float(output.rounding.errors[VALUE, 0]))


def test_derivatives_that_round_to_0_are_not_taken_for_0() -> None:
    """1e-400, from an input and from a kept neuron, beside kept neurons: underflow is no structure."""
    small = 1e-200
    eye = torch.eye(3, dtype=torch.float64)
    weights = [
        (eye, torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)),  # two neurons of unknown sign, and a linear one
        (
            small * torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64),
            1 + 0 * eye[0],
        ),
        (small * eye, None),
    ]
    network = chain([(w, torch.zeros(3, dtype=torch.float64) if b is None else b) for w, b in weights], [ReLU()] * 2)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 3).double(), 1.0), planner=SkeletonOnly())
    bounds = rj.jacobian_bounds(problem, method=rj.Chords())
    assert bool((bounds.upper[0].diagonal() > 0).all())
    off = ~torch.eye(3, dtype=torch.bool)
    assert bool((bounds.lower[0][off] == 0).all())
    assert bool((bounds.upper[0][off] == 0).all())


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
