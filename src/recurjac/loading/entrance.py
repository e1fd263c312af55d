"""What is stated of a graph's inputs: which of them are fixed at which values, and the sizes of axes of open size."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from recurjac._types import Shape
from recurjac.errors import InvalidNetwork, InvalidRequest, UnsupportedLayer, expect
from recurjac.loading.messages import first_line

Array = np.ndarray[Any, Any]


@final
@dataclass(frozen=True)
class Entrance:
    """The one input that bounds are about is the one that is not fixed.

    shape: that of an example input (batch, *input), from which axes of open size get their sizes; None if there is
    none.  fixed: the values of all other inputs by name; a single number stands for a tensor full of it.
    """

    shape: Shape | None = None
    fixed: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, example: Any, fixed: Any) -> Entrance:
        """Raises InvalidRequest unless `fixed` maps names to arrays of finite numbers."""
        if fixed is not None:
            expect(fixed, Mapping, "fixed_inputs", "give a map from names to values, such as {'state': 0.0}")
        return cls(_shape_of(example), {str(name): _numbers(str(name), value) for name, value in (fixed or {}).items()})

    def refused_by(self, what: str) -> None:
        """Raise InvalidRequest if an input is fixed of something that has only one."""
        if self.fixed:
            raise InvalidRequest(f"{what}: inputs are fixed of modules and .onnx files; leave fixed_inputs out")

    def free(self, names: Sequence[str], whose: str, likely: Sequence[str] = ()) -> str:
        """The name of the input that is not fixed.

        likely: those of `names` that bounds can be about.  Raises InvalidRequest for a name that does not exist,
        UnsupportedLayer unless one input is left.
        """
        shown = ", ".join(repr(n) for n in names[:6])
        for name in self.fixed:
            if name not in names:
                raise InvalidRequest(f"{whose} has no input {name!r} to fix; it has the inputs {shown or 'none'}")
        left = [n for n in names if n not in self.fixed]
        if len(left) == 1:
            return left[0]
        if not left:
            what = f"every input of {whose} is fixed ({shown}); leave one free" if names else f"{whose} has no inputs"
            raise UnsupportedLayer(what)
        others = [n for n in left if n != (likely or left)[0]]
        raise UnsupportedLayer(
            f"{whose} has {len(names)} inputs ({shown}), and bounds are about one of them; fix the others at numbers "
            f"or arrays: --fix-inputs {' '.join(f'{n}=0' for n in others)}, or NAME=FILE.npy (in Python, "
            f"fixed_inputs={{{', '.join(f'{n!r}: 0.0' for n in others)}}})"
        )

    def sizes(self, name: str, declared: Sequence[int | None]) -> list[int | None]:
        """The sizes of an input's axes after the batch axis; None where no example states one of open size.

        declared: None for an axis of open size.  Raises InvalidNetwork if the example does not fit those that are
        declared.
        """
        if None not in declared or self.shape is None:
            return list(declared)
        example = self.shape[-len(declared) :] if len(self.shape) in (len(declared), len(declared) + 1) else ()
        if len(example) != len(declared) or any(n not in (None, e) for n, e in zip(declared, example, strict=True)):
            open_ = ", ".join("?" if n is None else str(n) for n in declared)
            raise InvalidNetwork(
                f"the input {name!r} has shape ({open_}), but the example has shape {self.shape}; give one that fits"
            )
        return list(example)

    def value(self, name: str, declared: Sequence[int | None] | None, whole: bool) -> Array:
        """The value of a fixed input in float64, or of whole numbers in int64.

        declared: the sizes of its axes, None for one of open size, which is 1 where a number is spread; None if it has
        no shape.  Raises InvalidRequest if the value does not fit.
        """
        array = self.fixed[name]
        if declared is not None and array.ndim == 0:
            array = np.full([1 if n is None else n for n in declared], array)
        if declared is not None and not _fits(array.shape, declared):
            open_ = ", ".join("?" if n is None else str(n) for n in declared)
            raise InvalidRequest(f"the input {name!r} has shape ({open_}); its fixed value has shape {array.shape}")
        with np.errstate(invalid="ignore"):  # a number beyond int64, which then differs
            kept = array.astype(np.int64 if whole else np.float64)
        if not np.array_equal(array, kept):
            raise InvalidRequest(
                f"the input {name!r} holds {'whole ' * whole}numbers of 64 bits; fix it at such numbers"
            )
        return kept

    def fixing(self, module: nn.Module) -> nn.Module:
        """The module as a function of its free input; the module itself if it has only that one.

        Names are those of the parameters of `forward`; a single number is passed as it is, an array as a tensor.
        Raises InvalidRequest for a name that does not exist, or for numbers that the module's dtype cannot represent,
        and UnsupportedLayer unless one input is left.
        """
        named = [p for p in _parameters(module) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        inputs = [p.name for p in named if p.default is p.empty or p.name in self.fixed]
        if not self.fixed and len(inputs) <= 1:
            return module
        free = self.free(inputs, "the module")
        return _Fixing(module, free, {name: _tensor(name, array, module) for name, array in self.fixed.items()})


@final
class _Fixing(nn.Module):
    """A module whose inputs have fixed values, except one."""

    def __init__(self, module: nn.Module, free: str, fixed: Mapping[str, Tensor | float]) -> None:
        super().__init__()
        self.module, self._free = module, free
        self._numbers = {name: v for name, v in fixed.items() if not isinstance(v, Tensor)}
        tensors = {name: v for name, v in fixed.items() if isinstance(v, Tensor)}
        self._buffers_of = {name: f"fixed_{k}" for k, name in enumerate(tensors)}
        for name, tensor in tensors.items():
            self.register_buffer(self._buffers_of[name], tensor)

    def forward(self, x: Tensor) -> Any:
        tensors = {name: getattr(self, held) for name, held in self._buffers_of.items()}
        return self.module(**{self._free: x}, **tensors, **self._numbers)


def _parameters(module: nn.Module) -> Sequence[inspect.Parameter]:
    """Those of `forward`; none if Python does not know them, as of a traced module."""
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _shape_of(example: Any) -> Shape | None:
    """None if there is no example, or none that is an array; of a module, that is refused where it is traced."""
    try:
        return None if example is None else tuple(torch.as_tensor(example).shape)
    except (TypeError, ValueError, RuntimeError):
        return None


def _tensor(name: str, array: Array, module: nn.Module) -> Tensor | float:
    """A fixed value as the module reads it: a number, or a tensor in the dtype of the module's parameters."""
    if array.ndim == 0:
        number: float = array.item()
        return number
    given = torch.from_numpy(np.array(array))
    some = next((p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), None)
    if some is None or not given.is_floating_point():
        return given if some is None else given.to(some.device)
    held = given.to(some)
    if not torch.equal(held.double().cpu(), given.double()):
        raise InvalidRequest(
            f"the value of the input {name!r} holds numbers that {some.dtype} cannot represent, in which the module "
            "computes; give them in that dtype"
        )
    return held


def _numbers(name: str, value: Any) -> Array:
    """A fixed value as an array of finite numbers."""
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"the value of the input {name!r} is no array of numbers: {first_line(error)}") from error
    if array.dtype.kind not in "fiub" or not bool(np.isfinite(array).all()):
        raise InvalidRequest(f"the value of the input {name!r} is not finite, or no number; give finite numbers")
    return array


def _fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    return len(shape) == len(declared) and all(n in (None, m) for n, m in zip(declared, shape, strict=True))
