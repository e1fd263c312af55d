"""Reading networks into the normal form; every network that is read is checked against the original."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from recurjac._types import Shape
from recurjac.arithmetic import supported_dtype
from recurjac.errors import ConversionError, InvalidNetwork, InvalidRequest, UnreadableFile, expect_whole
from recurjac.loading.entrance import Entrance
from recurjac.loading.estimators import Estimator, Fitted
from recurjac.loading.foreign import about_file, about_object
from recurjac.loading.known import check_known
from recurjac.loading.loop_step import Step
from recurjac.loading.messages import first_line
from recurjac.loading.onnx_file import read_onnx
from recurjac.loading.pt2 import Pt2File, read_pt2
from recurjac.loading.torch_export import Traced, trace
from recurjac.loading.wanted import Wanted
from recurjac.loading.weights import (
    ActivationLike,
    activation_names,
    as_numbers,
    load_arrays,
    read_npz,
    read_weights,
)
from recurjac.network import Network

__all__ = ["READABLE", "Followed", "Source", "activation_names", "closed_loop", "follow", "load", "load_arrays"]

Source = str | Path | nn.Module | list[tuple[Any, Any]] | tuple[tuple[Any, Any], ...] | Network | Estimator
READABLE = (str, Path, nn.Module, list, tuple, Estimator)
"""The kinds of what `load` reads, other than networks that are read already."""
Reference = Callable[[Tensor], Tensor]


def load(
    source: Source,
    example: Any = None,
    *,
    activation: ActivationLike | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    output_name: str | None = None,
    cut_at: str | None = None,
    fixed_inputs: Mapping[str, Any] | None = None,
) -> Network:
    """The network in normal form, checked against the original on random inputs in float64 (1e-9 relative).

    source: a .npz weight list (`W0`, `b0`, …, `activation`), an .onnx file, or a .pt2 file of `torch.export.save`;
    "package.module:factory", where the factory is a function that returns a module; an `nn.Module`; [(W, b), …] with an
    `activation`; or a fitted perceptron or linear model of scikit-learn, alone or after scalers in a `Pipeline`: its
    network returns logits if it classifies.  Modules are read in eval mode.  In the module's own dtype, the network
    shares its parameters: it follows a training step, and bounds are differentiable with respect to them.  In another
    dtype, it keeps a copy of their values, and bounds have no gradients.  The same holds for the tensors W and b.
    example: an input (batch, *input) of the module, or one vector; of an .onnx file, it states the sizes of axes of
    open size.
    dtype: the dtype of the bounds, float64 or float32; it must represent the weights exactly.
    device: the device for computations; the default is the device of the weights.
    output_name: which output of a graph with several; a module's are numbered from 0, or have the keys of its dict.
    cut_at: a node whose first result is the output: by its name, in ONNX also by that of the tensor that it computes.
    fixed_inputs: the values of all inputs but one, of a module or an .onnx file with several: arrays by the names of
    the inputs, or numbers, which fill tensors of the declared shape.  Bounds are about the remaining input.
    Raises UnreadableFile, InvalidNetwork, UnsupportedLayer (naming the layer), InvalidRequest for names that do not
    exist, or ConversionError if the check fails.
    """
    supported_dtype(dtype)
    _check_device(device)
    entrance = Entrance.of(example, fixed_inputs)
    wanted = Wanted(None if output_name is None else str(output_name), cut_at)
    if isinstance(source, str | Path):
        return _load_path(str(source), example, activation, dtype, device, wanted, entrance)
    if isinstance(source, nn.Module):
        return _checked(_trace(entrance.fixing(source), example, wanted), dtype, device)
    wanted.refused_by(f"a {type(source).__name__}")
    entrance.refused_by(f"a {type(source).__name__}")
    if isinstance(source, Network):
        return source.to(dtype, device)
    if isinstance(source, Estimator):
        return _load_estimator(source).to(dtype, device)
    if not isinstance(source, list | tuple):
        raise InvalidNetwork(about_object(source))
    wide = read_weights(source, activation, torch.float64)
    _check(wide, _layers(source, wide))
    narrow = wide.to(dtype, device)
    return narrow if dtype == torch.float64 else read_weights(source, activation, dtype).to(narrow.device)


def _load_estimator(estimator: Estimator) -> Network:
    fitted = Fitted.of(estimator)
    network = fitted.network()
    for x in _random_inputs(network.input_shape).split(1):
        _agree(*fitted.compared(network, x))
    return network


@final
@dataclass(frozen=True)
class Followed:
    """A module that was traced once, and the network that was read then."""

    traced: Traced
    found: Network

    def network(self) -> Network:
        """The network with the module's current weights and gradients with respect to its parameters.

        It is the one that was found, unless the module computes weights in each call, or replaced a parameter: then the
        graph is read again.  Raises InvalidNetwork for weights that are NaN or infinite.
        """
        if all(w.follows and not w.changed for w in self.found.copied):
            return self.found
        return self.traced.network(self.found.dtype)


def follow(module: nn.Module, example: Any) -> Followed:
    """The module, traced and checked as by `load`, in its own dtype.

    Raises what `load` raises, and InvalidNetwork for a parameter in another dtype than the widest one, as the network
    would hold a copy of it.
    """
    traced = _trace(module, example, Wanted.all())
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype != traced.dtype:
            raise InvalidNetwork(
                f"the parameter {name} is {parameter.dtype}, so that bounds in {traced.dtype} have no gradients with "
                f"respect to it; convert the module: module.to({traced.dtype})"
            )
    return Followed(traced, _checked(traced, traced.dtype, None))


def closed_loop(
    dynamics: Callable[[Tensor, Tensor], Tensor],
    policy: Callable[[Tensor], Tensor],
    steps: int,
    example: Any,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Network:
    """The network that takes the state x_0 to x_steps, where x_{t+1} = dynamics(x_t, policy(x_t)).

    dynamics, policy: modules, or functions of tensors; the state has the shape (batch, *state), and so has dynamics'
    result.  example: a state (batch, *state), or one vector.  One step is traced and applied `steps` times.
    dtype, device, weights and errors as in `load`; the check compares x_steps with the original.
    Raises InvalidRequest unless `steps` is a positive whole number.
    """
    supported_dtype(dtype)
    _check_device(device)
    expect_whole("closed_loop", steps=steps)
    if steps < 1:
        raise InvalidRequest(f"a closed loop of {steps} steps; give 1 or more")
    for what, function in (("the dynamics", dynamics), ("the policy", policy)):
        if isinstance(function, Network) or not callable(function):
            raise InvalidRequest(f"{what} is a {type(function).__name__}; give an nn.Module or a function of tensors")
    step = Step(dynamics, policy)
    try:
        return _checked(replace(_trace(step, example, Wanted.all()), steps=steps), dtype, device)
    except InvalidNetwork as error:
        if (wrong := step.failure(example)) is None:
            raise
        raise InvalidNetwork(wrong) from error


def _load_path(
    path: str, example: Any, activation: ActivationLike | None, dtype: torch.dtype, device: torch.device | str | None,
    wanted: Wanted, entrance: Entrance,
) -> Network:  # fmt: skip
    if ":" in path and not Path(path).exists():
        return _checked(_trace(entrance.fixing(_make_module(path)), example, wanted), dtype, device)
    if not Path(path).is_file():
        raise UnreadableFile(f"there is no file {path}; give a .npz, .onnx or .pt2 file, or package.module:factory")
    if Path(path).suffix == ".onnx":
        file = read_onnx(Path(path), wanted, entrance)
        network = file.network()
        _check(network, file.evaluate)
        return network.to(dtype, device)
    entrance.refused_by(path)
    if Path(path).suffix == ".pt2":
        return _checked(read_pt2(Path(path), wanted), dtype, device)
    if Path(path).suffix != ".npz":
        raise InvalidRequest(about_file(path, Path(path).suffix.lower()))
    wanted.refused_by(path)
    wide = read_npz(Path(path), activation, torch.float64)
    arrays = load_arrays(Path(path))
    layers = [(arrays[f"W{i}"], arrays.get(f"b{i}")) for i in range(wide.depth)]
    _check(wide, _layers(layers, wide))
    return wide.to(dtype, device)


def _make_module(name: str) -> nn.Module:
    package, _, factory = name.rpartition(":")
    try:
        make = getattr(importlib.import_module(package), factory)
    except Exception as error:  # importing runs any code
        raise UnreadableFile(f"{name}: there is no such function: {first_line(error)}") from error
    try:
        module = make()
    except Exception as error:
        raise InvalidNetwork(
            f"{name} failed: {first_line(error)}; it must be a function without arguments that returns a module"
        ) from error
    if not isinstance(module, nn.Module):
        raise InvalidNetwork(f"{name} returned a {type(module).__name__}, not a torch.nn.Module")
    return module


def _trace(module: nn.Module, example: Any, wanted: Wanted) -> Traced:
    if example is None:
        raise InvalidNetwork(
            "an nn.Module needs an example input of shape (batch, *input): load(module, example), or --input-shape"
        )
    try:
        tensor = torch.as_tensor(example)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidNetwork(f"the example input is not an array of numbers: {first_line(error)}") from error
    if tensor.dim() == 0 or tensor.numel() == 0:
        raise InvalidNetwork(f"the example input has shape {tuple(tensor.shape)}; it needs a batch dimension")
    # a single input without a batch dimension: only a vector can be distinguished from a batch
    return trace(module, tensor.unsqueeze(0) if tensor.dim() == 1 else tensor, wanted)


def _check_device(device: torch.device | str | None) -> None:
    """Raise InvalidRequest unless numbers can be stored on `device` and read back."""
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:  # PyTorch raises AssertionError if it was built without CUDA
        raise InvalidRequest(f"the device {str(device)!r} cannot be used: {first_line(error)}") from error


def _checked(traced: Traced | Pt2File, dtype: torch.dtype, device: torch.device | str | None) -> Network:
    """The network in `dtype`; in the module's own dtype and on its own device, it shares the module's parameters.

    It is compared with the original first.
    """
    _check(traced.network(torch.float64), traced.evaluate, max(_SMALL, traced.cancelling))
    narrower = torch.promote_types(traced.dtype, dtype) != dtype
    with torch.enable_grad():  # views of parameters that are made without could not be read after these have changed
        network = traced.network(traced.dtype if narrower else dtype)
    same_place = device is None or torch.device(device) == traced.device
    return network if same_place and not narrower else network.to(dtype, device)


def _layers(weights: Sequence[tuple[Any, Any]], network: Network) -> Reference:
    """The plain evaluation W σ(… W x + b …) + b, independent of the normal form."""

    def evaluate(x: Tensor) -> Tensor:
        h = x
        for i, (weight, bias) in enumerate(weights):
            h = h @ as_numbers(weight).detach().double().T.to(x.device)
            h = h if bias is None else h + as_numbers(bias).detach().double().reshape(-1).to(x.device)
            h = network.stages[i].activation.value(h)
        return h

    return evaluate


_SMALL = 1e-5
"""Outputs that are smaller than others by this factor are compared to it: there, an original may lose digits.

