"""Whatever is in the files, the answer is one sentence; and the checker depends on little and is small."""

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import recurjac_check
from producer import ball, certificate, dense, encoded, everything, model
from recurjac_check import check_bytes

DATA = dense([3, 4, 2], 3)
WEIRD: list[Any] = [
    None,
    True,
    0,
    -1,
    10**40,
    1.5,
    "",
    "nan",
    "inf",
    "-inf",
    "0x1p+1023",
    "-0x1p-1074",
    "é",
    [],
    {},
    [[]],
    [None] * 9,
]
HERE = Path(recurjac_check.__file__).parent
READER = ("network.py", "operations.py", "moves.py", "calls.py", "rules.py", "tensors.py")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All containers of a JSON value, each with its keys."""
    keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else []
    return [(value, k) for k in keys] + [place for k in keys for place in _places(value[k])]


@pytest.mark.parametrize("seed", range(4))
def test_a_certificate_with_anything_in_it_is_answered(seed: int) -> None:
    random, valid = np.random.default_rng(seed), everything(DATA, ball([0.1, 0.2, 0.3], 0.2), 0.15)
    for _ in range(100):
        other = copy.deepcopy(valid)
        places = _places(other)
        container, key = places[random.integers(len(places))]
        if random.random() < 0.2 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = copy.deepcopy(WEIRD[random.integers(len(WEIRD))])
        verdict = check_bytes(encoded(other), DATA)
        assert verdict.code in (0, 1)
        assert len(verdict.text) < 400


@pytest.mark.parametrize("seed", range(2))
def test_a_network_with_anything_in_it_is_answered(seed: int) -> None:
    random, valid = np.random.default_rng(seed), everything(DATA, ball([0.1, 0.2, 0.3], 0.2))
    for _ in range(60):
        data = bytearray(DATA)
        for place in random.integers(len(data), size=random.integers(1, 4)):
            data[place] = random.integers(256)
        other = certificate(bytes(data), valid["region"], valid["claims"], valid["parts"])
        verdict = check_bytes(encoded(other), bytes(data))
        assert verdict.code in (0, 1, 2, 3)
        assert len(verdict.text) < 400


def _node(kind: str, inputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), ["y"], **attributes)


@pytest.mark.parametrize(
    "node",
    [
        _node("Expand", "x huge"),
        _node("Pad", "x pads"),
        _node("ConstantOfShape", "huge"),
        _node("Reshape", "x huge"),
        _node("Conv", "x k", pads=[2**40] * 2, strides=[1]),
        _node("AveragePool", "x", kernel_shape=[2**40]),
        _node("MaxPool", "x", kernel_shape=[1], strides=[0]),
        _node("Conv", "x k", dilations=[-1]),
        _node("Gather", "x far", axis=2),
        _node("Transpose", "x", perm=[0, 0, 1]),
        _node("Div", "x zero"),
        _node("Log", "zero"),
        _node("Resize", "x"),
        _node("Relu", "y"),
        _node("Relu", ""),
    ],
    ids=lambda node: f"{node.op_type}-{'-'.join(node.input)}",
)
def test_a_layer_that_is_too_large_or_not_known_is_refused_at_once(node: Any) -> None:
    integers = {"huge": [2**40, 2**20], "pads": [0, 0, 0, 0, 0, 2**50], "far": [99]}
    weights = {name: np.array(v, dtype=np.int64) for name, v in integers.items()}
    data = model([node], {**weights, "k": np.ones((1, 1, 1)), "zero": np.array(0.0)}, (1, 1, 3))
    forgery = certificate(data, ball([0.0] * 3, 0.1), [{"kind": "robust", "label": 0, "by": "values"}], [])
    verdict = check_bytes(encoded(forgery), data)
    assert verdict.code in (1, 2, 3)
    assert node.op_type in verdict.text or verdict.code != 3


def test_the_checker_depends_on_flint_onnx_and_the_standard_library_only() -> None:
    for path in HERE.glob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert roots <= {"flint", "onnx", "recurjac_check"} | set(sys.stdlib_module_names)


def _code_lines(path: Path) -> int:
    """Lines of statements, without docstrings."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt | ast.expr) and not text:
            body = getattr(node, "body", None)
            end = node.lineno if isinstance(body, list) else node.end_lineno or node.lineno
            lines |= set(range(node.lineno, end + 1))
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines - docstrings)


def test_what_has_to_be_trusted_stays_small() -> None:
    sizes = {path.name: _code_lines(path) for path in HERE.glob("*.py")}
    assert sum(n for name, n in sizes.items() if name not in READER) <= 1196
    assert sum(sizes.values()) <= 1829
