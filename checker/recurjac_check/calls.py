"""A node while it is read, and the table of readers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flint import arb

from recurjac_check.errors import OutOfScope
from recurjac_check.tensors import array, broadcastable, is_constant, tensor


@dataclass(frozen=True)
class Call:
    """A node: its kind, its inputs (None where one is left out) and attributes, and how many outputs it has."""

    graph: Any
    kind: str
    inputs: list[Any]
    attributes: dict[str, Any]
    same: bool
    outputs: int

    @property
    def x(self) -> Any:
        """The first input."""
        return self.inputs[0]

    def input(self, i: int) -> Any:
        """The i-th input, or None."""
        return self.inputs[i] if i < len(self.inputs) else None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def only(self, **expected: Any) -> None:
        """Raise OutOfScope where an attribute has another value than this one."""
        for name, value in expected.items():
            if self.get(name, value) not in (value, str(value).encode()):
                raise OutOfScope(f"{name} = {str(self.attributes[name])[:40]}")

    def integers(self, name: str, i: int) -> Any:
        """A list of integers, which newer files have as an input and older ones as an attribute, or None."""
        given = self.input(i)
        values = self.get(name) if given is None else list(given.flat)
        if values is not None and not (all(isinstance(v, int) for v in values) and (given is None or given.ndim == 1)):
            raise OutOfScope(f"{name} is not known")
        return values

    def plus(self, a: Any, b: Any, sign: int = 1) -> Any:
        """a + b or a - b."""
        broadcastable(a, b)
        return tensor(a + b if sign > 0 else a - b)

    def axis(self, a: int, n: int) -> int:
        """An axis of n, counted from the first one. Raises OutOfScope."""
        if not -n <= a < n:
            raise OutOfScope("an axis that does not exist")
        return a % n

    def activate(self, x: Any, function: Any) -> Any:
        """A stage of the same shape; constants are enclosed."""
        if is_constant(x):
            ends = [arb(e) for e in x.flat]
            low, high = function.image([e.lower() for e in ends], [e.upper() for e in ends])
            return array([l if l == u else l.union(u) for l, u in zip(low, high, strict=True)], x.shape)
        return array(self.graph.activate(self.kind, list(x.flat), function), x.shape)


READERS: dict[str, Callable[[Call], Any]] = {}


def reads(*names: str) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register a reader for these operations."""

    def register(f: Callable[[Call], Any]) -> Callable[[Call], Any]:
        READERS.update(dict.fromkeys(names, f))
        return f

    return register


def number(x: Any) -> arb:
    """The only entry of a constant."""
    if x.size != 1 or not is_constant(x):
        raise OutOfScope("a parameter that is not one number")
    return arb(x.flat[0])
