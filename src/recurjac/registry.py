"""The registry of readers of foreign operations: decorators that connect an operation to its reader.

The readers of an operator or an activation are next to its class.  The code in `loading/` looks them up here and refers
to no layer by name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape


@runtime_checkable
class Expression(Protocol):
    """An affine function of earlier stages, as readers use it (`loading.expression.Expression`).

    A batch axis is an ordinary axis with one entry.
    """

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def apply(self, operator: Any) -> Any: ...
    def broadcast(self, shape: Shape) -> Any: ...
    def plus(self, other: Any) -> Any: ...
    def shift(self, constant: Tensor) -> Any: ...
    def times(self, other: Any) -> Any: ...
    def constant(self, tensor: Tensor) -> Any: ...
    def activate(self, activation: Any) -> Any: ...


@final
@dataclass(frozen=True)
class Unread:
    """A placeholder for a result of a foreign operation that is not read; operations that use it are refused."""

    what: str


Reader = Callable[..., Any]
"""A function that takes the arguments of the foreign operation, with an `Expression` for each tensor that depends on
the input, and returns an Expression or a list of them.  If the arguments are not supported, it raises UnsupportedLayer
or ValueError, whose message is quoted."""

_F = TypeVar("_F", bound=Reader)
_T = TypeVar("_T")


@final
@dataclass(frozen=True)
class Registry:
    """The readers of one foreign language, by the names of its operations."""

    language: str
    readers: dict[str, Reader]

    def reads(self, *names: str) -> Callable[[_F], _F]:
        """Register the decorated function for the operations `names`."""

        def register(reader: _F) -> _F:
            for name in names:
                if name in self.readers:
                    raise ValueError(f"{self.language} operation {name} has two readers")
                self.readers[name] = reader
            return reader

        return register


torch_ops = Registry("torch", {})
"""The readers of ATen operators by name, such as `aten.relu.default`."""
onnx_ops = Registry("ONNX", {})
"""The readers of ONNX operators by type, such as `Relu`.

Inputs are positional arguments, attributes are keyword arguments, and absent inputs are None."""


def import_all(package: ModuleType) -> None:
    """Import every module of `package`, so that its readers are registered."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def concrete_classes(base: type[_T]) -> list[type[_T]]:
    """Every class below `base` that can be instantiated, in the order of definition."""
    found: list[type[_T]] = []
    for cls in base.__subclasses__():
        if not inspect.isabstract(cls):
            found.append(cls)
        found.extend(c for c in concrete_classes(cls) if c not in found)
    return found
