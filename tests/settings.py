"""Objects with settings: all classes of methods and what they are asked with, and wrong numbers for each of them.

Run as a program, in which types are not checked for the tests, it prints what is wrong: nothing, if nothing is.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import nan
from typing import Any

import torch

import recurjac as rj
from recurjac import extend

BASES = (
    extend.AbstractArithmetic, extend.AbstractBrancher, extend.AbstractJacobianMethod, extend.AbstractNormMethod,
    extend.AbstractPlanner, extend.AbstractPreactivation, extend.AbstractRadiusProof, extend.AbstractRowSum,
    extend.AbstractStep,
)  # fmt: skip
"""The classes of methods; what a user asks for has settings, too, and all of them have defaults."""
NEEDED: dict[str, Any] = {
    "AbstractJacobianMethod": rj.Chords(), "AbstractNodewise": rj.Chords(), "AbstractNormMethod": rj.JacobianNorm(),
    "AbstractPreactivation": rj.IBP(), "BoundsRows": rj.JacobianNorm(), "bool": False, "float": 1.0, "int": 1,
}  # fmt: skip
"""Something for each kind of a setting without a default."""
BAD = ("3", None, [1], nan, -1, True, 1j, torch.tensor(2.5))
WRONG: dict[str, tuple[Any, ...]] = {
    "float": BAD,
    "int": (*BAD, 2.5, torch.tensor(3)),
    "int | None": (*(b for b in BAD if b is not None), 2.5, torch.tensor(3)),
    "tuple[float, ...]": tuple((1.0, bad) for bad in BAD),
}
"""Wrong values of each kind of numbers."""


def _below(base: type) -> Iterator[type]:
    children: list[type] = base.__subclasses__()
    for child in children:
        yield child
        yield from _below(child)


def _is_asked(kind: type) -> bool:
    """Whether this is a public class of settings, all of which have defaults."""
    if not dataclasses.is_dataclass(kind) or issubclass(kind, extend.NormBound | extend.RadiusFacts):
        return False
    fields = [f for f in dataclasses.fields(kind) if f.init]
    default = dataclasses.MISSING
    return bool(fields) and all(f.default is not default or f.default_factory is not default for f in fields)


def classes() -> dict[str, type]:
    """Those of the package that have settings, by their names."""
    public = [getattr(module, name) for module in (rj, extend) for name in module.__all__]
    found = [kind for kind in public if inspect.isclass(kind) and _is_asked(kind)]
    found += [kind for base in BASES for kind in _below(base) if dataclasses.is_dataclass(kind)]
    own = [kind for kind in found if kind.__module__.startswith("recurjac.") and not inspect.isabstract(kind)]
    return {kind.__name__: kind for kind in own if not kind.__name__.startswith("_")}


def numbers(kind: type) -> Iterator[tuple[str, str]]:
    """Names and types of the settings that are numbers."""
    for field in dataclasses.fields(kind):
        if field.init and field.type in WRONG:
            yield field.name, str(field.type)


def name_of(kind: str, setting: str) -> str:
    return f"{kind}.{setting}"


def wrong(kind: type, setting: str, type_: str) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """What makes objects of a class with wrong values of a setting; a seed may be negative."""
    parameters = list(inspect.signature(kind).parameters.values())
    many = [NEEDED[p.annotation] for p in parameters if p.kind is p.VAR_POSITIONAL]
    needed = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    given = {p.name: NEEDED[p.annotation] for p in needed if p.name != setting}
    for value in WRONG[type_]:
        if setting != "seed" or value != -1:
            yield value, partial(kind, *many, **given, **{setting: value})


def main() -> None:
    """Print each class with each setting, and those wrong values for which there is no refusal of the usual kind."""
    for name, kind in classes().items():
        for setting, type_ in numbers(kind):
            faults = []
            for value, make in wrong(kind, setting, type_):
                try:
                    faults.append(f"{value!r} gives {make()!r}")
                except rj.InvalidRequest as refusal:
                    if "\n" in str(refusal):
                        faults.append(f"{value!r} has more than one line: {refusal}")
                except Exception as error:  # (any other one is what is sought)
                    faults.append(f"{value!r} raises {error!r}")
            sys.stdout.write(" | ".join([name_of(name, setting), *faults]) + "\n")


if __name__ == "__main__":
    main()
