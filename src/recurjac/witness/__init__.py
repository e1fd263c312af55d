"""Witnesses of what results claim, which a small program can check (docs/certificates.md)."""

from recurjac.witness.makers import (
    jacobian_certificates,
    lipschitz_certificates,
    measure_certificates,
    radius_certificates,
    range_certificates,
    stationary_certificates,
    trend_certificates,
)

__all__ = [
    "jacobian_certificates",
    "lipschitz_certificates",
    "measure_certificates",
    "radius_certificates",
    "range_certificates",
    "stationary_certificates",
    "trend_certificates",
]
