"""Random changes of the content of a file: of its bytes, and of what it says, by its format."""

from __future__ import annotations

import ast
import io
import json
import random
import re
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Change = Callable[[bytes, random.Random], bytes]
WHOLE = (0, -1, 1, 2, 7, 255, 10**4, 2**31 - 1, -(2**31), 2**32, 2**40, 2**63 - 1, -(2**63), 2**64, 10**30, 10**400)
REAL = (0.0, -0.0, 1.0, -1.0, 1e-320, 1e30, -1e30, 1e300, float("nan"), float("inf"), float("-inf"))
WORDS = (
    "", " ", "x", "y", "W", "W0", "0", "nan", "inf", "../canary", "/etc/passwd", "..", "a/../../canary", "\0", "\n",
    "é", "__import__('os').system('id')", "relu", "tanh", "X_0", "Y_0", "9" * 400, "a" * 5000, "1e999999999999", "{}",
    "%s", "[bold]", "recurjac", "Symbol('s0')",
)  # fmt: skip
NUMBERS = (
    "nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "1e999999999", "1e99999999999999999999", "9" * 5000,
    "0." + "3" * 5000, "0x10", "1_000", "--1", "1e", ".", "", "1,5", "٣", "1/2", "(- 1)", "1e309", "-0.0", "4.9e-324",
)  # fmt: skip


def changed_bytes(content: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, cut off, left out, or written twice."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(data)) if data else 0
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                if data:
                    data[at] ^= 1 << draw.randrange(8)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + draw.randrange(1, 9)]
            case 4:
                data[at:at] = data[at : at + draw.randrange(1, 99)]
            case 5:
                data[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
    return bytes(data)


def changed_text(content: bytes, draw: random.Random) -> bytes:
    """A token of a text left out, written twice, moved, or replaced by another, or by a strange number or word."""
    parts = re.split(r"(\s+|[(),;\[\]{}:])", content.decode("utf-8", "replace"))
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, other = draw.randrange(len(parts)), draw.randrange(len(parts))
        match draw.randrange(7):
            case 0:
                parts[at] = ""
            case 1:
                parts[at] = parts[at] * draw.choice((2, 3, 200))
            case 2:
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                numbers = [i for i, p in enumerate(parts) if re.fullmatch(r"[-+.0-9e]+", p)]
                parts[draw.choice(numbers or [at])] = draw.choice(NUMBERS)
            case 4:
                parts[at] = draw.choice(WORDS)
            case 5:
                parts[at] = parts[other]
            case 6:
                parts.insert(at, draw.choice(("(", ")", '"', "|", ";", ",", "\n", "(" * 300, "\0", "\ufeff", "(or ")))
    return "".join(parts).encode("utf-8", "replace")


def changed_json(content: bytes, draw: random.Random) -> bytes:
    """A value in a JSON tree left out or replaced by one of another kind or size."""
    tree = json.loads(content)
    for _ in range(draw.choice((1, 1, 2))):
        owners = [part for part in _parts(tree) if part]
        if not owners:
            break
        owner = draw.choice(owners)
        key: Any = draw.choice(sorted(owner) if isinstance(owner, dict) else range(len(owner)))
        match draw.randrange(4):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, dict):
                owner[draw.choice(WORDS)] = owner.pop(key)
            case _:
                owner[key] = draw.choice(
                    (None, True, [], {}, [[]], {"a": 1}, *WHOLE, *REAL, *WORDS, _DEEP, owner[key], [owner[key]])
                )
    text = json.dumps(tree)
    return text.replace(json.dumps(_DEEP), "[" * 10**4 + "]" * 10**4).encode()


_DEEP = "DEEP"


def _parts(tree: Any) -> list[Any]:
    found, todo = [], [tree]
    while todo:
        part = todo.pop()
        if isinstance(part, dict | list):
            found.append(part)
            todo.extend(part.values() if isinstance(part, dict) else part)
    return found


_KINDS = ("O", "<f2", ">f8", "<c16", "<M8[s]", "|V0", "|V8", "<U0", "<U5", "|S1", "|b1", "|u1", "<f16", "|V2000000000",
          [("a", "<f8")], [("a", "|O")], "<f8, <f8", "", "<U500000000", "<i8", "|i1")  # fmt: skip
_SHAPES = ((), (0,), (2**62,), (2**40,), (10**20,), (-1,), (4, 5, 1), (20,), (1,) * 70, (2**31, 2**31), 5, (1.5,), None)


