"""More than a hundred forged certificates, each refused with the claim or the part that fails."""

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from flint import arb, ctx

from producer import ball, certificate, dense, encoded, everything, unit
from recurjac_check import check_bytes, network, region
from recurjac_check.region import norm
from recurjac_check.witness import derivative

CENTER, RADIUS, SPLIT = [0.13, -0.21, 0.34], 0.125, 0.14
DATA = dense([3, 5, 5, 2], 12)
TANH = dense([3, 5, 4, 2], 1, "Tanh")
Forgery = tuple[str, Callable[[Any], Any], str]


def _row(i: int) -> Any:
    return ((i, arb(1)),)


@cache
def valid(data: bytes = DATA) -> Any:
    """A certificate with claims of every kind and two leaves."""
    where = ball(CENTER, RADIUS)
    found = everything(data, where, SPLIT)
    net = network.load(data)
    with ctx.workprec(128):
        point, direction = [arb(c) for c in CENTER], [arb(1), arb(-1), arb(1)]
        rate = norm(derivative(net, point, direction, [_row(0), _row(1)]), "2") / norm(direction, "inf")
    numbers = {"point": [c.hex() for c in CENTER], "direction": [(1.0).hex(), (-1.0).hex(), (1.0).hex()]}
    lower = (float(rate.mid()) * (1 - 2.0**-40)).hex()
    rows = [unit(0), unit(1)]
    found["claims"].append({"kind": "attained", "rows": rows, "from": "inf", "to": "2", "lower": lower, **numbers})
    values = [claim for claim in found["claims"] if claim["kind"] == "output"]
    best = int(float.fromhex(values[1]["lower"]) > float.fromhex(values[0]["upper"]))
    found["claims"].append({"kind": "robust", "label": best, "by": "values"})
    found["claims"].append({"kind": "adversary", "label": 1 - best, "other": best, "point": numbers["point"]})
    return found


def indices(kind: str) -> list[int]:
    """The places of claims of a kind."""
    return [i for i, claim in enumerate(valid()["claims"]) if claim["kind"] == kind]


def place(*keys: Any) -> Callable[[Any, Any], None]:
    """A setter of an entry of nested objects."""

    def put(value: Any, new: Any) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = new(value[keys[-1]]) if callable(new) else new

    return put


def forged(keys: list[Any], new: Any) -> Callable[[Any], Any]:
    """A certificate with one entry replaced."""

    def change(value: Any) -> Any:
        place(*keys)(value, new)
        return value

    return change


def moved(by: float) -> Callable[[str], str]:
    """A number moved."""
    return lambda text: (float.fromhex(text) + by).hex()


def between(share: float, other: str) -> Callable[[str], str]:
    """A number moved by a share of the way to another one."""
    return lambda text: (float.fromhex(text) + share * (float.fromhex(other) - float.fromhex(text))).hex()


def bounds() -> Iterator[Forgery]:
    """Claims that say a little too much, and claims of another row."""
    step = 1e-7
    for i in indices("output"):
        yield f"output-{i}-lower", forged(["claims", i, "lower"], moved(step)), f"claim {i} (output)"
        yield f"output-{i}-upper", forged(["claims", i, "upper"], moved(-step)), f"claim {i} (output)"
    for i in indices("jacobian"):
        for j in range(3):
            yield f"entry-{i}-{j}-l", forged(["claims", i, "lower", j], moved(step)), f"claim {i} (jacobian)"
            yield f"entry-{i}-{j}-u", forged(["claims", i, "upper", j], moved(-step)), f"claim {i} (jacobian)"
        yield f"rows-swapped-{i}", forged(["claims", i, "row"], lambda r: unit(1 - r[0][0])), f"claim {i} (jacobian)"
    for i in indices("lipschitz"):
        yield f"norm-{i}", forged(["claims", i, "upper"], moved(-step)), f"claim {i} (lipschitz)"
        yield f"norm-{i}-zero", forged(["claims", i, "upper"], (0.0).hex()), f"claim {i} (lipschitz)"
    for i in indices("monotone"):
        both = lambda claim: {**claim, "increasing": claim["decreasing"], "decreasing": claim["increasing"]}  # noqa: E731
        yield f"signs-{i}", forged(["claims", i], both), f"claim {i} (monotone)"
        yield f"signs-all-{i}", forged(["claims", i, "increasing"], [0, 1, 2]), f"claim {i} (monotone)"
    for i in indices("attained"):
        yield f"attained-{i}", forged(["claims", i, "lower"], moved(step)), f"claim {i} (attained)"
        yield f"outside-{i}", forged(["claims", i, "point", 0], moved(RADIUS * 1.001)), f"claim {i} (attained)"
        yield f"no-direction-{i}", forged(["claims", i, "direction"], [(0.0).hex()] * 3), f"claim {i} (attained)"
    for kind in ("robust", "adversary"):
        for i in indices(kind):
            yield f"{kind}-{i}", forged(["claims", i, "label"], lambda j: 1 - j), f"claim {i} ({kind})"
    for i in indices("adversary"):
        yield f"other-{i}", forged(["claims", i, "other"], lambda j: 1 - j), f"claim {i} (adversary)"
    for i in indices("robust"):
        yield f"robust-by-{i}", forged(["claims", i, "by"], "gradients"), f"claim {i} (robust)"


