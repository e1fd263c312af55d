"""Reading inputs: what a file says is what is returned, to the last digit, and no malformed file passes."""

from __future__ import annotations

import io
import pickle
import random
import struct
import sys
import zipfile
import zlib
from fractions import Fraction
from math import inf, isnan, nextafter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recurjac.errors import InvalidRegion, InvalidRequest, MissingDependency, UnreadableFile
from recurjac.loading.inputs import Boxes, Points, read_inputs
from recurjac.region import Box


def points(path: Path | str) -> Points:
    read = read_inputs(str(path))
    assert isinstance(read, Points)
    return read


def boxes(path: Path, text: str) -> Boxes:
    path.write_text(text, encoding="utf-8")
    read = read_inputs(str(path))
    assert isinstance(read, Boxes)
    return read


def refused(path: Path | str, *words: str, error: type[Exception] = UnreadableFile) -> None:
    """The message is one line that names the file and all `words`."""
    with pytest.raises(error) as caught:
        read_inputs(str(path))
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    for word in (Path(str(path).partition(".npz:")[0]).name, *words):
        assert word in message


def exactly(number: float) -> Fraction:
    return Fraction(number)


# What and where


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz:key", "x.csv", "x.png", "x.vnnlib", "n" * 5000, "x\0.npy"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    refused(tmp_path / name, "no file")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.npy").mkdir()
    refused(tmp_path / "x.npy", "no file")


@pytest.mark.parametrize("name", ["x.txt", "x", "x.vnnlib.gz"])
def test_another_type_of_file_is_refused_with_those_that_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("1")
    refused(tmp_path / name, ".npy", ".csv", ".vnnlib", error=InvalidRequest)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x.png", "x.jpeg", "x.bmp", "x.vnnlib", "X.NPY"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe\x80 nothing", b"(", b'"'], ids=["empty", "binary", "open", "quote"]
)
def test_damaged_files_are_unreadable(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if name.endswith((".png", ".jpeg", ".bmp")):
        pytest.importorskip("PIL")
    refused(tmp_path / name)


def test_results_check_themselves() -> None:
    with pytest.raises(InvalidRegion, match="samples"):
        Points(torch.zeros(3), torch.zeros(3))
    with pytest.raises(InvalidRegion, match="errors"):
        Points(torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(InvalidRegion, match="boxes"):
        Boxes(torch.zeros(3), torch.ones(3))
    with pytest.raises(InvalidRegion, match="empty"):
        Boxes(torch.ones(1, 3), torch.zeros(1, 3))


# Arrays


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((5,), (1, 5)), ((4, 5), (4, 5)), ((2, 3, 4, 4), (2, 3, 4, 4))],
)
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "f4", "f2", "i8", "u1", "u8", "?"])
def test_arrays_are_samples_of_the_same_numbers(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...], dtype: str
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    for order in "CF":
        np.save(tmp_path / "x.npy", np.asarray(array, order=order))  # type: ignore[call-overload]
        read = points(tmp_path / "x.npy")
        assert read.values.shape == expected
        assert read.values.dtype == torch.float64
        assert read.names is None
        assert read.values.flatten().tolist() == [float(n) for n in array.flatten()]
        assert not read.moved.any()


def test_nan_and_infinity_are_left_to_the_region(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([np.nan, np.inf, -np.inf]))
    first, *rest = points(tmp_path / "x.npy").values.flatten().tolist()
    assert isnan(first)
    assert rest == [inf, -inf]


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**60, -(2**63), 2**62 + 2**20])
def test_large_integers_convert_exactly(tmp_path: Path, number: int) -> None:
    np.save(tmp_path / "x.npy", np.array([1, number], dtype=np.int64))
    assert int(points(tmp_path / "x.npy").values[0, 1]) == number


