"""Networks of other inputs: composed with a matrix, with fixed features, along a line."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.network import Network
from recurjac.network.input_side import fixed_features
from recurjac.testing.networks import random_network, true_jacobians
from tests.conv_networks import CONVOLUTIONAL, convolutional
from tests.exact import rational
from tests.helpers import exact, exact_image, refused

NETWORKS: dict[str, Callable[[], Network]] = {
    **{f"{kind} {'residual' if r else 'chain'}": lambda kind=kind, r=r: random_network(kind, 3, r)  # type: ignore[misc]
       for kind in ("relu", "tanh", "mixed") for r in (False, True)},
    **{f"conv {name}": lambda name=name: convolutional(name)[1] for name in CONVOLUTIONAL},  # type: ignore[misc]
}  # fmt: skip
every_network = pytest.mark.parametrize("name", NETWORKS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Few-digit numbers, which float32 holds, too."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 64).round().double() / 64


def agree(network: Network, original: Network, place: Callable[[Tensor], Tensor], slopes: Tensor) -> None:
    """network(t) = original(place(t)), their Jacobians by the chain rule with `slopes` (n, new), and bounds hold."""
    t = draw(5, *network.input_shape, seed=1)
    x = place(t)
    torch.testing.assert_close(network(t), original(x), rtol=1e-10, atol=1e-10)
    wanted = true_jacobians(original, x).flatten(len(original.output_shape) + 1) @ slopes
    torch.testing.assert_close(true_jacobians(network, t), wanted, rtol=1e-9, atol=1e-9)
    at_points = rj.jacobian_bounds(network, rj.LpBall(t, 0.0), method=rj.Chords())
    nearby = rj.jacobian_bounds(network, rj.LpBall(t, 0.1), method=rj.Chords())
    moved = t + 0.1 * (2 * torch.rand(t.shape, generator=torch.Generator().manual_seed(2), dtype=t.dtype) - 1)
    for bounds, truth in ((at_points, wanted), (nearby, wanted), (nearby, true_jacobians(network, moved))):
        assert bool((bounds.lower <= truth + 1e-9).all())
        assert bool((truth <= bounds.upper + 1e-9).all())
    assert bounds.rigorous == (not original.unproved_rounding())


@every_network
@pytest.mark.parametrize("shifted", [False, True], ids=["linear", "affine"])
def test_a_matrix_before_a_network(name: str, shifted: bool) -> None:
    original = NETWORKS[name]()
    n = draw(*original.input_shape).numel()
    matrix, shift = draw(n, 3) / 2, draw(*original.input_shape, seed=5)
    network = original.precompose(matrix, shift if shifted else None)
    assert (network.input_shape, network.output_shape) == ((3,), original.output_shape)
    agree(network, original, lambda t: (t @ matrix.T).reshape(-1, *original.input_shape) + shift * shifted, matrix)


@every_network
def test_fixed_features(name: str) -> None:
    original = NETWORKS[name]()
    x = draw(*original.input_shape, seed=5)
    n = x.numel()
    free = sorted({0, 2, n - 1})
    network = original.fix({i: float(x.flatten()[i]) for i in range(n) if i not in free})
    assert network.input_shape == (3,)

    def place(t: Tensor) -> Tensor:
        return x.flatten().expand(len(t), n).clone().index_copy_(1, torch.tensor(free), t).reshape(-1, *x.shape)

    agree(network, original, place, torch.eye(n, dtype=torch.float64)[:, free])


@pytest.mark.parametrize("features", [None, [0], 3, "x"])
def test_what_is_fixed_is_a_map(features: Any) -> None:
    given = (features, (3,), torch.float64, torch.device("cpu"))
    refused(lambda: fixed_features(*given), rj.InvalidRequest, [type(features).__name__, "a map", "{3: 0.5}"])


@every_network
def test_a_line(name: str) -> None:
    original = NETWORKS[name]()
    x, way = draw(*original.input_shape, seed=5), draw(*original.input_shape, seed=6) / 4
    network = original.along(x, way)
    assert network.input_shape == (1,)
    agree(network, original, lambda t: x + t.reshape(-1, *[1] * x.dim()) * way, way.reshape(-1, 1))
    assert torch.equal(original.along(x.flatten(), way.flatten().tolist())(torch.ones(1, 1).double()),
                       network(torch.ones(1, 1).double()))  # fmt: skip


def test_steps_follow_each_other() -> None:
    original, x = random_network("relu", 1, True), draw(2, 2)
    line = original.fix({1: 0.5}).precompose(draw(3, 2), draw(3)).along([0.25, -1.0], [1.0, 0.5])
    t = draw(4, 1)
    inner = (torch.tensor([0.25, -1.0]).double() + t * torch.tensor([1.0, 0.5]).double()) @ draw(3, 2).T + draw(3)
    whole = torch.stack([inner[:, 0], torch.full((4,), 0.5).double(), inner[:, 1], inner[:, 2]], 1)
    torch.testing.assert_close(line(t), original(whole.reshape(-1, 2, 2)), rtol=1e-12, atol=1e-12)
    assert torch.equal(original.fix({})(x.flatten()[None]), original(x[None]))
    assert original.output(1).fix({0: 1}).output_shape == (1,)


def test_shift_constants_are_exact() -> None:
    """The bias of the first stage is b + A s in rational arithmetic, within a proved radius that is small."""
    original = random_network("relu", 2, False)
    g = torch.Generator().manual_seed(0)
    shift = torch.randn(4, generator=g, dtype=torch.float64)
    for network in (original.precompose(torch.randn(4, 2, generator=g, dtype=torch.float64), shift),
                    original.fix({0: float(shift[0]), 1: float(shift[1]), 3: float(shift[3])})):  # fmt: skip
        stage = network.stages[0]
        truth = [Fraction(0)] * 7
        for c in stage.constants:
            truth = [a + b for a, b in zip(truth, exact_image(c.operator, exact(c.tensor)), strict=True)]
        weight = rational(original.stages[0].edges[0].operator.weight)  # type: ignore[attr-defined]
        held = [Fraction(0) if network.input_shape == (1,) and i == 2 else v for i, v in enumerate(exact(shift))]
        bias = exact(original.stages[0].constants[0].tensor)
        assert truth == [b + v for b, v in zip(bias, weight.dot(np.array(held, dtype=object)), strict=True)]
        found = stage.bias(rj.Rigorous())
        assert found is not None
        rows = zip(found.lower().tolist(), truth, found.upper().tolist(), strict=True)
        assert all(low <= true <= high for low, true, high in rows)
        assert float((found.upper() - found.lower()).max()) < 1e-13


def test_bounds_hold_in_float32_without_tolerance() -> None:
    """Against the float64 truth of the same float32 numbers."""
    narrow = random_network("relu", 5, True, torch.float32)
    wide, matrix, shift = narrow.to(torch.float64), draw(4, 2).float(), draw(4).float()
    region = rj.LpBall(torch.zeros(1, 2), 0.2)
    bounds = rj.jacobian_bounds(narrow.precompose(matrix, shift), region)
    assert bounds.rigorous
    points = region.bind((2,), torch.float64, torch.device("cpu")).sample(200, torch.Generator().manual_seed(0))[0]
    truth = true_jacobians(wide.precompose(matrix.double(), shift.double()), points)
    margin = 1e-12  # of the truth's own rounding
    assert bool((bounds.lower.double() <= truth + margin).all())
    assert bool((truth - margin <= bounds.upper.double()).all())


def test_constants_of_fewer_inputs_are_smaller() -> None:
    network, x = random_network("relu", 4, True), draw(1, 2, 2)
    whole = rj.lipschitz(network, rj.LpBall(x, 0.1), search=rj.Search(work=0))
    part = network.fix({i: float(x.flatten()[i]) for i in (1, 3)})
    some = rj.lipschitz(part, rj.LpBall(x.flatten(1)[:, [0, 2]], 0.1), search=rj.Search(work=0))
    assert float(some.upper[0]) <= float(whole.upper[0]) * (1 + 1e-12)
    assert float(some.lower[0]) <= float(some.upper[0])


def test_bounds_have_gradients_of_what_comes_before() -> None:
    """Of the matrix and the shift, against finite differences."""
    network = random_network("tanh", 4, False)
    leaves = [draw(4, 2).requires_grad_(), draw(4, seed=1).requires_grad_()]

    def total(matrix: Tensor, shift: Tensor) -> Tensor:
        region = rj.LpBall(torch.zeros(1, 2), 0.05)
        return rj.jacobian_bounds(network.precompose(matrix, shift), region, method=rj.Chords()).upper.sum()

    found = torch.autograd.grad(total(*leaves), leaves)
    for k, gradient in enumerate(found):
        way = draw(*gradient.shape, seed=8)
        ends = [
            float(total(*(p.detach() + (sign * 1e-6 * way if i == k else 0) for i, p in enumerate(leaves))))
            for sign in (1, -1)
        ]
        assert float((gradient * way).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)
    assert not rj.jacobian_bounds(network.fix({0: leaves[1][0]}), rj.LpBall(torch.zeros(3), 0.1)).upper.requires_grad


def narrow() -> Network:
    return random_network("relu", 0, False, torch.float32)


TENTH = torch.full((4,), 0.1, dtype=torch.float64)
BAD: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "matrix shape": (lambda: narrow().precompose(torch.ones(3, 2)), ("(3, 2)", "(4, new inputs)")),
    "matrix of none": (lambda: narrow().precompose(torch.ones(4, 0)), ("(4, 0)",)),
    "vector": (lambda: narrow().precompose(torch.ones(4)), ("(4,)", "(4, new inputs)")),
    "shift shape": (lambda: narrow().precompose(torch.ones(4, 1), torch.ones(3)), ("shift", "(3,)", "(2, 2) or (4,)")),
    "matrix NaN": (lambda: narrow().precompose(torch.full((4, 1), torch.nan)), ("the matrix", "NaN")),
    "text": (lambda: narrow().precompose("ones"), ("the matrix", "real numbers")),
    "complex": (lambda: narrow().precompose(torch.ones(4, 1) * 1j), ("complex",)),
    "other numbers": (lambda: narrow().precompose(TENTH[:, None]), ("torch.float32", "float64")),
    "large integers": (lambda: narrow().to(torch.float64).precompose([[2**60 + 1]] * 4), ("float64",)),
    "feature": (lambda: narrow().fix({4: 0.5}), ("feature 4", "0 to 3")),
    "negative feature": (lambda: narrow().fix({-1: 0.5}), ("feature -1",)),
    "named feature": (lambda: narrow().fix({"age": 0.5}), ("'age'", "0 to 3")),
    "true feature": (lambda: narrow().fix({True: 0.5}), ("True",)),
    "infinite value": (lambda: narrow().fix({1: rj.inf}), ("feature 1", "finite")),
    "value of float64": (lambda: narrow().fix({1: 0.1}), ("feature 1", "torch.float32")),
    "two values": (lambda: narrow().fix({1: [0.5, 1.0]}), ("feature 1", "2 values")),
    "no value": (lambda: narrow().fix({1: None}), ("feature 1", "real numbers")),
    "all": (lambda: narrow().fix(dict.fromkeys(range(4), 0.5)), ("all 4",)),
    "line's point": (lambda: narrow().along(torch.ones(1, 2, 2), torch.ones(2, 2)), ("x has shape (1, 2, 2)",)),
    "line's way": (lambda: narrow().along(torch.ones(2, 2), torch.ones(2)), ("the direction", "(2,)")),
    "way of float64": (lambda: narrow().along(torch.ones(2, 2), TENTH), ("the direction", "torch.float32")),
    "rows": (lambda: narrow().combine(torch.ones(2, 4)), ("rows", "(2, 4)", "(new outputs, 3)")),
    "rows of float64": (lambda: narrow().combine(TENTH[None, :3]), ("rows", "torch.float32")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    request, words = BAD[name]
    refused(request, rj.InvalidRequest, words)


def test_what_is_given_is_kept_apart_from_what_was_given() -> None:
    """An array is copied; a tensor of the network's own dtype is held itself, as `load` holds a module's."""
    network, array, tensor = random_network("relu", 1, False), np.ones((4, 1)), torch.ones(4, 1).double()
    copied, held = network.precompose(array), network.precompose(tensor)
    at = torch.ones(1, 1).double()
    before = copied(at)
    array[0], tensor[0] = 3.0, 3.0
    assert torch.equal(copied(at), before)
    assert torch.equal(held(at), network(torch.tensor([[[3.0, 1], [1, 1]]]).double()))
    assert network.fix({np.int64(2): torch.tensor(1)}).input_shape == (3,)
