"""All checks of one random network, and what they report."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import recurjac as rj
from recurjac.jacobian.hessian import check_smooth
from tests.fuzz.cases import Case, drawn_case
from tests.fuzz.checks import CHECKS


@dataclass(frozen=True)
class Report:
    """How many networks were bounded, how many of them have Hessians, what is wrong, and what was refused."""

    networks: int = 0
    smooth: int = 0
    wrong: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def plus(self, other: Report) -> Report:
        return Report(
            self.networks + other.networks, self.smooth + other.smooth, self.wrong + other.wrong,
            self.refused + other.refused,
        )  # fmt: skip


def answered(seed: int) -> Report:
    """The report on the network of that number."""
    try:
        case = drawn_case(seed)
    except (rj.RecurJacError, ArithmeticError) as error:
        return Report(refused=(_reason(error),))
    wrong, refused = list[str](), list[str]()
    for check, share in CHECKS.items():
        if case.draw.random() >= share:
            continue
        try:
            wrong += [f"{case}: {check.__name__}: {line}" for line in check(case)]
        except rj.UnsoundBounds as error:
            wrong.append(f"{case}: {check.__name__}: {error}")
        except rj.RecurJacError as error:
            refused.append(f"{check.__name__}: {_reason(error)}")
        except Exception:
            wrong.append(f"{case}: {check.__name__}: {traceback.format_exc(limit=-3)}")
    return Report(1, int(_is_smooth(case)), tuple(wrong), tuple(refused))


def _is_smooth(case: Case) -> bool:
    try:
        check_smooth(case.network)
    except rj.InvalidRequest:
        return False
    return True


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"
