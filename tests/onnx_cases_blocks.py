"""Small ONNX models of normalisations, attention and reductions that products make."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.onnx_cases import ROWS, SMALL, TOKENS, i, numbers, one, several
from tests.onnx_models import node

GROUPS = [1, 4, 2, 3]


def norms() -> dict[str, Any]:
    row, pair = {"s": numbers(4), "b": numbers(4, seed=1)}, {"s": numbers(2), "b": numbers(2, seed=1)}
    return {
        "GroupNormalization of opset 18": one("GroupNormalization", "x s b", shape=GROUPS, opset=18, constants=pair,
                                              num_groups=2),
        "GroupNormalization": one("GroupNormalization", "x s b", shape=GROUPS, opset=21, constants=row, num_groups=2,
                                  epsilon=0.01),
        "GroupNormalization of single channels": one("GroupNormalization", "x s b", shape=GROUPS, opset=21,
                                                     constants=row, num_groups=4),
        "LayerNormalization of several axes": one("LayerNormalization", "x s b", shape=TOKENS, axis=1, epsilon=0.1,
                                                  constants={"s": numbers(4, 3), "b": numbers(4, 3, seed=1)}),
        "RMSNormalization of several axes": one("RMSNormalization", "x s", shape=TOKENS, opset=23, axis=-2,
                                                constants={"s": numbers(4, 3)}),
        "LpNormalization": one("LpNormalization", shape=TOKENS),
        "LpNormalization of lines": one("LpNormalization", shape=TOKENS, p=1, axis=1, opset=22),
        "MeanVarianceNormalization": one("MeanVarianceNormalization", shape=SMALL),
        "MeanVarianceNormalization of axes": one("MeanVarianceNormalization", shape=SMALL, axes=[2, 3]),
        "LRN": one("LRN", shape=GROUPS, size=3),
        "LRN of two": one("LRN", shape=GROUPS, size=2, alpha=0.5, beta=0.5, bias=2.0),
    }  # fmt: skip


def attention() -> dict[str, Any]:
    split = [node("Split", "x", "q k v", axis=1, num_outputs=3)]
    heads: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": 2}
    flat = {"shape": [1, 4, 6], "opset": 23}
    truths = np.tri(4, dtype=bool)
    added = numbers(4, 4)
    past = {"k": numbers(1, 2, 3, 3), "v": numbers(1, 2, 3, 3, seed=1)}
    few = [node("Slice", "x a b c", "h"), node("Attention", "x h h", q_num_heads=3, kv_num_heads=1)]
    shared = [node("Slice", "x a b c", "k"), node("Attention", "x k k")]
    return {
        "Attention": one("Attention", "x x x", **flat, **heads),
        "Attention of four axes": several([*split, node("Attention", "q k v")], [1, 6, 3, 2], 23),
        "Attention that is causal": one("Attention", "x x x", **flat, **heads, is_causal=1, scale=0.3),
        "Attention with a mask": one("Attention", "x x x m", constants={"m": added}, **flat, **heads),
        "Attention with a mask of truth": one("Attention", "x x x m", constants={"m": truths}, **flat, **heads),
        "Attention with both": one("Attention", "x x x m", constants={"m": added}, **flat, **heads, is_causal=1),
        "Attention to known keys": one("Attention", "x k v", constants={"k": numbers(1, 5, 6), "v": numbers(1, 5, 4)},
                                       **flat, **heads),
        "Attention after a past": several(
            [node("Attention", "x x x - k v", "y p q", **heads, is_causal=1)], [1, 4, 6], 23, **past),
        "Attention of groups": several(few, [1, 4, 6], 23, a=i(0), b=i(2), c=i(2)),
        "Attention of groups of four axes": several(shared, [1, 4, 3, 2], 23, a=i(0), b=i(2), c=i(1)),
        "Attention of its own keys": several(
            [node("Attention", "x x x", "a k", **heads), node("Transpose", "k", "t", perm=[0, 2, 1, 3]),
             node("Reshape", "t s", "r"), node("Add", "a r")], [1, 4, 6], 23, s=i(1, 4, 6)),
    }  # fmt: skip


def rotations() -> dict[str, Any]:
    angles = np.linspace(0, 2, 12).reshape(1, 4, 3)
    caches = {"c": np.cos(angles), "s": np.sin(angles)}
    table = {"c": np.cos(angles[0]), "s": np.sin(angles[0]), "p": i(3, 0, 1, 2).reshape(1, 4)}
    half = {k: v[..., :1] for k, v in caches.items()}
    return {
        "RotaryEmbedding": one("RotaryEmbedding", "x c s", shape=[1, 2, 4, 6], opset=23, constants=caches),
        "RotaryEmbedding of pairs": one("RotaryEmbedding", "x c s", shape=[1, 2, 4, 6], opset=23, constants=caches,
                                        interleaved=1),
        "RotaryEmbedding of heads": one("RotaryEmbedding", "x c s p", shape=[1, 4, 12], opset=23, constants=table,
                                        num_heads=2),
        "RotaryEmbedding in part": one("RotaryEmbedding", "x c s", shape=[1, 2, 4, 6], opset=23, constants=half,
                                       rotary_embedding_dim=2, interleaved=1),
    }  # fmt: skip


def reductions() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for kind in ("ReduceProd", "ReduceLogSum", "ReduceSumSquare"):
        first = [node("Sigmoid", "x", "h")]
        made |= {
            f"{kind} by an attribute": several([*first, node(kind, "h", axes=[2, -1], keepdims=0)], SMALL, 13),
            f"{kind} by an input": several([*first, node(kind, "h a", keepdims=1)], SMALL, 18, a=i(1)),
            f"{kind} of all": several([*first, node(kind, "h")], [5], 18),
        }
    return {
        **made,
        "ReduceSumSquare of Relu": several([node("Relu", "x", "h"), node("ReduceSumSquare", "h a")], ROWS, 18, a=i(1)),
        "SwiGLU": several([node("Tanh", "x", "h"), node("SwiGLU", "x h", alpha=0.5)], ROWS, 28),
        "SwiGLU by a constant": one("SwiGLU", "x c", opset=28, constants={"c": numbers(1, 6)}, shape=[1, 6]),
    }


def einsums() -> dict[str, Any]:
    def of(equation: str, inputs: str = "x", shape: Any = TOKENS, **constants: Any) -> Any:
        return one("Einsum", inputs, shape=shape, constants=constants, equation=equation)

    return {
        "Einsum of an axis more": of("...i,io->...o", "x w", w=numbers(3, 2)),
        "Einsum of a diagonal": of("bii->bi", shape=[1, 3, 3]),
        "Einsum of a trace": of("bii->b", shape=[1, 3, 3]),
        "Einsum of three": of("bi,ij,bj->b", "x w x", ROWS, w=numbers(6, 6)),
        "Einsum without an arrow": of("bij, jk", "x w", w=numbers(3, 2)),
    }


def others() -> dict[str, Any]:
    weights = {"w": numbers(2, 3, 3), "r": numbers(2, 3, 3, seed=1), "b": numbers(2, 6)}
    cell = node("RNN", "x w r b", "a y", hidden_size=3, activations=["Relu", "Relu"], direction="bidirectional")
    places = i(0, 2, 0).reshape(3, 1)
    return {
        "RNN of Relu": several([cell], [4, 1, 3], 14, **weights),
        "ScatterND sums": one("ScatterND", "x p u", shape=[3, 3], opset=18, reduction="add",
                              constants={"p": places, "u": numbers(3, 3)}),
        "ScatterND sums of x": one("ScatterND", "c p x", shape=[3, 2], opset=18, reduction="add",
                                   constants={"p": places, "c": numbers(4, 2)}),
    }  # fmt: skip


CASES: dict[str, Any] = {**others(), **norms(), **attention(), **rotations(), **reductions(), **einsums()}
