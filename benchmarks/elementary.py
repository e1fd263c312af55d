"""How far PyTorch's own elementary functions are from the truth, in units of the last place.

`python -m benchmarks.elementary --stride 61` takes every 61st of all 2³² float32 arguments; 1 takes all.  There, the
truth is the float64 enclosure of `recurjac.arithmetic.elementary`, which is 10⁸ times narrower than a unit of float32,
and the worst argument is computed again by Arb (python-flint).  In float64, all arguments are random or chosen, and Arb
computes every value.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from flint import arb, ctx
from torch import Tensor

from recurjac.arithmetic import elementary
from scripts.judge import KNOWN, Known, defined, lots

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "erf": torch.erf,
    "erfc": torch.special.erfc,
    "normal_distribution": torch.special.ndtr,
    "sqrt": torch.sqrt,
}
_DOUBTFUL = 2.0**-20
"""Float64 enclosures wider than this, relative to the numbers, are not used as a truth."""


@final
@dataclass
class Worst:
    """The largest error of so many arguments, in units of the last place, and where it is."""

    error: float = -1.0
    at: float = math.nan
    count: int = 0

    def include(self, errors: Tensor, t: Tensor) -> None:
        self.count += t.numel()
        if t.numel() and float(errors.max()) > self.error:
            self.error, self.at = float(errors.max()), float(t[int(errors.argmax())])


def unit(number: float, digits: int, least: int) -> float:
    """The unit of the last place of numbers with so many binary digits, of which the smallest is 2^least."""
    return math.ldexp(1.0, max(math.frexp(number)[1] - digits, least))


def single(known: Known, stride: int) -> Worst:
    """Every stride-th float32 argument; one overflow where the truth has one is no error."""
    worst, library = Worst(), FUNCTIONS[known.name]
    for lot in lots(stride):
        t = defined(known.name, lot[lot.isfinite()])
        truth, top = getattr(elementary, known.name)(t.double()), 2.0**128
        low, high = truth.lower.clamp(-top, top), truth.upper.clamp(-top, top)
        size = torch.maximum(low.abs(), high.abs())
        clear = high - low <= (_DOUBTFUL * size).clamp(min=2.0**-200)
        units = torch.exp2((torch.frexp(size)[1] - 24).clamp(min=-149).double())
        value = library(t).double().clamp(-top, top)
        errors = torch.maximum((value - low).abs(), (high - value).abs()) / units
        errors = torch.where(value.isnan(), torch.inf, errors)
        worst.include(errors[clear], t[clear])
    worst.error = by_arb(known, worst.at, float(library(torch.tensor([worst.at] * 16))[0]), 24, -149)
    return worst


def by_arb(known: Known, x: float, value: float, digits: int, least: int) -> float:
    """The error of a value in units of the last place; beyond the smallest and the largest numbers nothing matters."""
    ctx.prec = 2500
    truth = known.value(arb(x))
    mantissa, exponent = truth.mid().man_exp()
    exact = Fraction(int(mantissa)) * Fraction(2) ** max(min(int(exponent), 2000), -9000)
    most = Fraction(2) ** (128 if digits == 24 else 1024)
    number = Fraction(value) if math.isfinite(value) else (most if value > 0 else -most)
    if math.isnan(value):
        return math.inf
    error = abs(number - max(min(exact, most), -most))
    nearest = float(exact) if abs(exact) < most / 2 else float(most / 2)
    return float(error / Fraction(unit(nearest, digits, least)))


def double(known: Known, count: int) -> Worst:
    """Random bits, numbers of ordinary sizes, and numbers near those where functions are reduced or vanish."""
    generator, worst = torch.Generator().manual_seed(0), Worst()
    t = arguments(count, generator)
    t = defined(known.name, t[t.isfinite() & (t >= known.reach[0])])
    values = FUNCTIONS[known.name](t)
    errors = [by_arb(known, x, v, 53, -1074) for x, v in zip(t.tolist(), values.tolist(), strict=True)]
    worst.include(torch.tensor(errors, dtype=torch.float64), t)
    return worst


def arguments(count: int, generator: torch.Generator) -> Tensor:
    """Float64 arguments: random bits, ordinary sizes, and near multiples of ln 2 / 2, of π / 4 and of 1 / 16."""
    part = count // 6
    noise = torch.randn(part, dtype=torch.float64, generator=generator)
    whole = torch.randint(-800, 800, (part,), generator=generator).double()
    near = [whole * step * (1 + 2.0**-50 * noise) for step in (math.log(2) / 2, math.pi / 4, 1 / 16)]
    bits = torch.randint(-(2**62), 2**62, (part,), generator=generator) * 2
    return torch.cat([bits.view(torch.float64), noise, 10 * noise.roll(1), *near])


def main(words: Sequence[str] | None = None) -> None:
    """Print a table of the functions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FUNCTIONS))
    parser.add_argument("--stride", type=int, default=61)
    parser.add_argument("--double", type=int, default=60000)
    given = parser.parse_args(words)
    print("| function | float32 | at | arguments | float64 | at | arguments |")
    print("|---|---|---|---|---|---|---|")
    for known in (k for k in KNOWN if k.name in given.names):
        a, b = single(known, given.stride), double(known, given.double)
        found = [f"{w.error:.3f} | {w.at!r} | {w.count}" for w in (a, b)]
        print(f"| {known.name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
