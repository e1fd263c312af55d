"""The tree of a certificate: parts of the region, until its leaves prove as much as the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import final

from recurjac.deadline import Deadline
from recurjac.witness.leaf import Division, Leaf
from recurjac.witness.notation import Json
from recurjac.witness.questions import AbstractQuestion

MOST_INPUTS = 16
"""The number of inputs up to which regions are halved along inputs."""
MOST_PARTS = 256
"""The number of leaves of a tree."""
_GAIN = 1e-6
"""The share of the root's score that a tree has to gain."""


@final
@dataclass
class Parts:
    """The nodes of a tree: leaves, and splits `(split, below, above)` that refer to nodes after them."""

    question: AbstractQuestion
    nodes: list[Leaf | tuple[Json, int, int]] = field(default_factory=list)

    @classmethod
    def grown(cls, root: Leaf, question: AbstractQuestion, deadline: Deadline) -> Parts:
        """The tree that is divided until every leaf meets the question's goal, or there is no more time.

        It is the root alone if no other one is better.
        """
        parts = cls(question, [root])
        first = parts._score(root)
        scores = {0: first}
        while len(scores) < MOST_PARTS and not deadline.over:
            worst = max(scores, key=lambda i: scores[i])
            if scores[worst] <= question.goal:
                break
            divided = parts._divided(parts.nodes[worst])
            if divided is None:
                break
            split, below, above = divided
            count = len(parts.nodes)
            del scores[worst]
            scores |= {count: parts._score(below), count + 1: parts._score(above)}
            parts.nodes[worst] = (split, count, count + 1)
            parts.nodes += [below, above]
        better = first == inf or first - max(scores.values()) > _GAIN * abs(first)
        return parts if better else cls(question, [root])

    def _score(self, leaf: Leaf) -> float:
        """That of a leaf; nothing is left to prove of an empty one."""
        return -inf if leaf.empty else self.question.score(leaf)

    def _divided(self, leaf: Leaf | tuple[Json, int, int]) -> Division | None:
        """A leaf divided in the way whose worse part is better; None if there is no way."""
        if not isinstance(leaf, Leaf):
            return None
        few = leaf.asked.inputs <= MOST_INPUTS and leaf.region.is_box
        ways = [leaf.by_input() if few else None, leaf.by_sign() if self.question.convex else None]
        found = [way for way in ways if way is not None]
        return min(found, key=lambda way: sorted(map(self._score, way[1:]), reverse=True), default=None)

    @property
    def score(self) -> float:
        """That of the worst leaf."""
        return max(self.question.score(leaf) for leaf in self.leaves)

    @property
    def leaves(self) -> Sequence[Leaf]:
        """The leaves that may have inputs."""
        return [node for node in self.nodes if isinstance(node, Leaf) and not node.empty]

    def written(self) -> list[Json]:
        """The nodes as they are in a certificate."""
        return [self._node(node) for node in self.nodes]

    def _node(self, node: Leaf | tuple[Json, int, int]) -> Json:
        if isinstance(node, Leaf):
            return node.written(self.question.needs)
        split, below, above = node
        return {"split": split, "below": below, "above": above}