The logarithm of 1 + exp(-20) has eight of sixteen, which its normal form, a softplus, keeps.
"""


def _check(network: Network, reference: Reference, floor: float = _SMALL) -> None:
    """Raise ConversionError unless network and reference agree to 1e-9 of the largest output on random inputs.

    Of a network with functions that are not finite everywhere, inputs count on which its outputs are finite.
    floor: the share of the median of the sizes of outputs that is the least to which they are compared.
    """
    held, limited = sum(network.sizes), any(s.activation.limited for s in network.stages)
    inputs = _random_inputs(network.input_shape)
    inputs = torch.cat([inputs, 0.5 + inputs[:5] / 2, 0.1 * inputs[5:10]]) if limited else inputs
    lots = inputs.split(max(1, _AT_ONCE // held))
    found = sum(_compare(network, reference, x.to(network.device), limited, floor) for x in lots)
    if not found and held <= _FEW:
        more = torch.randn(500, *network.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = _compare(network, reference, more.to(network.device), limited, floor)
    if not found:
        raise InvalidNetwork(
            "the network is not finite on any of many inputs of ordinary size, so that what was read cannot "
            "be compared with it; shift and scale its input so that inputs near 0 or 1 are in its domain"
        )


_FEW = 2**12
"""The maximum number of entries of all stages of a network that is evaluated at many inputs to find finite outputs."""
_AT_ONCE = 2**23
"""The maximum number of entries of all stages that are evaluated at a time; it is at least one input."""


def _compare(network: Network, reference: Reference, x: Tensor, limited: bool, floor: float) -> int:
    """On how many inputs network and reference agree; of a `limited` network, only those with finite outputs count."""
    with torch.no_grad():
        theirs = reference(x).double()  # first, because its error explains what is wrong with the original
        nodes = network.nodes(x)
        check_known(network, nodes)
        ours = nodes[-1]
    if limited and ours.shape == theirs.shape:
        finite = theirs.isfinite().reshape(len(x), -1).all(1)
        ours, theirs = ours[finite], theirs[finite]
        if not len(theirs):
            return 0
    _agree(ours, theirs, floor)
    return len(theirs)


def _agree(ours: Tensor, theirs: Tensor, floor: float = _SMALL) -> None:
    """Raise ConversionError unless both agree to 1e-9 of the largest entry, for each input; floor as in `_check`."""
    if ours.shape != theirs.shape:
        raise ConversionError(
            f"the normal form returns shape {tuple(ours.shape)}, the original {tuple(theirs.shape)}; {_REMEDY}"
        )
    if not bool(theirs.isfinite().all()):
        raise InvalidNetwork("the network overflows float64 on inputs of ordinary size; its weights are too large")
    size = theirs.abs().reshape(len(theirs), -1).amax(1)
    scale = torch.maximum(size, floor * size.median()).clamp(min=torch.finfo(torch.float64).tiny)
    gap = (ours - theirs).abs().reshape(len(theirs), -1).amax(1) / scale
    if not bool((gap <= 1e-9).all()):
        raise ConversionError(
            f"the normal form and the original differ by {float(gap.max()):.2g} relative on a random input (at most "
            f"1e-9 is allowed); {_REMEDY}"
        )


_REMEDY = "unless the module is random or depends on the size of the batch, please report this with the network"


def _random_inputs(shape: Shape) -> Tensor:
    """Random inputs of three scales: uniform in [0, 1], normal, and ten times normal; five of each, one if large."""
    generator, count = torch.Generator().manual_seed(0), 5 if prod(shape) <= 2**16 else 1
    normal = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    uniform = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    return torch.cat([uniform, normal, 10 * normal])
