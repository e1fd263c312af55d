"""Parts by signs of neurons: what they prove, and what is refused if one is left out or empty only by assertion."""

import copy
import json
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from flint import arb, ctx
from onnx import helper

from producer import Json, ball, certificate, encoded, model, unit
from recurjac_check import check_bytes
from recurjac_check.functions import clamp, two_pieces

ONE, ZERO = (1.0).hex(), (0.0).hex()
NO_SLOPES = {"lower_slope": None, "upper_slope": None}
CENTER = [0.25, -0.125]


def folds(second: float = 1.0) -> bytes:
    """relu(x0 + x1) + relu(x0 - x1), whose gradient is (0, 0), (1, 1), (1, -1) or (2, 0), and a neuron that is 1."""
    weights = {"w": np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]), "b": np.array([0.0, 0.0, 1.0])}
    weights |= {"v": np.array([[1.0], [second], [0.0]])}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    return model(nodes, weights, (1, 2))


def leaf() -> Json:
    """A leaf that claims nothing, so that all is by intervals."""
    gradient = {"row": unit(0), "stages": [None], "quadratic": None}
    return {
        "values": {"stages": [None], "quadratic": None},
        "gradients": [gradient],
        "tangents": None,
        "halfspaces": [],
    }


def split(neuron: int, below: int, above: int, at: str = ZERO) -> Json:
    return {"split": {"stage": 0, "neuron": neuron, "at": at}, "below": below, "above": above}


def claims() -> list[Json]:
    """‖J‖ <= 2, where intervals of entries alone prove 3, and those intervals."""
    return [
        {"kind": "lipschitz", "rows": [unit(0)], "from": "inf", "to": "inf", "by": "entries", "upper": (2.0).hex()},
        {"kind": "jacobian", "row": unit(0), "lower": [ZERO, (-1.0).hex()], "upper": [(2.0).hex(), ONE]},
    ]


def tree() -> list[Json]:
    """All signs of the first two neurons."""
    return [split(0, 1, 2), split(1, 3, 4), split(1, 5, 6), leaf(), leaf(), leaf(), leaf()]


def made(parts: list[Json], wanted: list[Json] | None = None, data: bytes | None = None) -> tuple[int, str]:
    network = folds() if data is None else data
    document = certificate(network, ball(CENTER, 1.0), claims() if wanted is None else wanted, parts)
    verdict = check_bytes(encoded(document), network)
    return verdict.code, verdict.text


def test_signs_of_neurons_prove_what_a_leaf_alone_does_not() -> None:
    assert made(tree()) == (0, "valid")
    assert made([split(0, 1, 2), leaf(), leaf()]) == (0, "valid")
    fails = "invalid: claim 0 (lipschitz): parts[{}]: norm: claimed 2, proved 3 (by 1)"
    assert made([leaf()])[1] == fails.format(0)
    assert made([split(2, 1, 2), leaf(), leaf()])[1] == fails.format(2)  # the first part has no inputs
    assert made([split(0, 1, 2, (0.25).hex()), leaf(), leaf()])[1] == fails.format(1)
    assert made([split(0, 1, 2, (-0.25).hex()), leaf(), leaf()])[1] == fails.format(2)


def _out(k: int) -> Callable[[list[Json]], list[Json]]:
    return lambda parts: [*parts[:k], *parts[k + 1 :]]


def _with(k: int, **new: Any) -> Callable[[list[Json]], list[Json]]:
    def change(parts: list[Json]) -> list[Json]:
        found = copy.deepcopy(parts)
        found[k] = {**found[k], **new}
        return found

    return change


def _cut(**new: Any) -> Callable[[list[Json]], list[Json]]:
    return lambda parts: [{**parts[0], "split": {**parts[0]["split"], **new}}, *parts[1:]]


