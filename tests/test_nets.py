"""Networks trained elsewhere: they are read, and compute what onnxruntime does (`test_nets_bounds`: bounds).

The files are kept beside the repository; where they are not, nothing is tested.  None takes a second.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import LeakyReLU
from recurjac.network import Network

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
NETS = Path(__file__).parents[2] / "shared" / "nets"
FILES = sorted(NETS.glob("*.onnx"))
TWINS = [f.stem for f in FILES if f.with_suffix(".npz").exists()]
INPUTS = 100


@cache
def load(path: Path) -> Network:
    return rj.load(path)


@cache
def inputs(path: Path) -> Tensor:
    """Random inputs in [0, 1], as raw pixels are, that float32 holds."""
    g = torch.Generator().manual_seed(len(path.stem))
    return torch.rand(INPUTS, *load(path).input_shape, generator=g).double()


@cache
def originals(path: Path) -> Tensor:
    """What onnxruntime makes of the inputs, one by one: (inputs, outputs)."""
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    shape = [n if isinstance(n, int) else 1 for n in wanted.shape]
    dtype = np.float64 if "double" in wanted.type else np.float32
    rows = [session.run(None, {wanted.name: x.numpy().astype(dtype).reshape(shape)})[0].ravel() for x in inputs(path)]
    return torch.from_numpy(np.stack(rows)).double()


def agree(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-4 of each input's largest output, which is what float32 leaves."""
    gap = (ours.flatten(1) - theirs).abs().amax(1)
    assert bool((gap <= 1e-4 * theirs.abs().amax(1)).all())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_network_computes_what_onnxruntime_does(path: Path) -> None:
    agree(load(path)(inputs(path)), originals(path))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_network_in_float32_computes_the_same(path: Path) -> None:
    """Every file holds float32 numbers, even that of type double."""
    narrow = rj.load(path, dtype=torch.float32)
    agree(narrow(inputs(path).float()).double(), originals(path))


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_the_same_network(name: str) -> None:
    """The same weights as a list; as a file its slope is 0.3, in ONNX the float32 number next to it."""
    path = NETS / f"{name}.onnx"
    x, network, file = inputs(path), load(path), np.load(path.with_suffix(".npz"))
    layers = [(file[f"W{k}"], file[f"b{k}"]) for k in range(network.depth)]
    twin = rj.load(layers, activation=LeakyReLU(float(np.float32(file["slope"]))))
    torch.testing.assert_close(twin(x), network(x), rtol=1e-12, atol=1e-12)
    for other in (twin, rj.load(path.with_suffix(".npz"))):
        agree(other(x), originals(path))
        assert [(s.shape, s.activation.name) for s in other.stages] == [
            (s.shape, s.activation.name) for s in network.stages
        ]
