"""The images for training and measuring in the experiments: read from a name or file, checked, in one format."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from recurjac.errors import InvalidRequest, MissingDependency, UnreadableFile
from recurjac.experiments.idx import read_idx_folder
from recurjac.loading.messages import first_line
from recurjac.loading.weights import load_arrays

Array = np.ndarray[Any, Any]
KEYS = ("x_train", "y_train", "x_test", "y_test")
_OPENML = {"mnist": ("mnist_784", (28, 28), 60000), "cifar10": ("CIFAR_10", (3, 32, 32), 50000)}
"""For each name: the name of the data set at OpenML, the shape of an image, the number of training images."""
_MOST_CLASSES = 1000


@final
@dataclass(frozen=True)
class Images:
    """Labelled images for training and for testing.

    shape: of one image; x_*: (n, d) float32 in [0, 1], where d is the product of `shape`; y_*: (n,) int64 from 0 up;
    sha256: of the four arrays, to identify the data set.  Raises InvalidRequest for anything else.
    """

    name: str
    shape: tuple[int, ...]
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    sha256: str = field(default="", init=False)

    def __post_init__(self) -> None:
        d = int(np.prod(self.shape, dtype=np.int64))
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            where = f"{self.name}: x_{part}"
            if x.dtype != torch.float32 or x.shape[1:] != (d,) or len(x) == 0 or d == 0:
                raise InvalidRequest(
                    f"{where} is {x.dtype} of shape {tuple(x.shape)}; it must be float32 of shape (n, {d}), n > 0"
                )
            if not bool(((x >= 0) & (x <= 1)).all()):
                raise InvalidRequest(f"{where} has pixels outside [0, 1], or NaN; scale them")
            if y.dtype != torch.int64 or y.shape != x.shape[:1]:
                raise InvalidRequest(
                    f"{where} has {len(x)} images but y_{part} has shape {tuple(y.shape)}; give one label per image"
                )
            if int(y.min()) < 0 or int(y.max()) >= _MOST_CLASSES:
                raise InvalidRequest(
                    f"{self.name}: y_{part} has labels from {int(y.min())} to {int(y.max())}; "
                    f"they must be from 0 to at most {_MOST_CLASSES - 1}"
                )
        if int(self.y_test.max()) > int(self.y_train.max()):
            raise InvalidRequest(
                f"{self.name}: y_test has the label {int(self.y_test.max())}, but the training labels end at "
                f"{int(self.y_train.max())}; include every class in training"
            )
        object.__setattr__(self, "sha256", self._digest())

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return int(self.y_train.max()) + 1

    def _digest(self) -> str:
        digest = hashlib.sha256(repr(self.shape).encode())
        for key in KEYS:
            array = np.ascontiguousarray(getattr(self, key).numpy())
            digest.update(f"{key} {array.shape} {array.dtype.newbyteorder('<').str}".encode())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()


def read_images(source: str) -> Images:
    """The images that `source` names.

    "digits": scikit-learn's 1797 handwritten digits of 8×8 pixels, three quarters for training; "mnist", "cifar10":
    from OpenML, with the standard split; a .npz file of x_train, y_train, x_test, y_test; a folder with MNIST's four
    idx files, plain or .gz.  Integers are bytes and are divided by 255; other numbers must lie in [0, 1].
    Raises InvalidRequest for another source or for anything but labelled images, UnreadableFile for a file that is
    missing or damaged or data that cannot be fetched, MissingDependency if scikit-learn is needed but missing.
    """
    if source == "digits":
        return _digits()
    if source in _OPENML:
        return _fetched(source)
    path = Path(source)
    if path.is_dir():
        return _checked(path.resolve().name, read_idx_folder(path))
    if path.suffix.lower() == ".npz":
        return _checked(path.stem, load_arrays(path))
    if path.exists():
        raise InvalidRequest(
            f"{source}: images of type {path.suffix or '(none)'} are not read; give a .npz file or a folder of idx "
            "files"
        )
    raise UnreadableFile(f"there is no file or folder {source}; give one, or digits, {', '.join(_OPENML)}")


def _digits() -> Images:
    """The bundled digits with pixels in sixteenths, split with a fixed seed, stratified by class."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise _missing("digits") from error
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16.0, y, test_size=0.25, stratify=y, random_state=0)
    return _images("digits", (8, 8), (x_train, y_train, x_test, y_test))


def _fetched(source: str) -> Images:
    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        raise _missing(source) from error
    name, shape, count = _OPENML[source]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it tries again
            found = fetch_openml(name, version=1, as_frame=False, parser="liac-arff")
    except Exception as error:
        raise UnreadableFile(
            f"{source} could not be fetched from OpenML: {first_line(error)}; connect to the network, or give a .npz "
            "file or a folder of idx files"
        ) from error
    x, y = np.asarray(found.data), np.asarray(found.target).astype(np.int64)
    if x.ndim != 2 or x.shape[1] != np.prod(shape) or len(x) <= count:
        raise UnreadableFile(f"{source} came from OpenML with shape {x.shape}; give it as a .npz file instead")
    pixels = np.rint(x).astype(np.uint8) / 255
    return _images(source, shape, (pixels[:count], y[:count], pixels[count:], y[count:]))


def _missing(source: str) -> MissingDependency:
    return MissingDependency(f"{source} needs scikit-learn; install it with: pip install scikit-learn")


def _checked(name: str, arrays: Mapping[str, Array]) -> Images:
    """The images in four arrays from a file.  Raises InvalidRequest for invalid arrays."""
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise InvalidRequest(f"{name} has no {', '.join(missing)}; it needs {', '.join(KEYS)}")
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    for key in ("x_train", "x_test"):
        if arrays[key].ndim < 2 or arrays[key].size == 0:
            raise InvalidRequest(f"{name}: {key} has shape {arrays[key].shape}; it must be (n, …) with n > 0 images")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InvalidRequest(f"{name}: training images have shape {x_train.shape[1:]}, test images {x_test.shape[1:]}")
    parts = (_pixels(name, "x_train", x_train), _labels(name, "y_train", y_train),
             _pixels(name, "x_test", x_test), _labels(name, "y_test", y_test))  # fmt: skip
    return _images(name, tuple(x_train.shape[1:]), parts)


def _pixels(name: str, key: str, array: Array) -> Array:
    if array.dtype == np.uint8:
        return array / 255
    if array.dtype.kind != "f":
        raise InvalidRequest(f"{name}: {key} is of type {array.dtype}; give bytes (uint8), or floats in [0, 1]")
    if not ((array >= 0) & (array <= 1)).all():
        raise InvalidRequest(f"{name}: {key} has pixels outside [0, 1], or NaN; scale them")
    return array


def _labels(name: str, key: str, array: Array) -> Array:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InvalidRequest(f"{name}: {key} is {array.dtype} of shape {array.shape}; give integers of shape (n,)")
    return array.astype(np.int64)


def _images(name: str, shape: tuple[int, ...], parts: tuple[Array, Array, Array, Array]) -> Images:
    x_train, y_train, x_test, y_test = parts
    x = [torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)).reshape(len(a), -1) for a in (x_train, x_test)]
    y = [torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)) for a in (y_train, y_test)]
    return Images(name, shape, x[0], y[0], x[1], y[1])
