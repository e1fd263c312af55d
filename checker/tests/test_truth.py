"""Whatever is accepted is true: certificates of many networks, moved at random, against values at random points."""

import copy
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from flint import arb, ctx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from producer import ball, dense, encoded, everything, model
from recurjac_check import check_bytes, network, region
from recurjac_check.functions import SMOOTH, Pieces, clamp, extremes, two_pieces
from recurjac_check.system import System
from recurjac_check.witness import at_point, within_windows

CENTER = [0.13, -0.21, 0.34]


def exact(data: bytes, x: list[Fraction]) -> tuple[list[Fraction], list[list[Fraction]]]:
    """Values and the Jacobian of a dense ReLU network, in rational numbers; the point is on no kink."""
    weights = {
        t.name: onnx.numpy_helper.to_array(t).tolist() for t in onnx.load_model_from_string(data).graph.initializer
    }
    tangents = [[Fraction(int(i == j)) for j in range(len(x))] for i in range(len(x))]
    for k in range(len(weights) // 2):
        w, b = weights[f"w{k}"], weights[f"b{k}"]
        columns = range(len(b))
        if k:
            tangents = [t if v > 0 else [Fraction(0)] * len(t) for v, t in zip(x, tangents, strict=True)]
            x = [max(v, Fraction(0)) for v in x]
        rows = [[Fraction(row[j]) for row in w] for j in columns]
        x, tangents = (
            [Fraction(b[j]) + sum(c * v for c, v in zip(rows[j], x, strict=True)) for j in columns],
            [
                [sum(c * t[i] for c, t in zip(rows[j], tangents, strict=True)) for i in range(len(tangents[0]))]
                for j in columns
            ],
        )
    return x, tangents


def within(claim: Any, values: list[Fraction], jacobian: list[list[Fraction]]) -> bool:
    """Whether a claim holds at a point."""
    number = lambda text: Fraction(float.fromhex(text))  # noqa: E731
    if claim["kind"] == "output":
        return number(claim["lower"]) <= values[claim["row"][0][0]] <= number(claim["upper"])
    if claim["kind"] == "jacobian":
        row = jacobian[claim["row"][0][0]]
        return all(number(l) <= v <= number(u) for l, v, u in zip(claim["lower"], row, claim["upper"], strict=True))
    if claim["kind"] == "monotone":
        row = jacobian[claim["row"][0][0]]
        return all(row[i] >= 0 for i in claim["increasing"]) and all(row[i] <= 0 for i in claim["decreasing"])
    if claim["kind"] == "no_stationary_point":
        return any(v != 0 for v in jacobian[claim["row"][0][0]])
    sums = {("1", "1"): zip(*jacobian, strict=True), ("inf", "inf"): jacobian}.get((claim["from"], claim["to"]), [])
    return all(sum(map(abs, row)) <= number(claim["upper"]) for row in sums)


def moved(value: Any, random: np.random.Generator) -> Any:
    """A certificate of which some numbers are others."""
    value = copy.deepcopy(value)
    places = [c for c in value["claims"] if random.random() < 0.08]
    leaves = [part for part in value["parts"] if "values" in part]
    places += [s for part in leaves for s in part["values"]["stages"] if random.random() < 0.15]
    places += [s for part in leaves for g in part["gradients"] for s in g["stages"] if random.random() < 0.04]
    for place in places:
        key = random.choice([k for k in ("lower", "upper", "lower_slope", "upper_slope") if place.get(k)] or ["kind"])
        if key == "kind":
            continue
        scale = 10.0 ** random.uniform(-14, 0)
        shift = lambda t: (float.fromhex(t) + scale * random.normal()).hex()  # noqa: B023, E731
        place[key] = (
            [shift(t) if random.random() < 0.5 else t for t in place[key]]
            if isinstance(place[key], list)
            else shift(place[key])
        )
    return value


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_accepted_is_true(seed: int, norm: str) -> None:
    random = np.random.default_rng(seed)
    data, radius = dense([3, 5, 5, 2], seed + 20), [0.05, 0.2, 0.5, 1.0][seed]
    certificate = everything(data, ball(CENTER, radius, norm), 0.14 if seed % 2 else None)
    steps = random.uniform(-1, 1, (60, 3))
    sizes = np.linalg.norm(steps, {"inf": np.inf, "2": 2, "1": 1}[norm], axis=1, keepdims=True)
    points = [
        [Fraction(c) + Fraction(s) for c, s in zip(CENTER, step, strict=True)]
        for step in steps / sizes * radius * 0.999
    ]
    truths = [exact(data, point) for point in points]
    accepted = 0
    for _ in range(16):
        other = moved(certificate, random)
        if check_bytes(encoded(other), data).code == 0:
            accepted += 1
            assert all(within(claim, *truth) for claim in other["claims"] for truth in truths)
    assert check_bytes(encoded(certificate), data).code == 0
    assert accepted > 0


def test_a_claim_that_is_false_at_a_point_is_told_from_a_true_one() -> None:
    data = dense([3, 5, 5, 2], 20)
    claims = everything(data, ball(CENTER, 0.05), None)["claims"]
    values, jacobian = exact(data, [Fraction(c) for c in CENTER])
    assert all(within(claim, values, jacobian) for claim in claims)
    claims[0]["upper"] = (float(values[0]) - 1e-9).hex()
    assert not within(claims[0], values, jacobian)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    """A node."""
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def networks() -> dict[str, bytes]:
    """Networks with layers of all kinds."""
    r = np.random.default_rng(7)
    w = lambda *shape: r.normal(0, 0.6, shape)  # noqa: E731
    flat = {"d": w(8, 3), "e": w(3)}
    end = [node("Flatten", "p", "f"), node("Gemm", "f d e", "out")]
    ints = lambda *v: np.array(v, dtype=np.int64)  # noqa: E731
    return {
        "conv-pool": model(
            [
                node("Conv", "x k b", "c", pads=[1, 1, 1, 1], strides=[1, 1]),
                node("BatchNormalization", "c s t m v", "n"),
                node("Relu", "n", "h"),
                node("MaxPool", "h", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]),
                *end,
            ],
            {"k": w(2, 1, 3, 3), "b": w(2), "s": w(2), "t": w(2), "m": w(2), "v": w(2) ** 2, **flat},
            (1, 1, 4, 4),
        ),
        "average-groups": model(
            [
                node("Conv", "x k", "c", group=2, dilations=[2, 2], pads=[1, 1, 1, 1]),
                node("LeakyRelu", "c", "h", alpha=0.25),
                node("AveragePool", "h", "p", kernel_shape=[1, 1], strides=[1, 1]),
                *end,
            ],
            {"k": w(2, 1, 3, 3), **flat},
            (1, 2, 4, 4),
        ),
        "residual": model(
            [
                node("MatMul", "x a", "y"),
                node("Tanh", "y", "h"),
                node("Add", "h y", "z"),
                node("Clip", "z lo hi", "q"),
                node("Concat", "q x", "cc", axis=1),
                node("Gemm", "cc g i", "out", transB=1, alpha=0.5, beta=2.0),
            ],
            {"a": w(4, 4), "lo": np.array(-0.4), "hi": np.array(0.7), "g": w(2, 8), "i": w(2)},
            (1, 4),
        ),
        "moves": model(
            [
                node("Slice", "x st en ax", "s"),
                node("Transpose", "s", "t", perm=[0, 2, 1]),
                node("Sigmoid", "t", "h"),
                node("Reshape", "h sh", "r"),
                node("Gather", "r pick", "g", axis=1),
                node("Sub", "one g", "u"),
                node("ReduceMean", "u", "out", axes=[1], keepdims=0),
            ],
            {
                "st": ints(1),
                "en": ints(9),
                "ax": ints(1),
                "sh": ints(0, -1, 2),
                "pick": ints(1, 0, 1),
                "one": np.array(1.0),
            },
            (1, 3, 2),
        ),
        "attention": model(
            [
                node("MatMul", "x wq", "q"),
                node("MatMul", "x wk", "k"),
                node("MatMul", "x wv", "v"),
                node("Transpose", "k", "kt", perm=[0, 2, 1]),
                node("MatMul", "q kt", "l"),
                node("Softmax", "l", "a", axis=-1),
                node("MatMul", "a v", "o"),
                node("Mul", "o o", "oo"),
                node("ReduceSum", "oo axes", "out", keepdims=0),
            ],
            {"wq": w(2, 2), "wk": w(2, 2), "wv": w(2, 2), "axes": ints(1)},
            (1, 3, 2),
        ),
        "quotient": model(
            [
                node("Mul", "x x", "q"),
                node("Add", "q two", "d"),
                node("Exp", "x", "e"),
                node("Div", "e d", "r"),
                node("Max", "r x", "m"),
                node("Abs", "m", "n"),
                node("Softplus", "n", "s"),
                node("Pow", "s half", "out"),
            ],
            {"two": np.array(2.0), "half": np.array(0.5)},
            (1, 3),
        ),
    }


