"""Closed loops with a Lyapunov function, of the kind that is published to be verified, with random weights.

Each takes a state, and often the error of an observer, to the decrease of the Lyapunov function over one step, its
value, and the next state.  (Yang et al., Lyapunov-stable neural control for state and output feedback, ICML 2024.)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import pi

import torch
from torch import Tensor, nn


def layers(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    inner = [m for a, b in pairwise(widths[:-1]) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*inner, nn.Linear(widths[-2], widths[-1]))


class Controller(nn.Module):
    """u(x) - u(0) + goal, clipped by two ReLUs."""

    def __init__(self, net: nn.Module, inputs: int, goal: float, most: float) -> None:
        super().__init__()
        self.net, self.goal, self.most = net, goal, most
        self.register_buffer("rest", torch.zeros(1, inputs))

    def forward(self, x: Tensor) -> Tensor:
        u = self.net(x) - self.net(self.rest) + self.goal
        above = torch.relu(u + self.most) - self.most
        return self.most - torch.relu(self.most - above)


class Quadratic(nn.Module):
    """x' (ε I + R' R) x."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.R = nn.Parameter(torch.randn(inputs, inputs) / inputs)

    def forward(self, x: Tensor) -> Tensor:
        return (x * (x @ (0.01 * torch.eye(x.shape[1]).to(self.R) + self.R.T @ self.R))).sum(1, keepdim=True)


class Absolute(nn.Module):
    """|φ(x) - φ(0)| + ‖(ε I + R' R) x‖₁, φ a network of leaky ReLUs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.net = layers(inputs, 16, 16, 8, 1, activation=nn.LeakyReLU)
        self.R = nn.Parameter(torch.randn(3, inputs) / 2)
        self.register_buffer("rest", torch.zeros(1, inputs))

    def forward(self, x: Tensor) -> Tensor:
        form = 0.01 * torch.eye(x.shape[1]).to(self.R) + self.R.T @ self.R
        lost: Tensor = (self.net(x) - self.net(self.rest)).abs()
        return lost + (x @ form).abs().sum(1, keepdim=True)


class Decrease(nn.Module):
    """(0.99 V(x) - V(x⁺), V(x), x⁺)."""

    def __init__(self, lyapunov: nn.Module, loop: nn.Module) -> None:
        super().__init__()
        self.lyapunov, self.loop = lyapunov, loop

    def forward(self, x: Tensor) -> Tensor:
        after, value = self.loop(x), self.lyapunov(x)
        return torch.cat([0.99 * value - self.lyapunov(after), value, after], 1)


def swing(x: Tensor, u: Tensor) -> Tensor:
    """A pendulum of 0.15 kg and 0.5 m, one semi-implicit step of 0.05 s."""
    bend = (9.81 * 0.075 * torch.sin(x[:, :1]) - 0.1 * x[:, 1:] + u) / 0.0375
    speed = x[:, 1:] + 0.05 * bend
    return torch.cat([x[:, :1] + 0.05 * (speed + x[:, 1:]) / 2, speed], 1)


class Pendulum(nn.Module):
    """State feedback."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller(layers(2, 8, 8, 8, 1), 2, 0.0, 6.0)

    def forward(self, x: Tensor) -> Tensor:
        return swing(x, self.controller(x))


class Observed(nn.Module):
    """Output feedback of a pendulum: the controller sees the angle and the observer's estimate; inputs (x, e)."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller(layers(3, 8, 8, 8, 1), 3, 0.0, 1.0)
        self.observer = layers(4, 8, 8, 2, activation=nn.LeakyReLU)

    def forward(self, both: Tensor) -> Tensor:
        x, guess = both[:, :2], both[:, :2] - both[:, 2:]
        seen = x[:, :1]
        u = self.controller(torch.cat([guess, seen], 1))
        gap = torch.cat([guess, seen - guess[:, :1], u], 1)
        none = torch.cat([guess, torch.zeros_like(seen), u], 1)
        after, estimate = swing(x, u), swing(guess, u) + self.observer(gap) - self.observer(none)
        return torch.cat([after, after - estimate], 1)


class Tracking(nn.Module):
    """A bicycle that follows a circle of 10 m: its distance from it and its heading, one step of 0.05 s at 2 m/s."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller(layers(2, 8, 8, 1), 2, 0.1, 0.84)

    def forward(self, x: Tensor) -> Tensor:
        u, cos = self.controller(x), torch.cos(x[:, 1:])
        turn = 2 * u - 2 * cos / (10 - x[:, :1])
        return torch.cat([x[:, :1] + 0.1 * torch.sin(x[:, 1:]), x[:, 1:] + 0.05 * turn], 1)


class Quadrotor(nn.Module):
    """Output feedback of a planar quadrotor, which sees the ground along four rays; inputs (z, θ, ż, θ̇) and errors."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller(layers(8, 8, 2), 8, 2.4, 7.15)
        self.observer = layers(8, 8, 4, activation=nn.LeakyReLU)

    def seen(self, x: Tensor) -> Tensor:
        rays = torch.linspace(-0.15 * pi, 0.15 * pi, 4).to(x)
        length = (x[:, :1] + 1) / torch.cos(x[:, 1:2] - rays)
        return 5 - torch.relu(5 - torch.relu(length))

    def step(self, x: Tensor, u: Tensor) -> Tensor:
        lift = torch.cos(x[:, 1:2]) * (u[:, :1] + u[:, 1:]) / 0.486 - 9.81
        spin = (u[:, :1] - u[:, 1:]) * 0.25 / 0.00383 / 20
        return x + 0.01 * torch.cat([x[:, 2:], lift, spin], 1)

    def forward(self, both: Tensor) -> Tensor:
        x, guess = both[:, :4], both[:, :4] - both[:, 4:]
        off = self.seen(x) - self.seen(guess)
        u = self.controller(torch.cat([guess, off], 1))
        blank = torch.zeros(x.shape[0], 4).to(x)
        moved = self.observer(torch.cat([guess, off], 1)) - self.observer(torch.cat([guess, blank], 1))
        after = self.step(x, u)
        return torch.cat([after, after - self.step(guess, u) - moved], 1)


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "pendulum": (lambda: Decrease(Absolute(2), Pendulum()), 2),
    "pendulum-output": (lambda: Decrease(Quadratic(4), Observed()), 4),
    "path-tracking": (lambda: Decrease(Absolute(2), Tracking()), 2),
    "quadrotor-output": (lambda: Decrease(Quadratic(8), Quadrotor()), 8),
}
"""Modules, and how many inputs they have."""
