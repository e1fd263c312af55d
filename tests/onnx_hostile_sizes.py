"""ONNX files that ask for far more memory or time than they have bytes, and nodes that make no sense."""

from __future__ import annotations

import numpy as np

from tests.onnx_hostile import (
    BILLION,
    IMAGE,
    LOOP,
    ROWS,
    F,
    Hostile,
    K,
    N,
    U,
    W,
    bare,
    beside,
    branch,
    chained,
    conv,
    folded,
    i,
    norm,
    one,
    pools,
    with_weight,
)  # fmt: skip
from tests.onnx_models import DOUBLE, FLOAT, INT64, TensorProto, model, node, value

C = np.ones


def elsewhere() -> TensorProto:
    """A constant kept in another file."""
    tensor = TensorProto(name="c", dims=[4], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


T = 10**6
FILES: dict[str, Hostile] = {
    # external data
    "absolute": Hostile(beside("OUT/W.bin"), N, ("'W'", "outside")),
    "parent": Hostile(beside("../W.bin"), N, ("'W'", "'../W.bin'", "outside")),
    "system": Hostile(beside("/etc/passwd"), N, ("'W'", "'/etc/passwd'", "outside")),
    "link": Hostile(beside("link.bin"), N, ("'W'", "'link.bin'", "outside")),
    "folder": Hostile(beside("."), N, ("'W'", "'.'")),
    "nowhere": Hostile(beside(""), N, ("'W'",)),
    "missing file": Hostile(beside("none.bin"), F, ("'W'", "'none.bin'", "missing")),
    "too short": Hostile(beside("W.bin", size=20), N, ("'W'", "20 bytes")),
    "empty data": Hostile(beside("W.bin", size=0), N, ("'W'", "0 bytes")),
    "too long": Hostile(beside("W.bin", size=2**41), N, ("'W'", "bytes")),
    "length": Hostile(beside("W.bin", length=2**50), F, ("'W'", "48 bytes")),
    "negative length": Hostile(beside("W.bin", length=-3), F, ("'W'",)),
    "offset": Hostile(beside("W.bin", offset=2**50), N, ("'W'", "0 bytes")),
    "negative offset": Hostile(beside("W.bin", offset=-8), F, ("'W'",)),
    "offset is text": Hostile(beside("W.bin", offset="a"), F, ("'W'",)),  # type: ignore[arg-type]
    "constant elsewhere": Hostile(
        model([node("Constant", "", "c", value=elsewhere()), node("Add", "x c")], ROWS), U, ("'c'", "file")),
    # constants
    "ConstantOfShape": Hostile(folded("ConstantOfShape", "s", {"s": BILLION}), U, ("1000000000000", "at most")),
    "ConstantOfShape overflow": Hostile(folded("ConstantOfShape", "s", {"s": i(2**32, 2**32)}), U, ("at most",)),
    "ConstantOfShape negative": Hostile(folded("ConstantOfShape", "s", {"s": i(-1, -5)}), U, ("ConstantOfShape",)),
    "Expand": Hostile(folded("Expand", "c1 s", {"c1": C(1), "s": BILLION}), U, ("Expand", "at most")),
    "Tile": Hostile(folded("Tile", "c1 s", {"c1": C(1000), "s": i(10**10)}), U, ("Tile", "at most")),
    "Tile negative": Hostile(folded("Tile", "c1 s", {"c1": C(2), "s": i(-1)}), U, ("Tile",)),
    "Range": Hostile(folded("Range", "a b c1", {"a": 0.0, "b": 1e15, "c1": 1.0}), U, ("Range", "at most")),
    "Range by zero": Hostile(folded("Range", "a b c1", {"a": 0.0, "b": 9.0, "c1": 0.0}), U, ("Range",)),
    "Range to NaN": Hostile(folded("Range", "a b c1", {"a": 0.0, "b": np.nan, "c1": 1.0}), U, ("Range",)),
    "Pad": Hostile(folded("Pad", "a p", {"a": C(1), "p": i(0, 10**12)}), U, ("Pad", "at most")),
    "Resize": Hostile(folded("Resize", "a - s", {"a": C((1, 1)), "s": C(2) * 1e6}), U, ("Resize", "at most")),
    "Resize to infinity": Hostile(folded("Resize", "a - s", {"a": C((1, 1)), "s": C(2) * np.inf}), U, ("Resize",)),
    "outer product": Hostile(folded("MatMul", "a b", {"a": C((T, 1)), "b": C((1, T))}), U, ("MatMul", "at most")),
    "outer Gemm": Hostile(folded("Gemm", "a b", {"a": C((T, 1)), "b": C((1, T))}), U, ("Gemm", "at most")),
    "outer sum": Hostile(folded("Add", "a b", {"a": C((T, 1)), "b": C((1, T))}), U, ("Add", "at most")),
    "outer choice": Hostile(folded("Gather", "a b", {"a": C((1, T)), "b": np.zeros((T,), np.int64)}), U,
                            ("Gather", "at most")),
    "outer Einsum": Hostile(folded("Einsum", "a b", {"a": C(T), "b": C(T)}, equation="i,j->ij"), U, ("Einsum",)),
    "OneHot": Hostile(folded("OneHot", "a d v", {"a": i(0), "d": i(10**13), "v": C(2)}), U, ("OneHot",)),
    "integers in a sum": Hostile(folded("NonZero", "a", {"a": C(3)}), N, ("original", "float64 != int64")),
    "random constant": Hostile(folded("RandomNormal", "", {}, shape=[4]), U, ("RandomNormal",)),
    "convolved constants": Hostile(folded("Conv", "a K", {"a": C((1, 2, 8, 8)), "K": K}), U, ("Conv", "folded")),
    "powers": Hostile(folded("Pow", "a b", {"a": i(2), "b": i(-1)}), U, ("Pow",)),
    "shapes do not fit": Hostile(folded("Add", "a b", {"a": C(3), "b": C(4)}), U, ("Add",)),
    "growing constants": Hostile(
        model([*(node("Concat", f"c{k} c{k}", f"c{k + 1}", axis=0) for k in range(50)), node("Relu", "x")], ROWS,
              {"c0": C(1)}), U, ("Concat", "at most")),
    "many constants": Hostile(
        model([*(node("ConstantOfShape", "s", f"c{k}") for k in range(300)), node("Relu", "x")], ROWS,
              {"s": i(2**22)}), U, ("ConstantOfShape", "at most")),
    "many expansions": Hostile(
        model([*(node("Expand", "x s", f"e{k}") for k in range(30)), node("Sum", " ".join(f"e{k}" for k in range(30)))],
              [1, 1, 1], {"s": i(1, 2000, 2000)}), U, ("Expand", "at most")),
    "many large activations": Hostile(
        model([*(node("Relu", f"e{k}", f"e{k + 1}") for k in range(30)), node("Relu", "e30")],
              [1, 2000, 2000], inputs=[value("e0", [1, 2000, 2000])]), U, ("Relu", "at most")),
    # the input
    "Expand x": Hostile(one("Expand", "x s", constants={"s": i(T, T, 1, 1, 1)}), U, ("Expand", "at most")),
    "Expand x by itself": Hostile(one("Expand", "x s", shape=[1, 1000], constants={"s": i(1000, 1000, 1000)}), U,
                                  ("Expand",)),
    "Tile x": Hostile(one("Tile", "x s", constants={"s": i(1, 1, T, T)}), U, ("Tile", "at most")),
    "Pad x": Hostile(one("Pad", "x p", constants={"p": i(0, 0, 0, 0, 0, 0, 0, 10**12)}), U, ("Pad",)),
    "reflect x": Hostile(one("Pad", "x p", constants={"p": i(0, 0, 0, 0, 0, 0, T, T)}, mode="reflect"), U, ("Pad",)),
    "Resize x": Hostile(one("Resize", "x - s", constants={"s": C(4) * [1, 1, 1e5, 1e5]}), U, ("Resize", "at most")),
    "Upsample x": Hostile(one("Upsample", "x s", opset=9, constants={"s": C(4) * [1, 1, 1e5, 1e5]}), U, ("Upsample",)),
    "linear Resize": Hostile(one("Resize", "x - s", constants={"s": C(4) * [1, 1, 2, 2]}, mode="linear"), U,
                             ("Resize",)),
    "Gather x": Hostile(one("Gather", "x j", shape=ROWS, constants={"j": np.zeros(T * 10, np.int64)}, axis=1), U,
                        ("Gather", "at most")),
    "Gather outside": Hostile(one("Gather", "x j", shape=ROWS, constants={"j": i(9)}, axis=1), U, ("Gather",)),
    "Gather without its axis": Hostile(one("Gather", "x j", shape=ROWS, constants={"j": i(0)}, axis=5), U, ("Gather",)),
    "outer x": Hostile(one("MatMul", "x b", shape=[1, 1000, 1], constants={"b": C((1, T))}), U, ("MatMul", "at most")),
    "broad sum": Hostile(one("Add", "x b", shape=[1, 1000, 1], constants={"b": C((1, T))}), U, ("Add", "at most")),
    "broad product": Hostile(one("Mul", "x b", shape=[1, 1000, 1], constants={"b": C((1, T))}), U, ("Mul", "at most")),
    "broad quotient": Hostile(one("Div", "x b", shape=[1, 1000, 1], constants={"b": C((1, T))}), U, ("Div",)),
    "broad maximum": Hostile(one("Max", "x b", shape=[1, 1000, 1], constants={"b": C((1, T))}), U, ("Max", "at most")),
    "broad clip": Hostile(one("Clip", "x b", shape=[1, 1000, 1], constants={"b": C((1, T))}), U, ("Clip",)),
    "broad slopes": Hostile(one("PRelu", "x b", shape=[1, 1000, 1], constants={"b": C((1, T))}), U, ("PRelu",)),
    "broad branches": Hostile(
        model([node("Transpose", "x", "t", perm=[0, 2, 1]), node("Add", "x t")], [1, 3000, 1]), U, ("Add", "at most")),
    "exponential sums": Hostile(
        model([*(node("Add", f"h{k} h{k}", f"h{k + 1}") for k in range(1100)), node("Relu", "h1100", "y")], ROWS,
              inputs=[value("h0", ROWS)]), N, ("overflows",)),
    "long chain": Hostile(chained(30000, "MatMul", "PREVIOUS W", {"W": np.eye(4)}), U, ("nodes", "at most")),
    "deep chain": Hostile(chained(3000, "MatMul", "PREVIOUS W", {"W": np.eye(4) * 2}), N, ("overflows",)),
    # windows
    "Conv pads": Hostile(conv(pads=[T, T, T, T]), U, ("Conv", "padding")),
    "Conv half pads": Hostile(conv(pads=[0, 0, 2**60, 2**60]), U, ("Conv", "padding")),
    "Conv negative pads": Hostile(conv(pads=[-1, 0, 0, 0]), U, ("Conv", "pads")),
    "Conv short pads": Hostile(conv(pads=[1, 1]), U, ("Conv", "pads")),
    "Conv strides": Hostile(conv(strides=[0, 1]), U, ("Conv", "strides")),
    "Conv negative strides": Hostile(conv(strides=[1, -2]), U, ("Conv", "strides")),
    "Conv dilations": Hostile(conv(dilations=[0, 0]), U, ("Conv", "dilations")),
    "Conv large dilations": Hostile(conv(dilations=[2**40, 2**40]), U, ("Conv",)),
    "Conv kernel": Hostile(conv(C((2, 2, 30, 30))), U, ("Conv", "kernel")),
    "Conv kernel_shape": Hostile(conv(kernel_shape=[2, 2]), U, ("Conv", "kernel_shape")),
    "Conv channels": Hostile(conv(C((2, 5, 3, 3))), U, ("Conv",)),
    "Conv groups": Hostile(conv(C((3, 1, 3, 3)), group=2), U, ("Conv",)),
    "Conv no groups": Hostile(conv(group=0), U, ("Conv",)),
    "Conv auto_pad": Hostile(conv(auto_pad="LOTS"), U, ("Conv", "LOTS")),
    "Conv vector": Hostile(conv(C(3)), U, ("Conv",)),
    "Conv of a vector": Hostile(conv(shape=ROWS), U, ("Conv",)),
    "Conv 4d": Hostile(conv(C((1, 1, 2, 2, 2, 2)), [1, 1, 3, 3, 3, 3]), U, ("Conv",)),
    "Conv patches": Hostile(conv(C((1, 1, 600, 600)), [1, 1, 1200, 1200]), U, ("Conv", "at most")),
    "Conv of a batch": Hostile(conv(shape=[3, 2, 8, 8]), U, ("Conv", "3 images")),
    "Conv bias": Hostile(one("Conv", "x K b", constants={"K": K, "b": C(5)}), U, ("Conv",)),
    "ConvTranspose pads": Hostile(conv(kind="ConvTranspose", pads=[T, 0, 0, 0]), U, ("ConvTranspose",)),
    "ConvTranspose strides": Hostile(conv(kind="ConvTranspose", strides=[T, T]), U, ("ConvTranspose",)),
    "ConvTranspose extra": Hostile(conv(kind="ConvTranspose", output_padding=[T, T]), U, ("ConvTranspose",)),
    "pool pads": Hostile(pools("MaxPool", pads=[T, T, T, T]), U, ("MaxPool",)),
    "pool in its padding": Hostile(pools("MaxPool", pads=[3, 3, 3, 3]), U, ("MaxPool", "padding")),
    "pool negative pads": Hostile(pools("AveragePool", pads=[-1, -1, -1, -1]), U, ("AveragePool", "pads")),
    "pool strides": Hostile(pools("MaxPool", strides=[0, 0]), U, ("MaxPool", "strides")),
    "pool kernel": Hostile(pools("MaxPool", kernel_shape=[T, T]), U, ("MaxPool",)),
    "pool dilation": Hostile(
        pools("MaxPool", kernel_shape=[2, 1], dilations=[T, 1], strides=[2 * T, 1], ceil_mode=1), U, ("MaxPool",)),
    "pool no kernel": Hostile(one("AveragePool"), U, ("AveragePool", "kernel_shape")),
    "pool kernel of three": Hostile(pools("MaxPool", kernel_shape=[2, 2, 2]), U, ("MaxPool",)),
    "pool empty kernel": Hostile(pools("MaxPool", kernel_shape=[0, 0]), U, ("MaxPool",)),
    "pool over pads": Hostile(
        pools("AveragePool", pads=[2**40, 0, 2**40, 0], kernel_shape=[2**40, 1]), U, ("AveragePool",)),
    "pool windows": Hostile(pools("MaxPool", kernel_shape=[500, 500], shape=[1, 1, 1000, 1000]), U, ("at most",)),
    # nodes
    "unknown operator": Hostile(one("Frobnicate"), U, ("Frobnicate", "networks.md lists")),
    "other domain": Hostile(model([node("Relu", "x", domain="com.example")], ROWS), U, ("com.example.Relu",)),
    "other domain's Reshape": Hostile(model([node("Reshape", "x s", domain="com.example")], ROWS, {"s": i(2, 2)}), U,
                                      ("com.example.Reshape",)),
    "other domain's constant": Hostile(
        model([node("Neg", "W", "c", domain="com.example"), node("Add", "x c")], ROWS, {"W": C(4)}), U,
        ("com.example.Neg",)),
    "If": Hostile(
        model([node("If", "c", then_branch=branch("a"), else_branch=branch("b"))], ROWS, {"c": np.array(True)}), U,
        ("If", "control flow")),
    "Loop": Hostile(
        model([node("Loop", "n c x", body=LOOP)], ROWS, {"n": np.array(9), "c": np.array(True)}), U,
        ("Loop", "control flow")),
    "noise": Hostile(model([node("RandomNormalLike", "x", "r"), node("Add", "x r")], ROWS), U, ("RandomNormalLike",)),
    "dropout": Hostile(one("Dropout", "x r t", constants={"r": 0.5, "t": np.array(True)}), U, ("Dropout", "training")),
    "normalisation in training": Hostile(norm(training_mode=1), U, ("BatchNormalization", "training")),
    "negative variance": Hostile(norm(variance=-1.0), U, ("BatchNormalization", "negative variance")),
    "variance NaN": Hostile(norm(variance=np.nan), U, ("BatchNormalization", "variance")),
    "per-entry normalisation": Hostile(norm(opset=8, spatial=0), U, ("BatchNormalization",)),
    "product of activations": Hostile(
        model([node("Relu", "x", "a"), node("MatMul", "a x")], [1, 400, 400]), U, ("MatMul", "products of entries")),
    "power of activations": Hostile(model([node("Exp", "x", "a"), node("Pow", "x a")], ROWS), U, ("Pow", "constant")),
    "wrong weight": Hostile(one("MatMul", "x W", shape=[1, 5], constants={"W": W}), U, ("MatMul", "(3, 4)", "(1, 5)")),
    "weight of four axes": Hostile(one("MatMul", "x W", shape=ROWS, constants={"W": C((2, 2, 4, 3))}), U, ("batch",)),
    "wrong Gemm": Hostile(one("Gemm", "x W", shape=ROWS, constants={"W": W}, transB=1), U, ("Gemm",)),
    "Gemm of a cube": Hostile(one("Gemm", "x W", shape=[1, 2, 4], constants={"W": W}), U, ("Gemm",)),
    "wrong bias": Hostile(one("Add", "x b", shape=ROWS, constants={"b": C(3)}), U, ("Add", "(3,)")),
    "wrong reshape": Hostile(one("Reshape", "x s", constants={"s": i(7, 7)}), U, ("Reshape",)),
    "reshape of an activation": Hostile(
        model([node("Reshape", "c x")], ROWS, {"c": C(4)}), U, ("Reshape",)),
    "wrong permutation": Hostile(one("Transpose", perm=[0, 0, 1, 2]), U, ("Transpose",)),
    "nothing left": Hostile(one("Slice", "x a b", constants={"a": i(3), "b": i(3)}), U, ("entries",)),
    "lost batch": Hostile(model([node("ReduceSum", "x", keepdims=0)], ROWS), U, ("'y'", "batch")),
    "cast to an integer": Hostile(model([node("Cast", "x", to=INT64)], ROWS), U, ("Cast", "float")),
    "cast to float16": Hostile(model([node("Cast", "x", to=TensorProto.FLOAT16)], ROWS), U, ("Cast", "float")),
    "cast to nothing": Hostile(model([node("Cast", "x", to=77)], ROWS), U, ("Cast",)),
    "cast without a type": Hostile(model([node("Cast", "x")], ROWS), U, ("Cast",)),
    "clip to NaN": Hostile(one("Clip", "x a", shape=ROWS, constants={"a": np.nan}), U, ("Clip", "NaN")),
    "slope NaN": Hostile(one("LeakyRelu", alpha=np.nan), N, ("NaN",)),
    "slopes of another shape": Hostile(one("PRelu", "x s", constants={"s": C(7)}), U, ("PRelu",)),
    "max with an index": Hostile(
        model([node("MaxPool", "x", "h j", kernel_shape=[2, 2]), node("Cast", "j", to=FLOAT)], IMAGE), U,
        ("Cast", "a result of the MaxPool")),
    "output is an index": Hostile(
        model([node("MaxPool", "x", "h y", kernel_shape=[2, 2])], IMAGE), U, ("'y'", "floating-point")),
    "slopes of the input": Hostile(model([node("Relu", "x", "h"), node("PRelu", "x h")], ROWS), U, ("PRelu",)),
    "concatenation on no axis": Hostile(one("Concat", "x x", axis=9), U, ("Concat",)),
    "comparison": Hostile(
        model([node("Greater", "x c", "b"), node("Where", "b x d")], ROWS, {"c": C(4), "d": C(4) + 3}), U,
        ("Where", "such a jump")),
    "comparison as a number": Hostile(
        model([node("Relu", "x", "h", name="where"), node("Greater", "h c", "b"), node("Mul", "b x", name="where*")],
              ROWS, {"c": C(4)}), U, ("Mul", "no derivative", "--cut-at where ")),
    "choice of a cast": Hostile(model([node("Cast", "x", "b", to=9), node("Where", "b x c")], ROWS, {"c": C(4)}), U,
                                ("Cast", "float")),
    "choice": Hostile(model([node("Relu", "x", "a"), node("Greater", "a x", "b"), node("Where", "b x a")], ROWS), U,
                      ("Where", "depends on data")),
    "recurrent": Hostile(one("LSTM", "x a b", shape=[1, 1, 4], constants={"a": C((1, 8, 4)), "b": C((1, 8, 2))},
                             hidden_size=2, clip=1.0), U, ("LSTM", "clip")),
    "double in a float model": Hostile(with_weight(bare("W", [4, 3], DOUBLE)), F, ("'W'", "damaged")),
}  # fmt: skip