@pytest.mark.parametrize(
    "array",
    [
        np.array([2**53 + 1]),
        np.array([-(2**53) - 1]),
        np.array([2**63 - 1]),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array(["1.5"]),
        np.array([b"1.5"]),
        np.array([1 + 0j]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
        np.zeros(0),
        np.zeros((0, 3)),
    ],
    ids=str,
)
def test_arrays_that_are_no_float64_samples_are_refused(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "x.npy", array)
    refused(tmp_path / "x.npy", "shape" if array.size == 0 else str(array.dtype))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long double is double on this machine")
def test_long_doubles_convert_exactly_or_not_at_all(tmp_path: Path) -> None:
    one, eps = np.longdouble(1), np.finfo(np.longdouble).eps
    np.save(tmp_path / "x.npy", np.array([one, np.longdouble("nan")]))
    assert float(points(tmp_path / "x.npy").values[0, 0]) == 1
    for number in (one + eps, np.finfo(np.longdouble).max):
        np.save(tmp_path / "x.npy", np.array([number]))
        refused(tmp_path / "x.npy", "float64")


class Exploit:
    """Unpickling it would be noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, ("a pickle was loaded",)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickles_are_never_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Exploit()))
    refused(tmp_path / name, "pickle")


def test_object_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([Exploit()], dtype=object), allow_pickle=True)
    refused(tmp_path / "x.npy", "Python objects")
    np.savez(tmp_path / "x.npz", a=np.array([Exploit()], dtype=object), b=np.ones(3))
    refused(f"{tmp_path / 'x.npz'}:a", "Python objects")
    assert points(f"{tmp_path / 'x.npz'}:b").values.tolist() == [[1, 1, 1]]  # the other one is not touched


def test_an_npz_array_is_named_unless_it_is_the_only_one(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, only=np.ones((2, 3)))
    assert points(path).values.shape == points(f"{path}:only").values.shape == (2, 3)
    refused(f"{path}:other", "'other'", "only", error=InvalidRequest)
    refused(f"{path}:", "only", error=InvalidRequest)
    np.savez(path, a=np.ones((2, 3)), b=np.ones(4), **{"c:d.npz:e": np.ones(5)})  # type: ignore[arg-type]
    assert points(f"{path}:b").values.shape == (1, 4)
    assert points(f"{path}:c:d.npz:e").values.shape == (1, 5)
    refused(path, "a, b", "x.npz:a", error=InvalidRequest)


def test_a_file_whose_name_has_a_colon_is_itself(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz:y.npz", a=np.ones(3))
    assert points(tmp_path / "x.npz:y.npz").values.shape == (1, 3)


def test_an_npz_without_arrays_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w"):
        pass
    refused(tmp_path / "x.npz", "no array")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    refused(tmp_path / "x.npz", "no array")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_arrays_are_unreadable(tmp_path: Path, suffix: str, share: float) -> None:
    buffer = io.BytesIO()
    save: Any = np.save if suffix == ".npy" else np.savez_compressed
    save(buffer, np.random.default_rng(0).normal(size=1000))
    content = buffer.getvalue()
    (tmp_path / f"x{suffix}").write_bytes(content[: int(share * len(content))])
    refused(tmp_path / f"x{suffix}", "save")


def test_a_damaged_member_is_unreadable(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(1000))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[500:600] = bytes(100)
    (tmp_path / "x.npz").write_bytes(content)
    refused(tmp_path / "x.npz", "not a readable")


@pytest.mark.parametrize(("save", "name"), [(np.save, "x.npz"), (np.savez, "x.npy")])
def test_an_array_under_the_other_name_is_refused(tmp_path: Path, save: Any, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        save(file, np.ones(3))
    refused(tmp_path / name, "does not begin as")


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    header = repr({"descr": "<f8", "fortran_order": False, "shape": (2**55,)}).encode()
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(80))
    refused(tmp_path / "x.npy")


# Tables


@pytest.mark.parametrize(
    "header", ["", "age, income \n", '"age","income"\n', "\ufeffage,income\n", "\n\nage,income\n\n"]
)
def test_a_table_is_one_sample_a_row(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.csv").write_text(header + "1,-2.5\n\n 3e2 , .5\r\n+4.,0", encoding="utf-8")
    read = points(tmp_path / "x.csv")
    assert read.values.tolist() == [[1, -2.5], [300, 0.5], [4, 0]]
    assert not read.moved.any()
    assert read.names == (("age", "income") if header else None)


def test_one_column_and_one_row_are_tables_too(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1\n2\n")
    assert points(tmp_path / "x.csv").values.shape == (2, 1)
    (tmp_path / "x.csv").write_text("1,2")
    assert points(tmp_path / "x.csv").values.shape == (1, 2)


def test_nan_and_infinite_cells_are_left_to_the_region(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("nan,-inf,Infinity\n1,2,3")
    read = points(tmp_path / "x.csv")
    assert read.values.shape == (2, 3)
    assert read.values[0, 1:].tolist() == [-inf, inf]
    assert not read.moved.any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n \n", ["no sample"]),
        ("a,b\n", ["no sample"]),
        ("1,2\n3,x\n", ["row 2", "column 2", "'x'"]),
        ("a,2\n3,4\n", ["row 1", "column 1", "'a'"]),  # no header, half a header: a slip must not lose a sample
        ("a,b\n\n1,2\n3,\n", ["row 4", "column 2", "''"]),
        ("1,2\n,\n", ["row 2", "column 1", "''"]),
        (",\n1,2\n", ["row 1", "column 1", "''"]),
        ("1,2\n3\n", ["row 2", "1 cells", "row 1", "2"]),
        ("1,2\n" + ",".join("7" * 100000), ["row 2", "100000 cells", "row 1 has 2"]),
        ("a,b,c\n1,2\n", ["row 2", "2 cells", "the header has 3"]),
        ("1;2\n3;4\n", ["row 2", "'3;4'"]),
        ("1\n1_000", ["row 2", "'1_000'"]),
        ("1\n0x10", ["row 2", "'0x10'"]),
        ("1\n١", ["row 2", "column 1"]),
        ("1\n1e400", ["row 2", "1e400", "float64"]),
        ("1\n1e-99999999999999999999", ["row 2", "exponent"]),
        ("1\n" + "9" * 200000, ["row 2", "field larger"]),
        ("1\n" + "x" * 1000, ["row 2", "…"]),
        ('1,"2\n3,4', ["row", "unexpected end"]),
        ("1,2\n3,\0", ["row 2"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_malformed_tables_are_refused_by_row_and_column(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    refused(tmp_path / "x.csv", *words)


def decimals(seed: int) -> list[str]:
    """Decimal numbers: everyday ones, ends of the range, halves between float64s and a hair beside them."""
    rng = random.Random(seed)  # noqa: S311  (no secret)
    everyday = [f"{rng.uniform(-10, 10):.{rng.randrange(8)}f}" for _ in range(40)]
    wild = [
        f"{rng.choice('+-')}{rng.randrange(10**20)}.{rng.randrange(10**9)}e{rng.randrange(-330, 280)}"
        for _ in range(40)
    ]
    small = [
        "0",
        "-0",
        "5e-324",
        "2.4e-324",
        "-1e-400",
        "1e-999999",
        "2.2250738585072011e-308",
        "1.7976931348623157e308",
    ]
    half = Fraction(1) + Fraction(1, 2**53)
    digits = str(half.numerator * 10**53 // half.denominator)
    return [*everyday, *wild, *small, f"1.{digits[1:]}", f"1.{digits[1:]}0001", f"1.{digits[1:-1]}4"]


@pytest.mark.parametrize("seed", range(3))
def test_a_tables_numbers_are_within_what_they_moved(tmp_path: Path, seed: int) -> None:
    texts = decimals(seed)
    (tmp_path / "x.csv").write_text(",".join(texts))
    read = points(tmp_path / "x.csv")
    for text, value, moved in zip(texts, read.values[0].tolist(), read.moved[0].tolist(), strict=True):
        assert value == float(text)
        assert abs(exactly(value) - Fraction(text)) <= exactly(moved)
        assert (moved == 0) == (exactly(value) == Fraction(text))


# Images


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_images_are_their_pixels_over_255(tmp_path: Path, suffix: str, mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    if suffix == ".bmp" and mode == "LA":
        pytest.skip("no such bitmaps")
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    made = image.fromarray(colours).convert(mode)
    made.save(tmp_path / f"x{suffix}")
    grey = mode in ("1", "L", "LA")
    expected = np.array(made.convert("L" if grey else "RGB")).reshape(5, 7, -1).transpose(2, 0, 1)
    read = points(tmp_path / f"x{suffix}")
    assert read.values.shape == (1, 1 if grey else 3, 5, 7)
    assert read.values.dtype == torch.float64
    assert torch.equal(read.values[0] * 255, torch.from_numpy(expected.astype(np.float64)))


def test_every_grey_is_within_what_it_moved(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "x.png")
    read = points(tmp_path / "x.png")
    for grey, (value, moved) in enumerate(
        zip(read.values.flatten().tolist(), read.moved.flatten().tolist(), strict=True)
    ):
        assert value == grey / 255
        assert abs(exactly(value) - Fraction(grey, 255)) <= exactly(moved)
        assert (moved == 0) == (grey in (0, 255))


def test_photographs_are_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for mode, channels in (("L", 1), ("RGB", 3)):
        image.new(mode, (8, 6), 255 if mode == "L" else (255, 255, 255)).save(tmp_path / "x.jpg")
        assert torch.equal(points(tmp_path / "x.jpg").values, torch.ones(1, channels, 6, 8, dtype=torch.float64))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(colour: int, channels: int) -> bytes:
    """One pixel of 16 bits a channel, which Pillow cannot write in colour."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0)
    data = zlib.compress(b"\x00" + b"\x12\x34" * channels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path, colour: int, channels: int) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "x.png").write_bytes(deep_png(colour, channels))
    refused(tmp_path / "x.png", "16", "8-bit")


