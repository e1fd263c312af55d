"""Reading weight lists: `[(W, b), …]` in memory, or `W0`, `b0`, … in a .npz file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.errors import InvalidNetwork, UnreadableFile
from recurjac.loading.arrays import Npz, open_npz
from recurjac.loading.messages import first_line
from recurjac.network import Network, chain
from recurjac.registry import concrete_classes
from recurjac.tensors import cast, fits_double

ActivationLike = str | AbstractActivation | Sequence[str | AbstractActivation]
"""One activation for all hidden layers, or one for each; the names are those of `activation_names`."""
_PARAMETERS = ("slope", "alpha", "beta", "exponent")
_OURS = re.compile(rf"[Wb](0|[1-9][0-9]{{0,5}})|activation|{'|'.join(_PARAMETERS)}")
"""The keys of a .npz file that define the network."""


def activation_names() -> dict[str, type[AbstractActivation]]:
    """Every activation that has a name, by that name; of several with one name, the last."""
    return {cls.name: cls for cls in _classes()}


def _classes() -> list[type[AbstractActivation]]:
    """Those that are functions of one argument, of which there are examples."""
    return [cls for cls in concrete_classes(AbstractActivation) if cls.examples()]  # type: ignore[type-abstract]


def activation_class(name: str) -> type[AbstractActivation]:
    """The activation of that name.  A class that is defined again replaces itself.

    Raises InvalidNetwork if there is none, or if it is the name of several different classes.
    """
    named = [cls for cls in _classes() if cls.name == name]
    if not named:
        known = ", ".join(sorted(activation_names()))
        raise InvalidNetwork(f"the activation {name!r} is not known; give one of {known}")
    places = sorted({f"{cls.__module__}.{cls.__qualname__}" for cls in named})
    if len(places) > 1:
        raise InvalidNetwork(f"several activations are named {name!r}: {', '.join(places)}; rename all but one of them")
    return named[-1]


def read_weights(
    weights: Sequence[tuple[Any, Any]],
    activation: ActivationLike | None,
    dtype: torch.dtype,
    parameters: Mapping[str, Any] | None = None,
) -> Network:
    """The chain of dense layers (W, b), where W has shape (out, in), and b has shape (out,) or is None.

    activation: one for all hidden layers, or one for each.
    parameters: `slope` of leaky_relu and prelu, `alpha` of elu, `beta` of softplus.
    Raises InvalidNetwork if the shapes do not fit or an activation is missing or unknown.
    """
    if not weights:
        raise InvalidNetwork("the list of weights is empty; a network needs at least one (W, b)")
    layers = [_layer(i, pair, dtype) for i, pair in enumerate(weights)]
    for i in range(1, len(layers)):
        if layers[i][0].shape[1] != layers[i - 1][0].shape[0]:
            raise InvalidNetwork(
                f"W{i} has {layers[i][0].shape[1]} columns but W{i - 1} has {layers[i - 1][0].shape[0]} rows; "
                "every W must be (out, in)"
            )
    activations = _activations(activation, len(layers) - 1, parameters or {}, dtype)
    for i, (made, (weight, _)) in enumerate(zip(activations, layers, strict=False)):
        _check_activation(made, i, weight.new_zeros(1, weight.shape[0]))
    return chain(layers, activations)


def _layer(i: int, pair: tuple[Any, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    try:
        weight, bias = pair
        w = as_numbers(weight)
        b = None if bias is None else as_numbers(bias).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidNetwork(
            f"layer {i} is not a pair (W, b) of arrays of numbers: {first_line(error)}; give real numbers"
        ) from error
    if w.is_complex() or (b is not None and b.is_complex()):
        raise InvalidNetwork(f"layer {i} holds complex numbers; give real numbers")
    if w.dim() != 2 or w.numel() == 0:
        raise InvalidNetwork(f"W{i} has shape {tuple(w.shape)}; it must be a matrix (out, in)")
    if b is not None and b.shape != (w.shape[0],):
        raise InvalidNetwork(f"b{i} has {b.numel()} numbers for the {w.shape[0]} rows of W{i}")
    return _cast(f"W{i}", w, dtype), None if b is None else _cast(f"b{i}", b, dtype)


def as_numbers(array: Any) -> Tensor:
    """A tensor itself, or a copy of anything else as a tensor; Python numbers become float64, unlike in PyTorch."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array, order="C"))


