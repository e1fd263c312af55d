"""Small valid files of every kind that a command or the library reads, and how each is read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn

G = np.random.default_rng(0)
W0, W1 = G.normal(size=(5, 4)), G.normal(size=(3, 5))
X = G.random((2, 4))


@final
@dataclass(frozen=True)
class Subject:
    """Files, by their names; those that are changed; and what reads them: a command, or a function in their folder."""

    files: dict[str, bytes]
    reader: list[str] | Callable[[], Any]
    targets: tuple[str, ...]


def _npz(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def _npy(array: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


NET = _npz(W0=W0, b0=np.ones(5), W1=W1, activation="leaky_relu", slope=0.1)
BOUND = ["lipschitz", "net.npz", "--radius", "0.1", "--method", "fastlip", "--json", "-", "--quiet", "--input"]
MARKDOWN = b"# a\n| b | c |\n|--|--|\n| 1 | `2` |\n*d* [e](f)"
VNNLIB = b"""; a box
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-fun X_2 () Real)
(declare-const X_3 Real)
(declare-const Y_0 Real)
(assert (<= X_0 0.5))
(assert (>= X_0 -0.25e0))
(assert (and (<= X_1 1) (>= X_1 (- 1))))
(assert (or (and (<= X_2 0.1) (>= X_2 0)) (and (<= X_2 0.3) (>= X_2 0.2))))
(assert (<= (+ (* 2 X_3) 1) 3.5))
(assert (>= (- X_3 1) -2))
(assert (<= Y_0 0.0))
"""


def _onnx(*nodes: Any, shape: Any = (1, 4), **constants: Any) -> bytes:
    from tests.onnx_models import model

    return bytes(model(list(nodes), list(shape), constants).SerializeToString())


def _dense() -> bytes:
    from tests.onnx_models import node

    return _onnx(node("Gemm", "x W b", "h", transB=1), node("LeakyRelu", "h", "g", alpha=0.1), node("MatMul", "g V"),
                 W=W0, b=np.ones(5), V=W1.T)  # fmt: skip


def _conv() -> bytes:
    from tests.onnx_models import node

    return _onnx(
        node("Conv", "x K", "c", pads=[1, 1, 1, 1], strides=[1, 1]), node("Relu", "c", "r"),
        node("MaxPool", "r", "m", kernel_shape=[2, 2], strides=[2, 2]), node("Reshape", "m s", "f"),
        node("MatMul", "f W", "h"), node("Add", "h h"), shape=(1, 1, 4, 4), K=G.normal(size=(2, 1, 3, 3)),
        s=np.array([1, 8]), W=G.normal(size=(8, 2)),
    )  # fmt: skip


def _shapes() -> bytes:
    from tests.onnx_models import node

    return _onnx(
        node("Slice", "x a b c", "s"), node("Concat", "s x", "t", axis=1), node("Transpose", "t", "u", perm=[1, 0]),
        node("Gather", "u i", "g", axis=0), node("Unsqueeze", "g a", "v"), node("Squeeze", "v a", "w"),
        node("ReduceSum", "w", "q", keepdims=1), node("Expand", "q e", "z"), node("Sigmoid", "z", "p"),
        node("Pad", "p d", "pp"), node("Tile", "pp r", "o"), node("Softmax", "o", axis=1),
        a=np.array([0]), b=np.array([1]), c=np.array([1]), i=np.array([0, 1]), e=np.array([1, 3]),
        d=np.array([0, 1, 0, 1]), r=np.array([1, 2]),
    )  # fmt: skip


def _branches() -> bytes:
    """Two inputs, an axis of open size, and branches within a branch."""
    from tests.onnx_models import helper, model, node, tensor, value

    def side(name: str, *nodes: Any, **stored: Any) -> Any:
        held = [tensor(key, array) for key, array in stored.items()]
        return helper.make_graph(list(nodes), name, [], [value(name, None)], held)

    inner = node("If", "k", "e", then_branch=side("i", node("Neg", "z", "i")),
                 else_branch=side("j", node("Add", "z c", "j"), c=np.ones(2)))  # fmt: skip
    then = side("t", node("Mul", "z f", "g"), node("Tanh", "g", "t"), f=np.array(2.0))
    nodes = [
        node("MatMul", "x W", "p"), node("Add", "p h", "z"), node("Equal", "k k", "same"), node("Not", "same", "other"),
        node("If", "other", "y", then_branch=then, else_branch=side("e", inner)),
    ]  # fmt: skip
    inputs = [value("x", ("n", None)), value("h", (1, "m"))]
    made = model(nodes, None, {"W": G.normal(size=(4, 2)), "k": np.array(False)}, inputs=inputs)
    return bytes(made.SerializeToString())


def _pt2() -> bytes:
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).eval()
    made = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, (torch.zeros(1, 4),)), made)
    return made.getvalue()


def _png() -> bytes:
    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2)).save(made, "PNG")
    return made.getvalue()


def _idx(array: Any) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    content: bytes = array.astype(np.uint8).tobytes()
    return bytes((0, 0, 8, array.ndim)) + sizes + content


def _images() -> Any:
    from recurjac.experiments.data import read_images

    return read_images("images.npz")


def _image_folder() -> Any:
    from recurjac.experiments.data import read_images

    return read_images(".")


_IDENTITY = {"a": [1, {"b": 2}]}


def _store() -> Any:
    from recurjac.sweeps.store import JsonLines

    return JsonLines(Path()).resume(_IDENTITY, fresh=False)


def _parts() -> Any:
    from recurjac.sweeps.store import ParquetParts

    return ParquetParts(Path()).resume(_IDENTITY, fresh=False)


def _part() -> bytes:
    """The file of a finished task."""
    from recurjac.sweeps.store import ParquetParts
    from recurjac.sweeps.work import Done

    with tempfile.TemporaryDirectory() as folder:
        store = ParquetParts(Path(folder))
        store.append("t", Done([{"a": 1.0, "b": "c"}, {"a": 2.0, "b": None}], 1.5))
        return next(store.rows.iterdir()).read_bytes()


_WANTED = {"recipe": {"a": 1}, "data": {"sha256": "s", "name": "n"}}


def _record() -> Any:
    from recurjac.experiments.records import Place

    return Place(Path(), "net").outcome(_WANTED)


def _checkpoint() -> Any:
    from recurjac.experiments.records import Place

    return Place(Path(), "other").checkpoint(_WANTED)


def _saved() -> bytes:
    made = io.BytesIO()
    torch.save(
        {
            "epochs": 1,
            "weights": [torch.ones(2, 2)],
            "optimizer": {"a": 1.0},
            "generator": torch.zeros(9, dtype=torch.uint8),
            "seconds": 1.0,
            "made": json.dumps(_WANTED),
        },
        made,
    )
    return made.getvalue()


def _report() -> bytes:
    row = {
        "index": 0, "norm": "inf", "output_norm": "inf", "class": None, "method": "Fast-Lip", "radius": 0.1,
        "lower": 1.0, "upper": 2.0, "seconds": 0.5, "rigorous": True, "reason": "", "provenance": {}, "gap": 1.0,
    }  # fmt: skip
    run = {"recurjac": "0", "command": "lipschitz", "model": {"path": "n", "sha256": "0"}, "settings": {"a": [1, "b"]}}
    return json.dumps({**run, "results": [row, row]}).encode()


@cache
def subjects() -> dict[str, Subject]:
    """Every subject by its name."""
    net, images = {"net.npz": NET}, (np.arange(32).reshape(2, 4, 4), np.array([0, 1]))
    record = json.dumps(
        {**_WANTED, "sha256": hashlib.sha256(NET).hexdigest(), "accuracy": 0.5, "robust": None, "seconds": 1.0}
    )
    idx = {
        "train-images-idx3-ubyte": _idx(images[0]), "train-labels-idx1-ubyte": _idx(images[1]),
        "t10k-images-idx3-ubyte": _idx(images[0]), "t10k-labels-idx1-ubyte.gz": gzip.compress(_idx(images[1]), mtime=0),
    }  # fmt: skip
    four = dict(zip(("x_train", "y_train", "x_test", "y_test"), (images[0] / 40, images[1]) * 2, strict=True))
    from recurjac.sweeps.store import versions

    manifest = json.dumps({**_IDENTITY, "versions": versions()}).encode()
    rows = b'{"task": "t", "seconds": 1.5, "rows": [{"a": 1.0, "b": "inf", "c": null}]}\n' * 2
    panels = _npz(x=X, lower=-np.ones((2, 3, 4)), upper=np.ones((2, 3, 4)))
    table = b"task,upper,seconds\nt,1.23456789012345678,2\nu,inf,3\n"
    commands: dict[str, tuple[dict[str, bytes], list[str]]] = {
        "weights": (net, ["inspect", "net.npz"]),
        "dense.onnx": ({"m.onnx": _dense()}, ["inspect", "m.onnx"]),
        "conv.onnx": ({"m.onnx": _conv()}, ["inspect", "m.onnx"]),
        "shapes.onnx": ({"m.onnx": _shapes()}, ["inspect", "m.onnx"]),
        "branches.onnx": (
            {"m.onnx": _branches(), "h.npy": _npy(np.ones((1, 2)))},
            ["inspect", "m.onnx", "--input-shape", "4", "--fix-inputs", "h=h.npy"],
        ),
        "pt2": ({"m.pt2": _pt2()}, ["inspect", "m.pt2"]),
        "npy": ({"x.npy": _npy(X)}, [*BOUND, "x.npy"]),
        "npz": ({"x.npz": _npz(a=X, b=X)}, [*BOUND, "x.npz:a"]),
        "csv": ({"x.csv": b"a,b,c,d\n0.1,2,-3e-1,4\n1,2,3,4\n"}, [*BOUND, "x.csv"]),
        "vnnlib": ({"x.vnnlib": VNNLIB}, [w for w in BOUND if w not in ("--radius", "0.1")] + ["x.vnnlib"]),
        "png": ({"x.png": _png()}, [*BOUND, "x.png"]),
        "report": ({"r.json": _report()}, ["report", "r.json", "--quiet"]),
        "panels": ({"p.npz": panels}, ["report", "p.npz", "--quiet"]),
        "folder": ({"e/manifest.json": manifest, "e/t.csv": table, "e/t.md": MARKDOWN}, ["report", "e", "--quiet"]),
        "rates": (
            {"p.csv": b"2,1,1,3\n"},
            [
                "contraction",
                "square.npz",
                "--input",
                "x.npy",
                "--radius",
                "0.1",
                "--method",
                "fastlip",
                "--quiet",
                "--weights",
                "p.csv",
            ],
        ),
    }
    others = {"net.npz": NET, "x.npy": _npy(X), "square.npz": _npz(W0=W0, W1=W0.T, activation="relu")}
    found = {name: Subject({**others, **own}, line, tuple(own)) for name, (own, line) in commands.items()}
    functions: dict[str, tuple[dict[str, bytes], Callable[[], Any]]] = {
        "images": ({"images.npz": _npz(**four)}, _images),
        "idx": (idx, _image_folder),
        "store": ({"manifest.json": manifest, "rows.jsonl": rows}, _store),
        "parts": ({"manifest.json": manifest, "parts/t.parquet": _part()}, _parts),
        "record": ({"net.json": record.encode(), **net}, _record),
        "checkpoint": ({"other.checkpoint": _saved()}, _checkpoint),
    }
    found |= {name: Subject(own, function, tuple(own)) for name, (own, function) in functions.items()}
    return found | {f"words {line[0]}": Subject(others, line, ()) for line in LINES}


_REGION = [
    "--input",
    "x.npy",
    "--radius",
    "0.1",
    "--norm",
    "2",
    "--clip",
    "-9",
    "9",
    "--index",
    "0",
    "1",
    "--divide",
    "2",
    "--quiet",
]
LINES = [
    ["lipschitz", "net.npz", *_REGION, "--method", "fastlip", "--output-norm", "1", "--class", "0"],
    ["jacobian", "net.npz", *_REGION, "--method", "fastlip", "--pre", "ibp", "--margin", "0", "1"],
    ["monotone", "net.npz", *_REGION, "--method", "fastlip"],
    ["contraction", "square.npz", *_REGION, "--method", "fastlip", "--weights", "1", "2", "3", "4"],
    ["inspect", "net.npz", "--fix", "0=0.5", "--dtype", "float64", "--activation", "leaky_relu"],
]
