"""The ways in which a check can end without `valid`."""

from flint import arb


class Invalid(Exception):
    """The certificate does not prove what it claims, or is malformed."""


class OutOfScope(Exception):
    """The network has something that the checker does not know."""


class Unreadable(Exception):
    """A file cannot be read."""


def missed(what: str, claimed: arb, proved: arb) -> Invalid:
    """What is claimed, what the witness proves, and the difference."""
    gap = abs(proved - claimed).upper()
    return Invalid(
        f"{what}: claimed {float(claimed.mid()):.17g}, proved {float(proved.mid()):.17g} (off by {float(gap):.3g})"
    )
