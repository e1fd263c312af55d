"""The networks at hand as PyTorch modules, written by hand from their architecture, with the files' weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

NETS = Path(__file__).resolve().parents[2] / "shared" / "nets"
EPSILON = 9.999999747378752e-06
"""Of the files' batch normalisations: 1e-5 in float32."""


def named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def dense(activation: Callable[[], nn.Module], *sizes: int) -> list[nn.Module]:
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b), activation()]
    return parts[:-1]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


class Shifted(nn.Module):
    """(x - mean) / deviation."""

    def __init__(self, mean: Any, deviation: Any = 1.0) -> None:
        super().__init__()
        self.mean, self.deviation = torch.as_tensor(mean), torch.as_tensor(deviation)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x.dtype)) / self.deviation.to(x.dtype)


class Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Block(nn.Module):
    """The residual block of `resnet_2b`."""

    def __init__(self, channels: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(*channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels[1], channels[1], 3, 1, 1)
        self.shortcut = nn.Sequential(*([] if stride == 1 else [nn.Conv2d(*channels, 1, stride)]))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class NormalisedBlock(nn.Module):
    """The residual block of `cifar_resnet_small`."""

    def __init__(self, channels: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(*channels, 3, stride, 1, bias=False), batch_norm(channels[1])
        self.conv2, self.bn2 = nn.Conv2d(channels[1], channels[1], 3, 1, 1, bias=False), batch_norm(channels[1])
        beside = [] if stride == 1 else [nn.Conv2d(*channels, 1, stride, bias=False), batch_norm(channels[1])]
        self.short = nn.Sequential(*beside)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + self.short(x))


def _mnist_cnn(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), norm(16),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _marabou() -> nn.Module:
    return nn.Sequential(
        Permute(0, 3, 1, 2), nn.Conv2d(3, 8, 4, 2), nn.ReLU(), nn.Conv2d(8, 16, 4, 2), nn.ReLU(), Permute(0, 2, 3, 1),
        nn.Flatten(), *dense(nn.ReLU, 576, 128, 64, 10),
    )  # fmt: skip


def _convnet(pool: nn.Module) -> nn.Module:
    first = nn.Sequential(nn.Conv2d(1, 32, 2), nn.ReLU())
    return named(conv1=first, pool=pool, flat=nn.Flatten(), out=nn.Linear(1152, 10))


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.30000001192092896)


def _leaky_chain(sizes: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(*dense(_leaky, *sizes))


def _modules() -> dict[str, Callable[[], nn.Module]]:
    found: dict[str, Callable[[], nn.Module]] = {
        "ACASXU_run2a_1_1": lambda: nn.Sequential(Shifted(0.0), nn.Flatten(), *dense(nn.ReLU, 5, *[50] * 6, 5)),
        "Convnet_avgpool": lambda: _convnet(nn.AvgPool2d(4)),
        "Convnet_maxpool": lambda: _convnet(nn.MaxPool2d(4)),
        "cifar_base_kw": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            *dense(nn.ReLU, 1024, 100, 10),
        ),
        "cifar_resnet_small_unfolded": lambda: named(
            stem=nn.Conv2d(3, 16, 3, 2, 1, bias=False), bn=batch_norm(16), relu=nn.ReLU(),
            b1=NormalisedBlock((16, 16), 1), b2=NormalisedBlock((16, 32), 2), b3=NormalisedBlock((32, 64), 2),
            pool=nn.AvgPool2d(4), flat=nn.Flatten(), fc=nn.Linear(64, 10),
        ),
        "ffnnSIGMOID__Point_6x200": lambda: nn.Sequential(
            Shifted(torch.tensor(0.1307), torch.tensor(0.3081)), nn.Flatten(), *dense(nn.Sigmoid, 784, *[200] * 6, 10)
        ),
        "marabou_cifar10_small": _marabou,
        "mnist-net_256x2": lambda: named(
            flat=nn.Flatten(), layers=nn.Sequential(*dense(nn.ReLU, 784, 256, 256, 10))
        ),
        "mnist_3layer_relu_1024": lambda: nn.Sequential(*dense(nn.ReLU, 784, 1024, 1024, 10)),
        "mnist_3layer_relu_1024_adv0.3": lambda: nn.Sequential(*dense(nn.ReLU, 784, 1024, 1024, 10)),
        "mnist_4layer_tanh_100": lambda: nn.Sequential(*dense(nn.Tanh, 784, 100, 100, 100, 10)),
        "mnist_4layer_tanh_100_float64": lambda: nn.Sequential(*dense(nn.Tanh, 784, 100, 100, 100, 10)),
        "mnist_cnn_maxpool_bn": lambda: _mnist_cnn(lambda _: nn.Identity()),
        "mnist_cnn_maxpool_bn_unfolded": lambda: _mnist_cnn(batch_norm),
        "resnet_2b": lambda: named(
            conv1=nn.Conv2d(3, 8, 3, 2, 1), relu=nn.ReLU(), layer1=nn.Sequential(Block((8, 16), 2), Block((16, 16), 1)),
            flat=nn.Flatten(), linear1=nn.Linear(1024, 100), relu2=nn.ReLU(), linear2=nn.Linear(100, 10),
        ),
        "test_small": lambda: nn.Sequential(*dense(nn.ReLU, 1, 2, 2, 1)),
    }  # fmt: skip
    for depth in range(2, 11):
        sizes = (784, *[20] * (depth - 1), 10)
        found[f"mnist_{depth}layer_leaky0.3_20"] = partial(_leaky_chain, sizes)
    return found


MODULES = _modules()


def rebuilt(name: str) -> nn.Module:
    """The module in float64 with the weights of `name`.onnx: by name where the names agree, else in their order."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(NETS / f"{name}.onnx")
    arrays = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    module = MODULES[name]().double().eval()
    state = module.state_dict()
    if all(key in arrays for key in state if not key.endswith("num_batches_tracked")):
        module.load_state_dict({key: arrays.get(key, value) for key, value in state.items()})
        return module
    used = [i for n in model.graph.node for i in n.input if n.op_type in ("Conv", "MatMul", "Add") and i in arrays]
    for key, source in zip(state, used, strict=True):
        weight = arrays[source].double()
        as_is = weight.shape == state[key].shape and name == "test_small"
        state[key] = weight if as_is or weight.dim() != 2 else weight.T
    module.load_state_dict(state)
    if name == "ACASXU_run2a_1_1":
        module[0].mean = arrays["input_AvgImg"].double()  # type: ignore[index]
    return module