FORGERIES: dict[str, tuple[Callable[[list[Json]], list[Json]], str]] = {
    "leaf out": (_out(6), "parts[2].above is not an index below 6"),
    "subtree out": (_with(0, above=1), "parts[0].above is not a later node that has no parent yet"),
    "leaf twice": (_with(2, above=3), "parts[2].above is not a later node that has no parent yet"),
    "no above": (lambda p: [{k: v for k, v in p[0].items() if k != "above"}, *p[1:]], "parts[0] is not an object"),
    "no neuron": (_cut(neuron=3), "parts[0].split.neuron is not an index below 3"),
    "no stage": (_cut(stage=1), "parts[0].split.stage is not an index below 1"),
    "NaN": (_cut(at="nan"), "parts[0].split.at is not a hexadecimal number"),
    "infinite": (_cut(at="inf"), "parts[0].split.at is not a hexadecimal number"),
    "both kinds": (_cut(input=0), "parts[0].split is not an object with the keys input at"),
    "neither": (lambda p: [{**p[0], "split": {"at": ZERO}}, *p[1:]], "is not an object with the keys stage neuron at"),
    "a list": (lambda p: [{**p[0], "split": []}, *p[1:]], "parts[0].split is not an object"),
    "only asserted": (
        _with(3, values={"stages": [{"lower": [ONE] * 3, "upper": [ZERO] * 3, **NO_SLOPES}], "quadratic": None}),
        "parts[3].values.stages[0]: upper end 2: claimed 0, proved 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_trees_are_refused_with_what_fails(name: str) -> None:
    change, why = FORGERIES[name]
    code, said = made(change(tree()))
    assert code == 1
    assert said.startswith("invalid: ")
    assert why in said


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_false_claim_is_refused_in_the_part_that_refutes_it(sign: int) -> None:
    """The derivative by x1 is 1 where only the first neuron is active, and -1 where only the second is."""
    lower, upper = (["-inf", ZERO], ["inf"] * 2) if sign > 0 else (["-inf"] * 2, ["inf", ZERO])
    code, said = made(tree(), [{"kind": "jacobian", "row": unit(0), "lower": lower, "upper": upper}])
    assert code == 1
    assert f"claim 0 (jacobian): parts[{4 if sign > 0 else 5}]" in said


def test_parts_by_signs_prove_no_absence_of_stationary_points() -> None:
    """|x0| has the derivatives -1 and 1 in two parts, and a minimum where they meet."""
    data = model([helper.make_node("Abs", ["x"], ["y"])], {}, (1, 1))
    parts = [split(0, 1, 2), leaf(), leaf()]

    def checked(claim: Json) -> str:
        document = certificate(data, ball([0.0], 1.0), [claim], parts)
        return check_bytes(encoded(document), data).text

    entries = {"kind": "jacobian", "row": unit(0), "lower": [(-1.0).hex()], "upper": [ONE]}
    assert checked(entries) == "valid"
    assert checked({"kind": "no_stationary_point", "row": unit(0)}) == (
        "invalid: claim 0 (no_stationary_point): parts by signs of neurons do not prove this: between their gradients, "
        "there may be 0"
    )


def test_a_part_without_inputs_proves_everything_if_its_ranges_do() -> None:
    """The third neuron is 1 everywhere: nothing is left below 0, and nothing has to be claimed there."""
    nothing = {"values": {"stages": [None], "quadratic": None}, "gradients": [], "tangents": None, "halfspaces": []}
    wanted = claims()
    assert (
        made([split(2, 1, 2), nothing, split(0, 3, 4), split(1, 5, 6), split(1, 7, 8), *[leaf()] * 4], wanted)[0] == 0
    )
    code, said = made([split(2, 1, 2), leaf(), nothing], wanted)
    assert (code, "claim 0 (lipschitz): parts[2] has no gradient of this row" in said) == (1, True)


def test_only_the_kink_at_the_cut_is_left_out() -> None:
    """A range that ends at another kink, or at the same one from the other side, has both slopes there."""
    with ctx.workprec(128):
        relu, relu6 = two_pieces(arb(0)), clamp(arb(0), arb(6))
        cases = (
            (relu, (-1, 0, 0, True), (0, 0)), (relu, (0, 2, 0, False), (1, 1)), (relu, (0, 2, 0, True), (0, 1)),
            (relu, (-1, 0, 0, False), (0, 1)), (relu, (0, 0, 0, True), (0, 1)), (relu, (-1, 2, 0, True), (0, 1)),
            (relu, (-1, 0, 1, True), (0, 1)), (relu6, (0, 6, 6, True), (0, 1)), (relu6, (0, 6, 0, False), (0, 1)),
            (relu6, (1, 6, 6, True), (1, 1)), (relu6, (-1, 6, 6, True), (0, 1)), (relu6, (6, 9, 6, False), (0, 0)),
            (relu6, (-4, 0, 0, True), (0, 0)), (relu6, (0, 9, 0, False), (0, 1)), (relu6, (-1, 9, 9, True), (0, 1)),
        )  # fmt: skip
        for f, (l, u, at, below), want in cases:
            slopes = f.slopes(*f.inside(arb(l), arb(u), arb(at), below))
            assert tuple(map(float, slopes)) == want


def spaces(lower: Any, upper: Any, row: Any = None) -> Json:
    """A leaf with multipliers of its cuts for both ends of a row."""
    found = [{"row": unit(0) if row is None else row, "lower": lower, "upper": upper}]
    return {**leaf(), "halfspaces": found}


def bounded(below: Json, above: Json, lower: float = -2.25, upper: float = 1.75) -> str:
    """The verdict on bounds of relu(x0 + x1) - relu(x0 - x1), with leaves where only the second or the first is > 0."""
    data = folds(-1.0)
    claim = {"kind": "output", "row": unit(0), "lower": lower.hex(), "upper": upper.hex()}
    return made([split(0, 1, 2), split(1, 3, 4), split(1, 5, 6), leaf(), below, above, leaf()], [claim], data)[1]


BOTH = spaces([ONE, ZERO], None), spaces(None, [ZERO, ONE])
"""x1 - x0 >= 2 x1 where x0 + x1 <= 0, and x0 + x1 <= 2 x1 where x0 - x1 <= 0; -1.125 <= x1 <= 0.875."""


def test_multipliers_of_cuts_prove_bounds_of_values() -> None:
    assert bounded(*BOTH) == "valid"
    assert bounded(leaf(), BOTH[1]).startswith(
        "invalid: claim 0 (output): parts[4]: lower end of row 0: claimed -2.25,"
    )
    assert bounded(BOTH[0], leaf()).startswith("invalid: claim 0 (output): parts[5]: upper end of row 0: claimed 1.75,")
    for lower, upper in ((-2.25 + 1e-9, 1.75), (-2.25, 1.75 - 1e-9)):
        assert bounded(*BOTH, lower, upper).startswith("invalid: claim 0 (output): parts[")


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        (spaces(None, [ONE, ZERO]), "parts[5]: upper end of row 0"),  # the multiplier of the other cut
        (spaces(None, [ZERO, (0.5).hex()]), "parts[5]: upper end of row 0"),
        (spaces(None, [ZERO, (1.5).hex()]), "parts[5]: upper end of row 0"),
        (spaces([ZERO, ONE], None), "parts[5]: upper end of row 0"),
        (spaces(None, [ZERO, ONE], [[0, (2.0).hex()]]), "parts[5]: upper end of row 0"),
        (spaces(None, [ZERO, (-1.0).hex()]), "parts[5].halfspaces[0].upper is negative"),
        (spaces(None, [ZERO, "nan"]), "parts[5].halfspaces[0].upper is not a hexadecimal number"),
        (spaces(None, [ZERO, "inf"]), "parts[5].halfspaces[0].upper is not a hexadecimal number"),
        (spaces(None, [ONE]), "parts[5].halfspaces[0].upper is not a list of 2 entries"),
        (spaces(None, [ZERO, ONE, ZERO]), "parts[5].halfspaces[0].upper is not a list of 2 entries"),
        (spaces(None, [ZERO, ONE], [[1, ONE]]), "parts[5].halfspaces[0] is not an index below 1"),
        ({**leaf(), "halfspaces": None}, "parts[5].halfspaces is not a list"),
        ({**leaf(), "halfspaces": [None]}, "parts[5].halfspaces[0] is not an object with the keys row lower upper"),
    ],
)  # fmt: skip
def test_forged_multipliers_of_cuts_are_refused(forged: Json, why: str) -> None:
    said = bounded(BOTH[0], forged)
    assert said.startswith("invalid: claim 0 (output): ")
    assert why in said


