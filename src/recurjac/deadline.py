"""Points in time until which work may go on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import final

from recurjac.errors import InvalidRequest


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


NEVER = Deadline(0.0, inf)
"""Time without an end."""


def shorter(seconds: float, limit: float) -> float:
    """The lesser of two numbers of seconds, but not 0, which would be no time at all."""
    return max(1e-6, min(seconds, limit))


def check_seconds(what: str, seconds: float) -> None:
    """Raise InvalidRequest unless this is a positive number of seconds; it may be infinite."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidRequest(f"{what}(seconds={seconds!r}) has no time; give a positive number of seconds")
