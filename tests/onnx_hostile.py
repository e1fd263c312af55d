"""Malformed and hostile ONNX files: what each is, how it is made, and how it is refused.

Run as `python -m tests.onnx_hostile FILE…` it loads each file as a user would, without pytest, and prints what came.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np

from tests.onnx_models import FLOAT, INT64, TensorProto, helper, model, node, numpy_helper, value

F, N, U = "UnreadableFile", "InvalidNetwork", "UnsupportedLayer"
ROWS: list[int | str | None] = ["batch", 4]
IMAGE: list[int | str | None] = [1, 2, 8, 8]
W = np.arange(12.0).reshape(4, 3) / 7
K = np.ones((2, 2, 3, 3))
END = node("Relu", "h", "y")


@dataclass(frozen=True)
class Hostile:
    """A file: bytes, a model, or a function that makes it at a path; the error it must raise and its words."""

    content: Any
    error: str
    words: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content if isinstance(self.content, bytes) else self.content.SerializeToString())


def good(**changes: Any) -> Any:
    """A sound network of 4 inputs and 3 outputs."""
    return model([node("MatMul", "x W", "h"), END], ROWS, {"W": W}, **changes)


def one(kind: str, inputs: str = "x", *, shape: Any = IMAGE, constants: Any = None, opset: int = 17, **how: Any) -> Any:
    """A node on the input, then a ReLU."""
    return model([node(kind, inputs, "h", **how), END], shape, constants, opset)


def folded(kind: str, inputs: str, constants: Any, **how: Any) -> Any:
    """A node on constants, whose first entry is added to the input."""
    start = node("ReduceMax", "c", "m", keepdims=0)
    return model([node(kind, inputs, "c", **how), start, node("Add", "x m")], ROWS, constants)


def bare(name: str, dims: Sequence[int], kind: int = FLOAT, raw: bytes = b"\0" * 16) -> Any:
    """A stored tensor that declares another size than it has."""
    return TensorProto(name=name, dims=dims, data_type=kind, raw_data=raw)


def with_weight(weight: Any) -> Any:
    """`good` with another weight W."""
    return model([node("MatMul", "x W", "h"), END], ROWS, extra=[weight])


def beside(location: str, length: int | None = None, offset: int | None = None, size: int | None = 48) -> Any:
    """`good` with its weight kept in another file, W.bin of `size` bytes beside it."""

    def write(path: Path) -> None:
        weight = TensorProto(name="W", dims=[4, 3], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
        keys = {"location": location.replace("OUT", str(path.parent.parent)), "length": length, "offset": offset}
        for key, entry in keys.items():
            if entry is not None:
                weight.external_data.add(key=key, value=str(entry))
        for folder in (path.parent, path.parent.parent):
            if size is not None:
                with (folder / "W.bin").open("wb") as file:
                    file.truncate(size)
        link = path.parent / "link.bin"
        if not link.is_symlink():
            link.symlink_to(path.parent.parent / "W.bin")
        path.write_bytes(with_weight(weight).SerializeToString())

    return write


def enormous(path: Path) -> None:
    """A file of four terabytes that takes no room."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(2**42)


def laughs(levels: int) -> Any:
    """Functions of which each calls the one before it twice."""
    functions = [helper.make_function("own", "f0", ["a"], ["b"], [node("Relu", "a", "b")], OWN)]
    for k in range(1, levels):
        calls = [node(f"f{k - 1}", "a", "h", domain="own"), node(f"f{k - 1}", "h", "b", domain="own")]
        functions.append(helper.make_function("own", f"f{k}", ["a"], ["b"], calls, OWN))
    last = node(f"f{levels - 1}", "x", domain="own")
    return model([last], ROWS, functions=functions, domains={"own": 1})


OWN = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def calls_itself() -> Any:
    body = [node("f", "a", "b", domain="own")]
    f = helper.make_function("own", "f", ["a"], ["b"], body, OWN)
    return model([node("f", "x", domain="own")], ROWS, functions=[f], domains={"own": 1})


