"""Quadratic forms, and parts that are split by neurons: what they prove, and that it is true."""

import copy
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from flint import ctx
from producer import Builder, Json, ball, certificate, dense, encoded, hexes, unit
from test_truth import exact

from recurjac_check import check_bytes, region
from recurjac_check.witness import Secants

CENTER, DATA = [0.13, -0.21, 0.34], dense([3, 5, 5, 2], 12)
ROWS = [unit(0), unit(1)]


def _hex(values: list[float]) -> list[str]:
    return [float(v).hex() for v in values]


def _with(leaf: Json, where: Json, claims: list[Json]) -> Any:
    return certificate(DATA, where, claims, [leaf])


def _points(where: Json, seed: int) -> list[list[Fraction]]:
    order = {"inf": np.inf, "2": 2, "1": 1}[where["norm"]]
    steps = np.random.default_rng(seed).normal(0, 1, (40, 3))
    steps *= float.fromhex(where["radius"]) * 0.999 / np.linalg.norm(steps, order, axis=1, keepdims=True)
    return [[Fraction(c) + Fraction(s) for c, s in zip(CENTER, step, strict=True)] for step in steps]


@pytest.mark.parametrize("radius", [2.0**-20, 0.05, 0.4])
@pytest.mark.parametrize("p", ["2", "inf"])
def test_a_bound_by_tangents_is_accepted_where_it_is_true(p: str, radius: float) -> None:
    where = ball(CENTER, radius, p)
    with ctx.workprec(128):
        leaf = Builder(DATA, region.read(where, 3)).json()
    form = {"weights": None if p == "2" else _hex([0.25, 0.5, 0.25]), "multipliers": [_hex([9.0] * 5), _hex([60.0] * 5)]}
    leaf["tangents"] = {"quadratics": [{"rows": ROWS, "from": p, "quadratic": form}]}
    claim = {"kind": "lipschitz", "rows": ROWS, "from": p, "to": "2", "by": "quadratic", "upper": ""}
    low, high = 0.0, 64.0
    for _ in range(24):
        middle = (low + high) / 2
        accepted = check_bytes(encoded(_with(leaf, where, [{**claim, "upper": middle.hex()}])), DATA).code == 0
        low, high = (low, middle) if accepted else (middle, high)
    jacobians = [np.array(exact(DATA, x)[1], dtype=float) for x in _points(where, 1)]
    directions = [np.linalg.svd(j)[2][0] for j in jacobians] if p == "2" else [np.sign(j[0]) for j in jacobians]
    truth = max(np.linalg.norm(j @ v) for j, v in zip(jacobians, directions, strict=True))
    assert truth <= high
    if radius < 1e-5 and p == "2":  # all slopes are known
        assert high <= truth * (1 + 1e-6)
    forgeries = [{**form, "weights": _hex([0.5, 0.5, 0.25])}] if p == "inf" else []
    forgeries += [{**form, "multipliers": [_hex([1e-3] * 5)] * 2}] if radius > 1e-5 else []
    for other in [*forgeries, {"weights": None}, {**form, "multipliers": []}]:
        leaf["tangents"]["quadratics"][0]["quadratic"] = other
        verdict = check_bytes(encoded(_with(leaf, where, [{**claim, "upper": high.hex()}])), DATA)
        assert verdict.text.startswith("invalid: claim 0 (lipschitz)")


@pytest.mark.parametrize("p", ["2", "inf", "1"])
def test_ranges_by_secants_hold_at_random_points(p: str) -> None:
    where = ball(CENTER, 0.2, p)
    weights = _hex([0.25, 0.5, 0.25]) if p == "inf" else None
    with ctx.workprec(128):
        part = region.read(where, 3)
        builder = Builder(DATA, part)
        form = {"weights": weights, "multipliers": [_hex([2.0] * 5), None]}
        secants = Secants(builder.leaf, form, "form")
        first = builder.leaf.values.nodes[0]
        secants.extend(0, first.l, first.u)
        bound = secants.bounds(1)
        assert bound is not None
        center, half = bound
        low, high = ([c + s * h for c, h in zip(center, half, strict=True)] for s in (-1, 1))
    leaf = builder.json()
    leaf["values"]["quadratic"] = form
    leaf["values"]["stages"][1]["lower"], leaf["values"]["stages"][1]["upper"] = hexes(low, False), hexes(high, True)
    claim = {"kind": "output", "row": unit(0), "lower": "-inf", "upper": "inf"}
    assert check_bytes(encoded(_with(leaf, where, [claim])), DATA).text == "valid"
    for x in _points(where, 2):
        z = _second(x)
        assert all(float(l) <= v <= float(h) for l, v, h in zip(low, z, high, strict=True))


def _second(x: list[Fraction]) -> list[float]:
    """The pre-activations of the second stage, by the same weights."""
    import onnx

    w = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_model_from_string(DATA).graph.initializer}
    h = np.maximum(np.array(x, dtype=float) @ w["w0"] + w["b0"], 0)
    return list(h @ w["w1"] + w["b1"])


