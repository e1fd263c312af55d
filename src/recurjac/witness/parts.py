"""The tree of a certificate: halves of the region along inputs, until its leaves prove as much as the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import final

import torch

from recurjac.arithmetic import Rigorous
from recurjac.deadline import Deadline
from recurjac.witness.leaf import Leaf
from recurjac.witness.notation import Json, number
from recurjac.witness.questions import AbstractQuestion

MOST_INPUTS = 16
"""The number of inputs up to which regions are halved."""
MOST_PARTS = 256
"""The number of leaves of a tree."""


@final
@dataclass
class Parts:
    """The nodes of a tree: leaves, and splits `(input, at, below, above)` that refer to nodes after them."""

    question: AbstractQuestion
    nodes: list[Leaf | tuple[int, float, int, int]] = field(default_factory=list)

    @classmethod
    def grown(cls, root: Leaf, question: AbstractQuestion, deadline: Deadline) -> Parts:
        """The tree that is divided until every leaf meets the question's goal, or there is no more time."""
        parts = cls(question, [root])
        divides = root.asked.inputs <= MOST_INPUTS and root.region.is_box
        scores = {0: question.score(parts.leaves[0])}
        while divides and len(scores) < MOST_PARTS and not deadline.over:
            worst = max(scores, key=lambda i: scores[i])
            if scores[worst] <= question.goal or not parts._divided(worst):
                break
            del scores[worst]
            for new in (len(parts.nodes) - 2, len(parts.nodes) - 1):
                leaf = parts.nodes[new]
                assert isinstance(leaf, Leaf)  # noqa: S101  (narrows the type)
                scores[new] = question.score(leaf)
        return parts

    def _divided(self, place: int) -> bool:
        """Halve a leaf; False if that is not possible, because nothing lies between its ends."""
        leaf = self.nodes[place]
        if not isinstance(leaf, Leaf):
            return False
        axis = torch.tensor([leaf.axis], device=leaf.region.x.device)
        below, above = leaf.region.halves(axis)
        box, half = (r.box(Rigorous()) for r in (leaf.region, below))
        at = float(half.upper.flatten()[leaf.axis])
        if not (isfinite(at) and float(box.lower.flatten()[leaf.axis]) < at < float(box.upper.flatten()[leaf.axis])):
            return False
        count = len(self.nodes)
        self.nodes[place] = (leaf.axis, at, count, count + 1)
        self.nodes += [Leaf(leaf.asked, below), Leaf(leaf.asked, above)]
        return True

    @property
    def score(self) -> float:
        """That of the worst leaf."""
        return max(self.question.score(leaf) for leaf in self.leaves)

    @property
    def leaves(self) -> Sequence[Leaf]:
        return [node for node in self.nodes if isinstance(node, Leaf)]

    def written(self) -> list[Json]:
        """The nodes as they are in a certificate."""
        return [self._node(node) for node in self.nodes]

    def _node(self, node: Leaf | tuple[int, float, int, int]) -> Json:
        if isinstance(node, Leaf):
            return node.written(self.question.needs)
        axis, at, below, above = node
        return {"split": {"input": axis, "at": number(at)}, "below": below, "above": above}
