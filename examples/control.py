# %% [markdown]
# # The gain of a policy, and of its closed loop
#
# A neural policy balances a pendulum.  Its gain is bounded over boxes of states, and so is that of five steps of the
# closed loop, which says by how much a disturbance of the first state can grow until then.
#
# It needs matplotlib for the figure.  As a script: `SEED=3 python examples/control.py`.

# %%
import os
from math import inf

import torch
from torch import Tensor, nn

import recurjac as rj

SEED = int(os.environ.get("SEED", "0"))
STEP, HORIZON = 0.05, 5

# %% [markdown]
# One step of the pendulum, written in PyTorch for batches of states (angle and speed) and torques.


# %%
def pendulum(state: Tensor, torque: Tensor) -> Tensor:
    angle, speed = state[:, :1], state[:, 1:]
    return torch.cat([angle + STEP * speed, speed + STEP * (9.81 * torch.sin(angle) - 0.1 * speed + torque)], 1)


# %% [markdown]
# The policy imitates a linear law on a box of states.

# %%
LAW = torch.tensor([[-20.0, -6.0]])
"""The torque of the law, per radian and per radian a second."""

torch.manual_seed(SEED)
policy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
optimiser = torch.optim.Adam(policy.parameters(), lr=0.01)
for _ in range(1500):
    state = 2 * torch.rand(256, 2) - 1
    loss = nn.functional.mse_loss(policy(state), state @ LAW.T)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %% [markdown]
# `closed_loop` gives the network that maps a state to the state after `HORIZON` steps.  *attained* is the gain at a
# point that was found: the true constant lies between the two.

# %%
loop = rj.closed_loop(pendulum, policy, HORIZON, torch.zeros(2))
widths = (0.01, 0.03, 0.1)
policies, loops = [], []
print(f"gains in l∞ over boxes around the upright state, and of {HORIZON} steps of the closed loop")
print("half width  policy: attained  certified  loop: attained  certified")
for width in widths:
    box = rj.LpBall(torch.zeros(1, 2), width)
    one = rj.lipschitz(policy, box, p=inf, q=inf, time_limit=3)
    several = rj.lipschitz(loop, box, p=inf, q=inf, method=rj.JacobianNorm())
    print(
        f"{width:10}  {float(one.lower):16.3f}  {float(one.upper):9.3f}"
        f"  {float(several.lower):14.3f}  {float(several.upper):9.3f}"
    )
    policies.append(one)
    loops.append(several)
print(f"rounding covered: {all(r.rigorous for r in policies + loops)}")

# %%
rj.plot.constants(widths, loops)
