"""All public names of the package; `recurjac` has them too, and imports them when one of them is used."""

from math import inf
from typing import TYPE_CHECKING

from recurjac.applications.attack import Attack
from recurjac.applications.branched_margin import BranchedMargin
from recurjac.applications.contraction import MatrixMeasure, matrix_measure
from recurjac.applications.contraction_rates import contraction_rate
from recurjac.applications.deployed import DeployedError, deployed_error
from recurjac.applications.krawczyk import StationaryKind
from recurjac.applications.landscape import StationaryFree, stationary_free_radius
from recurjac.applications.monotonicity import (
    DirectionalBounds,
    Monotonicity,
    Probe,
    Trend,
    directional_bounds,
    monotone,
)
from recurjac.applications.newton import Newton
from recurjac.applications.proofs import LipschitzIntegral, MarginBound, SecantMargin
from recurjac.applications.radius_search import RadiusSearch
from recurjac.applications.robustness import CertifiedRadius, certified_radius
from recurjac.applications.second_derivatives import (
    Curvature,
    ResidualBounds,
    SecondDerivatives,
    curvature,
    hessian_bounds,
    residual_bounds,
    second_derivative,
)
from recurjac.applications.stationary import StationaryPoint, StationaryPoints, stationary_points
from recurjac.arithmetic import Deployed, Fast, Interval, Rigorous
from recurjac.auto import Auto
from recurjac.branching import (
    Branched,
    BranchedEntries,
    Branching,
    ExactNorm,
    InputBisection,
    Leaves,
    Limit,
    PieceBisection,
    SignBisection,
    VertexCaps,
)
from recurjac.certificates import Certificate
from recurjac.errors import (
    ConversionError,
    InvalidNetwork,
    InvalidRegion,
    InvalidRequest,
    MissingDependency,
    RecurJacError,
    UnreadableFile,
    UnsoundBounds,
    UnsupportedLayer,
)
from recurjac.jacobian import (
    AutoEntries,
    Centred,
    Chords,
    Clamped,
    ClosedForms,
    Cut,
    FastLip,
    ForwardTangents,
    GradientForms,
    Gradients,
    Intersection,
    InTime,
    JacobianBounds,
    NodeIntersection,
    QuadraticClamped,
    RecurJac,
    Reversed,
    ReversedAfterFirst,
    WithTangents,
    XLinear,
    jacobian_bounds,
)
from recurjac.jacobian.differential import Residual, laplacian, partial
from recurjac.jacobian.hessian import HessianBounds
from recurjac.lipschitz_constants import Lipschitz, lipschitz
from recurjac.loading import closed_loop, load
from recurjac.loading.derivatives import gradient_network, lie_derivative
from recurjac.loading.onnx_written import save_onnx
from recurjac.network import Network
from recurjac.norms import (
    ChordSum,
    CornerNorm,
    CoupledNorm,
    JacobianNorm,
    LinearNetworkNorm,
    PatternSum,
    PlainSum,
    ProductOfNorms,
    QuadraticNorm,
    SignSum,
    SplitNorm,
    TightestNorm,
    TurnedNorm,
)
from recurjac.preactivation import (
    IBP,
    Alone,
    AutoRanges,
    Crown,
    Dual,
    FastLin,
    Forward,
    ForwardForms,
    Given,
    HalfSpaces,
    PreIntersection,
    Refine,
    Secants,
)
from recurjac.problem import Problem
from recurjac.propagation.planning import PlainOnly, Planner, SkeletonOnly
from recurjac.provenance import Provenance
from recurjac.region import Box, LpBall
from recurjac.search import Search
from recurjac.stage_bounds import PreactivationBounds, preactivation_bounds
from recurjac.version import __version__
from recurjac.witness import makers as _makers  # noqa: F401  (it says how certificates are made)

if TYPE_CHECKING:
    from recurjac.cli.sweep_plan import Sweep as Sweep  # `recurjac` imports it when it is used

__all__ = [
    "__version__", "Alone", "Attack", "Auto", "AutoEntries", "AutoRanges", "Box", "Branched", "BranchedEntries",
    "BranchedMargin", "Branching", "Centred", "Certificate", "certified_radius", "CertifiedRadius", "Chords",
    "ChordSum", "Clamped", "closed_loop", "ClosedForms", "contraction_rate", "ConversionError", "CornerNorm",
    "CoupledNorm", "Crown", "Curvature", "curvature", "Cut", "Deployed", "deployed_error", "DeployedError",
    "directional_bounds", "DirectionalBounds", "Dual", "ExactNorm", "Fast", "FastLin",
    "FastLip", "Forward", "ForwardForms", "ForwardTangents", "Given", "gradient_network", "GradientForms", "Gradients",
    "HalfSpaces", "hessian_bounds", "HessianBounds", "IBP", "inf", "InputBisection", "Intersection", "Interval",
    "InTime", "InvalidNetwork", "InvalidRegion", "InvalidRequest", "jacobian_bounds", "JacobianBounds", "JacobianNorm",
    "laplacian", "Leaves", "lie_derivative", "Limit", "LinearNetworkNorm", "Lipschitz", "lipschitz",
    "LipschitzIntegral", "load", "LpBall",
    "MarginBound", "matrix_measure", "MatrixMeasure", "MissingDependency", "monotone", "Monotonicity", "Network",
    "Newton", "NodeIntersection", "partial", "PatternSum", "PieceBisection", "PlainOnly", "PlainSum", "Planner",
    "preactivation_bounds", "PreactivationBounds", "PreIntersection", "Probe", "Problem", "ProductOfNorms",
    "Provenance", "QuadraticClamped", "QuadraticNorm", "RadiusSearch", "RecurJac", "RecurJacError", "Refine",
    "Residual", "residual_bounds", "ResidualBounds", "Reversed", "ReversedAfterFirst", "Rigorous", "save_onnx",
    "Search", "SecantMargin", "Secants", "second_derivative", "SecondDerivatives", "SignBisection", "SignSum",
    "SkeletonOnly", "SplitNorm", "stationary_free_radius", "stationary_points", "StationaryFree", "StationaryKind",
    "StationaryPoint", "StationaryPoints", "Sweep", "TightestNorm", "Trend", "TurnedNorm", "UnreadableFile",
    "UnsoundBounds",
    "UnsupportedLayer", "VertexCaps", "WithTangents", "XLinear",
]  # fmt: skip
