"""Bounds of a module that is being trained, differentiable in its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, prod
from typing import Any, final

import torch
from torch import Tensor, nn

from recurjac._types import Shape
from recurjac.activations import ReLU, Tanh
from recurjac.arithmetic import AbstractArithmetic, Fast, Interval
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import AbstractJacobianMethod, FastLip, Gradients
from recurjac.loading import Followed, follow
from recurjac.network import Network, chain
from recurjac.norms import AbstractNormMethod, JacobianNorm, as_norm_method, check_norm, check_supported
from recurjac.preactivation import IBP, RuleLike
from recurjac.preactivation.combinations import chosen_output, combined_output
from recurjac.problem import Problem
from recurjac.propagation.planning import PlainOnly
from recurjac.region import AbstractRegion, BoundRegion, LpBall


@final
@dataclass(frozen=True, init=False, repr=False, eq=False)
class Bounds:
    """Bounds of a module with its current weights, for every step of a training loop.

    source: a module, which is traced once and followed afterwards, also where it computes its weights from other
    parameters; or a network that was loaded in its module's own dtype.  Bounds are of the module in eval mode.
    example: an input (batch, *input) of the module, or one vector.
    method: a Jacobian or norm method; the default is `FastLip()`.  pre: the rule for pre-activations; the default is
    `IBP()`.  arithmetic: the default is `Fast()`, so that bounds do not cover rounding.
    All bounds are differentiable with respect to the parameters, for methods that are.  All samples of a batch are
    bounded together.
    Raises what `load` raises, and InvalidNetwork for a parameter that is narrower than others or than float32.
    """

    method: AbstractJacobianMethod | AbstractNormMethod
    pre: RuleLike
    arithmetic: AbstractArithmetic
    _source: Followed | Network = field(repr=False)

    def __init__(
        self,
        source: nn.Module | Network,
        example: Any = None,
        *,
        method: AbstractJacobianMethod | AbstractNormMethod | None = None,
        pre: RuleLike | None = None,
        arithmetic: AbstractArithmetic | None = None,
    ) -> None:
        expect(source, (nn.Module, Network), "what is trained", "give an nn.Module with an example input, or a Network")
        if isinstance(source, Network) and example is not None:
            raise InvalidRequest("a Network knows the shape of its inputs; give an example only with a module")
        chosen = FastLip() if method is None else method
        as_norm_method(chosen)  # raises if it is none
        object.__setattr__(self, "method", chosen)
        object.__setattr__(self, "pre", IBP() if pre is None else pre)
        object.__setattr__(self, "arithmetic", Fast() if arithmetic is None else arithmetic)
        object.__setattr__(self, "_source", source if isinstance(source, Network) else follow(source, example))

    def __repr__(self) -> str:
        how = self._norm.title, self.pre, type(self.arithmetic).__name__
        return f"Bounds({self.first!r}; {', '.join(map(str, how))})"

    @property
    def first(self) -> Network:
        """The network as it was when these bounds were made: its shapes, dtype and device do not change."""
        return self._source if isinstance(self._source, Network) else self._source.found

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return prod(self.first.output_shape)

    def network(self) -> Network:
        """The network with the current weights, and its outputs as a vector.

        Raises InvalidNetwork for weights that are NaN or infinite.
        """
        source = self._source
        return (source if isinstance(source, Network) else source.network()).flattened_output()

    def problem(self, region: AbstractRegion | BoundRegion) -> Problem:
        """The request for bounds over a region.  Raises InvalidRegion if the region does not fit."""
        return Problem(self.network(), region, pre=self.pre, arithmetic=self.arithmetic, planner=PlainOnly())

    def lipschitz(self, region: AbstractRegion, *, p: float = inf, q: float = inf) -> Tensor:
        """Upper bounds of the local Lipschitz constant max ‖J(x)‖_{p→q} over the region, for each sample: (batch,).

        p, q: norms of the inputs and of the outputs; each is 1, 2 or inf.  The bound is infinite where none is known.
        Raises InvalidRequest for norms that the method does not bound, and for a method without gradients.
        """
        p, q = check_norm(p, "input"), check_norm(q, "output")
        check_supported(self._norm, p, q)
        problem = self.problem(region)
        upper = self._norm.norm(Gradients(problem), p, q)
        return self._live(problem, torch.where(upper.isnan(), inf, upper))

    def jacobian(self, region: AbstractRegion) -> Interval:
        """Bounds of the partial derivatives over the region, outputs and inputs flattened: (batch, outputs, inputs).

        Raises InvalidRequest for a norm method other than `JacobianNorm`, and for a method without gradients.
        """
        how = self.method.method if isinstance(self.method, JacobianNorm) else self.method
        if not isinstance(how, AbstractJacobianMethod):
            raise InvalidRequest(f"{self._norm.title} bounds a norm, but no entries; give a method such as FastLip()")
        problem = self.problem(region)
        found = how.prepare(Gradients(problem)).push_all()
        return Interval(self._live(problem, found.lower), self._live(problem, found.upper))

    def margins(self, region: AbstractRegion, rows: Tensor) -> Tensor:
        """Lower bounds of rows · f(x) over the region: (batch, R); rows: (batch or 1, R, outputs).

        Raises InvalidRequest for rows that do not fit, and for a rule without gradients.
        """
        problem = self.problem(region)
        self._check_rows(problem, rows.shape)
        return self._least(problem, combined_output(problem.preactivations(), problem.pre, rows))

    def chosen_margins(self, region: AbstractRegion, table: Tensor, chosen: Tensor) -> Tensor:
        """`margins` for the rows `chosen` (batch, R) of a table (P, outputs), which is less work if the table is small.

        Errors as in `margins`.
        """
        problem = self.problem(region)
        self._check_rows(problem, (*chosen.shape, *table.shape[1:]))
        return self._least(problem, chosen_output(problem.preactivations(), problem.pre, table, chosen))

    def slopes(self, region: AbstractRegion, rows: Tensor, *, p: float = inf) -> Tensor:
        """Upper bounds of the Lipschitz constant of each rows · f over the region: (batch, R); rows as in `margins`.

        p: norm of the inputs.  Errors as in `lipschitz`.
        """
        check_supported(self._norm, check_norm(p, "input"), inf)
        problem = self.problem(region)
        self._check_rows(problem, rows.shape)
        upper = self._norm.rows(Gradients(problem, combinations=rows), float(p))
        return self._live(problem, torch.where(upper.isnan(), inf, upper))

    def _least(self, problem: Problem, found: Interval) -> Tensor:
        return self._live(problem, torch.where(found.lower.isnan(), -inf, found.lower))

    def _check_rows(self, problem: Problem, shape: Shape) -> None:
        """Raise InvalidRequest unless combinations of this shape fit."""
        batch, outputs = problem.bound.batch, self.outputs
        if len(shape) != 3 or shape[0] not in (1, batch) or shape[2] != outputs:
            raise InvalidRequest(
                f"combinations of shape {tuple(shape)} for {batch} inputs and {outputs} outputs; give "
                f"({batch}, combinations, {outputs}): one label for each input"
            )

    @property
    def _norm(self) -> AbstractNormMethod:
        return as_norm_method(self.method)

    def _live(self, problem: Problem, bound: Tensor) -> Tensor:
        """The bound, with gradients of 0 where all that it depends on is dead over the region.

        Raises InvalidRequest if it has no gradient although matrices of the network are live, for a method without any.
        """
        if bound.requires_grad or not torch.is_grad_enabled():
            return bound
        edges = (e for s in problem.network.stages for e in s.edges)
        live = [t for e in edges for t in e.operator.tensors() if t.requires_grad]
        if live and not self._has_gradients:
            raise InvalidRequest(
                f"bounds by {self._norm.title} with {problem.pre.title} have no gradients; train with a method such as "
                "FastLip() or Chords() and a rule such as IBP() or Crown()"
            )
        for t in live:
            bound = bound + 0.0 * t.flatten()[0]
        return bound

    @property
    def _has_gradients(self) -> bool:
        """Whether bounds of a network of a ReLU and a tanh that are not constant have gradients."""
        one = torch.ones(1, 1, dtype=self.first.dtype, device=self.first.device, requires_grad=True)
        network, ball = chain([(one, None)] * 3, [ReLU(), Tanh()]), LpBall([[0.0]], 1.0)
        known = Problem(network, ball, pre=self.pre, arithmetic=self.arithmetic, planner=PlainOnly())
        return self._norm.norm(Gradients(known), inf, inf).requires_grad
