# %% [markdown]
# # How well a physics-informed network solves the heat equation
#
# On the whole domain, and not only at sampled points: the network u(t, x) is trained on samples of u_t = u_xx / 10 with
# u(0, x) = sin(π x), and bounds of its residual hold on all of [0, 1]².
#
# As a script: `SEED=3 python examples/pinn.py`.

# %%
import os
from math import pi

import torch
from torch import Tensor, nn

import recurjac as rj

SEED = int(os.environ.get("SEED", "0"))
SPEED, STEPS = 0.1, 1500

# %% [markdown]
# The usual training, by automatic differentiation at random points.


# %%
def derivatives(model: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """u_t and u_xx at points (count, 2), each (count, 1)."""
    points = points.requires_grad_()
    first = torch.autograd.grad(model(points).sum(), points, create_graph=True)[0]
    second = torch.autograd.grad(first[:, 1].sum(), points, create_graph=True)[0]
    return first[:, :1], second[:, 1:]


torch.manual_seed(SEED)
model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
for _ in range(STEPS):
    inside, x = torch.rand(256, 2).double(), torch.rand(64, 1).double()
    u_t, u_xx = derivatives(model, inside)
    start = model(torch.cat([0 * x, x], 1)) - torch.sin(pi * x)
    ends = torch.cat([model(torch.cat([x, end + 0 * x], 1)) for end in (0.0, 1.0)])
    loss = (u_t - SPEED * u_xx).square().mean() + 10 * (start.square().mean() + ends.square().mean())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %% [markdown]
# What many samples say of the residual, and what is proved.  The two numbers of a row are the least and the largest
# value; a proof cannot be inside the samples.

# %%
samples = torch.rand(20000, 2, generator=torch.Generator().manual_seed(1)).double()
u_t, u_xx = derivatives(model, samples)
sampled = (u_t - SPEED * u_xx).detach()

residual = rj.partial(0) - SPEED * rj.partial(1, 1)
domain = rj.Box([0.0, 0.0], [1.0, 1.0])
found = rj.residual_bounds(model, domain, residuals=residual, limit=rj.Limit(seconds=60, tolerance=0.05))
print("residual u_t - u_xx / 10 on [0, 1]²      least    largest")
print(f"at 20 000 random points           {float(sampled.min()):11.4f} {float(sampled.max()):10.4f}")
print(f"certified for all points          {float(found.lower):11.4f} {float(found.upper):10.4f}")
print(f"rounding covered: {found.rigorous}")
