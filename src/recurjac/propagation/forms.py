"""The linear forms with which a sweep starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball
from recurjac.operators import AbstractOperator
from recurjac.operators.base import one_hot


class AbstractSeeds(ABC):
    """The linear forms with which a sweep starts."""

    @abstractmethod
    def push(self, operator: AbstractOperator, arithmetic: AbstractArithmetic) -> Ball:
        """The operator applied to every form: (B, K, R, *out)."""

    @abstractmethod
    def dot(self, rows: Ball) -> Ball:
        """The inner products of the forms with known numbers (B, K, *node): (B, K, R)."""

    @abstractmethod
    def parts(self, size: int) -> Iterator[AbstractSeeds]:
        """The same forms, at most `size` at a time."""

    @abstractmethod
    def tensor(self) -> Tensor:
        """The coefficients of the forms, (B or 1, K or 1, R, *node)."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number R of forms for each sample and covector."""

    @property
    @abstractmethod
    def precision(self) -> torch.dtype:
        """The dtype of the forms."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the forms."""


@final
@dataclass(frozen=True)
class Units(AbstractSeeds):
    """Unit forms: each is 1 at one entry of a node of `shape`; `index` (B or 1, R) has the flat positions."""

    index: Tensor
    shape: Shape
    dtype: torch.dtype

    @classmethod
    def all(cls, shape: Shape, dtype: torch.dtype, device: torch.device) -> Units:
        """All unit forms of the node: its basis."""
        return cls(torch.arange(prod(shape), device=device).unsqueeze(0), shape, dtype)

    def push(self, operator: AbstractOperator, arithmetic: AbstractArithmetic) -> Ball:
        return operator.columns(self.index.unsqueeze(1), self.dtype, arithmetic)

    def dot(self, rows: Ball) -> Ball:
        return rows.map(self.entries)

    def entries(self, t: Tensor) -> Tensor:
        """The entries of t (B, K, *node) at which the forms are 1: (B, K, R)."""
        flat = t.reshape(*t.shape[:2], prod(t.shape[2:]))  # also for a node without dimensions
        b = max(flat.shape[0], self.index.shape[0])
        return flat.expand(b, -1, -1).gather(2, self.index.unsqueeze(1).expand(b, flat.shape[1], -1))

    def parts(self, size: int) -> Iterator[AbstractSeeds]:
        return (Units(i, self.shape, self.dtype) for i in self.index.split(size, dim=1))

    @property
    def count(self) -> int:
        return int(self.index.shape[1])

    @property
    def precision(self) -> torch.dtype:
        return self.dtype

    @property
    def device(self) -> torch.device:
        return self.index.device

    def tensor(self) -> Tensor:
        return one_hot(self.index.unsqueeze(1), self.shape, self.dtype)


@final
@dataclass(frozen=True)
class DenseForms(AbstractSeeds):
    """Forms given by coefficients (B or 1, K or 1, R, *node), which are exact as stored."""

    coefficients: Tensor
    arithmetic: AbstractArithmetic

    def push(self, operator: AbstractOperator, arithmetic: AbstractArithmetic) -> Ball:
        return operator.push(arithmetic.exact(self.coefficients))

    def dot(self, rows: Ball) -> Ball:
        return self.arithmetic.exact(self.coefficients).dot(rows)

    def parts(self, size: int) -> Iterator[AbstractSeeds]:
        return (DenseForms(c, self.arithmetic) for c in self.coefficients.split(size, dim=2))

    @property
    def count(self) -> int:
        return int(self.coefficients.shape[2])

    @property
    def precision(self) -> torch.dtype:
        return self.coefficients.dtype

    @property
    def device(self) -> torch.device:
        return self.coefficients.device

    def tensor(self) -> Tensor:
        return self.coefficients
