"""Certified bounds on the Jacobian of a neural network over a region of inputs, and what follows from them.

import recurjac as rj

net = rj.load(module, example)
lip = rj.lipschitz(net, rj.LpBall(x, radius=0.1, clip=(0, 1)))
lip.upper, lip.lower        # certified, attained at lip.witness

Public are the names here, in `recurjac.extend`, `recurjac.testing`, `recurjac.training` and `recurjac.plot`; all others
may change without notice.  They are imported when one of them is used for the first time (PEP 562): the command line
starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from recurjac.version import __version__ as __version__

if TYPE_CHECKING:
    from recurjac import extend as extend
    from recurjac import plot as plot
    from recurjac import testing as testing
    from recurjac import training as training
    from recurjac.cli.sweep_plan import Sweep as Sweep
    from recurjac.public import *  # noqa: F403  (for type checkers only: the names are listed once)
    from recurjac.public import __all__ as __all__
else:
    _MODULES = ("extend", "plot", "testing", "training")
    """The public modules."""

    def __getattr__(name: str) -> object:
        """A public name; all of them are imported together."""
        if name in _MODULES:
            return import_module(f"recurjac.{name}")
        if name == "Sweep":  # it needs the commands, and nothing else does
            return import_module("recurjac.cli.sweep_plan").Sweep
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        public = import_module("recurjac.public")
        globals().update({each: getattr(public, each) for each in public.__all__ if each != "Sweep"})
        if name == "__all__":
            return public.__all__
        if name not in globals():  # the names, or a module that was imported with them
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        """The public names."""
        return [*__getattr__("__all__"), *_MODULES]
