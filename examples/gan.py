# %% [markdown]
# # A Wasserstein GAN whose critic has certified gradients
#
# The critic of a WGAN should have gradients of norm 1 at most.  WGAN-GP penalises the norm at one random point between
# each real and each fake sample; here, a bound of the norm on the whole segment is penalised.
#
# It needs matplotlib for the figure.  As a script: `SEED=3 python examples/gan.py`.

# %%
import os
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import training

SEED = int(os.environ.get("SEED", "0"))
STEPS, CRITIC_STEPS, BATCH, WEIGHT, NOISE = 400, 3, 64, 10.0, 2

# %% [markdown]
# The data are points around eight places on a circle.


# %%
def ring(count: int) -> Tensor:
    """(count, 2)."""
    angle = torch.randint(8, (count,)) * torch.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2)


# %% [markdown]
# The two penalties.  `training.Bounds` reads the critic once and follows its weights; its bounds have derivatives.

# %%
Penalty = Callable[[nn.Module, training.Bounds, Tensor, Tensor], Tensor]


def sampled(critic: nn.Module, bounds: training.Bounds, real: Tensor, fake: Tensor) -> Tensor:
    """The penalty of WGAN-GP, one-sided: the norm of the gradient at a random point of each segment."""
    share = torch.rand(len(real), 1)
    x = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    excess: Tensor = (slope.norm(dim=1) - 1).clamp(min=0)
    return excess.square().mean()


def certified(critic: nn.Module, bounds: training.Bounds, real: Tensor, fake: Tensor) -> Tensor:
    """The same with a bound of the norm on each segment."""
    return training.gradient_norm_penalty(bounds, real, fake)


# %%
def trained(seed: int, penalty: Penalty) -> tuple[nn.Module, nn.Module]:
    """A generator and its critic."""
    torch.manual_seed(seed)
    critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    generator = nn.Sequential(nn.Linear(NOISE, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    bounds = training.Bounds(critic, torch.zeros(1, 2))
    betas = (0.5, 0.9)
    own = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=betas)
    other = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=betas)
    for _ in range(STEPS):
        for _ in range(CRITIC_STEPS):
            real, fake = ring(BATCH), generator(torch.randn(BATCH, NOISE)).detach()
            loss = critic(fake).mean() - critic(real).mean() + WEIGHT * penalty(critic, bounds, real, fake)
            own.zero_grad()
            loss.backward()
            own.step()
        loss = -critic(generator(torch.randn(BATCH, NOISE))).mean()
        other.zero_grad()
        loss.backward()
        other.step()
    return generator, critic


# %% [markdown]
# The critics are compared by certified norms of their gradients between pairs of new samples, each from eight boxes
# along their segment, and by how far the generated points are from the data.


# %%
def certified_norms(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    share = torch.linspace(0, 1, 9).reshape(-1, 1, 1)
    points = (1 - share) * real + share * fake
    low, high = torch.minimum(points[:-1], points[1:]), torch.maximum(points[:-1], points[1:])
    box = rj.Box(low.flatten(0, 1), high.flatten(0, 1))
    return rj.lipschitz(critic, box, p=2).upper.reshape(8, -1).amax(0)


figure = plt.figure(figsize=(9, 4.5), layout="constrained")
print("penalty     mean certified norm   largest   distance to the data")
for k, (name, penalty) in enumerate((("sampled", sampled), ("certified", certified))):
    generator, critic = trained(SEED, penalty)
    torch.manual_seed(SEED + 1)
    with torch.no_grad():
        real, fake = ring(1000), generator(torch.randn(1000, NOISE))
    norms = certified_norms(critic, real[:20], fake[:20])
    away = float(torch.cdist(fake, real).amin(1).mean() + torch.cdist(real, fake).amin(1).mean()) / 2
    print(f"{name:10}  {float(norms.mean()):19.3f}   {float(norms.max()):7.3f}   {away:20.3f}")
    axes = figure.add_subplot(1, 2, k + 1, title=f"penalty: {name}", aspect="equal")
    axes.plot(*real.T, ".", markersize=3, label="data")
    axes.plot(*fake.T, ".", markersize=3, label="generated")
    axes.legend()
