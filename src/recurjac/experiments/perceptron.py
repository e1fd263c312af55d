"""The networks of the experiments during training: dense layers with one activation, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from recurjac.activations import AbstractActivation


@final
@dataclass(frozen=True)
class Perceptron:
    """x -> W_n σ(… σ(W_0 x + b_0) …) + b_n; W_i: (out, in), b_i: (out,)."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: AbstractActivation

    def logits(self, x: Tensor) -> Tensor:
        """The outputs (batch, out) of inputs (batch, in)."""
        for W, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = self.activation.value(torch.addmm(b, x, W.mT))
        return torch.addmm(self.biases[-1], x, self.weights[-1].mT)

    def parameters(self) -> list[Tensor]:
        """W_0, b_0, W_1, …: the tensors themselves."""
        return [t for pair in zip(self.weights, self.biases, strict=True) for t in pair]

    def detached(self) -> Perceptron:
        """The same numbers, detached from the gradient."""
        return replace(
            self,
            weights=tuple(W.detach() for W in self.weights),
            biases=tuple(b.detach() for b in self.biases),
        )

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The weights, with the names used in the library's .npz files."""
        names = [f"{kind}{i}" for i in range(len(self.weights)) for kind in "Wb"]
        return {name: t.detach().numpy() for name, t in zip(names, self.parameters(), strict=True)}


def initial(
    sizes: Sequence[int], activation: AbstractActivation, generator: torch.Generator, entry: float = 1.0
) -> Perceptron:
    """Random normal weights that preserve the mean square of the inputs of a layer (He et al. 2015, arXiv:1502.01852).

    For normal z, the mean square of σ(z) is a fraction of that of z.  For leaky-ReLU of slope s the fraction is
    (1 + s²) / 2, as in He et al.  The weights of the first layer are `entry` times as large.  Biases are 0.
    """
    kept = _mean_square(activation)
    weights = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        deviation = (n_in * kept) ** -0.5 if i else entry * n_in**-0.5
        weights.append((torch.randn(n_out, n_in, generator=generator) * deviation).requires_grad_())
    biases = tuple(torch.zeros(n, requires_grad=True) for n in sizes[1:])
    return Perceptron(tuple(weights), biases, activation)


def _mean_square(activation: AbstractActivation) -> float:
    """The mean of σ(z)² for normal z, by Gauss-Hermite quadrature; exact if σ is homogeneous."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(32)
    values = activation.value(torch.from_numpy(nodes).unsqueeze(0))
    return float((values.square() * torch.from_numpy(shares)).sum()) / float(shares.sum())
