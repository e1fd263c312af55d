"""Whether a certificate is valid for a network."""

import hashlib
from dataclasses import dataclass
from typing import Any

from flint import ctx

from recurjac_check import network, reading, region
from recurjac_check.claims import Context, prove
from recurjac_check.errors import Invalid, OutOfScope, Unreadable
from recurjac_check.witness import Cut, Leaf

FORMAT = "recurjac-certificate/1"
PRECISION = 128
Part = tuple[region.Region, tuple[Cut, ...]]
"""A part of the region, and what is known of neurons at its points."""


@dataclass(frozen=True)
class Verdict:
    """One line of text and the exit code that goes with it: 0 valid, 1 invalid, 2 unreadable, 3 out of scope."""

    text: str
    code: int

    def __post_init__(self) -> None:
        """What is not printable is replaced: names come from files."""
        object.__setattr__(self, "text", "".join(c if c.isprintable() else "?" for c in self.text))


def check_files(certificate: str, model: str) -> Verdict:
    """The verdict on a certificate about the network in an ONNX file."""
    try:
        return check_bytes(reading.file_bytes(certificate), reading.file_bytes(model))
    except Unreadable as error:
        return Verdict(f"unreadable: {error}", 2)


def check_bytes(certificate: bytes, model: bytes) -> Verdict:
    """The same for the content of both files."""
    try:
        with ctx.workprec(PRECISION):
            value = reading.parse(certificate)
            several = isinstance(value, list)
            for number, single in enumerate(value if several else [value]):
                try:
                    _check(single, model)
                except Invalid as error:
                    raise Invalid(f"certificate {number}: {error}" if several else str(error)) from None
            if value == []:
                raise Invalid("there is no certificate in the list")
    except Invalid as error:
        return Verdict(f"invalid: {error}", 1)
    except Unreadable as error:
        return Verdict(f"unreadable: {error}", 2)
    except OutOfScope as error:
        return Verdict(f"out of scope: {error}", 3)
    except (MemoryError, RecursionError, OverflowError) as error:
        return Verdict(f"unreadable: too large to be checked ({type(error).__name__})", 2)
    return Verdict("valid", 0)


def _check(value: Any, model: bytes) -> None:
    """Raise an error unless the certificate is valid."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise Invalid(f"not a certificate of the format {FORMAT}")
    reading.record(value, "the certificate", "format producer model region region_sha256 claims parts")
    if reading.record(value["model"], "model", "sha256")["sha256"] != hashlib.sha256(model).hexdigest():
        raise Invalid("model.sha256 is not the hash of this network's file")
    if value["region_sha256"] != region.digest(value["region"]):
        raise Invalid("region_sha256 is not the hash of the region")
    claims = reading.array(value["claims"], "claims")
    if not claims:
        raise Invalid("nothing is claimed")
    graph = network.load(model)
    whole = region.read(value["region"], graph.inputs)
    context = Context(graph, value["region"], whole, _leaves(value["parts"], graph, whole))
    for number, claim in enumerate(claims):
        prove(number, claim, context)


def _leaves(value: Any, graph: network.Network, whole: region.Region) -> list[Leaf]:
    """The leaves of the tree, each with its part of the region. Raises Invalid."""
    nodes, leaves = reading.array(value, "parts"), []
    parts: dict[int, Part] = {0: (whole, ())}
    for k, node in enumerate(nodes):
        where = f"parts[{k}]"
        if k not in parts:
            raise Invalid(f"{where} is the child of no node before it")
        if isinstance(node, dict) and "split" in node:
            reading.record(node, where, "split below above")
            for key in ("below", "above"):
                child = reading.index(node[key], f"{where}.{key}", len(nodes))
                if child <= k or child in parts:
                    raise Invalid(f"{where}.{key} is not a later node that has no parent yet")
                parts[child] = _part(graph, parts[k], node["split"], f"{where}.split", key == "below")
            continue
        reading.record(node, where, "values gradients tangents halfspaces")
        own, cuts = parts[k]
        if not own.is_empty:
            leaves.append(Leaf(graph, own, node, where, cuts))
    return leaves


def _part(graph: network.Network, whole: Part, split: Any, where: str, below: bool) -> Part:
    """The part on one side of a split, of an input or of a neuron. Raises Invalid."""
    own, cuts = whole
    if isinstance(split, dict) and "input" in split:
        reading.record(split, where, "input at")
        axis = reading.index(split["input"], f"{where}.input", graph.inputs)
        return own.cut(axis, reading.number(split["at"], f"{where}.at"), below), cuts
    reading.record(split, where, "stage neuron at")
    stage = reading.index(split["stage"], f"{where}.stage", len(graph.stages))
    neuron = reading.index(split["neuron"], f"{where}.neuron", len(graph.stages[stage].pre))
    return own, (*cuts, (stage, neuron, reading.number(split["at"], f"{where}.at"), below))
