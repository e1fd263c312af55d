"""Signs of gradients that are 0 at least or at most, for lack of a path with the other sign."""

import copy
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from flint import arb, ctx
from onnx import helper

from producer import Builder, ball, certificate, encoded, model, unit
from recurjac_check import check_bytes, network, region
from recurjac_check.affine import Affine, Matrix
from recurjac_check.functions import Elementwise, two_pieces
from recurjac_check.system import Known, System, point_supremum

CENTER = [0.125, -0.25, 0.5, 0.0625]
SIGNS = [1, -1, 1, 0]
"""The output rises with inputs 0 and 2, falls with input 1, and does not depend on input 3."""


def score(seed: int, broken: bool = False) -> bytes:
    """A chain of ReLUs with later weights >= 0, and first weights of one sign for each input."""
    random = np.random.default_rng(seed)
    nodes, weights, last, sizes = [], {}, "x", [4, 6, 6, 6, 1]
    for k in range(4):
        w = random.random((sizes[k], sizes[k + 1])) + 0.01
        weights[f"w{k}"] = w * np.array(SIGNS, dtype=float)[:, None] if k == 0 else w
        weights[f"b{k}"] = random.standard_normal(sizes[k + 1]) - (k > 0)
        nodes += [helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], [f"z{k}"])]
        nodes += [helper.make_node("Relu", [f"z{k}"], [f"h{k}"])] if k < 3 else []
        last = f"h{k}"
    if broken:
        weights["w2"][3, 4] = -1e-30
    return model(nodes, weights, (1, 4))


def written(data: bytes, radius: float = 2.0, up: Any = (0, 2, 3), down: Any = (1, 3)) -> Any:
    """A certificate of the signs, whose gradients have ends 0 where no path has the other sign."""
    where = ball(CENTER, radius)
    with ctx.workprec(128):
        builder = Builder(data, region.read(where, 4))
        builder.gradient(unit(0))
    for stage in builder.gradients[0]["stages"]:
        stage["lower"] = ["0x0p+0"] * 6
    claim = {"kind": "monotone", "row": unit(0), "increasing": list(up), "decreasing": list(down)}
    return certificate(data, where, [claim], [builder.json()])


@pytest.mark.parametrize("seed", range(4))
def test_signs_by_structure_are_accepted(seed: int) -> None:
    """Slopes may be 0, so that the least derivatives are 0: no allowance for rounding would do."""
    data = score(seed)
    assert check_bytes(encoded(written(data)), data).text == "valid"
    with ctx.workprec(128):
        net = network.load(data)
        builder = Builder(data, region.read(ball(CENTER, 2.0), 4))
        builder.gradient(unit(0))
        low, high = builder.leaf.jacobian(((0, arb(1)),), False)
    assert net.inputs == 4
    assert [l == 0 for l in low] == [True, False, True, True]
    assert [u == 0 for u in high] == [False, True, False, True]


@pytest.mark.parametrize(
    ("up", "down"), [((0, 1, 2), ()), ((), (0, 1)), ((), (2,)), ((1,), ())], ids=["up 1", "down 0", "down 2", "up"]
)
def test_the_other_sign_is_refused(up: Any, down: Any) -> None:
    data = score(0)
    verdict = check_bytes(encoded(written(data, up=up, down=down)), data)
    assert verdict.text.startswith("invalid: claim 0 (monotone): parts[0]: ")


def test_one_path_of_the_other_sign_is_enough() -> None:
    """However small its weight is: an end 0 of the witness is refused, and without it, the claim."""
    data = score(4, broken=True)  # every neuron of the last stage has both slopes
    forgery = written(data)
    verdict = check_bytes(encoded(forgery), data)
    assert verdict.text.startswith("invalid: claim 0 (monotone): parts[0].gradients[0].stages[1]: lower end 3")
    for k, stage in enumerate(forgery["parts"][0]["gradients"][0]["stages"]):
        stage["lower"] = [(-(10.0 ** (-20 - 3 * k))).hex()] * 6
    assert check_bytes(encoded(forgery), data).text.startswith("invalid: claim 0 (monotone): parts[0]: lower end of")


@pytest.mark.parametrize("bad", ["nan", "inf", "0x1p+3"])
def test_ends_that_are_not_proved_are_refused(bad: str) -> None:
    data, forgery = score(2), copy.deepcopy(written(score(2)))
    forgery["parts"][0]["gradients"][0]["stages"][0]["lower"][1] = bad
    verdict = check_bytes(encoded(forgery), data)
    assert verdict.code == 1
    assert "claim 0 (monotone): parts[0].gradients[0].stages[0]" in verdict.text


def test_intervals_are_those_of_rational_arithmetic() -> None:
    """Of exact coefficients, uncertain ones, and ones of which the sign is open, over ends of all signs."""
    random = np.random.default_rng(0)
    for _ in range(200):
        ends = np.sort(random.integers(-3, 4, (3, 2)), axis=1).tolist()
        middle, width = random.integers(-3, 4, (2, 3)).tolist()
        with ctx.workprec(128):
            nodes = System(point_supremum([]))
            constant = Affine({}, [arb(0)] * 3)
            own, least, most = Elementwise([two_pieces(arb(1))]), *([arb(e[s]) for e in ends] for s in (0, 1))
            nodes.nodes.append(Known(constant, own, least, most))
            row = {j: arb(m, abs(w)) for j, (m, w) in enumerate(zip(middle, width, strict=True))}
            (low,), (high,) = nodes.interval(Affine({1: Matrix([row], 3)}, [arb(0)]))
            found = float(low), float(high)
        terms = [
            [Fraction(m + s * abs(w)) * e for s, e in product((-1, 1), pair)]
            for m, w, pair in zip(middle, width, ends, strict=True)
        ]
        true = float(sum(min(t) for t in terms)), float(sum(max(t) for t in terms))
        assert found[0] <= true[0]
        assert found[1] >= true[1]
        if not any(width):
            assert found == true