def test_transparency_and_print_colours_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGBA", (2, 2), (1, 2, 3, 254)).save(tmp_path / "x.png")
    refused(tmp_path / "x.png", "transparent")
    image.new("L", (2, 2), 7).save(tmp_path / "x.png", transparency=7)
    refused(tmp_path / "x.png", "transparent")
    image.new("CMYK", (2, 2)).save(tmp_path / "x.jpg")
    refused(tmp_path / "x.jpg", "CMYK")


def test_truncated_and_foreign_images_are_unreadable(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    noise = image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for suffix in (".png", ".jpg", ".bmp"):
        noise.save(tmp_path / f"x{suffix}")
        content = (tmp_path / f"x{suffix}").read_bytes()
        for share in (0.05, 0.5):
            (tmp_path / f"x{suffix}").write_bytes(content[: int(share * len(content))])
            refused(tmp_path / f"x{suffix}", "image")
    noise.save(tmp_path / "y.png", format="TIFF")
    refused(tmp_path / "y.png", "image")


def test_without_pillow_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(tmp_path / "x.png", "pip install Pillow", error=MissingDependency)


# VNN-LIB

HEAD = """; a property
(set-logic QF_LRA) (set-info :source "in (brackets), not read")
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-fun Y_0 () Real)
"""


def test_a_box_is_read_in_either_order_of_operands(tmp_path: Path) -> None:
    read = boxes(
        tmp_path / "x.vnnlib",
        HEAD
        + "(assert (<= X_0 0.5)) (assert (>= X_0 (- 0.25)))  ; a comment )\n"
        + "(assert (<= -1 X_1)) (assert (>= 2.5e1 X_1))\n(assert (and (<= X_0 7) (and (>= X_0 -3) (<= Y_0 3))))",
    )
    assert read.lower.tolist() == [[-0.25, -1]]
    assert read.upper.tolist() == [[0.5, 25]]
    assert read.values.tolist() == [[0.125, 12]]
    assert read.lower.dtype == read.upper.dtype == read.values.dtype == torch.float64


def test_bounds_not_given_are_infinite(tmp_path: Path) -> None:
    read = boxes(tmp_path / "x.vnnlib", HEAD + "(assert (<= X_1 2))")
    assert read.lower.tolist() == [[-inf, -inf]]
    assert read.upper.tolist() == [[inf, 2]]
    assert read.values.tolist() == [[0, 2]]  # points of the box


def test_scaled_bounds_are_divided_and_rounded_outwards(tmp_path: Path) -> None:
    read = boxes(
        tmp_path / "x.vnnlib",
        HEAD + "(assert (<= (* -1.0 X_0) 0.0)) (assert (<= (* 3 X_0) 1)) (assert (>= (+ (* 2 (- X_1)) 1 X_1) (- 2 5)))"
        "(assert (<= (- 1 (* 3.0 X_1)) (+ 0.5 0.5 X_1 2)))",
    )
    assert read.lower.tolist() == [[0, -0.5]]
    assert read.upper[0, 1] == 4
    high = float(read.upper[0, 0])
    assert nextafter(high, -inf) < Fraction(1, 3) <= exactly(high)
    assert exactly(nextafter(high, -inf)) < Fraction(1, 3)
    assert read.dropped == ()


def test_relations_of_inputs_are_left_out_and_told(tmp_path: Path) -> None:
    read = boxes(
        tmp_path / "x.vnnlib",
        HEAD + "(assert (<= X_0 X_1)) (assert (>= (+ X_0 (* 2 X_1)) 1)) (assert (<= X_0 5))"
        "(assert (or (and (<= X_0 X_1) (>= X_1 0)) (<= (- X_0 X_1 X_0) 2)))",
    )
    assert read.upper.tolist() == [[5, inf], [5, inf]]
    assert read.lower.tolist() == [[-inf, 0], [-inf, -2]]
    assert read.dropped == ("(<= X_0 X_1)", "(>= (+ X_0 (* 2 X_1)) 1)")


def test_a_disjunction_gives_one_box_an_option(tmp_path: Path) -> None:
    read = boxes(
        tmp_path / "x.vnnlib",
        HEAD + "(assert (>= X_0 0)) (assert (or (and (<= X_0 1) (<= X_1 2) (>= Y_0 1)) (<= X_0 3) (and (>= X_0 4))))"
        "(assert (<= X_1 9)) (assert (or (and (<= Y_0 1)) (and (>= Y_0 2))))",
    )
    assert read.lower.tolist() == [[0, -inf], [0, -inf], [4, -inf]]
    assert read.upper.tolist() == [[1, 2], [3, 9], [inf, 9]]
    assert read.values.shape == (3, 2)


def test_an_option_about_outputs_alone_leaves_the_whole_box(tmp_path: Path) -> None:
    read = boxes(tmp_path / "x.vnnlib", HEAD + "(assert (<= X_0 5)) (assert (or (<= X_0 1) (and (<= Y_0 1)) (and)))")
    assert read.upper.tolist() == [[1, inf], [5, inf], [5, inf]]


def test_constraints_on_outputs_are_ignored_whatever_they_are(tmp_path: Path) -> None:
    text = "(assert (not (=> (<= (+ Y_0 (* 2 Y_0)) 3) (or (< Y_0 1) (and)))))"
    assert boxes(tmp_path / "x.vnnlib", HEAD + text).upper.tolist() == [[inf, inf]]


@pytest.mark.parametrize("seed", range(3))
def test_the_box_contains_the_decimals_and_is_the_smallest_such(tmp_path: Path, seed: int) -> None:
    texts = [*decimals(seed), "1e400", "-1e400"]
    lines = [f"(declare-const X_{i} Real) (assert (<= X_{i} {t})) (assert (>= X_{i} {t}))" for i, t in enumerate(texts)]
    read = boxes(tmp_path / "x.vnnlib", "\n".join(lines))
    for text, low, high in zip(texts, read.lower[0].tolist(), read.upper[0].tolist(), strict=True):
        number = Fraction(text)
        assert low == -inf or exactly(low) <= number
        assert high == inf or number <= exactly(high)
        assert low == high if low == number else nextafter(low, inf) == high
    Box(read.lower, read.upper)


def test_a_huge_box_is_read(tmp_path: Path) -> None:
    count = 20000
    lines = [f"(declare-const X_{i} Real)\n(assert (<= X_{i} {i}.5))" for i in reversed(range(count))]
    read = boxes(tmp_path / "x.vnnlib", "\n".join(lines))
    assert torch.equal(read.upper[0], torch.arange(count, dtype=torch.float64) + 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(assert (<= X_0 1)", ["line 6", "1 parentheses", "never closed"]),
        ("\n(assert (<= X_0 1)))", ["line 7", "never opened"]),
        ('(set-info :source "open)', ["line 6", "quote"]),
        ("(assert (<= |X_0 1))", ["line 6", "quote"]),
        ("(" * 200000, ["line 6", "deeper"]),
        ("(assert " + "(- " * 200000 + "1" + ")" * 200001, ["line 6", "deeper"]),
        ("(assert (>= X_0 1)) (assert (<= X_0 0))", ["X_0", "at least 1", "at most 0", "empty"]),
        ("(assert (>= X_0 0.1000000000000000000001)) (assert (<= X_0 0.1))", ["X_0", "empty"]),  # one float64 between
        ("(assert (or (<= X_1 1) (and (<= X_1 0) (>= X_1 2))))", ["X_1", "empty"]),
        ("(assert (<= (* X_0 X_1) 1))", ["(<= (* X_0 X_1) 1)", "not linear"]),
        ("(assert (<= X_0 (+ X_0 1)))", ["(<= X_0 (+ X_0 1))", "cancel"]),
        ("(assert (<= (* 1e500 X_0) 1))", ["1e500", "scale"]),
        ("(assert (<= (* 2 X_0) -1)) (assert (<= (* -3 X_0) 1))", ["X_0", "-1/2", "-1/3", "empty"]),
        ("(assert (<= X_0 Y_0))", ["(<= X_0 Y_0)", "outputs"]),
        ("(assert (<= X_0 (/ 1 3)))", ["(<= X_0 (/ 1 3))"]),
        ("(assert (<= 0 X_0 1))", ["(<= 0 X_0 1)"]),
        ("(assert (< X_0 1))", ["(< X_0 1)"]),
        ("(assert (= X_0 1))", ["(= X_0 1)"]),
        ("(assert (not (<= X_0 1)))", ["(not (<= X_0 1))"]),
        ("(assert X_0)", ["X_0 is not a bound"]),
        ("(assert ((<= X_0 1)))", ["((<= X_0 1))"]),
        ("(assert (and (or (<= X_0 1) (>= X_0 2))))", ["(or (<= X_0 1) (>= X_0 2))"]),
        ("(assert (or (<= X_0 1) (or (<= X_1 1))))", ["(or (<= X_1 1))"]),
        ("(assert (or (<= X_0 1))) (assert (or (<= X_1 1)))", ["(or (<= X_1 1))", "second"]),
        ("(assert (<= X_2 1))", ["X_2", "declare"]),
        ("(assert (<= x_0 1))", ["x_0", "declare"]),
        ("(assert (or (<= X_0 1) (<= Z 1)))", ["Z", "declare"]),
        ("(assert (<= X_0 1e99999999999999999999))", ["1e999", "exponent"]),
        ("(assert (<= X_0 1.2.3))", ["1.2.3"]),
        ("(assert)", ["(assert)"]),
        ("(assert (<= X_0 1) (<= X_1 1))", ["(assert"]),
        ("(push 1)", ["(push 1)"]),
        ("()", ["()"]),
        ("stray", ["stray"]),
        ("(declare-const X_0 Real)", ["X_0", "twice"]),
        ("(declare-const X_3 Real)", ["X_2", "number them"]),
        ("(declare-const X_2 Int)", ["(declare-const X_2 Int)"]),
        ("(declare-const X_02 Real)", ["X_02", "X_0"]),
        ("(declare-const X_" + "9" * 10000 + " Real)", ["X_999", "…"]),
        ("(declare-const x Real)", ["x", "X_0"]),
        ("(vnnlib-version <2.0>)", ["(vnnlib-version <2.0>)", "VNN-LIB 1.0"]),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_malformed_properties_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "x.vnnlib").write_text(HEAD + text)
    refused(tmp_path / "x.vnnlib", *words)


@pytest.mark.parametrize("text", ["; nothing", "(declare-const Y_0 Real)"])
def test_a_property_without_inputs_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.vnnlib").write_text(text)
    refused(tmp_path / "x.vnnlib", "X_0")
