"""Hostile files, by their names: each found something, or is what a reader must withstand, and stays."""

from __future__ import annotations

import gzip
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from tests.fuzz.valid import subjects

SYSTEM = b"cos\nsystem\n(S'echo > ../canary'\ntR."
"""A pickle that runs a command."""
GIB = 2**30


@final
@dataclass(frozen=True)
class Found:
    """The subject in which a file is replaced, or added; what it holds; and words of the refusal (none: it is read)."""

    subject: str
    name: str
    content: Callable[[], bytes]
    words: tuple[str, ...]

    def made(self) -> tuple[dict[str, bytes], Any]:
        subject = subjects()[self.subject]
        return {**subject.files, self.name: self.content()}, subject.reader


def npy(descr: object, shape: object, numbers: bytes = b"\0" * 64) -> bytes:
    """A .npy file that declares this type and shape."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + numbers


def archive(**members: bytes) -> bytes:
    """A .npz file of these members besides a network's own."""
    own = {
        "W0": npy("<f8", (2, 4)),
        "W1": npy("<f8", (2, 2), b"\0" * 32),
        "activation": npy("<U4", (), "relu".encode("utf-32-le")),
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in {**own, **members}.items():
            file.writestr(f"{name}.npy", content)
    return made.getvalue()


def twice() -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(made, "w") as file:
        for _ in range(2):
            file.writestr("W0.npy", npy("<f8", (2, 4)))
    return made.getvalue()


def bomb() -> bytes:
    """An archive of 3 GiB of zeros."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("W0.npy", b"")
    data = bytearray(made.getvalue())
    at = data.index(b"PK\x01\x02")  # the directory says what the member would have
    data[at + 24 : at + 28] = struct.pack("<I", 3 * GIB)
    return bytes(data)


def picture(width: int, height: int) -> bytes:
    """A .png file that declares this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10**5)) + chunk(b"IEND", b"")


def box(*assertions: str) -> bytes:
    lines = [f"(declare-const X_{i} Real)" for i in range(4)]
    return "\n".join([*lines, *(f"(assert {a})" for a in assertions)]).encode()


def many() -> bytes:
    """A file of 200 kB with 10 000 boxes of 10 000 inputs."""
    names = "".join(f"(declare-const X_{i} Real)" for i in range(10**4))
    return (names + "(assert (or " + "(<= X_0 1)" * 10**4 + "))").encode()


