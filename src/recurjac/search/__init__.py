"""Lower bounds of Lipschitz constants: the largest gain ‖J(x) v‖_q / ‖v‖_p that a search finds and proves."""

from __future__ import annotations

from recurjac.search.attained import NO_AIM, Aim, Attained, better_of
from recurjac.search.jacobians import outputs_and_jacobian, point_jacobian
from recurjac.search.search import Search

__all__ = ["NO_AIM", "Aim", "Attained", "Search", "better_of", "outputs_and_jacobian", "point_jacobian"]
