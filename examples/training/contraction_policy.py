"""A policy that balances a pendulum such that every two trajectories approach each other.

A step of the closed loop takes a state to the next one.  If its Jacobian has a norm below 1 everywhere in a convex set,
distances in this set shrink at that rate.  They are measured in the coordinates (3 angle, speed + 3 angle), in which a
good controller of a pendulum contracts.  The set is cut into cells, whose bounds are penalised above a target while the
policy learns to balance at low cost.

    python examples/training/contraction_policy.py --seed 0
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import training

TIME, REACH, CELLS = 0.05, torch.tensor([0.8, 2.0]), 8
"""The seconds of a step; the largest angle and speed; the cells along each coordinate."""
TARGET, WEIGHT, STEPS = 0.97, 30.0, 250
THERE = torch.tensor([[3.0, 0.0], [3.0, 1.0]])
BACK = torch.tensor([[1 / 3, 0.0], [-1.0, 1.0]])
"""To the coordinates in which distances are measured, and from them to states."""


def step(x: Tensor, torque: Tensor) -> Tensor:
    """The state (angle from upright, speed) a moment later."""
    angle, speed = x[:, :1], x[:, 1:]
    return torch.cat([angle + TIME * speed, speed + TIME * (9.81 * torch.sin(angle) - 0.2 * speed + torque)], 1)


class Loop(nn.Module):
    """One step of the closed loop, in the coordinates y."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.register_buffer("there", THERE)
        self.register_buffer("back", BACK)

    def forward(self, y: Tensor) -> Tensor:
        x = nn.functional.linear(y, self.get_buffer("back"))
        return nn.functional.linear(step(x, self.policy(x)), self.get_buffer("there"))


def cells() -> rj.Box:
    """Boxes in the coordinates y that cover the states of the region."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 2) * REACH @ THERE.mT
    most = corners.abs().amax(0)
    low = torch.cartesian_prod(*(torch.linspace(-1, 1, CELLS + 1)[:-1] * m for m in most))
    return rj.Box(low, low + 2 * most / CELLS)


def cost(policy: nn.Module, x: Tensor) -> Tensor:
    """The mean cost of 30 steps."""
    total = torch.zeros(())
    for _ in range(30):
        torque = policy(x)
        total = total + (x[:, 0].square() + 0.1 * x[:, 1].square() + 0.01 * torque.square()[:, 0]).mean()
        x = step(x, torque)
    return total / 30


def trained(seed: int, weight: float) -> Loop:
    """A closed loop whose policy was trained with this weight of the penalty."""
    torch.manual_seed(seed)
    policy = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    loop = Loop(policy)
    bounds, region = training.Bounds(loop, torch.zeros(1, 2), pre=rj.FastLin()), cells()
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.02)
    for _ in range(STEPS):
        loss = cost(policy, (2 * torch.rand(100, 2) - 1) * REACH)
        if weight:
            loss = loss + weight * training.lipschitz_penalty(bounds, region, p=2, q=2, target=TARGET)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    print("training         mean cost   certified rate")
    for name, weight in (("cost alone", 0.0), ("with penalty", WEIGHT)):
        loop = trained(seed, weight)
        found = rj.lipschitz(rj.load(loop, torch.zeros(1, 2)), cells(), p=2, q=2)
        generator = torch.Generator().manual_seed(seed + 1)
        states = (2 * torch.rand(1000, 2, generator=generator) - 1) * REACH
        with torch.no_grad():
            mean = float(cost(loop.policy, states))
        print(f"{name:12}  {mean:12.4f}   {float(found.upper.max()):14.4f}   rounding covered: {found.rigorous}")


if __name__ == "__main__":
    main()
