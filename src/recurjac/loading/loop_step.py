"""One step of a closed loop, as a module, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from recurjac.loading.messages import first_line
from recurjac.loading.torch_export import eval_mode
from recurjac.loading.unfolded import named_tensors


@final
class Step(nn.Module):
    """One step of a closed loop: x ↦ dynamics(x, policy(x))."""

    def __init__(self, dynamics: Callable[[Tensor, Tensor], Tensor], policy: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dynamics, self.policy = dynamics, policy

    def forward(self, x: Tensor) -> Tensor:
        return self.dynamics(x, self.policy(x))

    def failure(self, example: Any) -> str | None:
        """What one step does wrong at an example state, and what to do; None if it gives a tensor."""
        some = next((t for t in named_tensors(self).values() if t.is_floating_point()), torch.zeros(()))
        state = torch.as_tensor(example).to(some)
        state = state.unsqueeze(0) if state.dim() == 1 else state[:1]
        states = f"a batch of one state of shape {tuple(state.shape[1:])}"
        with eval_mode(self):
            try:
                action = self.policy(state)
            except Exception as error:  # a module can raise any exception
                return f"the policy fails on {states}: {first_line(error)}; give an example of the states that it takes"
            if not isinstance(action, Tensor):
                return f"the policy returns a {type(action).__name__} for {states}; it must return a tensor"
            try:
                after = self.dynamics(state, action)
            except Exception as error:
                return (
                    f"the dynamics fail on {states} and actions of shape {tuple(action.shape)}: {first_line(error)}; "
                    "both have a batch axis (write x[:, 0], not x[0]) and are tensors (use torch, not NumPy)"
                )
        if not isinstance(after, Tensor):
            return f"the dynamics return a {type(after).__name__} for {states}; they must return a tensor"
        return None
