"""Certificates: they claim what their witness proves and no more, and an independent program agrees."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import recurjac as rj
from benchmarks.certificates import MODULES, written
from recurjac.certificates import write_certificates
from recurjac.cli import main
from recurjac.cli.checking import CHECKER
from recurjac.deadline import NEVER, Deadline
from recurjac.network import Network, chain
from recurjac.preactivation.secants import Secants
from recurjac.provenance import AbstractResult
from recurjac.testing.networks import KINDS, true_jacobians
from recurjac.witness.leaf import Asked, Leaf
from recurjac.witness.literal import literal
from recurjac.witness.parts import Parts
from recurjac.witness.questions import NormQuestion
from recurjac.witness.ranges import stage_nodes
from tests.helpers import refused
from tests.onnx_models import DOUBLE, node, onnx
from tests.onnx_models import model as onnx_model

CHAINS = ("relu", "leaky", "steep", "tanh", "sigmoid")
SLOWLY = [pytest.param(k, marks=pytest.mark.slow) if k in ("leaky", "steep", "sigmoid") else k for k in CHAINS]
HOME = Path(__file__).parents[1] / "checker"
FEW = rj.RadiusSearch(4, attack=rj.Attack(2, 1, 1))
Ask = Callable[[Network, torch.Tensor], AbstractResult]


def quick(network: Network, region: rj.LpBall, p: float, q: float) -> rj.Lipschitz:
    """A constant by one method, without a search for the lower bound."""
    return rj.lipschitz(network, region, p=p, q=q, method=rj.Chords(), search=rj.Search(work=0))


QUESTIONS: dict[str, Ask] = {
    "norm inf": lambda n, x: quick(n, rj.LpBall(x, 0.1), p=inf, q=inf),
    "norm 2": lambda n, x: quick(n, rj.LpBall(x, 0.1, 2, (-1.1, 2.0)), p=2, q=2),
    "norm 1": lambda n, x: quick(n.margin(0, 2), rj.LpBall(x, 0.1, 1), p=1, q=1),
    "entries": lambda n, x: rj.jacobian_bounds(n, rj.Box(x - 0.1, x + 0.05)),
    "ranges": lambda n, x: rj.preactivation_bounds(n, rj.LpBall(x, 0.1)),
    "trends": lambda n, x: rj.monotone(n, rj.LpBall(x, 0.02), probe=rj.Probe(8), limit=rj.Limit(parts=1)),
    "radius": lambda n, x: rj.certified_radius(n, x, p=2, search=FEW),
    "radius of all": lambda n, x: rj.certified_radius(n, x, target="all", search=FEW),
    "stationary": lambda n, x: rj.stationary_free_radius(n, x, output=1),
}


@pytest.fixture
def model(tmp_path: Path) -> Callable[[Network], tuple[Network, Path]]:
    """Write a network as an ONNX file: the network that is read from it, and the file."""

    def written(network: Network) -> tuple[Network, Path]:
        path = tmp_path / "model.onnx"
        rj.save_onnx(network, path)
        return rj.load(path), path

    return written


def small(kind: str, seed: int = 0) -> Network:
    """A chain of 4 inputs and 3 outputs."""
    g = torch.Generator().manual_seed(seed)
    sizes = [(7, 4), (7, 7), (3, 7)]
    weights = [torch.randn(size, generator=g, dtype=torch.float64) * (1.5 / size[1] ** 0.5) for size in sizes]
    biases = [torch.randn(size[0], generator=g, dtype=torch.float64) / 2 for size in sizes]
    return chain(list(zip(weights, biases, strict=True)), [KINDS[kind]] * 2)


def point(seed: int = 0, batch: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, generator=g, dtype=torch.float64) / 2


def checked(path: Path, model: Path) -> tuple[int, str]:
    """The exit code of the checker and what it says; skips the test if there is no checker."""
    if importlib.util.find_spec("flint") is None:
        pytest.skip("python-flint is not installed")
    if not (HOME / CHECKER).is_dir() and importlib.util.find_spec(CHECKER) is None:
        pytest.skip("the checker is not installed")
    where = os.pathsep.join(p for p in (str(HOME), os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-m", CHECKER, str(path), str(model)]
    paths = {**os.environ, "PYTHONPATH": where}
    done = subprocess.run(command, capture_output=True, text=True, env=paths, check=False)  # noqa: S603  (our own)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", SLOWLY)
def test_certificates_are_accepted(kind: str, model: Any, tmp_path: Path) -> None:
    network, file = model(small(kind))
    made = [c for ask in QUESTIONS.values() for c in ask(network, point()).certificate(file, seconds=1)]
    assert len(made) == len(QUESTIONS)
    assert sum(c.proves for c in made) >= 5
    for i, certificate in enumerate(c for c in made if c.proves):
        certificate.save(tmp_path / f"{i}.json")
        code, said = checked(tmp_path / f"{i}.json", file)
        assert code == 0, (certificate, said)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_whole_clip_boxes_are_certified(p: float, model: Any, tmp_path: Path) -> None:
    """A ball of infinite radius is written as its clip box, as a radius in a certificate is finite."""
    network, file = model(small("tanh"))
    (made,) = rj.jacobian_bounds(network.output(0), rj.LpBall(point(), inf, p, (-1.5, 1.5))).certificate(file)
    assert made.proves
    made.save(tmp_path / "whole.json")
    assert checked(tmp_path / "whole.json", file) == (0, "valid\n")


def deep(seed: int = 0) -> Network:
    """A chain of 20 inputs, too many to be divided, and 3 outputs, whose chords are loose."""
    g = torch.Generator().manual_seed(seed)
    sizes = [(24, 20), *[(24, 24)] * 4, (3, 24)]
    weights = [torch.randn(size, generator=g, dtype=torch.float64) * (1.4 / size[1] ** 0.5) for size in sizes]
    return chain([(w, torch.randn(len(w), generator=g, dtype=torch.float64) / 4) for w in weights], [KINDS["relu"]] * 5)


@pytest.mark.parametrize(
    ("p", "q"), [(2, 2), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((inf, inf), (1, 1), (2, inf)))]
)
def test_where_lines_are_loose_chains_of_matrices_prove_the_constant(
    p: float, q: float, model: Any, tmp_path: Path
) -> None:
    network, file = model(deep())
    region = rj.LpBall(torch.zeros(1, 20, dtype=torch.float64), 0.3, p)
    ask = partial(rj.lipschitz, network, region, p=p, q=q, search=rj.Search(work=0))
    chains = ask(method=rj.QuadraticNorm(), pre=Secants())
    (certificate,) = chains.certificate(file, seconds=10)
    assert certificate.value <= 1.05 * float(chains.upper)
    assert certificate.value < 0.7 * float(ask(method=rj.Chords()).upper)
    assert certificate.document["claims"][0]["by"] == "tangents"
    assert certificate.document["parts"][0]["gradients"] == []
    certificate.save(tmp_path / "c.json")
    assert checked(tmp_path / "c.json", file) == (0, "valid\n")
    forgery = copy.deepcopy(certificate.document)
    forgery["claims"][0]["upper"] = (float.fromhex(forgery["claims"][0]["upper"]) * (1 - 1e-6)).hex()
    (tmp_path / "forged.json").write_text(json.dumps(forgery))
    code, said = checked(tmp_path / "forged.json", file)
    assert (code, "claim 0 (lipschitz): parts[0]: norm" in said) == (1, True)


def test_outputs_are_proved_by_secants_where_lines_are_loose(model: Any, tmp_path: Path) -> None:
    network, file = model(deep())
    region = rj.LpBall(torch.zeros(1, 20, dtype=torch.float64), 0.3, 2)
    found = rj.preactivation_bounds(network, region, pre=Secants())
    (certificate,) = found.certificate(file, seconds=10)
    lines = rj.preactivation_bounds(network, region, pre=rj.Crown())
    assert certificate.value < 0.9 * float((lines.upper[-1] - lines.lower[-1]).amax())
    assert certificate.document["parts"][0]["values"]["quadratic"][-1] is not None
    certificate.save(tmp_path / "c.json")
    assert checked(tmp_path / "c.json", file) == (0, "valid\n")


SMALL = [name for name in MODULES if "200" not in name]
QUICK = ("conv, max pool", "gated", "residual")
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SMALL]


def fast(network: Network, x: torch.Tensor) -> list[AbstractResult]:
    """Results of every kind, by cheap methods."""
    ball = rj.LpBall(x, 0.02)
    return [
        quick(network, ball, inf, inf),
        quick(network, ball, 2, 2),
        rj.jacobian_bounds(network, ball, method=rj.Chords()),
        rj.preactivation_bounds(network, ball),
        rj.monotone(network, ball, probe=rj.Probe(8), limit=rj.Limit(parts=1)),
        rj.certified_radius(network, x, search=FEW, time_limit=0.2),
        rj.stationary_free_radius(network, x, output=1, time_limit=0.2),
    ]


@pytest.mark.parametrize("name", EACH)
def test_certificates_of_other_layers_are_accepted(name: str, tmp_path: Path) -> None:
    file, x = written(name, tmp_path)
    made = [c for found in fast(rj.load(file), x) for c in found.certificate(file, seconds=0.2)]
    assert sum(c.proves for c in made) >= 5
    write_certificates(tmp_path / "all.json", [c for c in made if c.proves])
    code, said = checked(tmp_path / "all.json", file)
    assert code == 0, said


@pytest.mark.parametrize("name", SMALL)
def test_stages_are_those_of_the_checker(name: str, tmp_path: Path) -> None:
    """In number, size and order: both compute the same pre-activations at a point."""
    flint, checker = (pytest.importorskip(m) for m in ("flint", "recurjac_check"))
    file, x = written(name, tmp_path)
    network = literal(file)
    values = network.preactivations(x)
    ours = [torch.cat([values[k - 1].flatten() for k in nodes]) for nodes in stage_nodes(network)]
    theirs = checker.witness.at_point(
        checker.network.load(file.read_bytes()), [flint.arb(v) for v in x.flatten().tolist()]
    )
    assert len(ours) == len(theirs.nodes)
    for own, other in zip(ours, theirs.nodes, strict=True):
        known = torch.tensor([float(v.mid()) for v in other.l], dtype=torch.float64)
        assert torch.allclose(own, known, rtol=1e-12, atol=1e-12)


def square() -> Network:
    """A tanh network of 3 inputs and 3 outputs."""
    g = torch.Generator().manual_seed(5)
    weights = [torch.randn(size, generator=g, dtype=torch.float64) / 2 for size in ((6, 3), (6, 6), (3, 6))]
    return chain([(w, torch.zeros(len(w), dtype=torch.float64)) for w in weights], [KINDS["tanh"]] * 2)


def true_measure(jacobian: torch.Tensor, p: float) -> float:
    """The matrix measure of one matrix."""
    if p == 2:
        return float(torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2).amax())
    own = torch.eye(len(jacobian), dtype=torch.bool)
    return float(torch.where(own, jacobian, jacobian.abs()).sum(1 if p == inf else 0).amax())


@pytest.mark.parametrize("p", [1, 2, inf])
def test_measures_are_accepted_and_smaller_ones_are_refused(p: float, model: Any) -> None:
    checker = pytest.importorskip("recurjac_check")
    network, file = model(square())
    x = point()[:, :3]
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, 0.05))
    found = rj.matrix_measure(bounds, p=p)
    (certificate,) = found.certificate(file, seconds=1)
    data = file.read_bytes()
    assert checker.check_bytes(certificate.to_json().encode(), data).text == "valid"
    true = true_measure(true_jacobians(network, x)[0], p)
    assert true <= certificate.value <= float(found.upper) + 0.2 * abs(float(found.upper))
    forgery = json.loads(certificate.to_json())
    forgery["claims"][0]["upper"] = (true - 1e-9).hex()
    assert checker.check_bytes(json.dumps(forgery).encode(), data).text.startswith("invalid: claim 0 (measure)")
    weighted = rj.matrix_measure(bounds, p=p, weights=[1.0, 2.0, 1.0])
    refused(partial(weighted.certificate, file), rj.InvalidRequest, ["measures with weights"])


def test_a_measure_of_a_jacobian_that_is_not_square_is_refused(model: Any) -> None:
    checker = pytest.importorskip("recurjac_check")
    network, file = model(small("relu"))
    forgery = json.loads(QUESTIONS["entries"](network, point()).certificate(file)[0].to_json())
    for p in ("1", "2", "inf"):
        forgery["claims"] = [{"kind": "measure", "norm": p, "upper": "0x1p+10"}]
        assert "not square" in checker.check_bytes(json.dumps(forgery).encode(), file.read_bytes()).text


def sound(name: str, folder: Path) -> tuple[Path, list[dict[str, Any]], torch.Tensor]:
    """Certificates of entries, values and a norm of a network, and its true Jacobian at the centre."""
    file, x = written(name, folder)
    network, ball = rj.load(file), rj.LpBall(x, 0.02)
    found = [
        rj.jacobian_bounds(network, ball, method=rj.Chords()),
        rj.preactivation_bounds(network, ball),
        quick(network, ball, inf, inf),
    ]
    documents = [c.document for result in found for c in result.certificate(file, seconds=0.01)]
    return file, json.loads(json.dumps(documents)), true_jacobians(network, x)[0].flatten(1)


def forged(entries: dict[str, Any], ranges: dict[str, Any], norm: dict[str, Any], truth: torch.Tensor) -> Any:
    """False certificates, each with a part of the reason why it is refused.

    Claims are moved beyond what is true at the centre, and ranges in the witness below their lower ends.
    """

    def changed(document: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
        copied = copy.deepcopy(document)
        place = copied
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        return copied

    j = int(truth[0].abs().argmax())
    gap, true = 1e-9 * float(truth.abs().max()), float(truth[0, j])
    yield changed(entries, "claims", 0, "upper", j, to=(true - gap).hex()), "claim 0 (jacobian)"
    yield changed(entries, "claims", 0, "lower", j, to=(true + gap).hex()), "claim 0 (jacobian)"
    yield changed(entries, "claims", 0, "upper", j, to="nan"), "claim 0 (jacobian)"
    size = float(truth.abs().sum(1).amax())
    yield changed(norm, "claims", 0, "upper", to=(size * (1 - 1e-9)).hex()), "claim 0 (lipschitz)"
    ends = [float.fromhex(ranges["claims"][0][k]) for k in ("lower", "upper")]
    yield changed(ranges, "claims", 0, "upper", to=(ends[0] - 1.0).hex()), "claim 0 (output)"
    yield changed(ranges, "claims", 0, "lower", to=(ends[1] + 1.0).hex()), "claim 0 (output)"
    stages = ranges["parts"][0]["values"]["stages"]
    for k in {0, len(stages) - 1}:
        low, high = (float.fromhex(stages[k][e][0]) for e in ("lower", "upper"))
        path = ("parts", 0, "values", "stages", k)
        yield changed(ranges, *path, "upper", 0, to=(low - (high - low)).hex()), f"values.stages[{k}]"
        yield changed(ranges, *path, "lower", to=stages[k]["lower"][1:]), f"values.stages[{k}]"
    yield changed(entries, "parts", 0, "gradients", to=entries["parts"][0]["gradients"][1:]), "no gradient of this row"
    yield changed(ranges, "parts", 0, "values", "stages", to=stages[1:]), "values.stages"
    yield changed(ranges, "parts", to=[]), "no parts"
    yield changed(ranges, "model", "sha256", to="0" * 64), "model.sha256"
    yield changed(ranges, "region", "radius", to=(0.03).hex()), "region_sha256"


@pytest.mark.parametrize("name", SMALL)
def test_forged_certificates_are_refused_with_what_fails(name: str, tmp_path: Path) -> None:
    checker = pytest.importorskip("recurjac_check")
    file, documents, truth = sound(name, tmp_path)
    model = file.read_bytes()
    for document in documents:
        assert checker.check_bytes(json.dumps(document).encode(), model).text == "valid"
    entries, ranges, norm = documents
    forgeries = list(forged(entries, ranges, norm, truth))
    assert len(forgeries) >= 12
    for document, why in forgeries:
        verdict = checker.check_bytes(json.dumps(document).encode(), model)
        assert verdict.code == 1
        assert why in verdict.text


def test_operations_that_the_checker_does_not_know_are_refused(tmp_path: Path) -> None:
    def made(kind: str, **attributes: Any) -> rj.JacobianBounds:
        onnx.save(onnx_model([node(kind, "x", **attributes)], (1, 3), opset=20, kind=DOUBLE), tmp_path / "n.onnx")
        return rj.jacobian_bounds(rj.load(tmp_path / "n.onnx"), rj.LpBall(torch.rand(1, 3).double(), 0.1))

    for kind, attributes, why in (
        ("Softsign", {}, "a node Softsign, which the checker does not know"),
        ("Elu", {}, "a node Elu, which the checker does not know"),
        ("Gelu", {"approximate": "tanh"}, "read as GELUTanh, which the checker does not do"),
    ):
        found = made(kind, **attributes)
        refused(partial(found.certificate, tmp_path / "n.onnx"), rj.InvalidRequest, [why])


@pytest.mark.parametrize("kind", SLOWLY)
def test_no_claim_is_refuted_by_sampled_truth(kind: str, model: Any) -> None:
    network, file = model(small(kind))
    g = torch.Generator().manual_seed(3)
    for ask in QUESTIONS.values():
        for certificate in ask(network, point()).certificate(file, seconds=0.5):
            where = certificate.document["region"]
            for claim in certificate.document["claims"]:
                refute(claim, network, sampled(where, g))


def sampled(where: dict[str, Any], g: torch.Generator) -> torch.Tensor:
    """Points of a region of a certificate."""
    uniform = 2 * torch.rand(200, 4, generator=g, dtype=torch.float64) - 1
    if where["kind"] == "box":
        low, high = (floats(where[k]) for k in ("lower", "upper"))
        return low + (high - low) * (uniform + 1) / 2
    size = 1 if where["norm"] == "inf" else torch.linalg.vector_norm(uniform, float(where["norm"]), dim=1)[:, None]
    points = floats(where["center"]) + float.fromhex(where["radius"]) * 0.999 * uniform / size
    if where["clip"] is not None:
        points = points.clamp(floats(where["clip"]["lower"]), floats(where["clip"]["upper"]))
    return points


def floats(texts: list[str]) -> torch.Tensor:
    return torch.tensor([float.fromhex(t) for t in texts], dtype=torch.float64)


def matrix(rows: list[list[list[Any]]]) -> torch.Tensor:
    """The rows of a claim as a matrix of 3 columns."""
    found = torch.zeros(len(rows), 3, dtype=torch.float64)
    for i, row in enumerate(rows):
        for k, c in row:
            found[i, k] = float.fromhex(c)
    return found


def refute(claim: dict[str, Any], network: Network, x: torch.Tensor) -> None:
    """Compare a claim with values and derivatives at points."""
    values, slopes = network(x), true_jacobians(network, x)
    kind = claim["kind"]
    if kind == "robust":
        others = [i for i in range(3) if i != claim["label"]]
        assert (values[:, [claim["label"]]] > values[:, others]).all()
        return
    rows = matrix(claim["rows"] if "rows" in claim else [claim["row"]])
    along, of = (rows @ slopes), values @ rows.T
    if kind == "lipschitz":
        p, q = (float(claim[k]) for k in ("from", "to"))
        corners = torch.tensor([[1.0 - 2.0 * (i >> b & 1) for b in range(4)] for i in range(16)], dtype=torch.float64)
        steps = torch.eye(4, dtype=torch.float64) if p == 1 else corners / (1 if p == inf else 2)
        assert torch.linalg.vector_norm(along @ steps.T, q, dim=1).max() <= float.fromhex(claim["upper"])
    elif kind in ("jacobian", "output"):
        got = along[:, 0] if kind == "jacobian" else of[:, 0]
        low, high = claim["lower"], claim["upper"]
        low, high = (floats(e if isinstance(e, list) else [e]) for e in (low, high))
        assert (low <= got + 1e-12 * got.abs().max()).all()
        assert (got - 1e-12 * got.abs().max() <= high).all()
    elif kind == "monotone":
        assert (along[:, 0, claim["increasing"]] >= 0).all()
        assert (along[:, 0, claim["decreasing"]] <= 0).all()
    else:
        assert kind in ("no_stationary_point", "attained")
        assert kind == "attained" or bool((along[:, 0] != 0).any(1).all())


@pytest.mark.parametrize("kind", CHAINS)
def test_a_norm_is_not_below_what_is_attained(kind: str, model: Any) -> None:
    network, file = model(small(kind, 1))
    for p, q in ((inf, inf), (inf, 1), (2, 2), (2, inf), (1, 2), (1, 1)):
        found = quick(network, rj.LpBall(point(1, 2), 0.3), p, q)
        assert bool((found.lower > 0).any())
        for certificate, lower in zip(found.certificate(file, seconds=0.1), found.lower.tolist(), strict=True):
            assert certificate.value >= lower


@pytest.mark.parametrize("what", ["upper", "entry", "range", "node", "sign"])
def test_a_claim_beyond_the_witness_is_rejected(what: str, model: Any, tmp_path: Path) -> None:
    network, file = model(small("relu"))
    asked = {"upper": "norm inf", "entry": "entries", "range": "ranges", "node": "ranges", "sign": "trends"}[what]
    document = json.loads(QUESTIONS[asked](network, point()).certificate(file, seconds=0.01)[0].to_json())
    claim = document["claims"][0]
    if what == "sign":
        left = [i for i in range(4) if i not in claim["increasing"]]
        claim["increasing"] = sorted([*claim["increasing"], left[0]])
    elif what == "node":
        for stage in document["parts"][0]["values"]["stages"]:
            stage["upper"][0] = stage["lower"][0]
    elif what == "entry":
        claim["upper"][2] = (float.fromhex(claim["upper"][2]) - 1e-5).hex()
    else:
        claim["upper"] = (float.fromhex(claim["upper"]) * (1 - 1e-6)).hex() if what == "upper" else claim["lower"]
    (tmp_path / "forged.json").write_text(json.dumps(document))
    code, said = checked(tmp_path / "forged.json", file)
    assert code == 1
    assert "invalid" in said


def narrow(kind: str) -> Network:
    """A chain of 20 inputs, too many to be divided, and one hidden layer."""
    g = torch.Generator().manual_seed(1)
    first, last = (torch.randn(size, generator=g, dtype=torch.float64) for size in ((10, 20), (3, 10)))
    return chain([(first, torch.zeros(10).double()), (last, torch.zeros(3).double())], [KINDS[kind]])


@pytest.mark.parametrize("p", [inf, 1, 2])
def test_many_inputs_and_balls_are_divided_by_signs_of_neurons(
    p: float, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recurjac.witness.makers.is_affordable", lambda _: False)  # no P-chains
    network, file = model(narrow("relu"))
    region = rj.LpBall(torch.full((1, 20), 0.1).double(), 0.05 if p == inf else 0.3, p)
    found = quick(network, region, p, 1)
    (alone,) = found.certificate(file, seconds=20)
    (certificate,) = replace(found, upper=found.upper / 2).certificate(file, seconds=20)
    parts = certificate.document["parts"]
    assert len(alone.document["parts"]) == 1
    assert certificate.value < 0.9 * alone.value
    assert [set(part["split"]) for part in parts if "split" in part] == [{"stage", "neuron", "at"}] * (len(parts) // 2)
    certificate.save(tmp_path / "c.json")
    assert checked(tmp_path / "c.json", file) == (0, "valid\n")
    for forged, why in (
        ([{**parts[0], "below": parts[0]["above"], "above": parts[0]["below"]}, *parts[1:]], "values.stages[0]: "),
        (parts[:-1], "is not an index below"),
    ):
        (tmp_path / "forged.json").write_text(json.dumps({**certificate.document, "parts": forged}))
        code, said = checked(tmp_path / "forged.json", file)
        assert (code, "invalid: " in said, why in said) == (1, True, True)


@pytest.mark.parametrize(("p", "dual", "radius"), [(2, 2, 0.3), (inf, 1, 0.05)])
def test_no_constant_by_signs_is_below_a_derivative(p: float, dual: float, radius: float) -> None:
    """Neither over the region nor over any part; the parts cover it."""
    network = narrow("relu")
    bound = rj.LpBall(torch.full((1, 20), 0.1).double(), radius, p).bind((20,), torch.float64, torch.device("cpu"))
    parts = Parts.grown(Leaf(Asked(network, torch.eye(3).double()), bound), NormQuestion(p, inf, 0.0), NEVER)
    steps = torch.randn(4000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = steps * torch.rand(4000, 1, dtype=torch.float64) ** 0.1 / torch.linalg.vector_norm(steps, p, dim=1)[:, None]
    x = bound.x + radius * steps
    slopes = torch.linalg.vector_norm(true_jacobians(network, x), dual, dim=2).amax()
    assert float(slopes) <= parts.score
    z, covered = network.preactivations(x)[0], torch.zeros(4000, dtype=torch.bool)
    for leaf in parts.leaves:
        low, high = (leaf.ranges.state.pre(1).lower, leaf.ranges.state.pre(1).upper)
        inside = ((low <= z) & (z <= high)).all(1)
        covered = covered | inside
        own = torch.linalg.vector_norm(true_jacobians(network, x[inside]), dual, dim=2)
        assert not bool(inside.any()) or float(own.amax()) <= parts.question.score(leaf)
    assert bool(covered.all())
    assert len(parts.leaves) > 4


def two_layers(seed: int) -> Network:
    """A chain of 20 inputs and two hidden layers."""
    g = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(size, generator=g, dtype=torch.float64) / size[1] ** 0.5 for size in ((12, 20), (12, 12), (3, 12))
    ]
    return chain([(w, torch.zeros(len(w)).double()) for w in weights], [KINDS["relu"]] * 2)


def test_half_spaces_of_signs_prove_a_radius_that_lines_do_not(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recurjac.witness.makers.is_affordable", lambda _: False)  # no P-chains
    network, file = model(two_layers(0))
    x = torch.full((1, 20), 0.1).double()
    found = rj.certified_radius(network, x, search=FEW)
    wide = replace(found, radius=found.by_margin * 1.3)
    (certificate,) = wide.certificate(file, seconds=20)
    assert certificate.value > 1.2 * float(found.by_margin[0])
    parts = certificate.document["parts"]
    certificate.save(tmp_path / "c.json")
    assert checked(tmp_path / "c.json", file) == (0, "valid\n")
    places = [i for i, part in enumerate(parts) if part.get("halfspaces")]
    assert places
    forgery = copy.deepcopy(certificate.document)
    for i in places:
        forgery["parts"][i]["halfspaces"] = []
    (tmp_path / "forged.json").write_text(json.dumps(forgery))
    code, said = checked(tmp_path / "forged.json", file)
    assert (code, "claim 0 (" in said) == (1, True)


def monotone_score(inputs: int) -> Network:
    """A chain of ReLUs that rises with the first half of the inputs and falls with the second."""
    g = torch.Generator().manual_seed(inputs)
    sizes = [(12, inputs), (12, 12), (1, 12)]
    weights = [torch.rand(size, generator=g, dtype=torch.float64) / size[1] for size in sizes]
    weights[0][:, inputs // 2 :] *= -1
    return chain([(w, torch.randn(len(w), generator=g, dtype=torch.float64) / 4) for w in weights], [KINDS["relu"]] * 2)


@pytest.mark.parametrize("inputs", [6, 30])
def test_signs_by_structure_are_certified(inputs: int, model: Any, tmp_path: Path) -> None:
    """All neurons may be inactive, so that no derivative is certainly above 0: only that no path has the other sign."""
    network, file = model(monotone_score(inputs))
    x = torch.zeros(1, inputs, dtype=torch.float64)
    found = rj.monotone(network, rj.LpBall(x, 50.0), probe=rj.Probe(8), limit=rj.Limit(parts=1))
    assert int(found.increasing.sum()) == int(found.decreasing.sum()) == inputs // 2
    (certificate,) = found.certificate(file, seconds=1)
    assert certificate.value == certificate.result == inputs
    assert len(certificate.document["parts"]) == 1
    certificate.save(tmp_path / "c.json")
    assert checked(tmp_path / "c.json", file) == (0, "valid\n")
    forgery = copy.deepcopy(certificate.document)
    forgery["claims"][0]["increasing"] = [*range(inputs // 2 + 1)]
    (tmp_path / "forged.json").write_text(json.dumps(forgery))
    code, said = checked(tmp_path / "forged.json", file)
    assert (code, f"claim 0 (monotone): parts[0]: lower end of entry {inputs // 2}: claimed 0" in said) == (1, True)


def test_few_inputs_are_divided_until_the_certificate_proves_as_much(model: Any) -> None:
    network, _ = model(small("relu", 2))
    region = rj.LpBall(point(2), 0.5).bind((4,), torch.float64, torch.device("cpu"))
    asked = Asked(network, torch.eye(3, dtype=torch.float64))
    alone = Parts.grown(Leaf(asked, region), NormQuestion(inf, inf, 0.0), Deadline.after(1e-9))
    goal = NormQuestion(inf, inf, 0.0).value(alone.leaves) * 0.9
    question = NormQuestion(inf, inf, goal)
    divided = Parts.grown(Leaf(asked, region), question, NEVER)
    assert len(alone.nodes) == 1
    assert len(divided.nodes) > 1
    assert question.value(divided.leaves) <= question.goal
    children = [k for node in divided.nodes if isinstance(node, tuple) for k in node[1:]]
    assert sorted(children) == list(range(1, len(divided.nodes)))


def test_a_radius_that_the_witness_does_not_prove_becomes_smaller(model: Any) -> None:
    network, file = model(small("relu"))
    found = rj.certified_radius(network, point(), search=FEW)
    wide = replace(found, radius=found.radius * 100)
    (certificate,) = wide.certificate(file, seconds=5)
    assert 0.5 * float(found.by_margin[0]) <= certificate.value < float(wide.radius[0])
    assert certificate.proves
    assert float.fromhex(certificate.document["region"]["radius"]) == certificate.value


def test_several_certificates_share_a_file(model: Any, tmp_path: Path) -> None:
    network, file = model(small("relu"))
    made = rj.jacobian_bounds(network, rj.LpBall(point(0, 2), 0.1)).certificate(file)
    write_certificates(tmp_path / "two.json", made)
    assert [d["region"] for d in json.loads((tmp_path / "two.json").read_text())] == [
        c.document["region"] for c in made
    ]
    write_certificates(tmp_path / "one.json", made[:1])
    assert json.loads((tmp_path / "one.json").read_text()) == made[0].document


def test_certificates_that_cannot_be_are_refused(model: Any) -> None:
    network, file = model(small("relu"))
    ball = rj.LpBall(point(), 0.1)
    found = rj.jacobian_bounds(network, ball)
    other = rj.jacobian_bounds(small("relu", 5), ball)
    known = rj.Problem(network, ball).constrained(1, rj.Interval(torch.zeros(1, 7), torch.ones(1, 7)))
    smooth = small("tanh")
    cases: list[tuple[str, Callable[[], object]]] = [
        ("not an .onnx file", lambda: found.certificate("net.npz")),
        ("positive number", lambda: found.certificate(file, seconds=0)),
        ("not about the network in the file", lambda: other.certificate(file)),
        ("unbounded", lambda: rj.jacobian_bounds(network, rj.LpBall(point(), inf)).certificate(file)),
        ("constraints", lambda: rj.jacobian_bounds(known).certificate(file)),
        ("no certificates of HessianBounds", lambda: rj.hessian_bounds(smooth, ball, output=0).certificate(file)),
    ]  # fmt: skip
    for why, ask in cases:
        refused(ask, rj.InvalidRequest, [why])


def test_what_was_asked_is_no_part_of_a_report(model: Any) -> None:
    network, file = model(small("relu"))
    found = rj.jacobian_bounds(network, rj.LpBall(point(), 0.1))
    again = rj.jacobian_bounds(network, rj.LpBall(point(), 0.1))
    assert found == again
    assert hash(found) == hash(again)
    assert "asked" not in json.loads(found.to_json())["provenance"]
    for kept in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):  # noqa: S301  (our own bytes)
        assert kept == found
        assert kept.certificate(file)[0].value == found.certificate(file)[0].value


@pytest.mark.parametrize("kind", ["relu", "leaky", "tanh", "sigmoid", "arctan", "sin", "abs"])
def test_written_networks_are_read_as_the_same_function(kind: str, model: Any) -> None:
    given = small(kind)
    network, _ = model(given)
    x = point(4, 20)
    assert torch.allclose(network(x), given(x), rtol=1e-14, atol=1e-14)
    weights = [[t for e in stage.edges for t in e.operator.tensors()] for stage in network.stages]
    assert all(any(torch.equal(t, own) for t in own_stage) for own_stage in weights for own in own_stage)


def test_other_networks_are_not_written(tmp_path: Path) -> None:
    for kind in ("gelu", "softplus"):  # ONNX's Softplus has no parameter
        refused(partial(rj.save_onnx, small(kind), tmp_path / "a.onnx"), rj.UnsupportedLayer, [kind])
    pooled = rj.load(nn.Sequential(nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 2)).double(), torch.zeros(1, 1, 4))
    refused(lambda: rj.save_onnx(pooled, tmp_path / "b.onnx"), rj.UnsupportedLayer, ["operator"])


@pytest.mark.parametrize(
    "command",
    ["lipschitz", "jacobian", *(pytest.param(c, marks=pytest.mark.slow) for c in ("certify", "landscape", "monotone"))],
)
def test_commands_write_certificates(
    command: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, file = model(small("relu"))
    monkeypatch.chdir(tmp_path)
    unsought = partial(rj.lipschitz, search=rj.Search(work=0))
    monkeypatch.setattr("recurjac.cli.bounds.lipschitz", unsought)
    np.save("x.npy", point(0, 2).numpy())
    more = {"lipschitz": ["--radius", "0.1", "0.2", "--method", "chords"], "jacobian": ["--radius", "0.1"],
            "landscape": ["--class", "1"], "monotone": ["--radius", "0.02"], "certify": []}[command]  # fmt: skip
    quick = ["--method", "chords"] if "--method" not in more else []
    args = [command, str(file), "--input", "x.npy", *more, *quick, "--certificate", "c.json"]
    assert main(args) == 0
    found = json.loads(Path("c.json").read_text())
    assert len(found) == (4 if command == "lipschitz" else 2)
    assert "by the certificate" in capsys.readouterr().err
    assert main([command, "x.npz", "--input", "x.npy", *more, *quick, "--certificate", "d.json"]) == 2
    assert "not an .onnx file" in capsys.readouterr().err


def test_contraction_writes_certificates(model: Any, tmp_path: Path) -> None:
    _, file = model(square())
    np.save(tmp_path / "x.npy", point(0, 2)[:, :3].numpy())
    asked = [
        "--radius",
        "0.05",
        "--measure",
        "2",
        "inf",
        "--quiet",
        "--time-limit",
        "1",
        "--certificate",
        str(tmp_path / "c.json"),
    ]
    assert main(["contraction", str(file), "--input", str(tmp_path / "x.npy"), *asked]) == 0
    assert len(json.loads((tmp_path / "c.json").read_text())) == 4
    code, said = checked(tmp_path / "c.json", file)
    assert code == 0, said


def test_check_without_a_checker_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recurjac.cli.checking.CHECKER", "recurjac_check_that_is_not_there")
    assert main(["check", "c.json", "m.onnx"]) == 2
    assert "pip install" in capsys.readouterr().err
