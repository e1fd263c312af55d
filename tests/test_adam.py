"""Adam's method, against that of PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from recurjac.adam import Adam


def leaves(dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g).to(dtype) for shape in ((), (3,), (2, 4), (5,))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_pytorch(dtype: torch.dtype) -> None:
    """Bit for bit, on a processor, with rates that fall and leaves that have no gradient in some steps."""
    ours, theirs = leaves(dtype), [t.requires_grad_() for t in leaves(dtype)]
    adam, other = Adam(ours), torch.optim.Adam(theirs, betas=(0.9, 0.99))
    g = torch.Generator().manual_seed(1)
    for step in range(50):
        found = [torch.randn(t.shape, generator=g).to(dtype) * 10.0 ** (i - 2) for i, t in enumerate(ours)]
        given = [None if i == 3 and step % 3 else t for i, t in enumerate(found)]
        rate = 0.3 / (1 + step)
        for leaf, gradient in zip(theirs, given, strict=True):
            leaf.grad = gradient
        other.param_groups[0]["lr"] = rate
        other.step()
        adam.step(given, rate)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


PROGRAM = """
import sys, torch, recurjac as rj
net = rj.load([(torch.eye(3), None), (torch.ones(3, 3).tril(), None), (torch.ones(3, 3), None)], activation="tanh")
x = torch.tensor([[1.0, 2.0, -1.0]])
before = {m.partition(".")[0] for m in sys.modules}
rj.certified_radius(net, x, time_limit=1)
rj.lipschitz(net, x, radius=0.5, p=2, q=2, time_limit=1)
rj.monotone(net, x, radius=0.5, time_limit=1)
rj.jacobian_bounds(net, rj.LpBall(x, 0.5), method=rj.XLinear(steps=3))
rj.contraction_rate(net, x, radius=0.5, time_limit=1)
print(sorted({m.partition(".")[0] for m in sys.modules} - before))
"""


def test_the_first_question_of_a_process_loads_no_other_package() -> None:
    """Nothing but bounds takes from the time of the first question."""
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout.strip() == "[]"
