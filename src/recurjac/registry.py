"""How foreign operations become ours: the decorators that a class uses to name the operations it reads.

An operator or an activation states beside its definition which foreign operations it stands for; the readers in
`loading/` look them up here and know no layer by name.
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
    """An affine function of earlier stages, as a reader sees it (`loading.expression.Expression`).

    A batch axis is an axis like any other, of one entry.
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
    def constant(self, tensor: Tensor) -> Any: ...
    def activate(self, activation: Any) -> Any: ...


@final
@dataclass(frozen=True)
class Unread:
    """Stands for a result of a foreign operation that is not read; whatever uses it is refused."""

    what: str


Reader = Callable[..., Any]
"""Takes the arguments of the foreign operation, tensors that depend on the input as `Expression`s, and returns an
Expression or a list of them.  Raises UnsupportedLayer or ValueError (its message is quoted) if it cannot."""

_F = TypeVar("_F", bound=Reader)
_T = TypeVar("_T")


@final
@dataclass(frozen=True)
class Registry:
    """The readers of one foreign language, by the name of the operation."""

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
"""ATen operators by their name, such as `aten.relu.default`."""
onnx_ops = Registry("ONNX", {})
"""ONNX operators by their type, such as `Relu`: inputs are positional, attributes keywords, absent inputs None."""


def import_all(package: ModuleType) -> None:
    """Import every module of `package`, so that what its classes register is there."""
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
