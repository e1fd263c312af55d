"""The names that the parsers list.

The library has them in its classes, whose import takes seconds; a test compares them.
"""

from __future__ import annotations

JACOBIAN_METHODS = (
    "auto", "centred", "chords", "clamped", "fastlip", "gradient-forms", "one-pass", "recurjac", "recurjac-f0",
    "recurjac-f1", "tangents", "xlinear",
)  # fmt: skip
NORM_METHODS = (
    "auto", "branched", "centred", "chords", "clamped", "corners", "coupled", "exact", "fastlip", "gradient-forms",
    "linear-network", "one-pass", "product", "quadratic", "recurjac", "recurjac-f0", "recurjac-f1", "split",
    "tangents", "turned", "xlinear",
)  # fmt: skip
RULES = ("auto", "crown", "dual", "fastlin", "forward", "half-spaces", "ibp", "secants")
"""The rules for pre-activations."""
PROOFS = ("branched", "integral", "margin", "secants")
"""The proofs of a certified radius."""
TARGETS = ("runner-up", "random", "least-likely", "all")
"""The classes to win against that have names."""
