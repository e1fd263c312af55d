"""Small ONNX models of the operators that move entries and of windows: convolutions and pools."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.onnx_cases import IMAGE, ROWS, i, numbers, one, several
from tests.onnx_models import node

LINE, CUBE = [1, 3, 9], [1, 2, 4, 3, 4]


def moves() -> dict[str, Any]:
    order = [0, 3, 1, 2]
    return {
        "Reshape": one("Reshape", "x s", constants={"s": i(0, -1, 2)}),
        "Reshape of opset 8": one("Reshape", "x s", shape=IMAGE, opset=8, constants={"s": i(1, -1)}),
        "Reshape allowzero": one("Reshape", "x s", opset=14, allowzero=1, constants={"s": i(1, 2, 3)}),
        "Transpose": one("Transpose", shape=IMAGE, perm=order),
        "Transpose of opset 8": one("Transpose", shape=IMAGE, perm=order, opset=8),
        "Transpose all": one("Transpose", shape=[3, 4]),
        "Squeeze by an attribute": one("Squeeze", shape=[1, 3, 1, 2], opset=11, axes=[-2]),
        "Squeeze by an input": one("Squeeze", "x a", shape=[1, 3, 1, 2], opset=13, constants={"a": i(2)}),
        "Squeeze all": one("Squeeze", shape=[3, 1, 2], opset=13),
        "Unsqueeze by an attribute": one("Unsqueeze", opset=11, axes=[1, 3]),
        "Unsqueeze by an input": one("Unsqueeze", "x a", opset=13, constants={"a": i(-1)}),
        "Slice by attributes": one("Slice", shape=IMAGE, opset=9, starts=[1, -3], ends=[3, 100], axes=[1, 3]),
        "Slice by inputs": one("Slice", "x s e a", shape=IMAGE, opset=10,
                               constants={"s": i(1, -3), "e": i(3, 2**40), "a": i(1, -1)}),
        "Slice with steps": one("Slice", "x s e a t", shape=IMAGE,
                                constants={"s": i(-1, 0), "e": i(-100, 5), "a": i(2, 3), "t": i(-2, 2)}),
        "Slice of all axes": one("Slice", "x s e", constants={"s": i(0, 2), "e": i(1, 5)}),
        "Gather": one("Gather", "x j", shape=IMAGE, axis=1, constants={"j": i(2, 0, -1, 0)}),
        "Gather one": one("Gather", "x j", shape=IMAGE, axis=2, constants={"j": np.array(-1)}),
        "Gather many": one("Gather", "x j", axis=1, opset=8, constants={"j": i(0, 1, 4, 5).reshape(2, 2)}),
        "GatherElements": one("GatherElements", "x j", axis=1, constants={"j": i(5, 0, -1).reshape(1, 3)}),
        "GatherElements of an image": one("GatherElements", "x j", shape=IMAGE, axis=3, opset=11,
                                          constants={"j": np.arange(36).reshape(1, 3, 6, 2) % 5}),
        "GatherElements of a wide axis": one("GatherElements", "x j", shape=[2, 100], axis=1,
                                             constants={"j": (np.arange(240) * 7 % 100).reshape(2, 120)}),
        "GatherND": one("GatherND", "x j", shape=[3, 4, 2], constants={"j": i(0, 1, 2, 3, 2, 0).reshape(3, 2)}),
        "GatherND of entries": one("GatherND", "x j", shape=[3, 4], opset=11,
                                   constants={"j": i(0, 1, 2, 3, -1, 0).reshape(3, 1, 2)}),
        "GatherND of a batch": one("GatherND", "x j", shape=[1, 4, 2], batch_dims=1,
                                   constants={"j": i(3, 1, 0).reshape(1, 3, 1)}),
        "Split into equal parts": several([node("Split", "x", "a b c", axis=1), node("Sub", "c a")]),
        "Split of opset 8": several([node("Split", "x", "a b", axis=1, split=[2, 4]), node("Relu", "b")], opset=8),
        "Split by an input": several(
            [node("Split", "x s", "a b c", axis=-1), node("Concat", "c a b a", axis=1)], s=i(1, 2, 3)),
        "Split into a number": several(
            [node("Split", "x", "a b c d", axis=1, num_outputs=4), node("Concat", "d a", axis=1)], opset=18),
        "Flatten": one("Flatten", shape=IMAGE),
        "Flatten 0": one("Flatten", shape=[3, 4], axis=0),
        "Flatten -1": one("Flatten", shape=[3, 6, 5], axis=-1, opset=11),
        "Expand": one("Expand", "x s", shape=[1, 1, 6], constants={"s": i(1, 4, 1)}),
        "Expand to more axes": one("Expand", "x s", shape=[2, 1], opset=8, constants={"s": i(3, 1, 4)}),
        "Tile": one("Tile", "x s", constants={"s": i(1, 3)}),
        "Tile of an image": one("Tile", "x s", shape=[1, 2, 2, 2], constants={"s": i(1, 2, 1, 3)}),
        "Identity": one("Identity"),
        "DepthToSpace": one("DepthToSpace", shape=[1, 8, 2, 3], blocksize=2),
        "DepthToSpace CRD": one("DepthToSpace", shape=[1, 8, 2, 3], blocksize=2, mode="CRD"),
        "SpaceToDepth": one("SpaceToDepth", shape=[1, 2, 4, 6], blocksize=2, opset=13),
        "Trilu": one("Trilu", shape=[1, 4, 3], upper=0),
        "Trilu with an offset": one("Trilu", "x k", shape=[1, 4, 4], upper=1, constants={"k": np.array(-1)}),
        "ReverseSequence": one("ReverseSequence", "x n", shape=[1, 5, 2], batch_axis=0, time_axis=1,
                               constants={"n": i(3)}),
        "Concat": several([node("Relu", "x", "a"), node("Concat", "a x", axis=-1)]),
        "Concat with constants": one("Concat", "c x d x", axis=1, constants={"c": numbers(1, 2), "d": numbers(1, 1)}),
        "Concat of images": several([node("Neg", "x", "a"), node("Concat", "x a c", axis=1)], shape=IMAGE,
                                    c=numbers(1, 1, 6, 5)),
        "Concat of one": one("Concat", axis=1, opset=8),
        "Dropout of opset 8": one("Dropout", opset=8, ratio=0.5),
        "Dropout": one("Dropout", opset=13),
        "Dropout with inputs": one("Dropout", "x r t", constants={"r": np.array(0.5), "t": np.array(False)}),
        "Dropout with a mask": several([node("Dropout", "x", "a m"), node("Relu", "a")]),
    }  # fmt: skip


def pads() -> dict[str, Any]:
    around, value = [0, 0, 1, 2, 0, 0, 0, 1], np.array(0.5)
    return {
        "Pad by attributes": one("Pad", shape=IMAGE, opset=8, pads=around, value=0.5),
        "Pad by inputs": one("Pad", "x p v", shape=IMAGE, opset=11, constants={"p": i(*around), "v": value}),
        "Pad without a value": one("Pad", "x p", shape=IMAGE, opset=13, constants={"p": i(*around)}),
        "Pad of axes": one("Pad", "x p - a", shape=IMAGE, opset=18, constants={"p": i(1, 2, 0, 3), "a": i(-1, 2)}),
        "Pad reflect": one("Pad", "x p", shape=IMAGE, mode="reflect", constants={"p": i(*around)}),
        "Pad edge": one("Pad", "x p", shape=IMAGE, mode="edge", constants={"p": i(*around)}),
        "Pad wrap": one("Pad", "x p", shape=IMAGE, opset=19, mode="wrap", constants={"p": i(*around)}),
        "Pad that cuts": one("Pad", "x p v", constants={"p": i(0, -2, 0, 3), "v": value}),
    }


def interpolations(doubled: Any) -> dict[str, Any]:
    """Linear and cubic resizes, by each rule of coordinates, up and down."""
    rules = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    sizes = {"n": i(1, 3, 9, 7)}
    return {
        **{
            f"Resize {mode} {rule}": one("Resize", "x - - n", shape=IMAGE, constants=sizes, mode=mode,
                                         coordinate_transformation_mode=rule)
            for mode in ("linear", "cubic") for rule in rules
        },
        "Resize linear by scales": one("Resize", "x - s", shape=IMAGE, constants={"s": doubled}, mode="linear"),
        "Resize linear by odd scales": one("Resize", "x - s", shape=IMAGE, constants={"s": np.array([1, 1, 1.3, 0.7])},
                                           mode="linear", coordinate_transformation_mode="asymmetric"),
        "Resize linear down": one("Resize", "x - - n", shape=IMAGE, constants={"n": i(1, 3, 2, 1)}, mode="linear",
                                  coordinate_transformation_mode="pytorch_half_pixel"),
        "Resize linear symmetric": one("Resize", "x - s", shape=IMAGE, constants={"s": np.array([1, 1, 1.5, 1.3])},
                                       opset=19, mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
        "Resize linear of axes": one("Resize", "x - - n", shape=IMAGE, opset=18, axes=[2, 3],
                                     constants={"n": i(9, 8)}, mode="linear"),
        "Resize cubic inside": one("Resize", "x - s", shape=IMAGE, constants={"s": doubled}, mode="cubic",
                                   cubic_coeff_a=-0.5, exclude_outside=1),
        "Resize linear of opset 11": one("Resize", "x r s", shape=IMAGE, opset=11, mode="linear",
                                         constants={"r": np.zeros(0), "s": doubled}),
        "Resize linear of opset 10": one("Resize", "x s", shape=IMAGE, opset=10, constants={"s": doubled},
                                         mode="linear"),
        "Upsample linear": one("Upsample", "x s", shape=IMAGE, opset=9, constants={"s": doubled}, mode="linear"),
        "Upsample linear of opset 8": one("Upsample", shape=IMAGE, opset=8, scales=[1.0, 1.0, 2.0, 3.0], mode="linear"),
    }  # fmt: skip


def resizes() -> dict[str, Any]:
    doubled, up = np.array([1, 1, 2, 3.0]), {"mode": "nearest"}
    floor = {**up, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return {
        "Upsample by an attribute": one("Upsample", shape=IMAGE, opset=8, scales=[1.0, 1.0, 2.0, 3.0], **up),
        "Upsample by an input": one("Upsample", "x s", shape=IMAGE, opset=9, constants={"s": doubled}, **up),
        "Resize of opset 10": one("Resize", "x s", shape=IMAGE, opset=10, constants={"s": doubled}, **up),
        "Resize by scales": one("Resize", "x r s", shape=IMAGE, opset=11, constants={"r": np.zeros(0), "s": doubled},
                                **floor),
        "Resize by sizes": one("Resize", "x - - n", shape=IMAGE, opset=13, constants={"n": i(1, 3, 12, 10)}, **floor),
        "Resize half_pixel": one("Resize", "x - s", shape=IMAGE, constants={"s": doubled}, **up),
        "Resize down": one("Resize", "x - - n", shape=IMAGE, constants={"n": i(1, 3, 3, 2)}, **floor),
        **interpolations(doubled),
        "Resize of axes": one("Resize", "x - s", shape=IMAGE, opset=18, axes=[2, 3], constants={"s": doubled[2:]},
                              **floor),
    }  # fmt: skip


def convolutions() -> dict[str, Any]:
    K = numbers(4, 3, 3, 2)

    def conv(inputs: str = "x K", shape: Any = IMAGE, kernel: Any = K, **how: Any) -> Any:
        bias = {"b": numbers(len(kernel))} if inputs.endswith("b") else {}
        return one("Conv", inputs, shape=shape, constants={"K": kernel, **bias}, **how)

    return {
        "Conv": conv(),
        "Conv bias": conv("x K b", opset=8, kernel_shape=[3, 2]),
        "Conv all": conv("x K b", strides=[2, 1], pads=[1, 1, 1, 1], dilations=[1, 2]),
        "Conv asymmetric pads": conv(pads=[2, 0, 1, 3]),
        "Conv SAME_UPPER": conv(auto_pad="SAME_UPPER", strides=[2, 2]),
        "Conv SAME_LOWER": conv(auto_pad="SAME_LOWER", strides=[2, 2]),
        "Conv SAME_UPPER dilated": conv(auto_pad="SAME_UPPER", dilations=[2, 2]),
        "Conv VALID": conv(auto_pad="VALID", strides=[2, 1]),
        "Conv groups": conv("x K b", kernel=numbers(6, 1, 3, 3), group=3, pads=[1, 1, 1, 1]),
        "Conv 1d": conv("x K b", shape=LINE, kernel=numbers(2, 3, 4), strides=[2], pads=[1, 2]),
        "Conv 3d": conv("x K b", shape=CUBE, kernel=numbers(3, 2, 2, 3, 2), pads=[1, 0, 1, 1, 0, 1]),
        "Conv 1 by 1": conv(kernel=numbers(2, 3, 1, 1)),
        "Conv in an unbatched file": several([node("Unsqueeze", "x a", "h"), node("Conv", "h K")], shape=[3, 6, 5],
                                             K=K, a=i(0)),
    }  # fmt: skip


def transposed() -> dict[str, Any]:
    K = numbers(3, 2, 3, 2)

    def conv(inputs: str = "x K", shape: Any = IMAGE, kernel: Any = K, channels: int = 2, **how: Any) -> Any:
        bias = {"b": numbers(channels)} if inputs.endswith("b") else {}
        return one("ConvTranspose", inputs, shape=shape, constants={"K": kernel, **bias}, **how)

    return {
        "ConvTranspose": conv(),
        "ConvTranspose all": conv("x K b", strides=[2, 2], pads=[1, 0, 1, 0], output_padding=[1, 1], dilations=[2, 1]),
        "ConvTranspose asymmetric pads": conv("x K b", strides=[2, 3], pads=[1, 0, 0, 1]),
        "ConvTranspose asymmetric pads and extra": conv(strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]),
        "ConvTranspose groups": conv("x K b", kernel=numbers(3, 2, 2, 2), channels=6, group=3, strides=[2, 2]),
        "ConvTranspose two groups": conv(shape=[1, 4, 3, 3], kernel=numbers(4, 3, 2, 2), group=2, opset=11),
        "ConvTranspose 1d": conv("x K b", shape=LINE, kernel=numbers(3, 2, 4), strides=[3], pads=[1, 1]),
        "ConvTranspose 3d": conv(shape=[1, 2, 2, 3, 2], kernel=numbers(2, 2, 2, 2, 2), strides=[2, 1, 2]),
        "ConvTranspose VALID": conv(auto_pad="VALID", strides=[2, 2]),
    }


def normalisations() -> dict[str, Any]:
    def norm(shape: Any = IMAGE, channels: int = 3, **how: Any) -> Any:
        rows = {n: numbers(channels, seed=k) for k, n in enumerate("sbm")}
        return one("BatchNormalization", "x s b m v", shape=shape, constants={**rows, "v": rows["m"] ** 2 + 0.5}, **how)

    return {
        "BatchNormalization": norm(),
        "BatchNormalization of opset 8": norm(opset=8, spatial=1),
        "BatchNormalization of opset 9": norm(opset=9, epsilon=0.1, momentum=0.5),
        "BatchNormalization of rows": norm(shape=ROWS, channels=6, epsilon=0.01, opset=15),
        "BatchNormalization of lines": norm(shape=LINE),
    }


def pools() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for kind, more in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1})):
        name = kind if not more else f"{kind} with padding"
        size: dict[str, Any] = {"shape": IMAGE, "kernel_shape": [3, 2], **more}
        made |= {
            name: one(kind, **size),
            f"{name} of opset 8": one(kind, opset=8, strides=[2, 2], **size),
            f"{name} pads": one(kind, pads=[1, 1, 1, 1], strides=[2, 1], **size),
            f"{name} asymmetric pads": one(kind, pads=[2, 0, 0, 1], strides=[2, 2], **size),
            f"{name} ceil": one(kind, ceil_mode=1, strides=[2, 2], opset=19, **size),
            f"{name} ceil and pads": one(kind, ceil_mode=1, strides=[4, 3], pads=[1, 1, 1, 1], opset=19, **size),
            f"{name} SAME_UPPER": one(kind, auto_pad="SAME_UPPER", strides=[2, 2], **size),
            f"{name} SAME_LOWER": one(kind, auto_pad="SAME_LOWER", strides=[2, 2], **size),
            f"{name} VALID": one(kind, auto_pad="VALID", strides=[2, 2], **size),
            f"{name} dilations": one(kind, dilations=[2, 1], opset=19, **size),
            f"{name} 1d": one(kind, **{**size, "shape": LINE, "kernel_shape": [4]}, strides=[2], pads=[2, 1]),
            f"{name} 3d": one(kind, **{**size, "shape": CUBE, "kernel_shape": [2, 3, 1]}, pads=[1, 1, 0, 0, 1, 0]),
        }
    return {
        **made,
        "MaxPool with positions": several(
            [node("MaxPool", "x", "h j", kernel_shape=[2, 2]), node("Relu", "h")], shape=IMAGE),
        "MaxPool after Relu": several(
            [node("Relu", "x", "h"), node("MaxPool", "h", kernel_shape=[2, 2], pads=[0, 0, 1, 1])], shape=IMAGE),
    }  # fmt: skip


CASES: dict[str, Any] = {
    **moves(), **pads(), **resizes(), **convolutions(), **transposed(), **normalisations(), **pools()
}  # fmt: skip