def witnesses() -> Iterator[Forgery]:
    """Ranges that are too small in one leaf, and lines that do not prove what is claimed."""
    for leaf in (1, 2):
        for k in (0, 1):
            for i in range(5):
                own = valid()["parts"][leaf]["values"]["stages"][k]
                ends = own["lower"][i], own["upper"][i]
                for name, other in (("lower", ends[1]), ("upper", ends[0])):
                    path = ["parts", leaf, "values", "stages", k, name, i]
                    yield (
                        f"range-{leaf}-{k}-{i}-{name}",
                        forged(path, between(0.3, other)),
                        f"parts[{leaf}].values.stages[{k}]",
                    )
            yield (
                f"slopes-{leaf}-{k}",
                forged(["parts", leaf, "values", "stages", k, "lower_slope"], [(9.0).hex()] * 5),
                "claim",
            )
            steep = [(-9.0).hex()] * 5
            yield (
                f"slopes-above-{leaf}-{k}",
                forged(["parts", leaf, "values", "stages", k, "upper_slope"], steep),
                "claim",
            )
        for r in (0, 1):
            path = ["parts", leaf, "gradients", r, "stages", 0]
            own = valid()["parts"][leaf]["gradients"][r]["stages"][0]
            for i in range(5):
                if float.fromhex(own["upper"][i]) - float.fromhex(own["lower"][i]) > 1e-3:
                    shrink = between(0.3, own["lower"][i])
                    yield f"gradient-{leaf}-{r}-{i}", forged([*path, "upper", i], shrink), f"gradients[{r}].stages[0]"
        yield f"no-gradient-{leaf}", forged(["parts", leaf, "gradients"], []), "no gradient of this row"
        yield f"no-values-{leaf}", forged(["parts", leaf, "values", "stages"], [None, None]), "claim"
        yield (
            f"crossed-{leaf}",
            forged(["parts", leaf, "values", "stages", 0, "upper"], ["-inf"] * 5),
            "upper end 0: claimed -inf",
        )


def trees() -> Iterator[Forgery]:
    """Leaves that are left out, used twice, or prove another part."""
    yield "leaf-out", forged(["parts"], lambda p: p[:2]), "parts[0].above"
    yield "leaf-alone", forged(["parts"], lambda p: [p[1]]), "claim 0 (output): parts[0].values"
    yield "leaf-twice", forged(["parts", 0, "above"], 1), "no parent yet"
    yield "own-child", forged(["parts", 0, "above"], 0), "no parent yet"
    yield "leaves-swapped", lambda c: {**c, "parts": [c["parts"][0], c["parts"][2], c["parts"][1]]}, "claim 0 (output)"
    yield "split-moved", forged(["parts", 0, "split", "at"], moved(0.02)), "claim 0 (output): parts[1]"
    yield "split-elsewhere", forged(["parts", 0, "split", "input"], 1), "claim 0 (output)"
    yield "split-outside", forged(["parts", 0, "split", "input"], 3), "not an index below 3"
    yield (
        "split-by-neuron",
        forged(["parts", 0, "split"], {"stage": 0, "neuron": 0, "at": "0x0p+0"}),
        "claim 0 (output): parts[1]",
    )
    yield "leaf-key", forged(["parts", 1], lambda p: {**p, "more": None}), "parts[1] is not an object with the keys"
    yield "quadratic-g", forged(["parts", 1, "gradients", 0, "quadratic"], {}), "parts[1].gradients[0].quadratic"
    yield "quadratic", forged(["parts", 1, "values", "quadratic"], {}), "claim 0 (output): parts[1].values.quadratic"
    yield "orphan", forged(["parts"], lambda p: [*p, p[2]]), "child of no node"
    yield "no-parts", forged(["parts"], []), "claim 0 (output): the certificate has no parts"


def surroundings() -> Iterator[Forgery]:
    """Another network, another region, other hashes."""
    yield "model-hash", forged(["model", "sha256"], "0" * 64), "model.sha256"
    yield "region-hash", forged(["region_sha256"], "0" * 64), "region_sha256"
    yield "radius", forged(["region", "radius"], moved(0.01)), "region_sha256"
    yield "radius-hashed", lambda c: _hashed(forged(["region", "radius"], moved(0.01))(c)), "claim 0 (output)"
    yield "center-hashed", lambda c: _hashed(forged(["region", "center", 1], moved(0.01))(c)), "claim 0 (output)"
    yield "norm-hashed", lambda c: _hashed(forged(["region", "radius"], moved(-1.0))(c)), "radius is negative"
    yield "format", forged(["format"], "recurjac-certificate/2"), "not a certificate of the format"
    yield "no-claims", forged(["claims"], []), "nothing is claimed"
    yield "kind", forged(["claims", 0, "kind"], "true"), "claim 0 is of no known kind"
    yield "kind-list", forged(["claims", 0, "kind"], [[]]), "claim 0 is of no known kind"
    empty = {"lower": [(5.0).hex()] * 3, "upper": [(6.0).hex()] * 3}
    yield "empty-region", lambda c: _hashed(forged(["region", "clip"], empty)(c)), "the region is empty"