def exported(change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> bytes:
    """A .pt2 file with changed members."""
    with zipfile.ZipFile(io.BytesIO(subjects()["pt2"].files["m.pt2"])) as file:
        members = {name: file.read(name) for name in file.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, content in change(members).items():
            file.writestr(name, content)
    return made.getvalue()


def with_pickle(members: dict[str, bytes]) -> dict[str, bytes]:
    return {n: SYSTEM if n.endswith(".pt") else c for n, c in members.items()}


def report(**changes: Any) -> bytes:
    return json.dumps({**json.loads(subjects()["report"].files["r.json"]), **changes}).encode()


def recorded(**changes: Any) -> bytes:
    return json.dumps({**json.loads(subjects()["record"].files["net.json"]), **changes}).encode()


def onnx(change: Callable[[Any], None]) -> bytes:
    from onnx import ModelProto

    proto = ModelProto.FromString(subjects()["dense.onnx"].files["m.onnx"])
    change(proto)
    return bytes(proto.SerializeToString())


def outside(proto: Any) -> None:
    """Weights in the file beside the model's folder."""
    for key, value in (("location", "../canary"), ("offset", "0"), ("length", "160")):
        proto.graph.initializer[0].external_data.add(key=key, value=value)
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].data_location = 1


def version(proto: Any) -> None:
    proto.ir_version = 2**63 - 1


def idx(*sizes: int) -> bytes:
    return bytes((0, 0, 8, len(sizes))) + b"".join(n.to_bytes(4, "big") for n in sizes) + b"\0"


DEEP = b"[" * 10**5 + b"]" * 10**5
IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"
FOUND: dict[str, Found] = {
    "weights of no bytes": Found("weights", "net.npz", lambda: archive(activation=npy("|V0", (2**60,))), ("readable",)),
    "weights beyond the file": Found(
        "weights", "net.npz", lambda: archive(W1=npy("<f8", (2**20, 2**20))), ("declares",)
    ),
    "weights of negative shape": Found("weights", "net.npz", lambda: archive(W1=npy("<f8", (-1, 5))), ("readable",)),
    "weights named twice": Found("weights", "net.npz", twice, ("two members", "W0")),
    "weights that unpack to 3 GiB": Found("weights", "net.npz", bomb, ("when unpacked",)),
    "weights that are pickled": Found(
        "weights", "net.npz", lambda: archive(W1=npy("|O", (), SYSTEM)), ("never loaded",)
    ),
    "a pickle beside the weights": Found("weights", "net.npz", lambda: archive(other=npy("|O", (), SYSTEM)), ()),
    "a weight of a long number": Found(
        "weights", "net.npz", lambda: archive(**{"W" + "1" * 5000: npy("<f8", (2, 4))}), ()
    ),
    "an activation of bytes": Found(
        "weights", "net.npz", lambda: archive(activation=npy("|S2", (), b"\xff\xfe")), ("a name",)
    ),
    "a table of activations": Found(
        "weights", "net.npz", lambda: archive(activation=npy("<U1", (1, 1), b"a\0\0\0")), ("(1, 1)",)
    ),
    "inputs beyond the file": Found("npy", "x.npy", lambda: npy("<f8", (2**40, 4)), ("declares",)),
    "inputs that are pickled": Found("npy", "x.npy", lambda: npy("|O", (), SYSTEM), ("never loaded",)),
    "inputs in a long header": Found(
        "npy", "x.npy", lambda: b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, ("readable",)
    ),
    "an image of 4 Gigapixels": Found("png", "x.png", lambda: picture(2**16, 2**16), ("pixels",)),
    "an image of 100 Megapixels": Found("png", "x.png", lambda: picture(10**4, 10**4), ("pixels",)),
    "boxes times inputs": Found("vnnlib", "x.vnnlib", many, ("10000 boxes",)),
    "a box of long fractions": Found(
        "vnnlib",
        "x.vnnlib",
        lambda: box(
            "(<= (* 3 X_0) " + "(* 1e300 " * 5 + "1" + ")" * 5 + ")", "(>= X_0 (* 1e300 1e300 1e300 1e300 1e300 1e300))"
        ),
        ("empty",),
    ),
    "a product of many numbers": Found(
        "vnnlib", "x.vnnlib", lambda: box("(<= X_0 (* " + "1e300 " * 10**4 + "))"), ("product",)
    ),
    "a number of many digits": Found(
        "vnnlib", "x.vnnlib", lambda: box("(<= (+ X_0 0." + "3" * 10**5 + ") 1)"), ("in a sum",)
    ),
    "nested parentheses": Found("vnnlib", "x.vnnlib", lambda: b"(" * 10**5, ("deeper",)),
    "a program with a pickle": Found("pt2", "m.pt2", lambda: exported(with_pickle), ("Python objects",)),
    "a format of no version": Found("dense.onnx", "m.onnx", lambda: onnx(version), ("version",)),
    "weights outside of the folder": Found("dense.onnx", "m.onnx", lambda: onnx(outside), ("outside",)),
    "a report without a hash": Found("report", "r.json", lambda: report(model={"path": None}), ()),
    "a report of depth": Found("report", "r.json", lambda: DEEP, ("nested",)),
    "a record of another kind": Found("record", "net.json", lambda: recorded(data={}, recipe=[]), ("not a record",)),
    "a record without numbers": Found("record", "net.json", lambda: recorded(accuracy=[]), ("not a record",)),
    "a record of depth": Found("record", "net.json", lambda: DEEP, ("not a record",)),
    "a checkpoint that is pickled": Found("checkpoint", "other.checkpoint", lambda: SYSTEM, ("not a checkpoint",)),
    "results of depth": Found("store", "rows.jsonl", lambda: DEEP + b"\n", ("not a finished task",)),
    "results after long": Found(
        "store",
        "rows.jsonl",
        lambda: b'{"task": "t", "seconds": 1' + b"0" * 400 + b', "rows": []}\n',
        ("not a finished task",),
    ),
    "a manifest with a line in a name": Found(
        "store", "manifest.json", lambda: b'{"a\\nb": 1}', ("holds results with",)
    ),
    "a manifest of depth": Found("store", "manifest.json", lambda: DEEP, ("manifest.json",)),
    "an idx file of many axes": Found("idx", IMAGES, lambda: idx(*[1] * 200), ("does not begin",)),
    "an idx file of 1 GiB": Found("idx", IMAGES, lambda: idx(2**10, 2**10, 2**10), ("bytes for the shape",)),
    "labels that unpack to 100 MB": Found(
        "idx", LABELS, lambda: gzip.compress(idx(3) + b"\0" * 10**8, 1), ("more bytes",)
    ),
}
