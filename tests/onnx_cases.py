"""Small ONNX models that between them use every operator that is read, in all of its signatures: activations, sums,
products, reductions and chains of nodes as exporters write them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tests.onnx_models import DOUBLE, FLOAT, Shape, helper, model, node, tensor, value

ROWS: Shape = ["batch", 6]
IMAGE: Shape = [1, 3, 6, 5]
SMALL: Shape = [1, 2, 3, 3]
TOKENS: Shape = [1, 4, 3]


def numbers(*shape: int, seed: int = 0) -> Any:
    """Normal numbers that float32 holds."""
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def i(*entries: int) -> Any:
    return np.array(entries, dtype=np.int64)


def one(kind: str, inputs: str = "x", /, **attributes: Any) -> Any:
    """One node on the input x and `constants`, in an `opset`; `kind` is the type of input and output."""
    shape, constants, opset = (attributes.pop(k, d) for k, d in (("shape", ROWS), ("constants", {}), ("opset", 17)))
    dtype = attributes.pop("kind", FLOAT)
    return model([node(kind, inputs, **attributes)], shape, constants, opset, kind=dtype)


def several(nodes: Sequence[Any], shape: Shape = ROWS, opset: int = 17, **constants: Any) -> Any:
    return model(nodes, shape, constants, opset)


def activations() -> dict[str, Any]:
    plain = ["Abs", "Atan", "Celu", "Cos", "Elu", "Erf", "Exp", "HardSigmoid", "LeakyRelu", "Neg", "Relu", "Selu"]
    plain += ["Sigmoid", "Sin", "Softplus", "Softsign", "Tanh", "Sinh", "Cosh"]
    return {
        **{kind: one(kind) for kind in plain},
        **{f"{kind} of an image": one(kind, shape=IMAGE) for kind in ("Relu", "Sigmoid", "Elu")},
        **{f"{kind} of opset 8": one(kind, opset=8) for kind in ("Relu", "Tanh", "LeakyRelu", "HardSigmoid")},
        "Celu 2": one("Celu", alpha=2.0),
        "Elu 0.5": one("Elu", alpha=0.5),
        "Selu of its own": one("Selu", alpha=1.5, gamma=0.5),
        "LeakyRelu 0.3": one("LeakyRelu", alpha=0.3),
        "HardSigmoid 0.5": one("HardSigmoid", alpha=0.5, beta=0.25),
        "HardSwish": one("HardSwish"),
        "Mish": one("Mish", opset=18),
        "Gelu": one("Gelu", opset=20),
        "Gelu tanh": one("Gelu", opset=20, approximate="tanh"),
        "Swish": one("Swish", opset=24),
        "Swish 0.5": one("Swish", opset=24, alpha=0.5),
        "PRelu": one("PRelu", "x s", constants={"s": numbers(6)}),
        "PRelu of one": one("PRelu", "x s", constants={"s": numbers(1)}),
        "PRelu of channels": one("PRelu", "x s", shape=IMAGE, constants={"s": numbers(3, 1, 1)}),
        "PRelu of opset 8": one("PRelu", "x s", shape=IMAGE, opset=8, constants={"s": numbers(3, 1, 1)}),
        "sigmoid spelled out": several(
            [node("Neg", "x", "a"), node("Exp", "a", "b"), node("Add", "b one", "c"), node("Reciprocal", "c")],
            one=np.ones(1),
        ),
        "log of a sigmoid": several([node("Sigmoid", "x", "a"), node("Log", "a")]),
        "silu": several([node("Sigmoid", "x", "a"), node("Mul", "x a")]),
        "Tan": several([node("Mul", "x c", "h"), node("Tan", "h")], c=np.array(0.125)),
        "square": one("Pow", "x e", constants={"e": np.array(2.0)}),
        "cube": one("Pow", "x e", constants={"e": i(3)}),
        "first power": one("Pow", "x e", constants={"e": np.array([1.0])}),
        "Relu in double": one("Relu", kind=DOUBLE),
        "Tanh in double": one("Tanh", kind=DOUBLE),
    }  # fmt: skip


def clips() -> dict[str, Any]:
    low, high = np.array(-0.5), np.array(0.75)
    return {
        "Clip by attributes": one("Clip", opset=8, min=-0.5, max=0.75),
        "Clip by an attribute": one("Clip", opset=10, max=0.5),
        "Clip by inputs": one("Clip", "x a b", opset=11, constants={"a": low, "b": high}),
        "Clip from below": one("Clip", "x a", opset=13, constants={"a": low}),
        "Clip from above": one("Clip", "x - b", constants={"b": high}),
        "Clip crossed": one("Clip", "x a b", constants={"a": high, "b": low}),
        "Clip without ends": one("Clip", shape=IMAGE),
        "Clip to infinity": one("Clip", "x a b", constants={"a": low, "b": np.array(np.inf)}),
        "Clip at the input": model(
            [node("ReduceMax", "x", "h", keepdims=0), node("Clip", "c h")], [4], {"c": numbers(4)}
        ),
        "Max with a constant": one("Max", "x a", constants={"a": numbers(6)}),
        "Max of many": several([node("Neg", "x", "n"), node("Max", "c x n d")], c=numbers(6), d=numbers(1)),
        "Max of one": one("Max"),
        "Max broadcast": several([node("Relu", "x", "r"), node("Max", "r c")], shape=TOKENS, c=numbers(2, 4, 1)[:1]),
        "Min": several([node("Neg", "x", "n"), node("Min", "x c n d")], c=numbers(6), d=numbers(1)),
        "Min of opset 8": one("Min", "c x", opset=8, constants={"c": numbers(6)}),
    }


def quantised() -> dict[str, Any]:
    """Constant weights of integers through DequantizeLinear, by one scale, one a row or column, and blocks."""
    small, rng = np.random.default_rng(3).integers(-9, 9, (6, 6)), np.random.default_rng(4)
    scales, zeros = rng.uniform(0.1, 1, 6), rng.integers(-3, 3, 6).astype(np.int8)

    def of(opset: int, scale: Any, zero: Any = None, **attributes: Any) -> Any:
        nodes = [node("DequantizeLinear", "q s" if zero is None else "q s z", "w", **attributes), node("MatMul", "x w")]
        return several(nodes, opset=opset, q=small.astype(np.int8), s=scale, **({} if zero is None else {"z": zero}))

    return {
        **{f"DequantizeLinear of opset {k}": of(k, np.array(0.125), np.array(0, np.int8)) for k in (10, 13, 19, 21)},
        "DequantizeLinear without zero": of(13, np.array(0.3)),
        "DequantizeLinear of columns": of(13, scales, zeros),
        "DequantizeLinear of rows": of(13, scales, zeros, axis=0),
        "DequantizeLinear of blocks": of(21, rng.uniform(0.1, 1, (2, 6)), rng.integers(-3, 3, (2, 6)).astype(np.int8),
                                         axis=0, block_size=3),
    }  # fmt: skip


def scalers() -> dict[str, Any]:
    def of(**attributes: Any) -> Any:
        return model([node("Scaler", "x", domain="ai.onnx.ml", **attributes)], [1, 3], domains={"ai.onnx.ml": 3})

    def ml(kind: str, outputs: str = "y", inputs: str = "x", **attributes: Any) -> Any:
        made = node(kind, inputs, outputs, domain="ai.onnx.ml", **attributes)
        constants = {"j": i(2, 0)} if "j" in inputs else {}
        return model([made], [1, 3], constants, domains={"ai.onnx.ml": 1})

    rows = {"coefficients": numbers(2, 3).flatten().tolist(), "intercepts": [0.5, -0.25]}
    return {
        "LinearRegressor": ml("LinearRegressor", targets=2, **rows),
        "LinearRegressor of one": ml("LinearRegressor", coefficients=[0.5, -1.0, 2.0], intercepts=[1.0]),
        **{
            f"LinearClassifier {kind}": ml(
                "LinearClassifier", "l y", classlabels_ints=[0, 1], post_transform=kind, **rows
            )
            for kind in ("NONE", "LOGISTIC", "SOFTMAX")
        },
        "Normalizer L1": ml("Normalizer", norm="L1"),
        "Normalizer L2": ml("Normalizer", norm="L2"),
        "ArrayFeatureExtractor": ml("ArrayFeatureExtractor", inputs="x j"),
        "Scaler": of(offset=[0.5, -1.0, 2.0], scale=[2.0, 0.25, -1.5]),
        "Scaler of one": of(offset=[1.0], scale=[3.0]),
    }


def choices() -> dict[str, Any]:
    mask = np.array([True, False, False, True, True, False])
    places = {"i": i(0, 2, -1).reshape(3, 1), "p": i(1, 4).reshape(2, 1), "u": numbers(3, 3)}
    return {
        "Where": one("Where", "m x c", constants={"m": mask, "c": numbers(6)}),
        "Where of branches": several([node("Relu", "x", "a"), node("Where", "m a x")], m=mask[None]),
        "Where broadcast": one("Where", "m c x", shape=TOKENS, constants={"m": mask[:3], "c": np.array(0.5)}),
        "ThresholdedRelu": one("ThresholdedRelu", alpha=0.0),
        "Shrink": one("Shrink", bias=0.3, lambd=0.3),
        "ScatterND": one("ScatterND", "x i u", shape=[3, 3], constants={**places, "i": places["i"] % 3}),
        "ScatterND of x": several(
            [node("ScatterND", "c p x")], shape=[2, 3], opset=11, c=numbers(6, 3), p=places["p"]
        ),
        "ScatterElements": one("ScatterElements", "x i u", shape=[1, 4], axis=1,
                               constants={"i": i(-1, 0).reshape(1, 2), "u": numbers(1, 2)}),
        "ScatterElements sums": one("ScatterElements", "c i x", shape=[1, 4], axis=1, reduction="add",
                                    constants={"i": i(0, 2, 2, 1).reshape(1, 4), "c": numbers(1, 6)}),
    }  # fmt: skip


def sums() -> dict[str, Any]:
    row, column = numbers(6), numbers(4, 1)
    branches = [node("Relu", "x", "a"), node("Tanh", "x", "b")]
    return {
        "Add": one("Add", "x c", constants={"c": row}),
        "Add to a constant": one("Add", "c x", constants={"c": row}, opset=8),
        "Add to itself": one("Add", "x x"),
        "Add of a scalar": one("Add", "x c", constants={"c": np.array(0.5)}),
        "Add broadcast by the constant": one("Add", "x c", shape=[1, 1, 6], constants={"c": column}),
        "Add of more axes": one("Add", "x c", shape=[1, 6], constants={"c": numbers(1, 4, 6)}),
        "Add of branches": several([*branches, node("Add", "a b")]),
        "Add of branches broadcast": several(
            [node("ReduceSum", "x axis", "a", keepdims=1), node("Relu", "x", "b"), node("Add", "a b")],
            axis=i(1),
        ),
        "Sub": one("Sub", "x c", constants={"c": row}),
        "Sub from a constant": one("Sub", "c x", constants={"c": row}),
        "Sub of branches": several([*branches, node("Sub", "a b")], opset=8),
        "Mul": one("Mul", "x c", constants={"c": row}),
        "Mul by a constant first": one("Mul", "c x", constants={"c": np.array(-2.0)}),
        "Mul broadcast": one("Mul", "x c", shape=[1, 1, 6], constants={"c": column}),
        "Mul of itself": one("Mul", "x x"),
        "Div": one("Div", "x c", constants={"c": row}),
        "Div broadcast": one("Div", "x c", shape=[1, 1, 6], constants={"c": column}, opset=8),
        "softsign": several([node("Abs", "x", "a"), node("Add", "a c", "b"), node("Div", "x b")], c=np.ones(1)),
        "Sum": several([*branches, node("Sum", "c a x b d")], c=row, d=numbers(1)),
        "Sum of one": one("Sum"),
        "Sum of constants": one("Sum", "c d x", constants={"c": row, "d": numbers(6, seed=5)}),
        "Sum twenty": one("Sum", " ".join(["x"] * 30)),
        "Mean": several([*branches, node("Mean", "a b x")]),
        "Mean with a constant": one("Mean", "x c", constants={"c": row}, opset=8),
        "sums of sums": model(
            [node("Add", f"h{k} h{k}", f"h{k + 1}") for k in range(40)], ROWS,
            inputs=[value("h0", ROWS)], outputs=[value("h40", None)],
        ),
    }  # fmt: skip


def reductions() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for kind in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
        newest = 13 if kind == "ReduceSum" else 18
        made |= {
            f"{kind} by an attribute": one(kind, shape=SMALL, opset=newest - 2, axes=[2, -1], keepdims=0),
            f"{kind} of opset 8": one(kind, shape=SMALL, opset=8, axes=[1]),
            f"{kind} by an input": one(kind, "x a", shape=SMALL, opset=newest, keepdims=0, constants={"a": i(-2, 3)}),
            f"{kind} of all": one(kind, shape=SMALL, opset=newest),
            f"{kind} of no axes": one(kind, "x a", opset=newest, noop_with_empty_axes=1, constants={"a": i()}),
            f"{kind} of a vector": one(kind, shape=[5], opset=newest, keepdims=0),
        }
    for kind in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"):
        made |= {
            f"{kind} by an attribute": one(kind, shape=SMALL, opset=13, axes=[2, -1], keepdims=0),
            f"{kind} by an input": one(kind, "x a", shape=SMALL, opset=18, keepdims=0, constants={"a": i(-2, 3)}),
            f"{kind} of all": one(kind, shape=[5], opset=18),
        }
    return {
        **made,
        **{
            f"CumSum of axis {axis}, {exclusive}, {reverse}": one(
                "CumSum", "x a", shape=[1, 4, 3], exclusive=exclusive, reverse=reverse, constants={"a": np.array(axis)}
            )
            for axis, exclusive, reverse in ((1, 0, 0), (-1, 0, 1), (1, 1, 0), (2, 1, 1), (0, 0, 0), (0, 1, 0))
        },
        "CumSum of opset 11": one("CumSum", "x a", opset=11, constants={"a": np.array(1)}),
        "GlobalAveragePool": one("GlobalAveragePool", shape=SMALL),
        "GlobalAveragePool 1d": one("GlobalAveragePool", shape=[1, 3, 7], opset=8),
        "GlobalMaxPool": one("GlobalMaxPool", shape=SMALL),
        "GlobalMaxPool 3d": one("GlobalMaxPool", shape=[1, 2, 2, 2, 2]),
    }


def products() -> dict[str, Any]:
    W, V = numbers(6, 4), numbers(5, 6)
    return {
        "MatMul": one("MatMul", "x W", constants={"W": W}),
        "MatMul vector by matrix": one("MatMul", "x W", shape=[6], constants={"W": W}),
        "MatMul matrix by vector": one("MatMul", "V x", shape=[6], constants={"V": V}),
        "MatMul vector by vector": one("MatMul", "x v", shape=[6], constants={"v": numbers(6)}),
        "MatMul vector first": one("MatMul", "v x", shape=[6], constants={"v": numbers(6)}),
        "MatMul by a vector": one("MatMul", "x v", shape=[3, 6], constants={"v": numbers(6)}),
        "MatMul of a vector first": one("MatMul", "v x", shape=[1, 6, 3], constants={"v": numbers(6)}),
        "MatMul of rank 3": one("MatMul", "x W", shape=[1, 3, 6], constants={"W": W}),
        "MatMul of rank 4": one("MatMul", "x W", shape=[1, 2, 3, 6], constants={"W": W}),
        "MatMul from the left": one("MatMul", "V x", shape=[1, 6, 3], constants={"V": V}),
        "MatMul from the left of rank 2": one("MatMul", "V x", shape=[6, 1], constants={"V": V}),
        "MatMul from the left of rank 4": one("MatMul", "V x", shape=[1, 2, 6, 3], constants={"V": V}),
        "MatMul with one matrix of a batch": one("MatMul", "x W", shape=[1, 3, 6], constants={"W": W[None]}),
        "MatMul of more axes": one("MatMul", "x W", constants={"W": W[None, None]}),
        "MatMul of more axes from the left": one("MatMul", "V x", shape=[6, 2], constants={"V": V[None, None]}),
        "MatMul of a column": one("MatMul", "x W", shape=[1, 20, 1], constants={"W": numbers(1, 2)}),
        "MatMul in double": one("MatMul", "x W", kind=DOUBLE, constants={"W": W.astype(np.float64) / 3}),
        "Gemm": one("Gemm", "x W b", constants={"W": W, "b": numbers(4)}),
        "Gemm transB": one("Gemm", "x V b", transB=1, constants={"V": V, "b": numbers(5)}),
        "Gemm transA": one("Gemm", "x V", shape=[4, 1], transA=1, constants={"V": numbers(4, 3)}),
        "Gemm transA and transB": one("Gemm", "x V", shape=[4, 2], transA=1, transB=1, constants={"V": numbers(3, 4)}),
        "Gemm alpha and beta": one("Gemm", "x W b", alpha=0.5, beta=-2.0, constants={"W": W, "b": numbers(1, 4)}),
        "Gemm beta 0": one("Gemm", "x W b", beta=0.0, constants={"W": W, "b": numbers(4)}),
        "Gemm of opset 8": one("Gemm", "x W b", opset=8, constants={"W": W, "b": numbers(1)}),
        "Gemm from the left": one("Gemm", "V x b", shape=[6, 2], constants={"V": V, "b": numbers(5, 1)}),
        "Gemm from the left transA": one("Gemm", "W x", shape=[6, 2], transA=1, constants={"W": W}),
        "Gemm from the left transB": one("Gemm", "V x", shape=[2, 6], transB=1, alpha=2.0, constants={"V": V}),
        "Gemm with a branch for bias": several(
            [node("Relu", "x", "a"), node("MatMul", "a W", "c"), node("Gemm", "x W c", beta=0.5)], W=W
        ),
        "Gemm with a broadcast branch for bias": several(
            [node("ReduceSum", "x axis", "c"), node("Gemm", "x W c", beta=-1.0)], W=W, axis=i(1)
        ),
    }  # fmt: skip


def chains() -> dict[str, Any]:
    """Chains of nodes as exporters write them."""
    W = numbers(6, 4)
    flatten = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n", axis=0), node("Unsqueeze", "n axis", "n1"),
        node("Concat", "n1 minus", "t", axis=0), node("Reshape", "x t"),
    ]  # fmt: skip
    expand = [
        node("Shape", "x", "s"), node("ConstantOfShape", "s", "o", value=tensor("", np.ones(1))),
        node("Mul", "o c", "e"), node("CastLike", "e x", "f"), node("Add", "x f"),
    ]  # fmt: skip
    mask = [
        node("Range", "zero six one", "r"), node("Less", "r three", "m"), node("Cast", "m", "f", to=FLOAT),
        node("Where", "m f c", "w"), node("Mul", "x w"),
    ]  # fmt: skip
    sizes = [
        node("Size", "x", "n"), node("Cast", "n", "f", to=FLOAT), node("Sqrt", "f", "r"), node("Div", "x r")
    ]  # fmt: skip
    constant = [
        node("Constant", "", "a", value_float=0.5), node("Constant", "", "b", value_floats=[1.0, 2.0]),
        node("Concat", "b b b", "c", axis=0), node("Mul", "x c", "h"), node("Add", "h a"),
    ]  # fmt: skip
    function = helper.make_function(
        "own", "twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    deep = ["x", *(f"x{k}" for k in range(150)), "y"]
    block = [node("Transpose", "W", "T", perm=[1, 0]), node("MatMul", "x T", "h"), node("Relu", "h")]
    return {
        "flatten": several(flatten, shape=["batch", 2, 3], zero=np.array(0), axis=i(0), minus=i(-1)),
        "expand": several(expand, c=numbers(6)),
        "mask": several(mask, zero=np.array(0), six=np.array(6), one=np.array(1), three=np.array(3), c=numbers(6)),
        "size": several(sizes),
        "gate": several([node("Sigmoid", "x", "g"), node("MatMul", "x W", "h"), node("Mul", "g h")], W=numbers(6, 6)),
        "root of squares": several(
            [node("Mul", "x x", "s"), node("Add", "s c", "a"), node("Sqrt", "a", "r"), node("Div", "x r", "q"),
             node("Log", "a", "l"), node("Pow", "a e", "p"), node("Sum", "q l p")], c=np.ones(6), e=np.array([-1.5]),
        ),
        **{
            kind: several([node(kind, "x c", "m"), node("Sub", "x c", "d"), node("Mul", "d two", "t"),
                           node("Where", "m d t")], c=numbers(6), two=np.array(2.0))
            for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        },
        "gate of a sign": several(
            [node("Greater", "x c", "m"), node("Not", "m", "n"), node("Cast", "m", "f", to=FLOAT),
             node("Cast", "n", "g", to=FLOAT), node("Sub", "x c", "d"), node("Mul", "d f", "p"),
             node("Mul", "g d", "q"), node("Mul", "q two", "r"), node("Add", "p r")],
            c=numbers(6), two=np.array(2.0),
        ),
        "zeros": several([node("ConstantOfShape", "n", "o"), node("Sub", "c o", "d"), node("Mul", "x d", "h"),
                          node("Add", "h o")], n=i(6), c=numbers(6)),
        "constants": several(constant),
        "Shape of a part": several(
            [node("Shape", "x", "s", start=-2), node("Concat", "minus s", "t", axis=0), node("Reshape", "x t")],
            shape=[1, 2, 3], opset=15, minus=i(-1),
        ),
        "Cast": several([node("Cast", "x", "h", to=DOUBLE), node("Mul", "h h", "g"), node("Cast", "g", to=FLOAT)]),
        "CastLike a float": several([node("CastLike", "x c", "h"), node("Relu", "h")], c=np.ones(1)),
        "function": model(
            [node("twice", "x", "h", domain="own"), node("twice", "h", domain="own")], ROWS, functions=[function],
            domains={"own": 1},
        ),
        "transposed weight": several(block, W=W.T),
        "dead nodes": several([node("Neg", "x", "unused"), node("Softplus", "x", "unused2"), node("Relu", "x")]),
        "initialisers among the inputs": model(
            [node("MatMul", "x W")], ROWS, {"W": W}, inputs=[value("W", [6, 4]), value("x", ROWS)]
        ),
        "domain by its other name": renamed(model([node("Relu", "x", domain="ai.onnx")], ROWS)),
        "open batch": model([node("Relu", "x")], [None, 6]),
        "no batch": model([node("MatMul", "x W", "h"), node("Relu", "h")], [6], {"W": W}),
        "a first axis that is no batch": model([node("MatMul", "V x", "h"), node("Relu", "h")], [6, 3], {"V": W.T}),
        "one entry": model([node("Exp", "x")], [1]),
        "deep": several([node("MatMul", f"{a} W", b) for a, b in pairwise(deep)], W=np.eye(6)[::-1]),
        "deep sums": several([node("Sub", f"{a} x", b) for a, b in pairwise(deep)]),
        "the input": model([], ROWS, outputs=[value("x", None)]),
        "a constant": model([node("Constant", "", "y", value_floats=[[1.0]][0])], [3]),
    }  # fmt: skip


def renamed(made: Any) -> Any:
    made.opset_import[0].domain = "ai.onnx"
    return made


CASES: dict[str, Any] = {
    **activations(), **clips(), **quantised(), **scalers(), **choices(), **sums(), **reductions(), **products(),
    **chains(),
}  # fmt: skip