NETWORKS = networks()


def _inputs(data: bytes) -> tuple[int, tuple[int, ...]]:
    shape = onnx.load_model_from_string(data).graph.input[0].type.tensor_type.shape.dim
    sizes = tuple(d.dim_value for d in shape)
    return int(np.prod(sizes)), sizes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_reader_computes_what_the_reference_of_onnx_does(name: str) -> None:
    data = NETWORKS[name]
    n, shape = _inputs(data)
    evaluator = ReferenceEvaluator(onnx.load_model_from_string(data))
    with ctx.workprec(128):
        net = network.load(data)
    for x in np.random.default_rng(3).normal(0, 1, (5, n)):
        with ctx.workprec(128):
            low, high = at_point(net, [arb(v) for v in x]).interval(net.outputs)
        truth = np.asarray(evaluator.run(None, {"x": x.reshape(shape)})[0]).ravel()
        assert np.allclose([float(v.mid()) for v in low], truth, rtol=1e-12, atol=1e-12)
        assert all(h - l < 1e-25 for l, h in zip(low, high, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_certificates_of_all_layers_are_accepted_and_true(name: str) -> None:
    data = NETWORKS[name]
    n, shape = _inputs(data)
    random = np.random.default_rng(5)
    center, radius = random.normal(0, 0.5, n), 0.05
    certificate = everything(data, ball(list(center), radius), None)
    assert check_bytes(encoded(certificate), data).text == "valid"
    evaluator = ReferenceEvaluator(onnx.load_model_from_string(data))
    run = lambda x: np.asarray(evaluator.run(None, {"x": x.reshape(shape)})[0]).ravel()  # noqa: E731
    norms = {(c["from"], c["to"]): float.fromhex(c["upper"]) for c in certificate["claims"] if c["kind"] == "lipschitz"}
    for _ in range(40):
        x, y = (center + random.uniform(-radius, radius, n) for _ in "xy")
        change, step = np.abs(run(x) - run(y)), np.abs(x - y)
        sizes = {"1": np.sum, "2": np.linalg.norm, "inf": np.max}
        for (p, q), c in norms.items():
            assert sizes[q](change) <= c * sizes[p](step) * (1 + 1e-9)
        values = run(x)
        for claim in certificate["claims"]:
            if claim["kind"] == "output":
                assert float.fromhex(claim["lower"]) <= values[claim["row"][0][0]] <= float.fromhex(claim["upper"])


@pytest.mark.parametrize("kind", SMOOTH)
def test_enclosures_of_functions_hold_and_are_narrow(kind: str) -> None:
    f, random = SMOOTH[kind], np.random.default_rng(1)
    positive = kind in ("Log", "Sqrt", "Reciprocal")
    with ctx.workprec(128):
        for _ in range(6):
            l, u = sorted(random.uniform(0.1 if positive else -4, 4, 2))
            slope = arb(float(random.normal()))
            offset = lambda z: f.value(z) - slope * z  # noqa: B023, E731
            for g, (low, high) in (
                (offset, f.offsets(slope, arb(l), arb(u))),
                (f.slope, f.slopes(arb(l), arb(u))),
            ):
                values = [g(arb(l + (u - l) * k / 400)) for k in range(1, 400)] + [g(arb(l)), g(arb(u))]
                assert all(low <= v <= high for v in values)
                assert min(map(float, values)) - float(low) < 1e-4
                assert float(high) - max(map(float, values)) < 1e-4


@pytest.mark.parametrize("kind", SMOOTH)
def test_derivatives_of_functions(kind: str) -> None:
    f = SMOOTH[kind]
    with ctx.workprec(256):
        h = arb(2) ** -80
        for z in (arb(0.3), arb(1.7), arb(2.5)):
            assert abs((f.value(z + h) - f.value(z - h)) / (2 * h) - f.slope(z)) < 1e-20
            assert abs((f.slope(z + h) - f.slope(z - h)) / (2 * h) - f.bend(z)) < 1e-20


@pytest.mark.parametrize(
    "f", [two_pieces(arb(0)), two_pieces(arb(2)), clamp(arb(-1), arb(0.5)), clamp(None, arb(0.5)), clamp(arb(-1), None)]
)
def test_pieces(f: Pieces) -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        l, u = map(arb, sorted(random.choice([-2, -1.5, -1, -0.5, 0, 0.25, 0.5, 1], 2)))
        slope = arb(float(random.normal()))
        low, high = f.offsets(slope, l, u)
        d, most = f.slopes(l, u)
        points = [l + (u - l) * k / 64 for k in range(65)]
        assert all(low <= f.value(z) - slope * z <= high for z in points)
        assert all(d * (z - y) <= f.value(z) - f.value(y) <= most * (z - y) for y, z in pairwise(points))


def test_a_maximum_between_numbers_is_reached() -> None:
    with ctx.workprec(128):
        for l in (0.1, 0.5, 1.0, 1.5):  # the sine is 1 at pi / 2, at which no ball is exact
            low, high = SMOOTH["Sin"].offsets(arb(0), arb(l), arb(2.9))
            assert high >= 1
            assert high < 1 + 1e-12
            assert low <= arb(2.9).sin()


def test_a_function_outside_of_its_domain_proves_nothing() -> None:
    from recurjac_check.errors import Invalid

    for kind, l in (("Log", 0.0), ("Log", -1.0), ("Sqrt", -1.0), ("Reciprocal", -1.0), ("Reciprocal", 0.0)):
        with pytest.raises(Invalid):
            SMOOTH[kind].offsets(arb(0), arb(l), arb(1.0))
    with pytest.raises(Invalid):
        extremes(lambda z: z / z, lambda z: z * arb.nan(), arb(-1), arb(1))


def test_differences_of_maxima_over_a_box() -> None:
    """Of four numbers: the second comparison is max(x2, x3) - max(x0, x1), whose ends are those of the box."""
    flow = [node("MaxPool", "x", "p", kernel_shape=[1, 4]), node("Flatten", "p", "out")]
    net = network.load(model(flow, {}, (1, 1, 1, 4)))
    box = {"kind": "box", "lower": [v.hex() for v in (0.0, 0.25, 4.5, 5.0)],
           "upper": [v.hex() for v in (1.0, 0.5, 6.0, 7.0)]}  # fmt: skip
    system = System(region.read(box, 4).supremum)
    wide = [arb.neg_inf()], [arb.pos_inf()]
    found = [within_windows(system, stage, ([*wide[0]], [*wide[1]])) for stage in net.stages]
    assert [[float(e) for (e,) in ends] for ends in found] == [[-0.75, 0.5], [-1.0, 2.5], [4.0, 6.75]]


def test_comparisons_of_windows_with_common_entries_lie_in_their_ends() -> None:
    """Padded windows that overlap: at corners of a box, and where nothing is compared."""
    flow = [node("MaxPool", "x", "p", kernel_shape=[2, 2], pads=[1, 1, 0, 0]), node("Flatten", "p", "out")]
    net, random = network.load(model(flow, {}, (1, 2, 2, 3))), np.random.default_rng(1)
    low = random.integers(-8, 8, 12) / 4
    high = low + random.integers(0, 8, 12) / 4
    box = {"kind": "box", "lower": [float(v).hex() for v in low], "upper": [float(v).hex() for v in high]}
    system = System(region.read(box, 12).supremum)
    for stage in net.stages:
        n = len(stage.pre)
        l, u = within_windows(system, stage, ([arb.neg_inf()] * n, [arb.pos_inf()] * n))
        k = net.stages.index(stage)
        assert any(e.is_finite() for e in l + u)
        for _ in range(200):
            point = [arb(float(v)) for v in np.where(random.random(12) < 0.5, low, high)]
            z = at_point(net, point).nodes[k].l
            assert all(a <= v <= b for a, v, b in zip(l, z, u, strict=True))
