"""Small versions of architectures that are in use, as plain modules in float64 with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

from recurjac._types import Shape


class Block(nn.Module):
    """A block of a vision transformer: attention by matrix products and GELU, each after a layer normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norms
        x = x + self.attention(first(x))
        found: Tensor = x + self.dense(second(x))
        return found

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.into(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        shares = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        found: Tensor = self.out((shares @ value).transpose(1, 2).reshape(batch, tokens, width))
        return found


class ViT(nn.Module):
    """A vision transformer: patches by a convolution, a class token, and learned positions."""

    def __init__(self, size: int, patch: int, width: int, heads: int, blocks: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.randn(1, 1, width) / 50)
        self.places = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) / 50)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        found: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return found


class Encoder(nn.Module):
    """`nn.TransformerEncoder` on tokens with learned positions, and a linear layer on the mean of all tokens."""

    def __init__(self, tokens: int, width: int, heads: int, blocks: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)
        self.places = nn.Parameter(torch.randn(1, tokens, width) / 50)
        self.encoder = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(x + self.places).mean(1))
        return found


class Recurrent(nn.Module):
    """An LSTM, and a linear layer on its last output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(x)[0][:, -1])
        return found


class Excite(nn.Module):
    """Squeeze and excite: channels are multiplied by gates that depend on their means."""

    def __init__(self, channels: int, activation: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        few = channels // 4
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, few, 1), activation(), nn.Conv2d(few, channels, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x * self.gates(x)
        return found


class Inverted(nn.Module):
    """An inverted residual block: wide, depthwise, excited, and narrow again."""

    def __init__(
        self, channels: tuple[int, int, int], stride: int, activation: type[nn.Module], excite: nn.Module
    ) -> None:
        super().__init__()
        narrow, wide, out = channels
        self.kept = stride == 1 and narrow == out
        self.layers = nn.Sequential(
            nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide), activation(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation(),
            excite, nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.layers(x) if self.kept else self.layers(x)
        return found


def mobile(width: int, activation: type[nn.Module], inner: type[nn.Module], gate: type[nn.Module]) -> nn.Module:
    """A convolution, three inverted residual blocks, and a head, as in MobileNetV3 and EfficientNet."""
    w = width
    sizes = (((w, 2 * w, w), 1), ((w, 4 * w, 2 * w), 2), ((2 * w, 6 * w, 2 * w), 1))
    blocks = [Inverted(c, s, activation, Excite(c[1], inner, gate)) for c, s in sizes]
    return nn.Sequential(
        nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w), activation(), *blocks,
        nn.Conv2d(2 * w, 6 * w, 1, bias=False), nn.BatchNorm2d(6 * w), activation(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6 * w, 10),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels down by max-pooling, two up by transposed convolutions, with the levels concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        sizes = ((3, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 2 * w), (2 * w, w))
        self.pairs = nn.ModuleList([_pair(*s) for s in sizes])
        self.wider = nn.ModuleList([nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)])
        self.head = nn.Conv2d(w, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.pairs[0](x)
        middle = self.pairs[1](F.max_pool2d(top, 2))
        low = self.pairs[2](F.max_pool2d(middle, 2))
        low = self.pairs[3](torch.cat([self.wider[0](low), middle], 1))
        found: Tensor = self.head(self.pairs[4](torch.cat([self.wider[1](low), top], 1)))
        return found


def _pair(channels: int, out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in (channels, out):
        layers += [nn.Conv2d(i, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


@final
@dataclass(frozen=True)
class Architecture:
    """A kind of network: its module, in a small size for tests and in a larger one, and the shapes of its inputs."""

    small: Callable[[], nn.Module]
    small_input: Shape
    large: Callable[[], nn.Module]
    large_input: Shape

    def made(self, large: bool) -> tuple[nn.Module, Tensor]:
        """The module in evaluation mode, with statistics of some inputs, and an input that is not among them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module, shape = (self.large(), self.large_input) if large else (self.small(), self.small_input)
            module = module.double().requires_grad_(False)
            for part in module.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.momentum = None
            module.train()(torch.rand(32, *shape, dtype=torch.float64))
            return module.eval(), torch.rand(1, *shape, dtype=torch.float64)


IMAGE, SMALL = (3, 32, 32), (3, 8, 8)
ARCHITECTURES = {
    "ViT, 2 blocks": Architecture(lambda: ViT(8, 4, 16, 2), SMALL, lambda: ViT(32, 4, 48, 4), IMAGE),
    "ViT, 2 blocks, 17 tokens": Architecture(
        lambda: ViT(8, 4, 8, 2, 1), SMALL, lambda: ViT(16, 4, 48, 4), (3, 16, 16)
    ),
    "encoder layer": Architecture(
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (4, 8),
        lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), (16, 32),
    ),
    "encoder, 2 layers": Architecture(lambda: Encoder(4, 8, 2), (4, 8), lambda: Encoder(16, 32, 4), (16, 32)),
    "LSTM": Architecture(lambda: Recurrent(6), (5, 4), lambda: Recurrent(32), (20, 4)),
    "MobileNetV3-like": Architecture(
        lambda: mobile(4, nn.Hardswish, nn.ReLU, nn.Hardsigmoid), SMALL,
        lambda: mobile(8, nn.Hardswish, nn.ReLU, nn.Hardsigmoid), IMAGE,
    ),
    "EfficientNet-like": Architecture(
        lambda: mobile(4, nn.SiLU, nn.SiLU, nn.Sigmoid), SMALL, lambda: mobile(8, nn.SiLU, nn.SiLU, nn.Sigmoid), IMAGE
    ),
    "U-Net": Architecture(lambda: UNet(2), SMALL, lambda: UNet(8), IMAGE),
}  # fmt: skip
"""The architectures, by name."""
