# %% [markdown]
# # A certified radius for each image
#
# How far may every pixel of a handwritten digit move while a small classifier is sure to keep its answer?  For each
# image, `certified_radius` proves a radius within which no other class wins, and looks for an adversary that shows how
# much more can be hoped for.
#
# It needs scikit-learn for the data, and matplotlib for the figure.
# As a script: `SEED=3 python examples/robustness.py`.

# %%
import os

import torch
from sklearn.datasets import load_digits
from torch import nn

import recurjac as rj

SEED = int(os.environ.get("SEED", "0"))
IMAGES, EPOCHS = 20, 12

# %% [markdown]
# The data are images of 8×8 pixels in [0, 1]; the first twenty, in a random order, are kept for the certificates.

# %%
pixels, classes = load_digits(return_X_y=True)
order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(SEED))
x, y = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(classes)[order]
images, labels, x, y = x[:IMAGES], y[:IMAGES], x[IMAGES:], y[IMAGES:]

torch.manual_seed(SEED)
model = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))
optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
for _ in range(EPOCHS):
    for batch in torch.randperm(len(x)).split(50):
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %% [markdown]
# One call gives all radii.  `clip=(0, 1)` says that pixels stay in their range, `target="all"` that no class may win
# instead of the label, and `time_limit` is the time for all images together.

# %%
balls = rj.LpBall(images, radius=0, clip=(0, 1))
found = rj.certified_radius(model, balls, label=labels, target="all", time_limit=20)
print("image  class  certified l∞ radius  nearest adversary found")
for k in range(IMAGES):
    print(f"{k:5}  {int(labels[k]):5}  {float(found.radius[k]):19.4f}  {float(found.attack[k]):23.4f}")
print(f"rounding covered: {found.rigorous}")

# %% [markdown]
# Bars are proved; the marks are adversaries.  Between the two, nothing is known.

# %%
rj.plot.radii(found)

# %% [markdown]
# The same numbers as certified accuracy.

# %%
print("radius  certified  not refuted by the attack")
for radius in (0.01, 0.02, 0.05, 0.1):
    proved, open_ = int((found.radius >= radius).sum()), int((found.attack > radius).sum())
    print(f"{radius:6}  {proved:6}/{IMAGES}  {open_:6}/{IMAGES}")