def _cast(what: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`.  Raises InvalidNetwork if `dtype` cannot represent one of its finite numbers exactly."""
    copy = cast(tensor, dtype, tensor.device)
    same = torch.equal(torch.nan_to_num(copy.detach().double()), torch.nan_to_num(tensor.detach().double()))
    if not fits_double(tensor) or not same:
        raise InvalidNetwork(f"{what} holds numbers that {dtype} cannot represent; bounds would be of another network")
    return copy


def _activations(
    activation: ActivationLike | None, count: int, parameters: Mapping[str, Any], dtype: torch.dtype
) -> list[AbstractActivation]:
    if count == 0:
        return []
    if activation is None:
        raise InvalidNetwork(
            f"the activation is not stated; give one of {', '.join(sorted(activation_names()))} "
            "(in the file's `activation`, or as `activation=`, `--activation`)"
        )
    single = isinstance(activation, str | AbstractActivation)
    given: list[str | AbstractActivation] = [activation] * count if single else list(activation)  # type: ignore[list-item,arg-type]
    if len(given) != count:
        raise InvalidNetwork(f"{len(given)} activations for {count} hidden layers; give one for all, or one for each")
    return [_activation(a, parameters, dtype) for a in given]


def _activation(
    activation: str | AbstractActivation, parameters: Mapping[str, Any], dtype: torch.dtype
) -> AbstractActivation:
    if isinstance(activation, AbstractActivation):
        return activation.to(dtype, torch.device("cpu"))
    named = activation_class(activation)
    try:
        return named.named(parameters).to(dtype, torch.device("cpu"))
    except InvalidNetwork:
        raise
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key} = {_short(value)}" for key, value in parameters.items())
        raise InvalidNetwork(f"the activation {activation} with {given} is invalid: {first_line(error)}") from error


def _check_activation(activation: AbstractActivation, layer: int, z: Tensor) -> None:
    """Raise InvalidNetwork unless `activation` has finite numbers and can be applied to z (1, neurons) of its layer."""
    for key, value in vars(activation).items():
        if isinstance(value, float) and not isfinite(value):
            raise InvalidNetwork(f"the activation {activation.name} has {key} = {value}; it must be finite")
    try:
        activation.value(z)
    except RuntimeError as error:
        raise InvalidNetwork(
            f"the activation {activation.name} of layer {layer} does not fit its {z.shape[1]} neurons: "
            f"{first_line(error)}"
        ) from error


def read_npz(path: Path, activation: ActivationLike | None, dtype: torch.dtype) -> Network:
    """The network in a .npz file: `W0`, `b0`, `W1`, …, `activation`, and optionally `slope`, `alpha`, `beta`.

    A missing bias is 0.  Other keys are ignored.  The argument `activation` is for files that do not contain one.
    Raises UnreadableFile if the file is missing or holds no `W0`, and InvalidNetwork like `read_weights`.
    """
    arrays = load_arrays(path)
    numbers = sorted(int(m[1]) for key in arrays if (m := _OURS.fullmatch(key)) and key.startswith("W"))
    if not numbers or numbers != list(range(len(numbers))):
        raise UnreadableFile(f"{path} is not a network: it needs arrays W0, W1, …, but holds {_some(list(arrays))}")
    weights = [(arrays[f"W{i}"], arrays.get(f"b{i}")) for i in numbers]
    if "activation" in arrays:
        stated = _stated(path, arrays["activation"])
        if activation is not None and activation != stated:
            raise InvalidNetwork(f"{path} states the activation {stated!r}, not {activation!r}; leave the other out")
        activation = stated
    parameters = {key: arrays[key] for key in _PARAMETERS if key in arrays}
    parameters = {key: value.reshape(()) if value.size == 1 else value for key, value in parameters.items()}
    return read_weights(weights, activation, dtype, parameters)


def _stated(path: Path, names: np.ndarray[Any, Any]) -> str | list[str]:
    """The name of the activation, or the names of all of them."""
    if names.ndim > 1:
        raise InvalidNetwork(f"{path}: the activation has shape {names.shape}; give one name, or one for each layer")
    try:
        words = names.astype(str)
    except ValueError as error:
        raise InvalidNetwork(f"{path}: the activation is not a name: {first_line(error)}; give a name") from error
    return str(words) if words.ndim == 0 else [str(n) for n in words]


def load_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a .npz file; Python objects that are not part of the network are skipped without loading them.

    Raises UnreadableFile if the file is missing, damaged or not a .npz file, or if an array of the network holds
    Python objects.
    """
    if not path.is_file():
        raise UnreadableFile(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise UnreadableFile(f"{path} does not begin as a .npz file; save the weights with numpy.savez")
        with open_npz(path) as archive:
            return dict(_members(archive))
    except UnreadableFile:
        raise
    except Exception as error:
        raise UnreadableFile(f"{path} is not a readable .npz file: {first_line(error)}; save it again") from error


def _members(archive: Npz) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for key in archive.keys:
        try:
            yield key, archive[key]
        except ValueError:  # an array of Python objects, or a damaged one
            if _OURS.fullmatch(key):
                raise


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "…"


def _some(keys: list[str]) -> str:
    return ", ".join(map(_short, keys[:6])) + (", …" if len(keys) > 6 else "") if keys else "nothing"