def chained(count: int, kind: str, inputs: str, constants: Any = None, **how: Any) -> Any:
    """`count` nodes one after the other; PREVIOUS in `inputs` is what the last one made."""
    names = ["x", *(f"h{k}" for k in range(count - 1)), "y"]
    nodes = [node(kind, inputs.replace("PREVIOUS", a), b, **how) for a, b in pairwise(names)]
    return model(nodes, ROWS, constants)


def branch(name: str) -> Any:
    return helper.make_graph([node("Relu", "x", name)], name, [], [value(name, None)])


LOOP = helper.make_graph(
    [node("Identity", "go", "on"), node("Relu", "v", "w")],
    "body",
    [value("i", [], INT64), value("go", [], TensorProto.BOOL), value("v", None)],
    [value("on", [], TensorProto.BOOL), value("w", None)],
)


def sparse() -> Any:
    made = model([node("MatMul", "x W", "h"), END], ROWS)
    numbers = numpy_helper.from_array(np.ones(2, np.float32), "W")
    places = numpy_helper.from_array(np.array([0, 5]), "places")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(numbers, places, [10**6, 10**6]))
    return made


def sparse_attribute() -> Any:
    numbers = numpy_helper.from_array(np.ones(1, np.float32), "v")
    places = numpy_helper.from_array(np.array([0]), "places")
    huge = helper.make_sparse_tensor(numbers, places, [10**12])
    return model([node("Constant", "", "c", sparse_value=huge), node("Add", "x c")], ROWS)


def i(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64)


def pools(kind: str, **how: Any) -> Any:
    return one(kind, **{"kernel_shape": [3, 3], **how})


def conv(kernel: Any = K, shape: Any = IMAGE, kind: str = "Conv", **how: Any) -> Any:
    return one(kind, "x K", shape=shape, constants={"K": kernel}, **how)


def norm(opset: int = 17, variance: float = 1.0, **how: Any) -> Any:
    numbers = {"s": np.ones(2), "b": np.ones(2), "m": np.ones(2), "v": np.full(2, variance)}
    return one("BatchNormalization", "x s b m v", constants=numbers, opset=opset, **how)


