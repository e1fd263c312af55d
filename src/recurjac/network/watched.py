"""Detecting changes of the tensors from which a network was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Watched:
    """How to read a parameter or buffer, and the tensor that was there when the network was read.

    follows: whether the network holds the tensor itself, so that its values may change; otherwise they must not change.
    Values are compared, because PyTorch's version counter misses some changes (`.data`, batch statistics in training).
    """

    read: Callable[[], Tensor]
    found: Tensor
    follows: bool

    @classmethod
    def now(cls, tensor: Tensor) -> Watched:
        """A tensor whose current values are kept."""
        return cls.kept(lambda: tensor)

    @classmethod
    def kept(cls, read: Callable[[], Tensor]) -> Watched:
        return cls(read, read().detach().clone(), False)

    @classmethod
    def followed(cls, read: Callable[[], Tensor]) -> Watched:
        return cls(read, read(), True)

    @classmethod
    def as_copied(
        cls, watched: Iterable[Watched], left: Iterable[Tensor], dtype: torch.dtype, device: torch.device
    ) -> tuple[Watched, ...]:
        """The tensors that a network watches after its conversion to `dtype` and `device`.

        It no longer follows tensors of another dtype or device; their values are kept.
        left: tensors of the network that are replaced by copies.
        """
        found = [
            cls.kept(w.read) if w.follows and (w.found.dtype, w.found.device) != (dtype, device) else w for w in watched
        ]
        known = {w.read().data_ptr() for w in found}
        return (*found, *(cls.now(t) for t in left if t.data_ptr() not in known))

    @property
    def changed(self) -> bool:
        now = self.read()
        return now is not self.found if self.follows else not torch.equal(now.detach(), self.found)
