"""Elementary functions in ball arithmetic (Arb, by python-flint), as a judge of enclosures and of libraries.

`python -m scripts.judge tanh --stride 1` checks the float32 enclosures of `recurjac.arithmetic.elementary` at every
stride-th of all 2³² arguments; all of them take about a day.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from flint import arb, ctx
from torch import Tensor

from recurjac.arithmetic import Interval, elementary

_BITS = (120, 400, 1400, 5000)
"""Precisions that are tried until a question is decided."""
LOT = 2**16


@final
@dataclass(frozen=True)
class Known:
    """A function by its name, and what is known where arguments are so large that balls are not needed or too wide.

    below, above: a limit, and two numbers between which all values for arguments below (above) it lie, the nearest such
    numbers; None where Arb computes the values.
    """

    name: str
    value: Callable[[arb], arb]
    below: tuple[float, float, float] | None = None
    above: tuple[float, float, float] | None = None

    @property
    def reach(self) -> tuple[float, float]:
        """The limits."""
        low, high = (
            -math.inf if self.below is None else self.below[0],
            math.inf if self.above is None else self.above[0],
        )
        return low, high

    def mistakes(self, t: Tensor, found: Interval) -> list[tuple[float, float, float]]:
        """The arguments and ends of intervals that are not proved to contain f; NaN and ±inf are left out."""
        triples = zip(*(e.flatten().tolist() for e in (t, found.lower, found.upper)), strict=True)
        return [(x, low, high) for x, low, high in triples if math.isfinite(x) and not self._inside(x, low, high)]

    def _inside(self, x: float, low: float, high: float) -> bool:
        ends = self.below if x < self.reach[0] else self.above if x > self.reach[1] else None
        if ends is not None:
            return low <= ends[1] and ends[2] <= high
        for bits in _BITS:
            ctx.prec = bits
            ball = self.value(arb(x))
            if (low == -math.inf or arb(low) <= ball) and (high == math.inf or ball <= arb(high)):
                return True
            if ball.is_exact() or (ball < arb(low)) or (ball > arb(high)):
                return False
        return False


_TINY, _NEAR, _HUGE = (0.0, 2.0**-1074), (1 - 2.0**-53, 1.0), (1.7976931348623157e308, math.inf)
_MINUS = (-1.0, 2.0**-53 - 1)
KNOWN = (
    Known("exp", arb.exp, (-1000, *_TINY), (1000, *_HUGE)),
    Known("expm1", arb.expm1, (-40, *_MINUS), (1000, *_HUGE)),
    Known("log", arb.log),
    Known("log1p", arb.log1p),
    Known("sigmoid", lambda x: 1 / (1 + (-x).exp()), (-1000, *_TINY), (40, *_NEAR)),
    Known("logistic", lambda x: (-abs(x)).exp() / (1 + (-abs(x)).exp()) ** 2, (-1000, *_TINY), (1000, *_TINY)),
    Known("tanh", arb.tanh, (-20, *_MINUS), (20, *_NEAR)),
    Known("softplus", lambda x: x.exp().log1p() if x < 0 else x + (-x).exp().log1p(), (-1000, *_TINY)),
    Known("log_cosh", lambda x: abs(x) / 2 + (-abs(x)).exp().log1p()),
    Known("sin", arb.sin),
    Known("cos", arb.cos),
    Known("atan", arb.atan),
    Known("erf", arb.erf, (-7, *_MINUS), (7, *_NEAR)),
    Known("erfc", arb.erfc, (-7, 2 - 2.0**-52, 2.0), (40, *_TINY)),
    Known("gaussian", lambda x: (-x * x).exp(), (-40, *_TINY), (40, *_TINY)),
    Known("normal_density", lambda x: (-x * x / 2).exp() / (2 * arb.pi()).sqrt(), (-40, *_TINY), (40, *_TINY)),
    Known("normal_distribution", lambda x: (-x / arb(2).sqrt()).erfc() / 2, (-40, *_TINY), (10, *_NEAR)),
    Known("sqrt", arb.sqrt),
)
"""The functions of one number in `recurjac.arithmetic.elementary`."""
DOMAIN = {"log": 0.0, "log1p": -1.0, "sqrt": 0.0}
"""Above (for √: from) which number a function is defined, if not everywhere."""


def defined(name: str, t: Tensor) -> Tensor:
    """The numbers at which the function is defined."""
    least = DOMAIN.get(name, -math.inf)
    return t[(t >= least) if name == "sqrt" else (t > least)]


def floats(start: int, stop: int, stride: int) -> Tensor:
    """The float32 numbers whose bits are start, start + stride, … below stop; NaN among them."""
    bits = torch.arange(start, stop, stride, dtype=torch.int64)
    return (bits - (bits >> 31 << 32)).to(torch.int32).view(torch.float32)


def lots(stride: int) -> Iterable[Tensor]:
    """Every stride-th float32 number, in lots."""
    for start in range(0, 2**32, LOT * stride):
        yield floats(start, min(start + LOT * stride, 2**32), stride)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[known.name for known in KNOWN])
    parser.add_argument("--stride", type=int, default=1)
    arguments = parser.parse_args()
    known = next(k for k in KNOWN if k.name == arguments.name)
    count = 0
    for lot in lots(arguments.stride):
        t = defined(known.name, lot)
        found = known.mistakes(t, getattr(elementary, known.name)(t))
        if found:
            raise SystemExit(f"{known.name} of {found[0][0]!r} is not in [{found[0][1]!r}, {found[0][2]!r}]")
        count += t.numel()
    print(f"{known.name}: {count} arguments, each enclosed")


if __name__ == "__main__":
    main()
