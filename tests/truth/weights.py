"""Random weights on which rounding shows: of all sizes, with rows that cancel, repeat or vanish."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

KINDS = ("ordinary",) * 6 + ("positive", "integers", "sparse", "powers", "uneven")
LARGE = (1e3, 1e8, 2.0**30, 1e15)
"""Numbers that are added and taken away again."""


@dataclass(frozen=True)
class Character:
    """How the weights of one network are drawn.

    kind: one of `KINDS`.  scales: powers of ten that multiply the layers, in turns.  structure: what happens to rows.
    large: a number that biases add, and that the next layer takes away; 0 for none.
    """

    kind: str
    scales: tuple[float, ...]
    structure: str
    large: float

    @classmethod
    def drawn(cls, draw: random.Random, tame: bool) -> Character:
        """tame: only scales of about 1, without large numbers."""
        kind = draw.choice(KINDS)
        structure = draw.choice(("plain",) * 5 + ("opposite", "duplicate", "zero", "cancelling"))
        scales: tuple[float, ...] = (1.0,)
        if not tame and draw.random() < 0.35:
            size = 10 ** draw.uniform(-30, 30)
            scales = draw.choice(((size,), (size, 1 / size), (1.0, size), (1 / size, 1.0, size)))
        large = draw.choice(LARGE) if not tame and draw.random() < 0.15 else 0.0
        return cls(kind, scales, structure, large)


class Weights:
    """A source of matrices and vectors of one character, in a dtype."""

    def __init__(self, character: Character, seed: int, dtype: torch.dtype) -> None:
        self.character, self.dtype = character, dtype
        self.g = torch.Generator().manual_seed(seed)
        self.draw = random.Random(seed)  # noqa: S311  (reproducible test data)
        self.layer = 0

    def matrix(self, out: int, inn: int) -> Tensor:
        """A matrix (out, in) of the next layer."""
        scale = self.character.scales[self.layer % len(self.character.scales)]
        self.layer += 1
        found = self.numbers(out, inn) / max(inn, 1) ** 0.5
        return self._cast(self._structured(found) * scale)

    def vector(self, n: int, size: float = 0.5) -> Tensor:
        """A vector of biases, some of which are 0."""
        found = size * self.numbers(n)
        if self.draw.random() < 0.15:
            found = torch.zeros_like(found)
        return self._cast(found)

    def numbers(self, *shape: int) -> Tensor:
        """Numbers of the kind."""
        normal = torch.randn(shape, generator=self.g, dtype=torch.float64)
        kind = self.character.kind
        if kind == "positive":
            return normal.abs()
        if kind == "integers":
            return (2 * normal).round()
        if kind == "sparse":
            return torch.where(torch.rand(shape, generator=self.g, dtype=torch.float64) < 0.5, 0.0, normal)
        if kind == "powers":
            return torch.sign(normal) * 2.0 ** torch.randint(-2, 3, shape, generator=self.g).double()
        if kind == "uneven":
            return normal * 10 ** (12 * torch.rand(shape, generator=self.g, dtype=torch.float64) - 8)
        return normal

    def _structured(self, matrix: Tensor) -> Tensor:
        """Rows that are equal or opposite to others, or 0; columns that nearly cancel each other."""
        matrix, structure = matrix.clone(), self.character.structure
        if structure in ("opposite", "duplicate"):
            for row, other in pairwise(matrix):
                if self.draw.random() < 0.6:
                    other.copy_(-row if structure == "opposite" else row)
        elif structure == "zero" and len(matrix):
            matrix[self.draw.randrange(len(matrix))] = 0.0
        elif structure == "cancelling" and matrix.shape[1] > 1:
            matrix[:, 1] = -matrix[:, 0] * (1 + self.draw.choice((0.0, 2.0**-20, 2.0**-45)))
        return matrix

    def _cast(self, tensor: Tensor) -> Tensor:
        most = torch.finfo(self.dtype).max / 16
        return tensor.clamp(-most, most).to(self.dtype)
