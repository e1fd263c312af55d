"""How far pixels of handwritten digits may move while a small classifier keeps its answer: a radius for each image.

    python examples/robustness.py --seed 0

Needs scikit-learn for the data.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import recurjac as rj

IMAGES, EPOCHS = 20, 12
RADII = (0.01, 0.02, 0.05, 0.1)


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Images of 8×8 pixels in [0, 1], (count, 64), and their classes, in a random order."""
    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(classes)[order]


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(50):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    x, y = digits(seed)
    model = trained(x[IMAGES:], y[IMAGES:], seed)
    images, labels = x[:IMAGES], y[:IMAGES]

    network = rj.load(model, images[:1])
    balls = rj.LpBall(images, radius=0, clip=(0, 1))
    found = rj.certified_radius(network, balls, label=labels, target="all", time_limit=20)
    print("image  class  certified l∞ radius  nearest adversary found")
    for k in range(IMAGES):
        print(f"{k:5}  {int(labels[k]):5}  {float(found.radius[k]):19.4f}  {float(found.attack[k]):23.4f}")
    print("\nradius  certified  not refuted by the attack")
    for radius in RADII:
        proved, open_ = int((found.radius >= radius).sum()), int((found.attack > radius).sum())
        print(f"{radius:6}  {proved:6}/{IMAGES}  {open_:6}/{IMAGES}")
    print(f"rounding covered: {found.rigorous}")


if __name__ == "__main__":
    main()
