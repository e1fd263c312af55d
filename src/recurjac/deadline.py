"""Points in time until which work may go on, and a way to give up work at such a point."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, final

import torch
from torch.overrides import TorchFunctionMode

from recurjac.errors import InvalidRequest, OutOfTime


@final
@dataclass(frozen=True)
class Deadline:
    """The time from `began` to `end`, in seconds on the clock of `time.monotonic`."""

    began: float
    end: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """From now on for a number of seconds, which may be infinite."""
        now = time.monotonic()
        return cls(now, now + seconds)

    @property
    def left(self) -> float:
        """The number of seconds that are left, not below 0."""
        return max(0.0, self.end - time.monotonic())

    @property
    def spent(self) -> float:
        """The number of seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    @property
    def share(self) -> float:
        """The share of the time that has passed, from 0 to 1; 0 without an end."""
        if self.end == inf:
            return 0.0
        return min(1.0, self.spent / max(self.end - self.began, 1e-9))

    def part(self, share: float) -> Deadline:
        """From now on for a share of what is left."""
        now = time.monotonic()
        return Deadline(now, now + share * max(0.0, self.end - now))


@final
@dataclass
class Budget:
    """Seconds that a number of questions share: each gets an equal part of what those before it have left."""

    deadline: Deadline
    questions: int

    @classmethod
    def of(cls, seconds: float, questions: int) -> Budget:
        """From now on for a number of seconds, which may be infinite."""
        return cls(Deadline.after(seconds), questions)

    def share(self, count: int = 1) -> float:
        """The seconds for the next questions, so many of those that are left; a little if nothing is left."""
        part = min(1.0, count / max(1, self.questions))
        self.questions -= count
        return max(_LEAST, part * self.deadline.left)


_LEAST = 1e-3
"""The seconds for a question after the end of the time, in which only its quickest bound is found."""

NEVER = Deadline(0.0, inf)
"""Time without an end."""


def shorter(seconds: float, limit: float) -> float:
    """The lesser of two numbers of seconds, but not 0, which would be no time at all."""
    return max(1e-6, min(seconds, limit))


def check_seconds(what: str, seconds: float, name: str = "seconds") -> None:
    """Raise InvalidRequest unless this is a positive number of seconds; it may be infinite."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidRequest(f"{what}({name}={seconds!r}) has no time; give a positive number of seconds")


def check_time_limit(seconds: float | None, **others: object) -> None:
    """Raise InvalidRequest unless the limit of a call is positive, and nothing is given that has a limit of its own.

    seconds: None if there is no limit.  others: such arguments of the call, by name; None if they are left out.
    """
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidRequest(f"time_limit={seconds!r} is not a positive number of seconds; give one, or leave it out")
    for name, value in others.items():
        if value is not None:
            raise InvalidRequest(
                f"time_limit={seconds!r} is for the defaults, but {name}={value!r} is given; leave one of the two out: "
                "an object that takes a time has a setting for it"
            )


_SETTING = torch._C._set_grad_enabled
"""Raising an exception here would leave the setting as it is in the block."""


@final
class _Watch(TorchFunctionMode):
    """Looks at the clock before every operation, except where a block such as `torch.no_grad()` begins or ends."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self.deadline = deadline

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # (PyTorch passes it)
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not _SETTING and self.deadline.over:
            raise OutOfTime("the time is over")
        return func(*args, **(kwargs or {}))


@contextmanager
def until(deadline: Deadline) -> Iterator[None]:
    """Raise OutOfTime at the first operation on tensors after the deadline, wherever it is, in this thread.

    What is begun and not finished must be dropped; objects made before keep what they had.  Looking at the clock takes
    about as long as an operation on a few numbers, so this is for work that consists of larger ones.
    """
    if deadline.end == inf:
        yield
        return
    with _Watch(deadline):
        yield
