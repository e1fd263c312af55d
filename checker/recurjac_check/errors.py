"""The ways in which a check can end without `valid`."""

from flint import arb


class Invalid(Exception):
    """The certificate does not prove what it claims, or is malformed."""


class Empty(Invalid):
    """Proved ranges of pre-activations are disjoint: the leaf has no inputs."""


class OutOfScope(Exception):
    """The network has something that the checker does not know."""


class Unreadable(Exception):
    """A file cannot be read."""


def missed(what: str, claimed: arb, proved: arb) -> Invalid:
    """What is claimed, what the witness proves, and the difference."""
    return Invalid(
        f"{what}: claimed {float(claimed):.17g}, proved {float(proved):.17g} (by {float(abs(proved - claimed)):.3g})"
    )
