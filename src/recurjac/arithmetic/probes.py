"""Whether this machine rounds as the proofs assume: settings, and samples against exact fractions.

A sample that fails is a counterexample.  Samples that agree are no proof, but find what is usually wrong: another
rounding mode, flushed subnormal numbers, reduced precision, and products that are summed in a narrower format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from recurjac.arithmetic.platform import check_convolution, check_matmul

_COUNT = 200
"""The number of samples of each operation."""
_LENGTH = 64
"""The length of the sums of products."""
_Exact = Callable[[Fraction, Fraction], Fraction]
_OPERATIONS: Mapping[str, tuple[Callable[[Tensor, Tensor], Tensor], _Exact]] = {
    "sums": (torch.add, lambda a, b: a + b),
    "differences": (torch.sub, lambda a, b: a - b),
    "products": (torch.mul, lambda a, b: a * b),
    "quotients": (torch.div, lambda a, b: a / b),
}


def rounding_failures(dtype: torch.dtype, device: torch.device) -> list[str]:
    """What is found to differ from what the proofs assume of arithmetic in `dtype` on `device`; empty if nothing is.

    Convolutions of cuDNN are not counted: nothing is assumed of them, and results that need them are not rigorous.
    """
    settings = (check_matmul(dtype), check_convolution(dtype, device) if device.type == "cpu" else None)
    return [s for s in settings if s is not None] + _operations(dtype, device) + _dot_products(dtype, device)


def _operations(dtype: torch.dtype, device: torch.device) -> list[str]:
    """The operations that are not those of IEEE 754, to the nearest number."""
    a, b = (_samples(seed, _COUNT, dtype) for seed in (0, 1))
    found = []
    for name, (computed, exact) in _OPERATIONS.items():
        results = computed(a.to(device), b.to(device)).cpu()
        triples = zip(a.tolist(), b.tolist(), results.tolist(), results, strict=True)
        if not all(_nearest(exact(Fraction(x), Fraction(y)), Fraction(z), t) for x, y, z, t in triples):
            found.append(f"{name} are not rounded to the nearest number")
    return found


def _nearest(exact: Fraction, computed: Fraction, number: Tensor) -> bool:
    """Whether no neighbour of the computed number is nearer to the exact one."""
    ends = (torch.nextafter(number, torch.full_like(number, sign * torch.inf)) for sign in (-1, 1))
    return all(abs(exact - computed) <= abs(exact - Fraction(float(end))) for end in ends)


def _dot_products(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Whether an entry of a matrix product is farther from the exact one than n·u/(1 - n·u) Σ|a||b| (Higham, §3.1)."""
    a, b = (_samples(seed, 8 * _LENGTH, dtype).reshape(8, _LENGTH) for seed in (2, 3))
    results = (a.to(device) @ b.to(device).T).cpu().tolist()
    unit = _LENGTH * Fraction(torch.finfo(dtype).eps) / 2
    for x, line in zip(a.tolist(), results, strict=True):
        for y, computed in zip(b.tolist(), line, strict=True):
            terms = [Fraction(p) * Fraction(q) for p, q in zip(x, y, strict=True)]
            if abs(Fraction(computed) - sum(terms)) > unit / (1 - unit) * sum(map(abs, terms)):
                return ["entries of matrix products are farther from the exact ones than rounding of each step allows"]
    return []


def _samples(seed: int, count: int, dtype: torch.dtype) -> Tensor:
    """Random numbers of both signs and many sizes."""
    generator: Any = torch.Generator().manual_seed(seed)
    mantissa = torch.rand(count, generator=generator, dtype=torch.float64) + 0.5
    size = torch.randint(-20, 20, (count,), generator=generator)
    sign = 2.0 * torch.randint(0, 2, (count,), generator=generator) - 1
    return (sign * torch.ldexp(mantissa, size)).to(dtype)
