"""The images of the experiments: every source gives the same form, and what is none is refused in one sentence."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recurjac.errors import InvalidRequest, MissingDependency, UnreadableFile
from recurjac.experiments.data import Images, read_images
from recurjac.experiments.idx import FILES
from tests.helpers import refused

Arrays = dict[str, np.ndarray[Any, Any]]


def arrays() -> Arrays:
    """Five images of 2 x 3 bytes to train on and two to test on, three classes."""
    g = np.random.default_rng(0)
    x = g.integers(0, 256, (7, 2, 3), dtype=np.uint8)
    x[0, 0] = (0, 255, 51)
    y = np.array([0, 1, 2, 0, 1, 2, 0], dtype=np.uint8)
    return {"x_train": x[:5], "y_train": y[:5], "x_test": x[5:], "y_test": y[5:]}


def same(found: Images, want: Arrays) -> None:
    assert found.shape == (2, 3)
    assert found.x_train.dtype == torch.float32
    assert found.y_test.dtype == torch.int64
    for part in ("train", "test"):
        pixels = torch.from_numpy(want[f"x_{part}"].reshape(-1, 6) / 255).float()
        assert torch.equal(getattr(found, f"x_{part}"), pixels)
        assert getattr(found, f"y_{part}").tolist() == want[f"y_{part}"].tolist()


def save(path: Path, **changes: Any) -> str:
    """The arrays with some of them changed, or left out where None."""
    changed = {**arrays(), **changes}
    np.savez(path, **{key: value for key, value in changed.items() if value is not None})
    return str(path)


def idx(array: np.ndarray[Any, Any]) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def save_idx(folder: Path, named: Callable[[str], str] = str) -> None:
    for key, array in arrays().items():
        name = named(FILES[key])
        content = gzip.compress(idx(array)) if name.endswith(".gz") else idx(array)
        (folder / name).write_bytes(content)


def test_bytes_of_a_npz_file_are_parts_of_255(tmp_path: Path) -> None:
    found = read_images(save(tmp_path / "tiny.npz", other=np.zeros(3)))
    same(found, arrays())
    assert found.name == "tiny"
    assert found.classes == 3
    assert found.x_train[0, :3].tolist() == [0, 1, pytest.approx(0.2)]


@pytest.mark.parametrize("named", [str, "{}.gz".format, lambda n: n.replace("-idx", ".idx")], ids=["", "gz", "dots"])
def test_idx_files_are_the_same_images(tmp_path: Path, named: Callable[[str], str]) -> None:
    (tmp_path / "folder").mkdir()
    save_idx(tmp_path / "folder", named)
    found = read_images(str(tmp_path / "folder"))
    same(found, arrays())
    assert found.sha256 == read_images(save(tmp_path / "a.npz")).sha256


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    floats = {key: arrays()[key] / 255 for key in ("x_train", "x_test")}
    found = read_images(save(tmp_path / "a.npz", **floats, y_test=np.array([2, 0], dtype=np.int64)))
    same(found, arrays())
    assert found.sha256 == read_images(save(tmp_path / "b.npz")).sha256


def test_the_digest_sees_every_array_and_the_shape(tmp_path: Path) -> None:
    want = arrays()
    last = {key: np.concatenate([a[:-1], 1 - a[-1:].clip(0, 1)]) for key, a in want.items()}
    changes: list[dict[str, Any]] = [{}, *({key: a} for key, a in last.items())]
    changes.append({key: want[key].reshape(-1, 3, 2) for key in ("x_train", "x_test")})
    digests = {read_images(save(tmp_path / f"{i}.npz", **change)).sha256 for i, change in enumerate(changes)}
    assert len(digests) == len(changes) == 6
    assert all(len(d) == 64 for d in digests)


def test_the_digits_are_split_once_and_for_all() -> None:
    found = read_images("digits")
    assert (found.shape, found.classes, len(found.y_train), len(found.y_test)) == ((8, 8), 10, 1347, 450)
    assert found.sha256 == read_images("digits").sha256
    assert torch.equal(found.x_train * 16, (found.x_train * 16).round())
    shares = [torch.bincount(y).double() / len(y) for y in (found.y_train, found.y_test)]
    assert float((shares[0] - shares[1]).abs().max()) < 0.005
    rows = {tuple(row) for row in found.x_train.tolist()}
    assert not [row for row in found.x_test.tolist() if tuple(row) in rows]


nan = np.where(np.arange(30).reshape(5, 6) == 7, np.nan, 0.5)
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "missing key": ({"y_test": None, "x_test": None}, ["has no x_test, y_test", "x_train"]),
    "lengths": ({"y_train": np.array([0, 1])}, ["x_train has 5 images", "(2,)"]),
    "empty": ({"x_test": np.zeros((0, 2, 3), np.uint8), "y_test": np.zeros(0, np.uint8)}, ["x_test", "(0, 2, 3)"]),
    "no pixels": ({"x_test": np.zeros((2, 0)), "x_train": np.zeros((5, 0))}, ["x_train", "(5, 0)"]),
    "NaN": ({"x_train": nan, "x_test": np.zeros((2, 6))}, ["x_train", "NaN"]),
    "infinite": ({"x_test": np.full((2, 2, 3), np.inf)}, ["x_test", "outside [0, 1]"]),
    "negative": ({"x_test": np.full((2, 2, 3), -0.1)}, ["x_test", "outside [0, 1]"]),
    "floats to 255": ({"x_train": arrays()["x_train"].astype(float)}, ["x_train", "outside [0, 1]", "scale"]),
    "other integers": ({"x_train": arrays()["x_train"].astype(np.int32)}, ["x_train", "int32", "uint8"]),
    "no axis of images": ({"x_train": np.zeros(5, np.uint8)}, ["x_train", "(5,)"]),
    "different images": ({"x_test": np.zeros((2, 3, 3), np.uint8)}, ["(2, 3)", "(3, 3)"]),
    "labels from -1": ({"y_train": np.array([0, 1, 2, -1, 1])}, ["y_train", "-1", "from 0"]),
    "labels past all classes": ({"y_train": np.array([0, 1, 2, 10**6, 1])}, ["y_train", "1000000"]),
    "labels not trained on": ({"y_test": np.array([3, 0])}, ["y_test has the label 3", "end at 2"]),
    "labels of floats": ({"y_test": np.array([0.0, 1.0])}, ["y_test", "float64"]),
    "one-hot labels": ({"y_test": np.eye(2, dtype=int)}, ["y_test", "(2, 2)"]),
    "words": ({"x_test": np.full((2, 2, 3), "a")}, ["x_test", "<U1"]),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, case: str) -> None:
    changes, words = BAD[case]
    refused(lambda: read_images(save(tmp_path / "a.npz", **changes)), InvalidRequest, words)


def test_images_made_in_memory_are_checked() -> None:
    good = torch.zeros(2, 6), torch.tensor([0, 1])
    Images("a", (2, 3), *good, *good)
    half, byte = (good[0].half(), good[1]), (good[0], good[1].byte())
    refused(lambda: Images("a", (2, 3), *half, *good), InvalidRequest, ["x_train", "float16"])
    refused(lambda: Images("a", (2, 3), *good, *byte), InvalidRequest, ["x_test", "y_test"])
    refused(lambda: Images("a", (2, 2), *good, *good), InvalidRequest, ["(2, 6)", "(n, 4)"])


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    refused(lambda: read_images(str(tmp_path / "a.npz")), UnreadableFile, ["there is no file"])
    refused(lambda: read_images("emnist"), UnreadableFile, ["emnist", "digits", "mnist, cifar10"])
    (tmp_path / "a.npz").write_bytes(b"PK not at all")
    refused(lambda: read_images(str(tmp_path / "a.npz")), UnreadableFile, ["a.npz"])
    (tmp_path / "a.csv").write_text("1,2")
    refused(lambda: read_images(str(tmp_path / "a.csv")), InvalidRequest, [".csv", ".npz"])
    pickled = np.array([{}], dtype=object)
    found = save(tmp_path / "b.npz", x_train=pickled)
    refused(lambda: read_images(found), InvalidRequest, ["has no x_train"])


def damage_of(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"", "short": content[:6], "cut": content[:-1], "long": content + b"\0",
        "floats": content[:2] + b"\x0d" + content[3:], "no axes": b"\0\0\x08\0", "text": b"<html>not found</html>",
        "huge": b"\0\0\x08\x03" + b"\xff" * 12,
    }  # fmt: skip


@pytest.mark.parametrize("damage", damage_of(b""))
def test_damaged_idx_files_are_refused(tmp_path: Path, damage: str) -> None:
    save_idx(tmp_path)
    name = FILES["x_test"]
    (tmp_path / name).write_bytes(damage_of((tmp_path / name).read_bytes())[damage])
    refused(lambda: read_images(str(tmp_path)), UnreadableFile, [name, "fetch it again"])


def test_damaged_or_missing_compressed_files_are_refused(tmp_path: Path) -> None:
    save_idx(tmp_path, "{}.gz".format)
    path = tmp_path / (FILES["y_train"] + ".gz")
    whole = path.read_bytes()
    for content in (b"", b"not gzip", whole[:-9], whole[:12] + b"\xff\xff" + whole[14:]):
        path.write_bytes(content)
        refused(lambda: read_images(str(tmp_path)), UnreadableFile, [FILES["y_train"]])
    path.unlink()
    refused(lambda: read_images(str(tmp_path)), UnreadableFile, ["holds no", FILES["y_train"]])


@pytest.mark.parametrize("source", ["digits", "mnist", "cifar10"])
def test_scikit_learn_is_asked_for_by_name(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refused(lambda: read_images(source), MissingDependency, [source, "pip install scikit-learn"])


def test_without_a_network_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)
    refused(lambda: read_images("mnist"), UnreadableFile, ["mnist could not be fetched", "connect", ".npz"])
