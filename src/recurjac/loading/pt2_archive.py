"""Checks that a .pt2 file holds only numbers and a graph of ATen operations.

`torch.export.load` unpickles objects, loads compiled libraries, evaluates size expressions as Python, and accepts any
function of `torch` or `operator` as an operation.  A file that would make it do so is refused before it is called.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recurjac.errors import InvalidNetwork, UnreadableFile, UnsupportedLayer
from recurjac.loading.arrays import check_sizes
from recurjac.loading.messages import first_line

_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?|torch\.sym_(max|min|not|float|int|sum|ite)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
)
"""The operations that a graph may name."""
_WORD = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"[a-z]{1,4}\d+")
_WORDS = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "FloorDiv", "CleanDiv", "PythonMod",
    "ModularIndexing", "IntTrueDiv", "Eq", "Ne", "Ge", "Gt", "Le", "Lt", "Equality", "Unequality", "GreaterThan",
    "StrictGreaterThan", "LessThan", "StrictLessThan", "And", "Or", "Not", "positive", "nonnegative", "negative",
    "integer", "real", "finite", "True", "False", "true", "false", "evaluate", "oo", "int_oo",
}  # fmt: skip
"""The words that a size expression may contain, in addition to the names of symbols."""


def check(path: Path, data: bytes) -> None:
    """Raise UnreadableFile, InvalidNetwork or UnsupportedLayer unless `data` holds only numbers and an ATen graph.

    data: the content of the file at `path`.
    """
    members = _members(path, data)
    if any(name.startswith("data/aotinductor/") for name in members):
        raise InvalidNetwork(f"{path} holds compiled code; save the program with torch.export.save instead")
    graphs = [n for n in members if re.fullmatch(r"models/[^/]*\.json|serialized_exported_program\.json", n)]
    if len(graphs) != 1:
        raise UnreadableFile(f"{path} holds {len(graphs)} exported programs; save one with torch.export.save")
    for name, content in members.items():
        if name.endswith(".pt"):
            _check_pickle(path, name, content)
        elif name.endswith("_config.json"):
            _check_payloads(path, _json(path, name, content))
    for key, value in _strings(_json(path, graphs[0], members[graphs[0]])):
        if key == "target" and _TARGET.fullmatch(value) is None:
            raise UnsupportedLayer(f"{value} in {path} is not supported; only graphs of ATen operations are read")
        if key == "expr_str":
            _check_expression(path, value)


def _members(path: Path, data: bytes) -> dict[str, bytes]:
    """The archive's members by their names, relative to its only folder if there is one, without extra files."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_sizes(archive)
            names = archive.namelist()
            found = {n: archive.read(n) for n in names if n.endswith((".json", ".pt")) or "/aotinductor/" in n}
    except Exception as error:  # a damaged file can cause any exception
        raise UnreadableFile(f"{path} is not a readable .pt2 file: {first_line(error)}; save it again") from error
    folders = {n.partition("/")[0] for n in names}
    below = {n.partition("/")[2]: c for n, c in found.items()} if len(folders) == 1 else found
    return {n: c for n, c in below.items() if not n.startswith(("extra/", "extra_files/"))}


def _json(path: Path, name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path} is damaged: {name}: {first_line(error)}; save it again") from error


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    """Raise InvalidNetwork unless a pickle holds only tensors; otherwise PyTorch would unpickle any object."""
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # a pickle can cause any exception
        raise InvalidNetwork(
            f"{path} keeps Python objects in {name}, which may run any code; save a program of plain tensors"
        ) from error


def _check_payloads(path: Path, config: Any) -> None:
    """Raise InvalidNetwork unless every weight and constant is a plain tensor, not a pickle or an object."""
    entries = config.get("config") if isinstance(config, dict) else None
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        plain = re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name")))
        if entry.get("use_pickle") is not False or plain is None:
            raise InvalidNetwork(
                f"{path} keeps {name} as a Python object, which may run any code; save a program of plain tensors"
            )


def _check_expression(path: Path, text: str) -> None:
    for word in _WORD.findall(text):
        if word not in _WORDS and _SYMBOL.fullmatch(word) is None:
            raise InvalidNetwork(
                f"{path} computes a size with {word}; only sums and products of the batch size are read"
            )


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every string in a JSON tree, with its key."""
    todo = [("", value)]
    while todo:
        key, part = todo.pop()
        if isinstance(part, str):
            yield key, part
        elif isinstance(part, dict):
            todo.extend(part.items())
        elif isinstance(part, list):
            todo.extend((key, p) for p in part)