def _hashed(value: Any) -> Any:
    value["region_sha256"] = region.digest(value["region"])
    return value


def malformed() -> Iterator[Forgery]:
    """Numbers and lists of another form."""
    for bad in ("nan", "NaN", "", "0x1p99999", "1.5", "0x1.8P+1", " 0x1p+0", 1, 1.5, None, True, [], {}, "inf", "٣"):
        fails = "hexadecimal" if isinstance(bad, float) else "claim {}"
        yield f"number-{bad!r}", forged(["claims", 2, "row"], [[0, bad]]), fails.format(2)
        yield f"range-{bad!r}", forged(["parts", 1, "values", "stages", 0, "lower_slope", 0], bad), fails.format(0)
    for bad in (-1, 2, True, "0", 0.0, None, 10**30):
        fails = "hexadecimal" if isinstance(bad, float) else "claim 0"
        yield f"index-{bad!r}", forged(["claims", 0, "row", 0, 0], bad), fails
    for kind in ("lipschitz", "attained"):
        for i in indices(kind)[:4]:
            yield f"no-rows-{i}", forged(["claims", i, "rows"], []), f"claim {i} ({kind}): rows is an empty list"
    yield "short", forged(["claims", 1, "lower"], lambda v: v[:-1]), "claim 1 (jacobian)"
    yield "extra-key", forged(["claims", 0], lambda v: {**v, "x": 1}), "claim 0 (output)"
    yield "missing-key", forged(["claims", 0], {"kind": "output"}), "claim 0 (output)"
    yield "top-key", lambda c: {**c, "more": 1}, "the certificate is not an object with the keys"
    yield "twice-in-row", forged(["claims", 0, "row"], [[0, "0x1p+0"], [0, "0x1p+0"]]), "do not rise"
    yield "leaf-text", forged(["parts", 1], "leaf"), "parts[1]"
    yield "stage-list", forged(["parts", 1, "values", "stages", 0], []), "claim 0 (output): parts[1].values.stages[0]"


FORGERIES = [*bounds(), *witnesses(), *trees(), *surroundings(), *malformed()]


def test_there_are_more_than_a_hundred_forgeries() -> None:
    assert len(FORGERIES) > 150
    assert len({name for name, _, _ in FORGERIES}) == len(FORGERIES)


@pytest.mark.parametrize("data", [DATA, TANH], ids=["relu", "tanh"])
def test_the_certificate_that_is_forged_is_valid(data: bytes) -> None:
    assert check_bytes(encoded(valid(data)), data).text == "valid"


@pytest.mark.parametrize(("change", "where"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES])
def test_a_forgery_is_refused_with_what_fails(change: Callable[[Any], Any], where: str) -> None:
    verdict = check_bytes(encoded(change(copy.deepcopy(valid()))), DATA)
    assert verdict.code == 1
    assert where in verdict.text


def test_a_certificate_of_another_network_is_refused() -> None:
    other = dense([3, 5, 4, 2], 2)
    assert "model.sha256" in check_bytes(encoded(valid()), other).text
    assert "claim" in check_bytes(encoded(_for(other)), other).text


def _for(data: bytes) -> Any:
    forgery = copy.deepcopy(valid())
    return certificate(data, forgery["region"], forgery["claims"], forgery["parts"])


def test_in_a_list_each_certificate_has_to_be_valid() -> None:
    forgery = forged(["claims", 0, "lower"], moved(1.0))(copy.deepcopy(valid()))
    assert check_bytes(json.dumps([valid(), valid()]).encode(), DATA).code == 0
    verdict = check_bytes(json.dumps([valid(), forgery]).encode(), DATA)
    assert verdict.text.startswith("invalid: certificate 1: claim 0 (output)")
    assert check_bytes(b"[]", DATA).code == 1


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"[Infinity]", b"1e400", b'{"format": 1, "format": 1}',
        b"\xff\xfe", b"null", b"3", b'"x"', b"1" * 10_000, b'{"format": "recurjac-certificate/1"}', b"[[[]]]", b"[{}]",
    ],
)  # fmt: skip
def test_hostile_files_are_one_sentence(text: bytes) -> None:
    verdict = check_bytes(text, DATA)
    assert verdict.code == 1
    assert "\n" not in verdict.text
    assert len(verdict.text) < 300


def test_hostile_networks_are_one_sentence() -> None:
    forgery = json.loads(json.dumps(valid()))
    for data in (
        b"",
        b"not onnx",
        DATA[:-7],
        DATA[:100],
        DATA.replace(b"Gemm", b"Gemn"),
        DATA.replace(b"Relu", b"Loop"),
    ):
        verdict = check_bytes(encoded(_with_hash(forgery, data)), data)
        assert verdict.code in (2, 3)
        assert len(verdict.text) < 300


def _with_hash(value: Any, data: bytes) -> Any:
    value["model"] = certificate(data, value["region"], [], [])["model"]
    return value