def strings() -> Any:
    return with_weight(TensorProto(name="W", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b"]))


def attribute_twice() -> Any:
    made = one("Flatten", axis=1)
    made.graph.node[0].attribute.append(helper.make_attribute("axis", 2))
    return made


def damaged_text() -> bytes:
    made = good()
    made.graph.node[0].name = "NAME"
    return bytes(made.SerializeToString().replace(b"NAME", b"\xff\xfe\xfd\xfc"))


BILLION = i(10**6, 10**6)
FILES: dict[str, Hostile] = {
    # bytes
    "empty": Hostile(b"", F, ("readable ONNX", "export")),
    "text": Hostile(b"no network\nat all", F, ("readable ONNX", "export")),
    "magic": Hostile(b"\x93NUMPY\x01\x00" + b"\0" * 99, F, ("readable ONNX",)),
    "zip": Hostile(b"PK\x03\x04" + bytes(range(256)), F, ("readable ONNX",)),
    "zeros": Hostile(b"\0" * 1000, F, ("readable ONNX",)),
    "truncated": Hostile(good().SerializeToString()[:-20], F, ("readable ONNX",)),
    "half": Hostile(good().SerializeToString()[: len(good().SerializeToString()) // 2], F, ("readable ONNX",)),
    "first bytes": Hostile(good().SerializeToString()[:3], F, ("readable ONNX",)),
    "no UTF-8": Hostile(damaged_text(), F, ("names", "text", "export")),
    "enormous": Hostile(enormous, F, ("4398046511104 bytes",)),
    # the graph
    "no outputs": Hostile(good(outputs=[]), F, ("no graph with an output",)),
    "two outputs": Hostile(good(outputs=[value("h", None), value("y", None)]), U, ("2 outputs", "'h', 'y'")),
    "two inputs": Hostile(good(inputs=[value("x", ROWS), value("z", ROWS)]), U, ("2 inputs", "'x', 'z'")),
    "no inputs": Hostile(good(inputs=[]), U, ("no inputs",)),
    "integer input": Hostile(good(inputs=[value("x", ROWS, INT64)]), U, ("'x'", "float")),
    "half input": Hostile(good(inputs=[value("x", ROWS, TensorProto.FLOAT16)]), U, ("'x'", "float")),
    "sequence input": Hostile(
        good(inputs=[helper.make_tensor_sequence_value_info("x", FLOAT, None)]), U, ("'x'", "not a tensor")
    ),
    "no shape": Hostile(good(inputs=[value("x", None)]), N, ("'x'", "no shape", "export")),
    "open sizes": Hostile(good(inputs=[value("x", ["n", "m"])]), N, ("'x'", "(n, m)", "first axis")),
    "open size of a vector": Hostile(good(inputs=[value("x", ["n"])]), N, ("'x'", "(n)", "first axis")),
    "no entries": Hostile(good(inputs=[value("x", [1, 0])]), N, ("'x'", "(1, 0)")),
    "negative size": Hostile(good(inputs=[value("x", [1, -4])]), N, ("'x'", "(1, -4)")),
    "huge input": Hostile(good(inputs=[value("x", [1, 10**6, 10**6])]), N, ("'x'", "1000000000000", "at most")),
    "huge sizes": Hostile(good(inputs=[value("x", [1, *[2**62] * 9])]), N, ("'x'", "at most")),
    "many axes": Hostile(one("Flatten", shape=[1] * 70), U, ("Flatten", "64")),
    "cycle": Hostile(model([node("Add", "x y", "h"), END], ROWS), N, ("Add", "'y'", "cycle")),
    "itself": Hostile(model([node("Add", "x y")], ROWS), N, ("Add", "'y'", "cycle")),
    "unsorted": Hostile(model([END, node("Neg", "x", "h")], ROWS), N, ("Relu", "'h'", "earlier")),
    "missing initialiser": Hostile(model([node("MatMul", "x W")], ROWS), N, ("MatMul", "'W'", "missing")),
    "missing output": Hostile(model([node("Relu", "x", "z")], ROWS), N, ("'y'", "export")),
    "no nodes": Hostile(model([], ROWS), N, ("'y'",)),
    "output is an integer": Hostile(model([node("Shape", "x")], ROWS), U, ("'y'", "floating-point")),
    "name made twice": Hostile(
        model([node("Neg", "x", "h"), node("Relu", "h", "h"), node("Neg", "h")], ROWS), N, ("'h'", "twice")
    ),
    "input made again": Hostile(model([node("Neg", "x", "x"), node("Neg", "x")], ROWS), N, ("'x'", "twice")),
    "constant made again": Hostile(
        model([node("Neg", "x", "W"), node("Neg", "W")], ROWS, {"W": W}), N, ("'W'", "twice")
    ),
    "constant stored twice": Hostile(good(extra=[numpy_helper.from_array(np.ones((4, 3)), "W")]), N, ("'W'", "twice")),
    "attribute twice": Hostile(attribute_twice(), U, ("Flatten", "'axis' twice")),
    "old opset": Hostile(good(opset=7), U, ("opset is 7", "export")),
    "future opset": Hostile(good(opset=10**6), U, ("opset is 1000000",)),
    "no opset": Hostile(model([END], ROWS, opset=-1), U, ("opset is -1",)),
    "two opsets": Hostile(good(domains={"ai.onnx": 9}), U, ("opset",)),
    "too many inputs": Hostile(model([node("Relu", "x x")], ROWS), U, ("Relu",)),
    "no inputs of a node": Hostile(model([node("Relu", "")], ROWS), U, ("Relu",)),
    "absent input": Hostile(model([node("Add", "x -")], ROWS), U, ("Add",)),
    "unknown attribute": Hostile(one("Relu", sharpness=3.0), U, ("Relu", "sharpness")),
    "attribute of another type": Hostile(one("LeakyRelu", alpha="steep"), U, ("LeakyRelu",)),
    "attributes of another type": Hostile(pools("MaxPool", kernel_shape="abcd"), U, ("MaxPool",)),
    "many laughs": Hostile(laughs(40), U, ("functions", "nodes")),
    "calls itself": Hostile(calls_itself(), U, ("function", "itself")),
    # numbers
    "NaN": Hostile(model([node("MatMul", "x W")], ROWS, {"W": np.full((4, 3), nan)}), N, ("NaN",)),
    "infinite": Hostile(model([node("Add", "x b")], ROWS, {"b": np.full(4, -inf)}), N, ("infinite",)),
    "overflow": Hostile(chained(9, "Mul", "PREVIOUS c", {"c": 1e38}), N, ("overflows",)),
    "division by zero": Hostile(one("Div", "x c", constants={"c": np.zeros(1)}), U, ("Div", "zero")),
    "division of constants": Hostile(folded("Div", "a b", {"a": np.ones(2), "b": np.zeros(2)}), N, ("infinite",)),
    "infinite float16": Hostile(with_weight(numpy_helper.from_array(np.full((4, 3), inf, np.float16), "W")), N,
                                ("infinite",)),
    "complex": Hostile(with_weight(bare("W", [2], TensorProto.COMPLEX64)), U, ("'W'", "COMPLEX64")),
    "strings": Hostile(strings(), U, ("'W'", "STRING")),
    "unknown type": Hostile(with_weight(bare("W", [4], 99)), U, ("'W'", "unknown")),
    "text constant": Hostile(model([node("Constant", "", "c", value_string="a"), node("Add", "x c")], ROWS), U,
                             ("Constant",)),
    "large initialiser": Hostile(with_weight(bare("W", [10**6, 10**6])), N, ("'W'", "(1000000, 1000000)", "at most")),
    "larger initialiser": Hostile(with_weight(bare("W", [2**62] * 9)), N, ("'W'", "at most")),
    "negative initialiser": Hostile(with_weight(bare("W", [-1, 4])), N, ("'W'", "(-1, 4)")),
    "initialiser without data": Hostile(with_weight(bare("W", [4, 3], raw=b"")), F, ("'W'", "damaged")),
    "sparse": Hostile(sparse(), U, ("sparse", "dense")),
    "sparse attribute": Hostile(sparse_attribute(), U, ("Constant", "sparse")),
}  # fmt: skip


def peak() -> int:
    """The most memory that this process has had, in MiB; `ru_maxrss` counts that of the process it came from, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) // 1024
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def report(path: str) -> dict[str, Any]:
    """What loading a file comes to, in Python and on the command line."""
    import recurjac as rj
    from recurjac.cli import main

    start, out, err = time.process_time(), io.StringIO(), io.StringIO()
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(out), redirect_stderr(err):
        warnings.simplefilter("always")
        try:
            rj.load(path)
            error, message = "", ""
        except BaseException as failure:
            error, message = type(failure).__name__, str(failure)
        printed = out.getvalue() + err.getvalue()
        try:
            code: object = main(["inspect", path])
        except BaseException as failure:
            code = type(failure).__name__
    return {
        "error": error,
        "message": message,
        "printed": printed + "".join(str(w.message) for w in caught),
        "code": code,
        "stdout": out.getvalue(),
        "stderr": err.getvalue(),
        "seconds": time.process_time() - start,
        "megabytes": peak(),
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(json.dumps(report(argument)) + "\n")
        sys.stdout.flush()
