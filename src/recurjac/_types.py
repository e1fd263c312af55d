"""Shape aliases, checked by beartype under pytest only.

`batch` counts the samples, `covector` the outputs whose gradient is bounded, `tangent` the input directions; `*node`
is the shape of one stage of the network.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

Nodes = Float[Tensor, "batch *node"]
"""One number for each sample and neuron."""
Mask = Bool[Tensor, "batch *node"]
"""One truth value for each sample and neuron."""
Coefficients = Float[Tensor, "batch covector tangent *node"]
"""The coefficients of linear forms, one form for each sample, covector and tangent; the first two may be 1."""
Forms = Float[Tensor, "batch covector tangent"]
"""The value of each linear form."""
Covectors = Float[Tensor, "batch covector *node"]
"""One row for each sample and covector; the first may be 1."""

Shape = tuple[int, ...]
