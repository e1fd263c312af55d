"""Networks whose meaning is another one than it seems: each of these false claims was proved once."""

from typing import Any

import numpy as np
import onnx
import pytest
from flint import arb, ctx
from onnx import helper

from producer import ball, certificate, encoded, model, unit
from recurjac_check import check_bytes, network
from recurjac_check.functions import clamp

ONES: dict[str, Any] = {"one": np.array(1.0), "three": np.array(3.0), "zero": np.array(0.0), "six": np.array(6.0)}


def _node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def _ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def _refused(data: bytes) -> str:
    """The verdict on a claim about a network that cannot be read."""
    claim = {"kind": "output", "row": unit(0), "lower": "-inf", "upper": "inf"}
    verdict = check_bytes(encoded(certificate(data, ball([0.0], 0.1), [claim], [])), data)
    assert verdict.code in (2, 3)
    assert "\n" not in verdict.text
    return verdict.text


THIRD = _node("Div", "one three", "t")
REFUSED: dict[str, tuple[list[Any], dict[str, Any], tuple[int, ...]]] = {
    "clip-ball": ([THIRD, _node("Clip", "x zero t")], ONES, (1, 1)),
    "pow-ball": ([THIRD, _node("Mul", "t six", "e"), _node("Pow", "x e")], ONES, (1, 1)),
    "pow-rank": ([_node("Pow", "x e")], {"e": np.full((1, 1), 2.0)}, (2,)),
    "cast-like-int": ([_node("CastLike", "x i")], {"i": _ints(1)}, (1, 1)),
    "mean-int": ([_node("ReduceMean", "i", "m"), _node("Identity", "m")], {"i": _ints(1, 2)}, (1,)),
    "div-int": ([_node("Div", "i i")], {"i": _ints(2)}, (1,)),
    "cast-int32": ([_node("Cast", "i", to=6)], {"i": _ints(2**32)}, (1,)),
    "cast-float": ([_node("Cast", "i", to=1)], {"i": _ints(2**24 + 1)}, (1,)),
    "mul-int": ([_node("Mul", "i i")], {"i": _ints(2**20)}, (1,)),
    "abs-int": ([_node("Abs", "i")], {"i": _ints(-1)}, (1,)),
    "mixed": ([_node("Add", "x i")], {"i": _ints(1)}, (1,)),
    "batch-norm": ([_node("BatchNormalization", "x o o o o", "y m v")], {"o": np.ones(1)}, (1, 1)),
    "slice": ([_node("Slice", "x s e a t")], {"s": _ints(-10), "e": _ints(-20), "a": _ints(0), "t": _ints(-1)}, (3,)),
    "padding-only": ([_node("AveragePool", "x", kernel_shape=[1], pads=[1, 1])], {}, (1, 1, 1)),
    "axis-twice": ([_node("Unsqueeze", "x a")], {"a": _ints(0, 0)}, (1,)),
    "name": ([_node("X\nvalid\n", "x")], {}, (1,)),
    "attribute": ([_node("MatMul", "x w", transB=1)], {"w": np.ones((2, 2))}, (1, 2)),
    "overwritten": ([_node("Neg", "x"), _node("Neg", "y")], {}, (1,)),
    "reshape": ([_node("Reshape", "x s")], {"s": _ints(-3, 1)}, (1, 2)),
    "split": ([_node("Split", "x s", "z y", axis=1)], {"s": _ints(-1, 3)}, (1, 2)),
    "kernel-rank": ([_node("Conv", "x w", pads=[1, 0, 0, 0])], {"w": np.ones((2, 2, 2))}, (1, 2, 2)),
    "bias-up": ([_node("Gemm", "x w c")], {"w": np.ones((1, 1)), "c": np.zeros((3, 1))}, (1, 1)),
    "squeeze": ([_node("Squeeze", "x a")], {"a": _ints()}, (1, 2)),
    "gather": ([_node("Gather", "x i")], {"i": np.array(0.0)}, (2,)),
    "concat": ([_node("Concat", "x w", axis=0)], {"w": np.ones((1, 3, 2))}, (1, 2, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_does_not_define_or_defines_otherwise_is_refused(name: str) -> None:
    _refused(model(*REFUSED[name]))


def _changed(change: Any) -> bytes:
    proto = onnx.load_model_from_string(model([_node("LeakyRelu", "x", alpha=0.5)], {"w": np.array(1.0)}, (1, 1)))
    change(proto)
    data: bytes = proto.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.graph.node[0].attribute.append(helper.make_attribute("alpha", 0.25)), "attribute alpha"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "same name"),
        (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 13)), "versions [17, 13]"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "unknown shape"),
    ],
)
def test_files_that_say_two_things_are_refused(change: Any, reason: str) -> None:
    assert reason in _refused(_changed(change))


@pytest.mark.parametrize(
    ("nodes", "weights", "outputs"),
    [
        ([_node("MatMul", "x w", "z"), _node("ReduceSum", "z a", keepdims=0)], {"w": np.ones((1, 1, 1, 1))}, 2),
        *(
            ([_node("ReduceSum", "x", "s", keepdims=0), middle, _node("Unsqueeze", "p a", "q"), _node("Add", "q w")],
             {"w": np.ones(3)}, 3)
            for middle in (_node("Mul", "s s", "p"), _node("HardSigmoid", "s", "p"), _node("CastLike", "s w", "p"))
        ),
    ],
)  # fmt: skip
def test_ranks_are_those_of_onnx(nodes: list[Any], weights: dict[str, Any], outputs: int) -> None:
    with ctx.workprec(128):
        assert len(network.load(model(nodes, {**weights, "a": _ints(0)}, (2, 1, 1))).outputs) == outputs


@pytest.mark.parametrize(("inputs", "ends"), [("x m", "m"), ("x  m", "m")])
def test_a_large_end_of_a_range_is_an_end(inputs: str, ends: str) -> None:
    node = helper.make_node("Clip", inputs.split(" "), ["y"])
    with ctx.workprec(128):
        assert len(network.load(model([node], {ends: np.array(1e39)}, (1, 1))).stages) == 1


def test_on_an_undecided_side_of_a_kink_nothing_is_known() -> None:
    assert not clamp(arb(0), arb(1)).value(arb(1, 0.5)).is_finite()


@pytest.mark.parametrize("number", ["0x1p-9999", "0x1p-1075", "0x1.8p-1074", "-0x1.4p-1074", "0x1p+1024"])
def test_a_number_that_is_no_double_is_refused(number: str) -> None:
    data = model([_node("Relu", "x")], {}, (1, 1))
    claim = {"kind": "output", "row": unit(0), "lower": number, "upper": "inf"}
    verdict = check_bytes(encoded(certificate(data, ball([0.0], 0.1), [claim], [])), data)
    assert verdict.code == 1


def test_a_rate_of_a_network_without_stages() -> None:
    data = model([_node("Neg", "x")], {}, (1, 1))
    for lower, code in ((1.0, 0), (1.5, 1)):
        numbers = {"lower": lower.hex(), "point": ["0x0p+0"], "direction": ["0x1p+0"]}
        claim = {"kind": "attained", "rows": [unit(0)], "from": "2", "to": "2", **numbers}
        assert check_bytes(encoded(certificate(data, ball([0.0], 1.0), [claim], [])), data).code == code
