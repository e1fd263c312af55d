# %% [markdown]
# # Does a credit score rise with income and fall with debt, for everybody?
#
# An auditor wants a proof, or two applicants who refute it.  The data are drawn at random.  Two networks are audited:
# one that is fitted freely, and one whose weights along the audited features keep their signs.
#
# As a script: `SEED=3 python examples/audit.py`.

# %%
import os

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import recurjac as rj

SEED = int(os.environ.get("SEED", "0"))
FEATURES = ("income", "debt", "age", "years at the address")
WANTED = {"income": "increasing", "debt": "decreasing"}

# %% [markdown]
# `WANTED` says what the score may do as a feature grows, all others equal; features are scaled to [0, 1].
#
# Few applicants with much noise: a network that is fitted freely will learn some of the noise.

# %%
APPLICANTS, STEPS = 200, 800
torch.manual_seed(SEED)
x = torch.rand(APPLICANTS, 4)
y = x[:, :1] - x[:, 1:2] + 0.5 * torch.sin(5 * x[:, 2:3]) + 0.3 * torch.randn(APPLICANTS, 1)


class Held(nn.Module):
    """Weights whose columns have these signs: 1, -1, or 0 for any."""

    def __init__(self, *signs: float) -> None:
        super().__init__()
        self.signs = torch.tensor(signs)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.signs == 0, weight, self.signs * weight.abs())


def fitted(model: nn.Module) -> nn.Module:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


free = fitted(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)))
held = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
parametrize.register_parametrization(held[0], "weight", Held(1, -1, 0, 0))
parametrize.register_parametrization(held[2], "weight", Held(*[1] * 16))
fitted(held)
for layer in (held[0], held[2]):
    parametrize.remove_parametrizations(layer, "weight")  # the weights themselves, so that rounding is covered

# %% [markdown]
# `monotone` proves the signs of derivatives over all applicants.  Where a trend is violated, it shows two points.

# %%
everybody = rj.Box([0.0] * 4, [1.0] * 4)


def audited(name: str, model: nn.Module) -> rj.Monotonicity:
    found = rj.monotone(model, everybody, time_limit=10)
    print(f"{name}, for all applicants; rounding covered: {found.rigorous}")
    for feature, wanted in WANTED.items():
        entry = (0, 0, FEATURES.index(feature))
        trend = found.trend(*entry)
        print(f"  the score is {trend.value} in {feature}; wanted: {wanted}")
        if trend is rj.Trend.VIOLATED:
            for point, word in zip(found.witnesses(*entry), ("rises", "falls"), strict=True):
                who = ", ".join(f"{n} {v:.2f}" for n, v in zip(FEATURES, point.tolist(), strict=True))
                print(f"    it {word} at {who}")
    return found


freely, proved = audited("fitted freely", free), audited("with weights that are held", held)

# %% [markdown]
# All that was proved of the second network.

# %%
proved
