"""Exact norms by branching on signs, against enumeration of all cells and against a mixed-integer program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import Tensor

import recurjac as rj
from recurjac.activations import Abs, AbstractActivation, LeakyReLU, PReLU, ReLU
from recurjac.branching.exact import SignTree
from recurjac.region import AbstractRegion
from recurjac.testing.networks import true_jacobians

Layers = list[tuple[Tensor, Tensor]]
SLOPES: dict[str, tuple[AbstractActivation, float]] = {
    "relu": (ReLU(), 0.0), "leaky": (LeakyReLU(0.2), 0.2), "steep": (LeakyReLU(1.6), 1.6),
    "falling": (LeakyReLU(-0.5), -0.5), "abs": (Abs(), -1.0),
    "prelu": (PReLU(torch.tensor(0.3, dtype=torch.float64)), 0.3),
}  # fmt: skip
EXACT = rj.ExactNorm(rj.Limit(seconds=600, parts=2**20, tolerance=1e-7))
SMALL = ((2, 3, 1), (2, 3, 2), (3, 3, 2), (1, 3, 2, 1), (2, 2, 2, 2))
LARGER = (*SMALL, (2, 4, 2), (3, 4, 2), (2, 3, 3, 2), (1, 4, 3, 1), (3, 3, 2, 2, 1), (2, 5, 3, 1))
_DEEP = 1e-9
"""Cells in which no ball of this radius fits may count or not."""


def layers(seed: int, sizes: tuple[int, ...]) -> Layers:
    g = torch.Generator().manual_seed(seed)
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [(torch.randn(m, n, generator=g, dtype=torch.float64) * 1.5 / n**0.5,
             0.5 * torch.randn(m, generator=g, dtype=torch.float64)) for m, n in pairs]  # fmt: skip


def depth_of(rows: list[np.ndarray], ends: list[float], box: tuple[np.ndarray, np.ndarray] | None, n: int) -> float:
    """How large a ball fits into {rows · x + ends >= 0}, at most 1; negative if nothing does."""
    size = [float(np.linalg.norm(r)) for r in rows]
    a = np.array([[*(-r), s] for r, s in zip(rows, size, strict=True)]).reshape(-1, n + 1)
    limits = [(None, None)] * n if box is None else list(zip(*box, strict=True))
    found = linprog([*[0.0] * n, -1.0], A_ub=a, b_ub=np.array(ends), bounds=[*limits, (None, 1.0)])
    return -inf if found.status == 2 else -float(found.fun)


def cells(net: Layers, slope: float, box: tuple[np.ndarray, np.ndarray] | None) -> Iterator[np.ndarray]:
    """J on every cell of a network, found by adding one half-space after the other."""
    n = net[0][0].shape[1]

    def deeper(
        k: int, matrix: np.ndarray, shift: np.ndarray, rows: list[np.ndarray], ends: list[float]
    ) -> Iterator[np.ndarray]:
        w, b = (t.numpy() for t in net[k])
        z, c = w @ matrix, w @ shift + b
        if k == len(net) - 1:
            yield z
            return
        open_: list[tuple[list[float], list[np.ndarray], list[float]]] = [([], rows, ends)]
        for j in range(len(c)):
            after = []
            for signs, r, e in open_:
                for side in (1.0, -1.0):
                    more, end = [*r, side * z[j]], [*e, float(side * c[j])]
                    if depth_of(more, end, box, n) > _DEEP:
                        after.append(([*signs, 1.0 if side > 0 else slope], more, end))
            open_ = after
        for signs, r, e in open_:
            d = np.array(signs)
            yield from deeper(k + 1, d[:, None] * z, d * c, r, e)

    yield from deeper(0, np.eye(n), np.zeros(n), [], [])


def norm_of(jacobian: np.ndarray, p: float) -> float:
    return float(np.linalg.norm(jacobian, p if p == 2 else (1 if p == 1 else np.inf)))


def exact(net: Layers, activation: AbstractActivation, region: AbstractRegion, p: float) -> rj.Lipschitz:
    network = rj.load(net, activation=activation)
    return rj.lipschitz(network, region, p=p, q=p, method=EXACT, search=rj.Search(work=0))


def compared(seed: int, shapes: tuple[tuple[int, ...], ...]) -> None:
    """One random network: its exact norm is that of the enumeration."""
    kind = list(SLOPES)[seed % len(SLOPES)]
    activation, slope = SLOPES[kind]
    sizes = shapes[seed % len(shapes)]
    net, p = layers(seed, sizes), (1, 2, inf)[seed % 3]
    everywhere = seed % 4 == 3
    high = np.full(sizes[0], 0.3 + (seed % 5) * 0.4)
    region: rj.LpBall | rj.Box = rj.LpBall(torch.zeros(1, sizes[0], dtype=torch.float64), inf)
    if not everywhere:
        region = rj.Box(torch.tensor(-high)[None], torch.tensor(high)[None])
    true = max(norm_of(j, p) for j in cells(net, slope, None if everywhere else (-high, high)))
    found = exact(net, activation, region, p)
    assert found.rigorous
    assert true <= float(found.upper) * (1 + 1e-13), seed
    assert float(found.upper) <= true * (1 + 1e-6) + 1e-12, seed
    assert float(found.lower) >= true * (1 - 1e-6) - 1e-12, seed
    assert found.status == "exact", seed


@pytest.mark.parametrize("seed", range(30))
def test_exact_norms_are_those_of_an_enumeration(seed: int) -> None:
    compared(seed, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("tens", range(50))
def test_exact_norms_of_many_networks_are_those_of_an_enumeration(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        compared(seed, LARGER)


# A mixed-integer program as another judge


def slopes_of_most(
    net: Layers, high: float, tangent: np.ndarray | None, covector: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    """The largest covector · J · tangent of a ReLU network over [-high, high]^n, and the slopes there, by HiGHS.

    A tangent of None stands for any tangent in [-1, 1]^n.  Variables: x, the tangent, and for each layer the point's h,
    the tangent's u, and the slopes δ, which are 0 or 1.
    """
    n = net[0][0].shape[1]
    widths = [w.shape[0] for w, _ in net[:-1]]
    total = 2 * n + 3 * sum(widths)
    low, top, whole = np.full(total, -np.inf), np.full(total, np.inf), np.zeros(total)
    low[:n], top[:n] = -high, high
    low[n : 2 * n], top[n : 2 * n] = (-1.0, 1.0) if tangent is None else (tangent, tangent)
    rows: list[np.ndarray] = []
    least: list[float] = []
    h, u, begin = np.eye(total)[:n], np.eye(total)[n : 2 * n], 2 * n
    reach, size = np.full(n, high), np.ones(n)

    def at_least(row: np.ndarray, number: float) -> None:
        rows.append(row)
        least.append(number)

    for (weight, bias), m in zip(net[:-1], widths, strict=True):
        w, b = weight.numpy(), bias.numpy()
        z, y = w @ h, w @ u
        reach, size = np.abs(w) @ reach + np.abs(b), np.abs(w) @ size  # |z| <= reach, |y| <= size
        h, u, d = (np.eye(total)[begin + i * m : begin + (i + 1) * m] for i in range(3))
        whole[begin + 2 * m : begin + 3 * m] = 1
        low[begin + 2 * m : begin + 3 * m], top[begin + 2 * m : begin + 3 * m] = 0, 1
        for j in range(m):
            at_least(h[j], 0.0)
            at_least(h[j] - z[j], float(b[j]))
            at_least(z[j] - h[j] - reach[j] * d[j], -float(b[j]) - float(reach[j]))  # h <= z where δ = 1
            at_least(reach[j] * d[j] - h[j], 0.0)  # h <= 0 where δ = 0
            for sign in (1.0, -1.0):
                at_least(size[j] * d[j] - sign * u[j], 0.0)  # u = 0 where δ = 0
                at_least(sign * (u[j] - y[j]) - size[j] * d[j], -float(size[j]))  # u = y where δ = 1
        begin += 3 * m
    goal = covector @ net[-1][0].numpy() @ u
    found = milp(-goal, constraints=LinearConstraint(np.array(rows), np.array(least), np.inf), integrality=whole,
                 bounds=Bounds(low, top), options={"mip_rel_gap": 1e-9})  # fmt: skip
    assert found.status == 0
    slopes, begin = [], 2 * n
    for m in widths:
        slopes.append(np.round(found.x[begin + 2 * m : begin + 3 * m]))
        begin += 3 * m
    return -float(found.fun), slopes


def jacobian_of(net: Layers, slopes: list[np.ndarray]) -> np.ndarray:
    matrix = net[0][0].numpy()
    for (weight, _), d in zip(net[1:], slopes, strict=True):
        matrix = weight.numpy() @ (d[:, None] * matrix)
    return matrix


@pytest.mark.parametrize("seed", range(0, 6, 2))
def test_exact_norms_are_those_of_a_mixed_integer_program(seed: int) -> None:
    """l∞: the largest tangent of each row; l1: each column with all signs of the rows."""
    net, high = layers(100 + seed, [(3, 4, 3, 2), (2, 3, 3, 3, 2), (3, 5, 2)][seed % 3]), 0.6
    outputs, inputs = net[-1][0].shape[0], net[0][0].shape[1]
    region = rj.Box(torch.full((1, inputs), -high).double(), torch.full((1, inputs), high).double())
    if seed < 3:
        asked: list[tuple[np.ndarray | None, np.ndarray]] = [(None, row) for row in np.eye(outputs)]
        p = inf
    else:
        signs = [np.array([1.0, s]) for s in (1.0, -1.0)]
        asked = [(side * column, row) for column in np.eye(inputs) for row in signs for side in (1.0, -1.0)]
        p = 1
    values = [slopes_of_most(net, high, *question) for question in asked]
    true = max(norm_of(jacobian_of(net, slopes), p) for _, slopes in values)
    assert max(v for v, _ in values) == pytest.approx(true, rel=1e-5)
    found = exact(net, ReLU(), region, p)
    assert true <= float(found.upper) * (1 + 1e-12)
    assert float(found.upper) == pytest.approx(true, rel=1e-6)
    assert float(found.lower) == pytest.approx(true, rel=1e-6)


# Degenerate cases


def one(net: Layers, region: AbstractRegion, activation: AbstractActivation | None = None) -> rj.Lipschitz:
    return rj.lipschitz(
        rj.load(net, activation=activation or ReLU()), region, method=rj.ExactNorm(), search=rj.Search(work=0)
    )


def pair(rows: list[list[float]], bias: list[float], last: list[list[float]]) -> Layers:
    first, shift, end = (torch.tensor(t, dtype=torch.float64) for t in (rows, bias, last))
    return [(first, shift), (end, torch.zeros(len(last), dtype=torch.float64))]


def test_dead_points_huge_weights_and_kinks() -> None:
    """Regions of radius 0 at a kink count both sides; dead layers are 0; large and small weights change nothing."""
    absolute = pair([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]])
    assert float(one(absolute, rj.LpBall(torch.zeros(1, 1).double(), 0.0)).upper) == pytest.approx(1.0, rel=1e-12)
    relu = pair([[1.0]], [0.0], [[3.0]])
    found = one(relu, rj.LpBall(torch.zeros(1, 1).double(), 0.0))
    assert float(found.upper) == pytest.approx(3.0, rel=1e-12)
    assert float(one(pair([[0.0]], [0.0], [[3.0]]), rj.LpBall(torch.zeros(1, 1).double(), 1.0)).upper) <= 1e-300
    dead = one(pair([[1.0], [2.0]], [-10.0, -10.0], [[1.0, 5.0]]), rj.LpBall(torch.zeros(1, 1).double(), 1.0))
    assert (float(dead.upper), dead.status) == (0.0, "exact")
    for size in (1e-120, 1e120):
        huge = one(
            pair([[size], [-2 * size]], [size / 2, -size], [[1.0, 1.0]]), rj.LpBall(torch.zeros(1, 1).double(), 2.0)
        )
        assert float(huge.upper) == pytest.approx(2 * size, rel=1e-9)
        assert float(huge.lower) == pytest.approx(2 * size, rel=1e-9)


def test_cells_outside_of_the_region_do_not_count() -> None:
    """relu(x - 1) + relu(x - 2), both on from 2: slope 1 up to 2; the same over the whole line has slope 2."""
    net = pair([[1.0], [1.0]], [-1.0, -2.0], [[1.0, 1.0]])
    for high, true in ((1.9, 1.0), (2.1, 2.0)):
        found = one(net, rj.Box(torch.zeros(1, 1).double(), torch.full((1, 1), high).double()))
        assert float(found.upper) == pytest.approx(true, rel=1e-9)
        assert float(found.lower) == pytest.approx(true, rel=1e-9)
    wide = one(net, rj.LpBall(torch.zeros(1, 1).double(), inf))
    assert float(wide.lower) == pytest.approx(2.0, rel=1e-9)
    # relu(x) and relu(-x - 1) are never on together
    apart = one(pair([[1.0], [-1.0]], [0.0, -1.0], [[2.0, -3.0]]), rj.LpBall(torch.zeros(1, 1).double(), inf))
    assert float(apart.upper) == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_balls_are_bounded_from_both_sides(p: float) -> None:
    """Cells are sought in the box around a ball, so that bounds may stay apart, but they are bounds."""
    net = layers(7, (3, 4, 2, 2))
    found = exact(net, ReLU(), rj.LpBall(torch.zeros(1, 3).double(), 0.5, p), 2)
    points = rj.LpBall(torch.zeros(1, 3).double(), 0.5, p).bind((3,), torch.float64, torch.device("cpu"))
    x = points.sample(4000, torch.Generator().manual_seed(0))[0]
    most = torch.linalg.matrix_norm(true_jacobians(rj.load(net, activation="relu"), x), 2).amax()
    assert float(most) <= float(found.upper) * (1 + 1e-12)
    assert float(found.lower) >= float(most) * 0.5


def test_batches_limits_and_rows() -> None:
    net = rj.load(layers(3, (2, 4, 2)), activation="relu")
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0]]).double()
    both = rj.lipschitz(net, rj.LpBall(x, 0.5), method=EXACT, search=rj.Search(work=0))
    for i in range(2):
        alone = rj.lipschitz(net, rj.LpBall(x[i : i + 1], 0.5), method=EXACT, search=rj.Search(work=0))
        assert torch.equal(both.upper[i : i + 1], alone.upper)
    few = rj.ExactNorm(rj.Limit(seconds=600, parts=1, tolerance=1e-9), rj.JacobianNorm())
    stopped = rj.lipschitz(net, rj.LpBall(x, 2.0), method=few, search=rj.Search(work=0))
    true = rj.lipschitz(net, rj.LpBall(x, 2.0), method=EXACT, search=rj.Search(work=0))
    assert bool((stopped.upper >= true.lower).all())
    assert "parts" in stopped.status
    rows = EXACT.rows(rj.Gradients(rj.Problem(net, rj.LpBall(x, 0.5))), inf)
    assert torch.allclose(rows.amax(1), both.upper, rtol=1e-9)


@pytest.mark.parametrize("seed", range(1, 2))
def test_parts_that_are_within_the_tolerance_count(seed: int) -> None:
    """With a wide tolerance, few parts are divided, and the upper bound stays one."""
    net = layers(seed, (2, 4, 3, 1))
    region = rj.LpBall(torch.zeros(1, 2).double(), 1.0)
    for tolerance in (0.9, 0.05):
        rough = rj.ExactNorm(rj.Limit(seconds=600, parts=10**5, tolerance=tolerance), rj.JacobianNorm())
        found = rj.lipschitz(rj.load(net, activation="relu"), region, method=rough, search=rj.Search(work=0))
        true = exact(net, ReLU(), region, inf)
        assert float(true.lower) <= float(found.upper) * (1 + 1e-12)
        assert float(found.upper) <= float(found.lower) * (1 + tolerance) * (1 + 1e-12)


def test_only_proofs_drop_parts() -> None:
    """In arithmetic that does not cover rounding, no part is dropped as empty, and the result says so."""
    net = rj.load(layers(4, (2, 5, 1)), activation="relu")
    region = rj.LpBall(torch.zeros(1, 2).double(), 0.5)
    fast = rj.lipschitz(net, region, method=EXACT, arithmetic=rj.Fast(), search=rj.Search(work=0))
    proved = rj.lipschitz(net, region, method=EXACT, search=rj.Search(work=0))
    assert not fast.rigorous
    assert float(fast.upper) >= float(proved.upper) * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_trees_go_on_where_they_ended(seed: int) -> None:
    """In many short runs the bounds only come closer, until both are the exact norm."""
    net = rj.load(layers(seed, (2, 5, 4, 2)), activation="relu")
    problem = rj.Problem(net, rj.LpBall(torch.zeros(1, 2).double(), 1.0))
    true = EXACT.bound(rj.Gradients(problem), inf, inf)
    known = rj.Search(work=0).attained(problem, inf, inf)
    tree = SignTree.of(problem, rj.ExactNorm(rj.Limit(600, 1, 1e-9), rj.JacobianNorm()), (inf, inf), known)
    before = inf
    for parts in (1, 3, 9, 27, 10**5):
        tree.method = replace(tree.method, limit=rj.Limit(600, parts, 1e-9))
        with torch.no_grad():
            tree.run(ended=False)
        assert float(true.upper) * (1 - 1e-9) <= tree.upper <= before
        before = tree.upper
    assert tree.status == "exact"
    assert tree.upper == pytest.approx(float(true.upper), rel=1e-8)


def test_tied_neurons_are_one_neuron() -> None:
    """|x| written by two ReLUs that are on alternately, next to another: one division by a sign makes it exact."""
    net = pair([[1.0], [-1.0], [1.0], [-1.0]], [0.0] * 4, [[1.0, 1.0, 1.0, 1.0]])
    region = rj.LpBall(torch.zeros(1, 1).double(), 1.0)
    method = rj.ExactNorm(rj.Limit(seconds=600, parts=3, tolerance=1e-9), rj.JacobianNorm())
    found = rj.lipschitz(rj.load(net, activation=ReLU()), region, method=method, search=rj.Search(work=0))
    assert found.status == "exact"
    assert float(found.upper) == pytest.approx(2.0, rel=1e-9)
