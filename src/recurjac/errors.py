"""All exceptions that recurjac raises on purpose.

Each is also the builtin exception that a caller would expect.  Each message names the object, its value and a remedy.
The command line prints only the message and exits with code 2 for an invalid request, 1 for a failed run.
"""

from __future__ import annotations

from typing import Any


class RecurJacError(Exception):
    """The base class of all exceptions of this library."""


class InvalidRegion(RecurJacError, ValueError):
    """A region that is empty, not finite, negative, or has the wrong shape for the network."""


class InvalidNetwork(RecurJacError, ValueError):
    """A network whose description is incomplete or contains NaN or infinite numbers."""


class InvalidRequest(RecurJacError, ValueError):
    """A setting that does not exist: an unknown norm, method, class or pre-activation rule."""


def expect(value: object, kind: type | tuple[type, ...], what: str, remedy: str) -> None:
    """Raise InvalidRequest unless `value` is of `kind`."""
    if not isinstance(value, kind):
        raise InvalidRequest(f"{what} is a {type(value).__name__}; {remedy}")


def expect_whole(owner: str, **numbers: object) -> None:
    """Raise InvalidRequest unless each of the numbers is an int (True and False do not count)."""
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidRequest(f"{name} of {owner} is {number!r}; give a whole number")


def expect_counts(owner: str, **numbers: Any) -> None:
    """Raise InvalidRequest unless each of the numbers is an int, and not negative."""
    expect_whole(owner, **numbers)
    for name, number in numbers.items():
        if number < 0:
            raise InvalidRequest(f"{name} of {owner} is {number}; give 0 or more")


def expect_amounts(owner: str, **numbers: Any) -> None:
    """Raise InvalidRequest unless each of the numbers is an int or a float, and not negative; it may be infinite."""
    for name, number in numbers.items():
        if not isinstance(number, int | float) or isinstance(number, bool) or not number >= 0:
            raise InvalidRequest(f"{name} of {owner} is {number!r}; give a number that is 0 or more")


def expect_shares(owner: str, **numbers: Any) -> None:
    """Raise InvalidRequest unless each of the numbers is an int or a float from 0 to 1."""
    expect_amounts(owner, **numbers)
    for name, number in numbers.items():
        if number > 1:
            raise InvalidRequest(f"{name} of {owner} is {number!r}; give a number from 0 to 1")


class UnreadableFile(RecurJacError, OSError):
    """A file that is missing, damaged, or not of the expected kind."""


class UnsupportedLayer(RecurJacError, NotImplementedError):
    """An operation outside the normal form; the message names it, its place, and an alternative."""


class ConversionError(RecurJacError, RuntimeError):
    """The normal form and the original network disagree on a random input."""


class TrainingFailed(RecurJacError, ArithmeticError):
    """The weights of a network did not stay finite during training."""


class MissingDependency(RecurJacError, ImportError):
    """An optional extra is not installed; the message names the `pip install` command for it."""


class OutOfTime(RecurJacError, TimeoutError):
    """A computation was given up at its deadline; what was known before is still valid."""


class UnsoundBounds(RecurJacError, ArithmeticError):
    """A lower bound above its upper bound, or NaN; this indicates a bug and is never a result."""
