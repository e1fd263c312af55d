"""What PyTorch exports of a module, or why it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from recurjac.errors import InvalidNetwork
from recurjac.loading.foreign import about_untraced
from recurjac.loading.messages import first_line, is_derivative, quiet_failure, untraced
from recurjac.loading.unfolded import differentiates, unfolded


def exported(module: nn.Module, examples: Sequence[Tensor]) -> tuple[nn.Module, ExportedProgram]:
    """The graph of a module, or of its operations if it differentiates inside, and what was exported.

    It is that for the first of some examples that PyTorch can export it with.  Raises InvalidNetwork if there is none.
    """
    failed: list[Exception] = []
    for example in examples:
        try:
            program = _export(module, example)
        except Exception as error:  # a module can raise any exception
            failed.append(error)
            found = _export_unfolded(module, example) if is_derivative(error) else None
            if found is not None:
                return found
        else:
            return (_export_unfolded(module, example) if differentiates(program) else None) or (module, program)
    shape = tuple(examples[0].shape[1:])
    batch = f"a batch of one input of shape {shape} (the first dimension of the example is the batch)"
    own = _own_failure(module, examples)
    if own is not None:
        raise InvalidNetwork(f"the module fails on {batch}: {first_line(own)}; {_MEND}") from own
    said = untraced(failed[0], about_untraced(module))
    raise InvalidNetwork(f"torch.export cannot trace the module on {batch}: {said}") from failed[0]


_MEND = "give an example of the shape that it takes, or mend the module"


def _own_failure(module: nn.Module, examples: Sequence[Tensor]) -> Exception | None:
    """Why a module fails on each of some examples when it is called without being traced; None if it does not."""
    failed: Exception | None = None
    for example in examples:
        try:
            module(example)
        except Exception as error:  # a module can raise any exception
            failed = failed or error
        else:
            return None
    return failed


def _export(module: nn.Module, example: Tensor) -> ExportedProgram:
    with quiet_failure(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attribute")  # weights that are computed in each call
        return torch.export.export(module, (example,), strict=False)


def _export_unfolded(module: nn.Module, example: Tensor) -> tuple[nn.Module, ExportedProgram] | None:
    """What is exported of a module that differentiates inside; None if PyTorch cannot follow it."""
    try:
        plain = unfolded(module, example)
        return plain, _export(plain, example)
    except Exception:  # a module can raise any exception; the first one says why
        return None
