"""Does a credit score rise with income and fall with debt, for everybody?  A proof, or two applicants who refute it.

The data are drawn at random.  Two networks are audited: one that is fitted freely, and one whose weights along the
audited features keep their signs.

    python examples/audit.py --seed 0
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import recurjac as rj

FEATURES = ("income", "debt", "age", "years at the address")
WANTED = {"income": ("increasing",), "debt": ("decreasing",)}
"""What the score may do as a feature grows, all others equal; features are scaled to [0, 1]."""
APPLICANTS, STEPS = 200, 800


class Held(nn.Module):
    """Weights whose columns have these signs: 1, -1, or 0 for any."""

    def __init__(self, *signs: float) -> None:
        super().__init__()
        self.signs = torch.tensor(signs)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.signs == 0, weight, self.signs * weight.abs())


def trained(held: bool, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    x = torch.rand(APPLICANTS, 4)
    y = x[:, :1] - x[:, 1:2] + 0.5 * torch.sin(5 * x[:, 2:3]) + 0.3 * torch.randn(APPLICANTS, 1)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    if held:
        parametrize.register_parametrization(model[0], "weight", Held(1, -1, 0, 0))
        parametrize.register_parametrization(model[2], "weight", Held(*[1] * 16))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for layer in (model[0], model[2]) if held else ():
        parametrize.remove_parametrizations(layer, "weight")  # the weights themselves, so that rounding is covered
    return model


def audited(name: str, model: nn.Module) -> None:
    network, everybody = rj.load(model, torch.zeros(1, 4)), rj.Box([0.0] * 4, [1.0] * 4)
    found = rj.monotone(network, everybody, time_limit=10)
    print(f"{name}, for all applicants; rounding covered: {found.rigorous}")
    for feature, wanted in WANTED.items():
        entry = (0, 0, FEATURES.index(feature))
        trend = found.trend(*entry)
        print(f"  the score is {trend.value} in {feature}; wanted: {wanted[0]}")
        if trend is rj.Trend.VIOLATED:
            for point, word in zip(found.witnesses(*entry), ("rises", "falls"), strict=True):
                who = ", ".join(f"{n} {v:.2f}" for n, v in zip(FEATURES, point.tolist(), strict=True))
                print(f"    it {word} at {who}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    audited("fitted freely", trained(False, seed))
    audited("with weights that are held", trained(True, seed))


if __name__ == "__main__":
    main()
