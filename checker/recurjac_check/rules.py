"""What a node may have: attributes and numbers of inputs as ONNX defines them, and integers only as sizes."""

from math import isfinite
from typing import Any

import onnx

from recurjac_check.errors import OutOfScope
from recurjac_check.tensors import is_integer

_WHOLE = ("Add", "Sub", "Mul")
_MOVES = (
    *("Cast", "CastLike", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape"),
    *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
_SECOND = ("Pad", "Pow", "ReduceMean", "ReduceSum")
"""Operations whose second input may be of integers, while the first one is not."""


def attributes(node: Any, opset: int) -> dict[str, Any]:
    """The attributes of a node. Raises OutOfScope where ONNX does not define them or the numbers of inputs."""
    schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        raise OutOfScope("another number of inputs or outputs")
    result: dict[str, Any] = {}
    for a in node.attribute:
        known = schema.attributes.get(a.name)
        if a.name in result or known is None or int(known.type.value) != a.type or a.ref_attr_name:
            raise OutOfScope(f"the attribute {a.name[:40]}")
        if not all(isfinite(v) for v in (a.f, *a.floats)):
            raise OutOfScope("an attribute that is not finite")
        result[a.name] = onnx.helper.get_attribute_value(a)
    if any(known.required and name not in result for name, known in schema.attributes.items()):
        raise OutOfScope("an attribute is missing")
    return result


def check_types(kind: str, inputs: list[Any]) -> None:
    """Raise OutOfScope for arithmetic of integers that is not addition or multiplication, and for mixed types."""
    whole = [is_integer(x) for x in inputs if x is not None]
    if kind in (*_WHOLE, "Concat") and len(set(whole)) > 1:
        raise OutOfScope("tensors of several types")
    if kind in (*_WHOLE, *_MOVES):
        return
    if any(whole[:1]) or (any(whole[1:]) and (kind not in _SECOND or any(whole[2:]))):
        raise OutOfScope("integers")


def check_sizes(kind: str, x: Any) -> None:
    """Raise OutOfScope for sums and products that integers of 32 bits do not hold, and for integers of more than 64."""
    if is_integer(x) and any(abs(e) >> (31 if kind in _WHOLE else 63) for e in x.flat):
        raise OutOfScope("an integer that is too large")
