"""PyTorch's operations without narrowing: conversions between float32 and float64 change nothing in real arithmetic."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_BEYOND = {torch.ops.aten.softplus.default: 2, torch.ops.aten.softplus_backward.default: 3}
"""The place of the threshold among the arguments."""
_LEAST, _NOTHING = 20, 40
"""The least threshold that is read, and one beyond which a softplus is its argument to the precision of float64."""
_NARROW = (torch.float32, torch.float64)


def called(operation: Any, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
    """The result of an operation of ATen in which no floating-point tensor is of a narrower type than `dtype`.

    An operation on floating-point tensors that names float32 or float64 as its type computes in `dtype` or wider.
    Operations that change an argument are called as they are.  A softplus is that of real arithmetic: PyTorch leaves it
    out beyond a threshold, where it jumps by less than a rounding error of float32.
    """
    if operation in _BEYOND and len(args) > _BEYOND[operation]:
        at = _BEYOND[operation]
        args = (*args[:at], max(args[at], _NOTHING), *args[at + 1 :]) if args[at] >= _LEAST else args
    if operation._schema.is_mutable:
        return operation(*args, **kwargs)
    if any(isinstance(a, Tensor) and a.is_floating_point() for a in tree_leaves((args, kwargs))):
        args, kwargs = tree_map(_Widened(dtype, True), (args, kwargs))
    return tree_map(_Widened(dtype, False), operation(*args, **kwargs))


@final
class _Widened:
    """A map that widens floating-point tensors, and the names of their types if `names`."""

    def __init__(self, dtype: torch.dtype, names: bool) -> None:
        self._dtype, self._names = dtype, names

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(torch.promote_types(value.dtype, self._dtype))
        named = self._names and isinstance(value, torch.dtype) and value in _NARROW
        return torch.promote_types(value, self._dtype) if named else value


@final
class InFloat64(TorchDispatchMode):
    """A context in which operations compute in float64, also where they name float32."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return called(func, args, kwargs or {}, torch.float64)


@final
class WithEps(TorchFunctionMode):
    """A context in which RMS normalisations without an eps use that of `dtype`, in whatever they compute."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._eps = torch.finfo(dtype).eps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func in (torch.rms_norm, torch.nn.functional.rms_norm):
            given = named.pop("eps", None) if len(args) < 4 else args[3]
            return func(*args[:3], **named, eps=self._eps if given is None else given)
        return func(*args, **named)
