"""Every exception that recurjac raises on purpose.

Each one is also the builtin exception a caller would expect, and each message names the thing, its value and the
remedy.  The command line prints the message alone and exits with code 2 for a wrong request, 1 for a failed run.
"""

from __future__ import annotations


class RecurJacError(Exception):
    """The base of every exception of this library."""


class InvalidRegion(RecurJacError, ValueError):
    """A region that is empty, not finite, negative, or of the wrong shape for the network."""


class InvalidNetwork(RecurJacError, ValueError):
    """A network whose description is incomplete or holds NaN or infinite numbers."""


class InvalidRequest(RecurJacError, ValueError):
    """A setting that does not exist: an unknown norm, method, class or pre-activation rule."""


def expect(value: object, kind: type | tuple[type, ...], what: str, remedy: str) -> None:
    """Raise InvalidRequest unless `value` is of `kind`."""
    if not isinstance(value, kind):
        raise InvalidRequest(f"{what} is a {type(value).__name__}; {remedy}")


def expect_whole(owner: str, **numbers: object) -> None:
    """Raise InvalidRequest unless each of the numbers is an int (True and False are none)."""
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidRequest(f"{name} of {owner} is {number!r}; give a whole number")


class UnreadableFile(RecurJacError, OSError):
    """A file that is missing or is not what it was given as."""


class UnsupportedLayer(RecurJacError, NotImplementedError):
    """An operation outside the normal form; the message names it, where it is, and what would work."""


class ConversionError(RecurJacError, RuntimeError):
    """The normal form and the original network disagree on a random input."""


class TrainingFailed(RecurJacError, ArithmeticError):
    """A network's weights did not stay finite while it was trained."""


class MissingDependency(RecurJacError, ImportError):
    """An optional extra is not installed; the message names the `pip install` that brings it."""


class UnsoundBounds(RecurJacError, ArithmeticError):
    """A lower bound above its upper bound: a bug, or a NaN, never a result."""