def changed_npy(content: bytes, draw: random.Random) -> bytes:
    """An array whose header says another type, shape or order than its numbers have, or strange numbers."""
    size = int.from_bytes(content[8:10], "little")
    try:
        header: dict[str, Any] = ast.literal_eval(content[10 : 10 + size].decode("latin1"))
    except (ValueError, SyntaxError):
        return changed_bytes(content, draw)
    numbers = content[10 + size :]
    match draw.randrange(6):
        case 0:
            header["descr"] = draw.choice(_KINDS)
        case 1:
            header["shape"] = draw.choice(_SHAPES)
        case 2:
            header["descr"], header["shape"] = draw.choice(_KINDS), draw.choice(_SHAPES)
        case 3:
            values = np.frombuffer(numbers[: len(numbers) // 8 * 8], "<f8").copy()
            if len(values):
                values[draw.randrange(len(values))] = draw.choice(REAL)
            numbers = values.tobytes()
        case 4:
            header[draw.choice((*header, "more"))] = draw.choice((True, None, "x", 3))
        case 5:
            return changed_bytes(content, draw)
    text = draw.choice((repr(header), repr(header), repr(header) * 2, "(" * 150 + ")" * 150)).encode("utf-8") + b"\n"
    return content[:8] + (len(text) % 65536).to_bytes(2, "little") + text + numbers


def changed_zip(content: bytes, draw: random.Random) -> bytes:
    """An archive with a changed, renamed, missing or doubled member; or changed bytes."""
    if draw.random() < 0.2:
        return changed_bytes(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = draw.randrange(len(members))
    name, inner = members[at]
    match draw.randrange(6):
        case 0:
            folder, _, last = name.rpartition("/")
            word = draw.choice(
                (*WORDS, "W1.npy", "b1.npy", "W" + "1" * 5000 + ".npy", "slope.npy", "activation.npy", "W7.npy")
            )
            members[at] = (draw.choice((word, f"{folder}/{word}", f"{word}/{last}")).replace("\0", "_"), inner)
        case 1:
            members.append(draw.choice(members))
        case 2:
            del members[at]
        case 3:
            members[at] = (name, draw.choice(members)[1])
        case _:
            members[at] = (name, changed(name, inner, draw))
    made = io.BytesIO()
    packed = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(made, "w", packed) as archive:
        for name, inner in members:
            archive.writestr(zipfile.ZipInfo(name or "_"), inner)
    return made.getvalue()


def changed_onnx(content: bytes, draw: random.Random) -> bytes:
    """A model in which a field of a message is changed, left out, moved or doubled."""
    from onnx import ModelProto, defs

    proto = ModelProto.FromString(content)
    kinds = sorted({s.name for s in defs.get_all_schemas()})
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change_message(draw.choice(_messages(proto)), draw, kinds)
    return bytes(proto.SerializeToString())


def _messages(message: Any) -> list[Any]:
    found, todo = [], [message]
    while todo:
        part = todo.pop()
        found.append(part)
        for field, value in part.ListFields():
            if field.message_type is not None:
                todo.extend(value if _is_list(value) else [value])
    return found


def _is_list(value: Any) -> bool:
    return hasattr(value, "append") or hasattr(value, "add")


def _change_message(message: Any, draw: random.Random, kinds: list[str]) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = draw.choice(fields)
    if _is_list(value):
        items = list(value)
        match draw.randrange(4):
            case 0:
                del items[draw.randrange(len(items))]
            case 1:
                items.append(draw.choice(items))
            case 2:
                draw.shuffle(items)
            case 3 if field.message_type is None:
                items[draw.randrange(len(items))] = _other(field, draw, kinds)
        items = [type(i).FromString(i.SerializeToString()) if field.message_type is not None else i for i in items]
        del value[:]
        value.extend(items)
    elif field.message_type is not None or draw.random() < 0.15:
        message.ClearField(field.name)
    elif field.name == "raw_data":
        setattr(message, field.name, draw.choice((b"", b"\0" * 7, b"\xff" * len(value), value * 2, value[:-1])))
    else:
        setattr(message, field.name, _other(field, draw, kinds))


def _other(field: Any, draw: random.Random, kinds: list[str]) -> Any:
    """Another value of a field: text, bytes, a number of its width."""
    if field.name == "op_type":
        return draw.choice(kinds)
    if field.cpp_type == field.CPPTYPE_STRING:
        word = draw.choice(WORDS)
        return word.encode() if field.type == field.TYPE_BYTES else word
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return draw.choice([n for n in REAL if not 1e38 < abs(n) < 1e400])
    if field.cpp_type == field.CPPTYPE_BOOL:
        return draw.random() < 0.5
    if field.cpp_type == field.CPPTYPE_ENUM:
        return draw.choice([v.number for v in field.enum_type.values])
    wide = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
    low, high = (-(2**63), 2**63 - 1) if wide else (-(2**31), 2**31 - 1)
    return draw.choice([n for n in (*WHOLE, 3, 4, 5, 6, 9, 10, 11, 16) if low <= n <= high])


def changed_pickle(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, or a pickle of another object."""
    if draw.random() < 0.7:
        return changed_bytes(content, draw)
    return draw.choice((b"cos\nsystem\n(S'id'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"N.", b"K\x01.", b"", b"(lp0\n."))


_FORMATS: dict[str, Change] = {
    ".npz": changed_zip, ".pt2": changed_zip, ".npy": changed_npy, ".json": changed_json, ".onnx": changed_onnx,
    ".csv": changed_text, ".vnnlib": changed_text, ".jsonl": changed_text, ".md": changed_text, ".pt": changed_pickle,
    ".checkpoint": changed_zip, ".pkl": changed_pickle,
}  # fmt: skip
_BLIND = 0.15


def changed(name: str, content: bytes, draw: random.Random) -> bytes:
    """The content of a file of that name after a random change that its format suggests, or of any bytes."""
    change = _FORMATS.get("." + name.rpartition(".")[2], changed_bytes)
    if draw.random() < _BLIND:
        change = changed_bytes
    try:
        return change(content, draw)
    except (ValueError, UnicodeError, RecursionError):  # not of that format after all
        return changed_bytes(content, draw)


def changed_words(words: list[str], draw: random.Random) -> list[str]:
    """The words of a command with one left out, written twice, moved, or replaced."""
    words = list(words)
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(words))
        match draw.randrange(5):
            case 0:
                del words[at]
            case 1:
                words.insert(at, draw.choice(words))
            case 2:
                words[at] = draw.choice((*NUMBERS, *map(str, WHOLE))).replace("\0", "")
            case 3:
                words[at] = draw.choice(WORDS).replace("\0", "")
            case 4:
                words.insert(at, draw.choice((*NUMBERS, "--", "-", "inf", "1e308")))
        if not words:
            return ["inspect"]
    return words
