"""The gain of a neural policy on a box of states, and of the pendulum that it balances.

The policy imitates a linear law.  Its gain is bounded over boxes of states; that of five steps of the closed loop says
by how much a disturbance of the first state can grow until then.

    python examples/control.py --seed 0
"""

from __future__ import annotations

import argparse
from math import inf

import torch
from torch import Tensor, nn

import recurjac as rj

STEP, HORIZON = 0.05, 5
LAW = torch.tensor([[-20.0, -6.0]])
"""The torque of the law that is imitated, per radian and per radian a second."""
HALF_WIDTHS = (0.01, 0.1)


def pendulum(state: Tensor, torque: Tensor) -> Tensor:
    """One step of an inverted pendulum: state (batch, 2), angle and speed."""
    angle, speed = state[:, :1], state[:, 1:]
    return torch.cat([angle + STEP * speed, speed + STEP * (9.81 * torch.sin(angle) - 0.1 * speed + torque)], 1)


def trained(seed: int) -> nn.Module:
    """A policy that imitates the law on a box of states."""
    torch.manual_seed(seed)
    policy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(1500):
        state = 2 * torch.rand(256, 2) - 1
        loss = nn.functional.mse_loss(policy(state), state @ LAW.T)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    policy = trained(parser.parse_args().seed)
    network = rj.load(policy, torch.zeros(1, 2))
    loop = rj.closed_loop(pendulum, policy, HORIZON, torch.zeros(2))
    print(f"gains in l∞ over boxes around the upright state, and of {HORIZON} steps of the closed loop")
    print("half width  policy: attained  certified  loop: attained  certified")
    for width in HALF_WIDTHS:
        box = rj.LpBall(torch.zeros(1, 2), width)
        one = rj.lipschitz(network, box, p=inf, q=inf, time_limit=3)
        several = rj.lipschitz(loop, box, p=inf, q=inf, method=rj.JacobianNorm())
        print(
            f"{width:10}  {float(one.lower):16.3f}  {float(one.upper):9.3f}"
            f"  {float(several.lower):14.3f}  {float(several.upper):9.3f}"
        )
    print(f"rounding covered: {one.rigorous and several.rigorous}")


if __name__ == "__main__":
    main()
