"""What a .pt2 file may hold: numbers and a graph of ATen operations.

`torch.export.load` unpickles objects, loads compiled libraries, evaluates expressions of sizes as Python and takes any
function of `torch` or `operator` for an operation; a file that would make it do so is refused before it is called.
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
"""What an expression of sizes is made of, beside the names of symbols."""


def check(path: Path, data: bytes) -> None:
    """Raise UnreadableFile, InvalidNetwork or UnsupportedLayer unless `data`, the file at `path`, is as said above."""
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
            raise UnsupportedLayer(f"{value} in {path} is not supported; a graph of ATen operations is read")
        if key == "expr_str":
            _check_expression(path, value)


def _members(path: Path, data: bytes) -> dict[str, bytes]:
    """The archive's contents by their names below its one folder, if there is one.  Extra files are left out."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            found = {n: archive.read(n) for n in names if n.endswith((".json", ".pt")) or "/aotinductor/" in n}
    except Exception as error:  # whatever a file may make of the reader
        raise UnreadableFile(f"{path} is not a readable .pt2 file: {first_line(error)}; save it again") from error
    if len(set(names)) != len(names):
        raise UnreadableFile(f"{path} is not a readable .pt2 file: it holds two members of one name; save it again")
    folders = {n.partition("/")[0] for n in names}
    below = {n.partition("/")[2]: c for n, c in found.items()} if len(folders) == 1 else found
    return {n: c for n, c in below.items() if not n.startswith(("extra/", "extra_files/"))}


def _json(path: Path, name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path} is damaged: {name}: {first_line(error)}; save it again") from error


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    """PyTorch falls back to unpickling anything where this fails."""
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a pickle may hold
        raise InvalidNetwork(
            f"{path} keeps Python objects in {name}, which may run any code; save a program of plain tensors"
        ) from error


def _check_payloads(path: Path, config: Any) -> None:
    """Each weight and constant is a plain tensor: no pickle, no object."""
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
                f"{path} computes a size with {word}; only sums and products of a batch's size are read"
            )


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a tree of JSON with its key."""
    todo = [("", value)]
    while todo:
        key, part = todo.pop()
        if isinstance(part, str):
            yield key, part
        elif isinstance(part, dict):
            todo.extend(part.items())
        elif isinstance(part, list):
            todo.extend((key, p) for p in part)