@pytest.mark.parametrize(
    ("share", "at", "why"),
    [
        ([ONE, ONE], 1.6, None),
        ([ONE, ONE], 1.5, "parts[4] has no gradient of this row"),  # x0 = 1.25, x1 = -0.25 is left
        ([ONE, ZERO], 1.6, "parts[4] has no gradient of this row"),
        ([ZERO, ZERO], 1.6, "parts[4] has no gradient of this row"),
        ([ONE, (-1.0).hex()], 1.6, "parts[4].halfspaces[0].upper is negative"),
        (None, 1.6, "parts[4] has no gradient of this row"),
    ],
)
def test_a_part_is_empty_if_multipliers_prove_it(share: Any, at: float, why: str | None) -> None:
    """x0 + x1 >= 1 and x0 - x1 >= 1.6 is nowhere, as x0 <= 1.25; the ranges of both do not show it."""
    nothing = {**spaces(None, share, []), "gradients": []}
    claim = {**claims()[0], "upper": (3.0).hex()}
    parts = [split(0, 1, 2, ONE), leaf(), split(1, 3, 4, at.hex()), leaf(), nothing]
    code, said = made(parts, [claim])
    assert code == (why is not None)
    assert (why or "valid") in said


@pytest.mark.parametrize(("upper", "valid"), [(2.0, True), (2.0 - 1e-9, False)])
def test_multipliers_belong_to_the_stage_of_their_cut(upper: float, valid: bool) -> None:
    """h0 - 2 relu(h0 - 2), with h0 = relu(x + 2) and |x| <= 1, is x + 2 for x <= 0, and 2 - x for x >= 0."""
    nodes = [
        helper.make_node("Add", ["x", "two"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Sub", ["h", "two"], ["w"]),
        helper.make_node("Relu", ["w"], ["r"]),
        helper.make_node("Mul", ["r", "two"], ["t"]),
        helper.make_node("Sub", ["h", "t"], ["y"]),
    ]
    data = model(nodes, {"two": np.array([[2.0]])}, (1, 1))
    own = {"values": {"stages": [None, None], "quadratic": None}, "gradients": [], "tangents": None}
    root = {"split": {"stage": 1, "neuron": 0, "at": ZERO}, "below": 1, "above": 2}
    part = {**own, "halfspaces": [{"row": unit(0), "lower": None, "upper": [ONE]}]}
    claim = {"kind": "output", "row": unit(0), "lower": "-inf", "upper": upper.hex()}
    document = certificate(data, ball([0.0], 1.0), [claim], [root, part, part])
    said = check_bytes(encoded(document), data).text
    assert said.startswith(
        "valid" if valid else "invalid: claim 0 (output): parts[1]: upper end of row 0: claimed 1.99"
    )
    document["parts"][2] = {**part, "halfspaces": []}
    assert check_bytes(encoded(document), data).text.startswith("invalid: claim 0 (output): parts[")


@pytest.mark.parametrize("seed", range(3))
def test_what_is_accepted_is_true_at_sampled_points(seed: int) -> None:
    """Random networks of two inputs with a tree of all signs of three neurons, and the least bound that is accepted."""
    random = np.random.default_rng(seed)
    weights = {"w": random.integers(-8, 9, (2, 3)) / 8.0, "b": random.integers(-2, 3, 3) / 16.0}
    weights |= {"v": random.integers(-8, 9, (3, 1)) / 8.0}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    data = model(nodes, weights, (1, 2))
    parts = [split(0, 1, 2), split(1, 3, 4), split(1, 5, 6), *(split(2, 7 + 2 * i, 8 + 2 * i) for i in range(4))]
    points = np.array(CENTER) + random.uniform(-1, 1, (4000, 2))
    active = (points @ weights["w"] + weights["b"] > 0).astype(float)
    slopes = np.einsum("pk,k,jk->pj", active, weights["v"][:, 0], weights["w"])
    every = [np.array(s) * weights["v"][:, 0] @ weights["w"].T for s in product((0.0, 1.0), repeat=3)]
    attained, possible = (max(float(np.abs(r).sum()) for r in rows) for rows in (slopes, every))
    claim = {**claims()[0], "upper": (possible + 2.0**-40).hex()}
    assert made(parts + [leaf()] * 8, [claim], data) == (0, "valid")
    claim["upper"] = (attained - 2.0**-40).hex()
    code, said = made(parts + [leaf()] * 8, [claim], data)
    assert (code, "claim 0 (lipschitz): parts[" in said) == (1, True)
    assert json.loads(encoded(claim)) == claim
