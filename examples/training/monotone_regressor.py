"""A regressor that provably rises with one input and falls with another, on the whole box of inputs.

The data are few and noisy, so that a network fitted to them alone goes up and down.  The certified lower bounds of the
two partial derivatives over the box are penalised where they are below a small margin.

    python examples/training/monotone_regressor.py --seed 0
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import training

SIGNS = [1, -1, 0, 0]
"""The output rises with input 0, falls with input 1, and may do anything with the others."""
SAMPLES, STEPS, WEIGHT, MARGIN = 80, 600, 1.0, 0.05


def truth(x: Tensor) -> Tensor:
    """The function to be learned: (batch, 1)."""
    rising, falling, third, fourth = x.split(1, 1)
    y: Tensor = (rising + 0.05).sqrt() * (1 + third) - 0.5 * torch.tanh(3 * falling - 1.5) + 0.5 * torch.sin(6 * fourth)
    return y


def trained(seed: int, weight: float) -> nn.Module:
    """A network that was fitted to noisy samples with this weight of the monotonicity loss."""
    torch.manual_seed(seed)
    x = torch.rand(SAMPLES, 4)
    y = truth(x) + 0.3 * torch.randn(SAMPLES, 1)
    model = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    bounds, box = training.Bounds(model, x[:1]), rj.Box([0.0] * 4, [1.0] * 4)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(x), y)
        if weight:
            loss = loss + weight * training.monotonicity_loss(bounds, box, SIGNS, margin=MARGIN)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    x = torch.rand(2000, 4, generator=torch.Generator().manual_seed(seed + 1))
    print("training             error   input 0      input 1")
    for name, weight in (("samples alone", 0.0), ("with the loss", WEIGHT)):
        model = trained(seed, weight)
        found = rj.monotone(rj.load(model, x[:1]), rj.Box([0.0] * 4, [1.0] * 4))
        with torch.no_grad():
            error = float((model(x) - truth(x)).square().mean())
        trends = [found.trend(0, 0, i).value for i in (0, 1)]
        print(f"{name:14}  {error:10.4f}   {trends[0]:10}   {trends[1]:10}   rounding covered: {found.rigorous}")


if __name__ == "__main__":
    main()
