"""Objects that are named on the command line, by their own names or as package.module:object."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from recurjac import public as _public  # noqa: F401  (it has every class)
from recurjac.auto import Auto, Progress
from recurjac.branching import Branched
from recurjac.errors import InvalidRequest
from recurjac.jacobian import AbstractJacobianMethod, AutoEntries, QuadraticClamped
from recurjac.loading.messages import first_line
from recurjac.norms import AbstractNormMethod, QuadraticNorm, as_norm_method
from recurjac.preactivation import AbstractPreactivation, AutoRanges
from recurjac.registry import concrete_classes

_T = TypeVar("_T")


def by_name(base: type[_T]) -> Mapping[str, _T]:
    """The objects of subclasses of `base` that have a name on the command line."""
    names: dict[str, _T] = {}
    for cls in concrete_classes(base):
        names.update(cls.command_names())  # type: ignore[attr-defined]  # (every such base has them)
    return names


def jacobian_methods() -> Mapping[str, AbstractJacobianMethod]:
    return by_name(AbstractJacobianMethod)  # type: ignore[type-abstract]


def norm_methods() -> Mapping[str, AbstractNormMethod]:
    """Every method that bounds norms, including Jacobian methods, which are used through the entries."""
    entries = {name: as_norm_method(method) for name, method in jacobian_methods().items()}
    return {**entries, **by_name(AbstractNormMethod)}  # type: ignore[type-abstract]


def rules() -> Mapping[str, AbstractPreactivation]:
    return by_name(AbstractPreactivation)  # type: ignore[type-abstract]


def jacobian_method(name: str | None) -> AbstractJacobianMethod | None:
    """The method that `--method` names; None stands for the default.  Raises InvalidRequest if there is none."""
    if name is None:
        return None
    return _found("--method", name, jacobian_methods(), AbstractJacobianMethod)  # type: ignore[type-abstract]


def norm_method(name: str) -> AbstractNormMethod:
    """The norm method that `--method` names, or a Jacobian method through its entries."""
    if ":" not in name:
        return _found("--method", name, norm_methods(), AbstractNormMethod)  # type: ignore[type-abstract]
    found: Any = _imported("--method", name, (AbstractJacobianMethod, AbstractNormMethod))
    return as_norm_method(found)


def timed(name: str | None, seconds: float | None) -> AbstractNormMethod:
    """The norm method that `--method` names, within `--time-limit`; None stands for the defaults, `auto` and 10 s.

    Raises InvalidRequest if there is no such method, or a limit for one that does not search.
    """
    method = Auto() if name is None else norm_method(name)
    if seconds is None:
        return method
    if isinstance(method, Branched):
        return replace(method, limit=replace(method.limit, seconds=seconds))
    if isinstance(method, Auto | QuadraticNorm):
        return replace(method, seconds=seconds)
    raise InvalidRequest(f"--time-limit: {name} does not search, so that it has no limit; leave the option out")


def timed_entries(name: str | None, seconds: float | None) -> AbstractJacobianMethod:
    """The Jacobian method that `--method` names, within `--time-limit`; None stands for `auto` and 10 s.

    Raises InvalidRequest if there is no such method, or a limit for one that works in one pass.
    """
    method = jacobian_method("auto" if name is None else name) or AutoEntries()
    if seconds is None:
        return method
    if isinstance(method, AutoEntries | QuadraticClamped):
        return replace(method, seconds=seconds)
    raise InvalidRequest(f"--time-limit: {name} works in one pass, so that it has no limit; leave the option out")


def reporting(method: AbstractNormMethod, report: Callable[[Progress], None]) -> AbstractNormMethod:
    """The same method; if it is `Auto`, `report` is called after each step."""
    return replace(method, progress=report) if isinstance(method, Auto) else method


def rule(name: str) -> AbstractPreactivation:
    """The rule that `--pre` names.  Raises InvalidRequest if there is none."""
    return _found("--pre", name, rules(), AbstractPreactivation)  # type: ignore[type-abstract]


_BALLS = 40
"""About the number of balls on which a search for a radius bounds something."""


def for_ball(method: AbstractNormMethod) -> AbstractNormMethod:
    """The method for one of the many balls of a search; `auto` then takes its seconds for all of them together."""
    return method.within(method.seconds / _BALLS) if isinstance(method, Auto) else method


def rule_for_ball(name: str) -> AbstractPreactivation:
    """The rule that `--pre` names, likewise."""
    found = rule(name)
    return found.within(found.seconds / _BALLS) if isinstance(found, AutoRanges) else found


def _found(option: str, name: str, known: Mapping[str, _T], base: type[_T]) -> _T:
    if name in known:
        return known[name]
    if ":" in name:
        made: _T = _imported(option, name, (base,))
        return made
    raise InvalidRequest(f"{option} {name!r} is not known; use {', '.join(sorted(known))}, or package.module:object")


def _imported(option: str, name: str, bases: tuple[type, ...]) -> Any:
    """The object package.module:object, or an object of that class; the current directory is searched too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    package, _, attribute = name.rpartition(":")
    try:
        found = getattr(importlib.import_module(package), attribute)
        made = found() if isinstance(found, type) else found
    except Exception as error:  # importing and calling run any code
        raise InvalidRequest(f"{option} {name}: there is no such object: {first_line(error)}") from error
    if not isinstance(made, bases):
        kinds = " or ".join(b.__name__ for b in bases)
        raise InvalidRequest(f"{option} {name} is a {type(made).__name__}; it must be an object of {kinds}")
    return made