def test_ranges_of_gradients_by_quadratic_forms() -> None:
    where = ball(CENTER, 0.3)
    with ctx.workprec(128):
        builder = Builder(DATA, region.read(where, 3))
        builder.gradient(unit(0))
    leaf = builder.json()
    leaf["gradients"][0]["quadratic"] = {"weights": None, "multipliers": [None, _hex([0.3] * 5)]}
    claim = {"kind": "jacobian", "row": unit(0), "lower": ["-inf"] * 3, "upper": ["inf"] * 3}
    assert check_bytes(encoded(_with(leaf, where, [claim])), DATA).code in (0, 1)
    leaf["gradients"][0]["quadratic"]["multipliers"][1] = _hex([1e-9] * 5)
    assert "do not dominate" in check_bytes(encoded(_with(leaf, where, [claim])), DATA).text
    leaf["gradients"][0]["quadratic"]["multipliers"][1] = _hex([100.0] * 5)
    assert check_bytes(encoded(_with(leaf, where, [claim])), DATA).text == "valid"


def _split() -> tuple[Json, list[Json]]:
    """A region in which neuron 0 of stage 0 is split at its kink, and both leaves."""
    where = ball(CENTER, 0.25)
    with ctx.workprec(128):
        whole = Builder(DATA, region.read(where, 3))
        whole.gradient(unit(0))
        first = whole.leaf.values.nodes[0]
        neuron = next(i for i in range(5) if first.l[i] < 0 < first.u[i])
        leaves = []
        for key, value in (("upper", 0.0), ("lower", 0.0)):
            leaf = copy.deepcopy(whole.json())
            leaf["values"]["stages"][0][key][neuron] = value.hex()
            leaf["values"]["stages"][1], leaf["gradients"][0]["stages"] = None, [None, None]
            leaves.append(leaf)
    root = {"split": {"stage": 0, "neuron": neuron, "at": (0.0).hex()}, "below": 1, "above": 2}
    return where, [root, *leaves]


def test_a_split_by_a_neuron_narrows_the_jacobian_and_stays_true() -> None:
    where, parts = _split()
    claim = {"kind": "jacobian", "row": unit(0), "lower": ["-inf"] * 3, "upper": ["inf"] * 3}
    one = {**parts[1], "values": copy.deepcopy(parts[1]["values"])}
    assert check_bytes(encoded(certificate(DATA, where, [claim], parts)), DATA).text == "valid"
    assert "stages[0]" in check_bytes(encoded(certificate(DATA, where, [claim], [one])), DATA).text
    assert "parts[1].values" in check_bytes(encoded(certificate(DATA, where, [claim], [parts[0], parts[2], parts[1]])), DATA).text
    truths = [exact(DATA, x)[1][0] for x in _points(where, 4)]
    for entry in range(3):
        for key, sign in (("upper", 1), ("lower", -1)):
            low, high = -64.0, 64.0
            for _ in range(12):
                middle = (low + high) / 2
                ends = copy.deepcopy(claim)
                ends[key][entry] = (sign * middle).hex()
                accepted = check_bytes(encoded(certificate(DATA, where, [ends], parts)), DATA).code == 0
                low, high = (low, middle) if accepted else (middle, high)
            assert all(sign * row[entry] <= high for row in truths)


def test_ends_that_cross_are_no_proof_without_a_split_by_neurons() -> None:
    where, parts = _split()
    claim = {"kind": "output", "row": unit(0), "lower": (0.0).hex(), "upper": (0.0).hex()}
    far = {**parts[0], "split": {**parts[0]["split"], "at": (99.0).hex()}}
    nothing = copy.deepcopy(parts[1])
    nothing["values"]["stages"] = [None, None]
    verdict = check_bytes(encoded(certificate(DATA, where, [claim], [far, nothing, nothing])), DATA)
    assert verdict.text.startswith("invalid: claim 0 (output): parts[1]")


def test_no_sign_in_common_is_no_proof_across_a_kink() -> None:
    import onnx

    weights = {"w0": np.array([[1.0]]), "b0": np.array([0.0]), "w1": np.array([[2.0, 0.0]]), "b1": np.array([0.0, 0.0])}
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w0", "b0"], ["z"]),
        onnx.helper.make_node("Relu", ["z"], ["h"]),
        onnx.helper.make_node("Gemm", ["h", "w1", "b1"], ["y"]),
        onnx.helper.make_node("Sub", ["y", "x"], ["out"]),
    ]
    from producer import model

    data = model(nodes, weights, (1, 1))  # |x|, -x: the gradient of |x| is -1 below 0 and 1 above it
    where = ball([0.0], 1.0)
    nothing = {"values": {"stages": [None], "quadratic": None}, "gradients": [], "tangents": None}
    nothing["gradients"] = [{"row": unit(0), "stages": [None], "quadratic": None}]
    parts = [{"split": {"stage": 0, "neuron": 0, "at": (0.0).hex()}, "below": 1, "above": 2}, nothing, nothing]
    stationary, other = ({"kind": "no_stationary_point", "row": unit(i)} for i in (0, 1))
    assert "in common" in check_bytes(encoded(certificate(data, where, [stationary], parts)), data).text
    both = {**nothing, "gradients": [*nothing["gradients"], {"row": unit(1), "stages": [None], "quadratic": None}]}
    assert check_bytes(encoded(certificate(data, where, [other], [parts[0], both, both])), data).text == "valid"
    sizes = {"kind": "lipschitz", "rows": [unit(0)], "from": "inf", "to": "inf", "by": "entries", "upper": (1.0).hex()}
    assert check_bytes(encoded(certificate(data, where, [sizes], parts)), data).text == "valid"
