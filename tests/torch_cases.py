"""Small modules that between them use every operation of PyTorch that is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

from tests import recurrent_cases

Make = Callable[[], nn.Module]
Shape = tuple[int, ...]


class Fn(nn.Module):
    """The function f(parts, x)."""

    def __init__(self, f: Callable[[Any, Tensor], Any], *parts: nn.Module) -> None:
        super().__init__()
        self.f, self.parts = f, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.f(self.parts, x)


def plain(shape: Shape, **functions: Callable[[Tensor], Tensor]) -> dict[str, tuple[Make, Shape]]:
    """Functions of x without parameters; an underscore of a name stands for a hyphen."""
    return {
        name.replace("_", "-"): (lambda f=f: Fn(lambda _, x: f(x)), shape)  # type: ignore[misc]
        for name, f in functions.items()
    }


def layers(shape: Shape, **made: Make) -> dict[str, tuple[Make, Shape]]:
    """Modules of torch.nn."""
    return {name.replace("_", "-"): (make, shape) for name, make in made.items()}


def norm(kind: type[nn.Module], **settings: Any) -> nn.Module:
    """A batch normalisation whose statistics and parameters are not those that it starts with."""
    layer: Any = kind(3, **settings)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.2, 3)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer  # type: ignore[no-any-return]


T = torch.tensor
LINE, IMAGE, CUBE, VECTOR = (3, 7), (3, 5, 6), (2, 4, 3, 4), (6,)
ROW = torch.linspace(-1, 1, 6)
TABLE = torch.linspace(-2, 1, 30).reshape(5, 6)
WIDE = TABLE.double() / 3
"""Constants that float32 does not hold."""

CONVOLUTIONS = {
    **layers(
        LINE,
        conv1d=lambda: nn.Conv1d(3, 2, 3),
        conv1d_all=lambda: nn.Conv1d(3, 6, 3, stride=2, padding=2, dilation=2, groups=3, bias=False),
        conv1d_same=lambda: nn.Conv1d(3, 2, 4, padding="same"),
        conv1d_valid=lambda: nn.Conv1d(3, 2, 4, padding="valid", stride=2),
        conv1d_circular=lambda: nn.Conv1d(3, 2, 3, padding=2, padding_mode="circular"),
        transposed1d=lambda: nn.ConvTranspose1d(3, 2, 3, stride=3, padding=1, output_padding=2),
        transposed1d_groups=lambda: nn.ConvTranspose1d(3, 6, 2, groups=3, dilation=2, bias=False),
    ),
    **layers(
        IMAGE,
        conv2d=lambda: nn.Conv2d(3, 2, (2, 3), stride=(1, 2), padding=(1, 0)),
        conv2d_dilated=lambda: nn.Conv2d(3, 3, 2, dilation=(2, 3), groups=3),
        conv2d_same=lambda: nn.Conv2d(3, 2, (2, 3), padding="same", dilation=(1, 2)),
        conv2d_valid=lambda: nn.Conv2d(3, 2, 2, padding="valid"),
        conv2d_reflect=lambda: nn.Conv2d(3, 2, 3, padding=(1, 2), padding_mode="reflect"),
        conv2d_replicate=lambda: nn.Conv2d(3, 2, 3, padding=1, padding_mode="replicate"),
        separable=lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU6(), nn.Conv2d(6, 2, 1)),
        transposed2d=lambda: nn.ConvTranspose2d(3, 2, (2, 3), stride=2, padding=(0, 1), output_padding=(1, 0)),
        transposed2d_groups=lambda: nn.ConvTranspose2d(3, 3, 3, groups=3, stride=(1, 2), dilation=(1, 2)),
    ),
    **layers(
        CUBE,
        conv3d=lambda: nn.Conv3d(2, 2, (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1)),
        conv3d_same=lambda: nn.Conv3d(2, 2, (3, 1, 2), padding="same", groups=2),
        transposed3d=lambda: nn.ConvTranspose3d(2, 1, 2, stride=(1, 2, 1), output_padding=(0, 1, 0)),
    ),
    "shared-conv": (lambda: Fn(lambda p, x: p[0](F.relu(p[0](x))), nn.Conv2d(3, 3, 3, padding=1)), IMAGE),
}

NORMALISATIONS = {
    **layers((3,), norm_vector=lambda: norm(nn.BatchNorm1d)),
    **layers(LINE, norm1d=lambda: norm(nn.BatchNorm1d, affine=False)),
    **layers(IMAGE, norm2d=lambda: nn.Sequential(nn.Conv2d(3, 3, 2), norm(nn.BatchNorm2d, eps=0.1), nn.ReLU())),
    **layers((3, 2, 2, 3), norm3d=lambda: norm(nn.BatchNorm3d)),
}  # fmt: skip

POOLS = {
    **layers(
        LINE,
        average1d=lambda: nn.AvgPool1d(2),
        average1d_ceil=lambda: nn.AvgPool1d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        average1d_counted=lambda: nn.AvgPool1d(4, 3, padding=2, ceil_mode=True),
        most1d=lambda: nn.MaxPool1d(3, 2, padding=1, dilation=2, ceil_mode=True),
        most1d_plain=lambda: nn.MaxPool1d(2),
        adaptive1d=lambda: nn.AdaptiveAvgPool1d(3),
        adaptive_most1d=lambda: nn.AdaptiveMaxPool1d(3),
    ),
    **layers(
        IMAGE,
        average2d=lambda: nn.AvgPool2d((2, 3), stride=(2, 1), padding=(1, 1)),
        average2d_ceil=lambda: nn.AvgPool2d(2, ceil_mode=True),
        average2d_uncounted=lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        average2d_divisor=lambda: nn.AvgPool2d(2, divisor_override=3),
        most2d=lambda: nn.MaxPool2d(2),
        most2d_all=lambda: nn.MaxPool2d((2, 3), stride=(2, 1), padding=(1, 1), dilation=(2, 1), ceil_mode=True),
        adaptive2d=lambda: nn.AdaptiveAvgPool2d((2, 4)),
        adaptive2d_open=lambda: nn.AdaptiveAvgPool2d((None, 1)),
        adaptive_most2d=lambda: nn.AdaptiveMaxPool2d((2, None)),
        most_with_indices=lambda: Fn(lambda _, x: F.max_pool2d(x, 2, return_indices=True)[0]),
        whole_average=lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
        whole_most=lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    ),
    **layers(
        CUBE,
        average3d=lambda: nn.AvgPool3d((2, 1, 2), padding=(1, 0, 0), divisor_override=2),
        average3d_ceil=lambda: nn.AvgPool3d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        most3d=lambda: nn.MaxPool3d(2, stride=(1, 2, 2), padding=1, ceil_mode=True),
        adaptive3d=lambda: nn.AdaptiveAvgPool3d((2, 1, 3)),
        adaptive_most3d=lambda: nn.AdaptiveMaxPool3d((3, 2, 1)),
    ),
}

PADS = {
    **layers(
        IMAGE,
        zeros=lambda: nn.ZeroPad2d((1, 0, 2, 1)),
        constant_pad=lambda: nn.ConstantPad2d((1, 2, 0, 1), 0.7),
        reflection=lambda: nn.ReflectionPad2d((1, 2, 3, 0)),
        replication=lambda: nn.ReplicationPad2d((1, 2, 0, 3)),
        circular=lambda: nn.CircularPad2d(2),
        shuffled=lambda: nn.ChannelShuffle(3),
        unfolded=lambda: nn.Unfold((2, 3), padding=1, stride=2),
        nearest=lambda: nn.Upsample(scale_factor=2, mode="nearest"),
        nearest_size=lambda: nn.Upsample(size=(7, 4), mode="nearest"),
        nearest_exact=lambda: nn.Upsample(scale_factor=(1.5, 0.7), mode="nearest-exact"),
        nearest_odd=lambda: nn.Upsample(scale_factor=(1.5, 0.7), mode="nearest"),
        bilinear=lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        bilinear_size=lambda: nn.Upsample(size=(7, 4), mode="bilinear"),
        bilinear_corners=lambda: nn.Upsample(size=(7, 4), mode="bilinear", align_corners=True),
        bilinear_corners_one=lambda: nn.Upsample(size=(1, 9), mode="bilinear", align_corners=True),
        bilinear_odd=lambda: nn.Upsample(scale_factor=(1.3, 0.7), mode="bilinear"),
        bilinear_again=lambda: nn.Upsample(scale_factor=(1.3, 0.7), mode="bilinear", recompute_scale_factor=True),
        bilinear_smooth=lambda: Fn(lambda _, x: F.interpolate(x, (2, 9), mode="bilinear", antialias=True)),
        bicubic=lambda: nn.Upsample(scale_factor=2, mode="bicubic"),
        bicubic_corners=lambda: nn.Upsample(size=(9, 3), mode="bicubic", align_corners=True),
        bicubic_smooth=lambda: Fn(lambda _, x: F.interpolate(x, (7, 2), mode="bicubic", antialias=True)),
    ),
    **layers(
        LINE,
        reflection1d=lambda: nn.ReflectionPad1d(2),
        circular1d=lambda: nn.CircularPad1d((1, 3)),
        nearest1d=lambda: nn.Upsample(scale_factor=2),
        nearest1d_size=lambda: nn.Upsample(size=4),
        linear1d=lambda: nn.Upsample(scale_factor=1.5, mode="linear"),
        linear1d_corners=lambda: nn.Upsample(size=5, mode="linear", align_corners=True),
        nearest1d_exact=lambda: nn.Upsample(size=4, mode="nearest-exact"),
        with_indices1d=lambda: Fn(lambda _, x: F.max_pool1d(x, 2, return_indices=True)[0]),
    ),
    **layers(
        CUBE,
        reflection3d=lambda: nn.ReflectionPad3d(1),
        replication3d=lambda: nn.ReplicationPad3d((1, 0, 0, 2, 1, 1)),
        nearest3d=lambda: nn.Upsample(scale_factor=(1, 2, 1)),
        nearest3d_exact=lambda: nn.Upsample(size=(2, 2, 6), mode="nearest-exact"),
        nearest3d_size=lambda: nn.Upsample(size=(2, 2, 6)),
        trilinear=lambda: nn.Upsample(size=(2, 5, 3), mode="trilinear"),
        trilinear_corners=lambda: nn.Upsample(scale_factor=(1, 2, 1.5), mode="trilinear", align_corners=True),
    ),
    **layers((8, 2, 3), pixels=lambda: nn.PixelShuffle(2)),
    **layers((2, 4, 6), unpixels=lambda: nn.PixelUnshuffle(2)),
    **plain(
        IMAGE,
        pad_negative=lambda x: F.pad(x, (-1, 2, 1, -2), value=-1.0),
        pad_channels=lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
        pad_circular=lambda x: F.pad(x, (1, 1, 2, 0), mode="circular"),
    ),
}

SHAPES = {
    **plain(
        IMAGE,
        flatten=lambda x: x.flatten(1, 2),
        view=lambda x: x.view(-1, 15, 6),
        view_as=lambda x: x.reshape(x.shape[0], 6, 15).view(x.shape[0], -1),
        reshape=lambda x: x.permute(0, 3, 1, 2).reshape(x.shape[0], -1),
        unflatten=lambda x: x.flatten(1).unflatten(1, (9, -1)),
        squeezed=lambda x: x[:, :1].squeeze(1).unsqueeze(-1),
        squeezed_all=lambda x: x.unsqueeze(1).squeeze((1,)),
        permuted=lambda x: x.permute(0, 3, 1, 2),
        moved=lambda x: torch.cat([x.movedim(1, -1).flatten(1), x.movedim((1, 2), (3, 1)).flatten(1)], 1),
        swapped=lambda x: x.swapaxes(1, 2) + x.swapdims(2, -3),
        transposed=lambda x: x.mT + x.mH + x.adjoint() - x.transpose(-1, -2),
        sliced=lambda x: x[:, 1:, ::2, -3:],
        selected=lambda x: x[:, 0] - x.select(1, -1),
        ellipsis=lambda x: x[..., 2] + x[:, :, None, 1, 3],
        narrowed=lambda x: x.narrow(2, 1, 3),
        split=lambda x: x.split(2, 3)[1] - x.split([1, 2, 3], 3)[1],
        split_sections=lambda x: torch.tensor_split(x, 4, 3)[0] + torch.tensor_split(x, (2, 4), 3)[2],
        chunked=lambda x: x.chunk(2, 3)[0] * 2 - x.chunk(2, 3)[1],
        unbound=lambda x: x.unbind(1)[0] + x.unbind(1)[2],
        indexed=lambda x: x[:, T([2, 0, 0])] + x[:, T([True, True, True])],
        index_select=lambda x: x.index_select(2, T([4, 0, 4])),
        indexed_pairs=lambda x: x[:, :, T([0, 1, 4]), T([5, 0, 1])],
        flipped=lambda x: x.flip(1, 3) - x.rot90(2, (2, 3)),
        rolled=lambda x: x.roll((1, -2), (2, 3)) + x.roll(3, 1),
        expanded=lambda x: x[:, :, :1].expand(-1, 3, 4, 6),
        broadcast=lambda x: torch.broadcast_to(x[:, :1], x.shape),
        repeated=lambda x: x.repeat(1, 2, 1, 1) + x.tile(2, 1, 1),
        interleaved=lambda x: x.repeat_interleave(2, 3),
        diagonal=lambda x: x.diagonal(0, 2, 3),
        triangles=lambda x: x.tril() - x.triu(1),
        windows=lambda x: x.unfold(3, 2, 3),
        like_others=lambda x: x[:, :, :1].expand_as(x) + x.mT.reshape_as(x) - x.view_as(T(1.0).expand(x.shape)),
        filled=lambda x: torch.cat([x, torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, 0.3)], 1),
        new=lambda x: torch.cat([x, x.new_zeros(x.shape), x.new_ones(x.shape), x.new_full(x.shape, -2.0)], 1),
        contiguous=lambda x: x.mT.contiguous().clone().double().to(x.dtype).type_as(x).cpu().to(x),
        cat=lambda x: torch.cat([x, x[:, :2] * 2, torch.ones(x.shape[0], 1, 5, 6)], 1),
        cat_constant=lambda x: torch.concat([T([[[[0.3]]]]).expand(x.shape[0], 3, 5, 1), x], -1),
        cat_negative=lambda x: torch.concatenate([x, -x], -1),
        stacked=lambda x: torch.stack([x[:, 0], torch.ones(x.shape[0], 5, 6), x[:, 1]], 1),
        stacked_last=lambda x: torch.stack([x, x * 2], -1),
        hstacked=lambda x: torch.hstack([x, x]) - torch.cat([x, x], 1) * 0.5,
    ),
    "constant-place": (lambda: Fn(lambda p, x: F.linear(x, torch.cat([p[0].weight, p[0].weight])), nn.Linear(6, 2)),
                       VECTOR),
    "identities": (lambda: nn.Sequential(nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(),
                                         nn.FeatureAlphaDropout()), (2, 3, 2)),
    "detached": (lambda: Fn(lambda p, x: F.linear(x, p[0].weight.detach(), p[0].bias), nn.Linear(6, 2)), VECTOR),
}  # fmt: skip

SUMS = {
    **plain(
        (5, 6),
        added=lambda x: x + x.mT[:, :1, :1] - ROW,
        added_scalars=lambda x: torch.add(x, 2.5) - torch.sub(x, ROW, alpha=0.5),
        added_in_place=lambda x: x.clone().add_(x, alpha=2).sub_(1.5).add_(ROW).mul_(3).div_(TABLE).neg_().sub_(x),
        reversed=lambda x: 1 - x + torch.rsub(x, ROW, alpha=2) + torch.rsub(x, 3.0),
        multiplied=lambda x: x * TABLE * 2 * T(0.5),
        divided=lambda x: x / TABLE / 3 / T([[2.0]]),
        divided_scalar=lambda x: torch.div(x, 7.0) + torch.mul(x, -2),
        scaled_up=lambda x: x[:, :1] * ROW,
        negated=lambda x: -x + torch.negative(x[:, :1]),
        summed=lambda x: x.sum(-1, keepdim=True) + x.sum((1, 2))[:, None, None],
        running=lambda x: x.cumsum(1) - 2 * torch.cumsum(x, -1) + (x * 3).cumsum_(2).mT.cumsum(1).mT,
        averaged=lambda x: x.mean((-2, -1), keepdim=True) - x.mean(1, keepdim=True) + x.mean(-1)[:, :1, None],
        subtracted=lambda x: x - torch.subtract(x[:, :1], x[:, 1:2]) - TABLE,
        named_otherwise=lambda x: +x.multiply(2).divide(3).true_divide(TABLE).add(1),
    ),
    "matrix": (lambda: Fn(lambda p, x: x @ p[0].weight.mT, nn.Linear(6, 2)), (5, 6)),
    "matrix-left": (lambda: Fn(lambda p, x: p[0].weight @ x, nn.Linear(5, 2)), (5, 6)),
    "matrix-vector": (lambda: Fn(lambda p, x: x @ p[0].weight[0], nn.Linear(6, 2)), (5, 6)),
    "vector-matrix": (lambda: Fn(lambda p, x: p[0].weight[1] @ x, nn.Linear(5, 2)), (5, 6)),
    "linear-deep": (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)), (2, 3, 6)),
    "linear-flat": (lambda: Fn(lambda p, x: torch.addmm(p[0].bias, x, p[0].weight.t()), nn.Linear(6, 3)), VECTOR),
    "mm": (lambda: Fn(lambda p, x: torch.mm(x, p[0].weight.T), nn.Linear(6, 3)), VECTOR),
    "mv": (lambda: Fn(lambda p, x: torch.mv(x, p[0].weight[0])[:, None], nn.Linear(6, 3)), VECTOR),
    "bmm": (lambda: Fn(lambda p, x: x.bmm(p[0].weight.T[None].expand(x.shape[0], 6, 2)), nn.Linear(6, 2)), (5, 6)),
}  # fmt: skip

EXTREMES = {
    **plain(
        VECTOR,
        maximum=lambda x: torch.maximum(x, x.flip(1)) + torch.max(x, ROW),
        minimum=lambda x: torch.minimum(x, x * 2 - 1) + torch.min(x, ROW) - torch.minimum(ROW, x),
        fmax=lambda x: torch.fmax(x, ROW) + torch.fmin(x, x[:, :1]),
        amax=lambda x: x.amax(1, keepdim=True) + x.amin(-1)[:, None],
        max_min=lambda x: torch.cat([torch.max(*x.chunk(2, 1)), torch.min(*x.chunk(2, 1))], 1),
        max_axis=lambda x: x.max(1)[0] - 2 * torch.min(x.view(-1, 2, 3), dim=2, keepdim=True).values.squeeze(-1)[:, 0],
        group_sort=lambda x: x.view(x.shape[0], -1, 2).sort(-1)[0].reshape(x.shape),
        group_sort_down=lambda x: torch.sort(x.unflatten(1, (2, 3)), dim=1, descending=True).values.flatten(1),
        stable_sort=lambda x: torch.sort(x, dim=1, stable=True)[0],
        max_min_pairs=lambda x: torch.stack([x[:, ::2].maximum(x[:, 1::2]), x[:, ::2].minimum(x[:, 1::2])], 2),
        clamped=lambda x: x.clamp(-0.5, 0.7) + x.clamp(min=0.2) - x.clamp(max=-0.1),
        clamped_one=lambda x: torch.clamp_min(x, 0.1) + torch.clamp_max(x, 0.4),
        clamped_in_place=lambda x: (x * 1).clamp_(-0.5, 1).clamp_min_(-0.2) + (x * 1).clamp_max_(0.3),
        clamped_tensors=lambda x: x.clamp(ROW - 0.5, ROW + 0.5) + x.clamp(min=ROW),
        clamped_branches=lambda x: x.clamp(max=x.flip(1)),
        clipped=lambda x: torch.clip(x, -1, 0.5),
        threshold=lambda x: F.threshold(x, 0.0, 0.0) + F.threshold(x * 2, 0.3, 0.3, inplace=True),
        soft_shrink=lambda x: F.softshrink(x, 0.3),
        clamped_twice=lambda x: x.clamp(min=-0.5).clamp(max=0.7) - (x.clamp(min=1) * 2).clamp(max=3),
        clamped_to_point=lambda x: x.clamp(1, -1) + x,
        hard_sigmoid=lambda x: F.hardsigmoid(x) + F.hardsigmoid(x * 2, inplace=True),
    ),
}  # fmt: skip


def assigned(x: Tensor) -> Tensor:
    """Assignments to parts of tensors, by numbers, constants and parts of x."""
    y, z, w = x.clone(), torch.zeros(x.shape[0], 8, dtype=x.dtype), x * 2
    y[:, 0] = 0.0
    y[:, 2] = ROW[1]
    y[:, T([False] * 3 + [True, False, True])] = 1.5
    z[:, 1:7] = x
    w[:, 1:3].mul_(3)
    w[:, 4:] = x[:, :2]
    return torch.cat([y, z, w], 1)


def assigned_rows(x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 9, dtype=x.dtype)
    y[:, [0, 2, 3, 5, 7, 8]] = x
    y[:, 1] = x[:, 0]
    y[:, 2:4].mul_(x[:, 1:3])
    x = x + 0
    x[:, 0] = 3.0
    x.view(x.shape[0], 2, 3)[:, :, 1].neg_()
    return torch.cat([x, y], 1)


def assigned_where(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0.25] = 0.25
    y[:, :3][y[:, :3] > 1] = 1.0
    return y


MASK = T([True, False, False, True, True, False])
CHOICES = {
    **plain(
        VECTOR,
        where=lambda x: torch.where(MASK, x, ROW) + torch.where(MASK, x.flip(1), 2 * x) - torch.where(MASK, ROW, x),
        where_numbers=lambda x: torch.where(MASK, x, 0.3) + torch.where(MASK, -0.5, x),
        masked=lambda x: x.masked_fill(MASK, 2.0) + x.masked_fill(~MASK, ROW[1]),
        masked_in_place=lambda x: (x + 1).masked_fill_(MASK, 0.5).masked_fill_(MASK.flip(0), T(2.0)),
        assigned=assigned,
        assigned_rows=assigned_rows,
        scattered=lambda x: torch.cat([
            x.scatter(1, T([[0, 2]]).expand(x.shape[0], 2), 0.5),
            x.new_ones(x.shape[0], 8).scatter(1, T([[0, 2, 3, 7, 5, 6]]).expand(x.shape[0], 6), x)], 1),
        scattered_sums=lambda x: x.new_zeros(x.shape[0], 4).scatter_add(1, T([[0, 1, 1, 2, 0, 3]]).expand_as(x), x),
        index_add=lambda x: torch.index_add(x, 1, T([0, 0, 3]), x[:, 1:4]),
        index_fill=lambda x: x.index_fill(1, T([1, 2]), 0.5).index_copy(1, T([0]), x[:, 3:4]),
        gathered=lambda x: x.gather(1, T([[0, 2, 2]]).expand(x.shape[0], 3)),
        taken_along=lambda x: torch.take_along_dim(x, T([[3, 0]]), 1),
        diagonals=lambda x: torch.diagonal_scatter(x.view(-1, 2, 3), x[:, :2] * 2, 0, 1, 2).flatten(1),
        selected_part=lambda x: torch.select_scatter(x, ROW[0].expand(x.shape[0]), 1, 2),
        filled_like=lambda x: x.clone().fill_(2.0) + x + (x * 2).fill_(T(3.0)),
        kept=lambda x: x[:, MASK],
        filled_above=lambda x: x.masked_fill(x > 0.5, 0.5) + (2 * x).masked_fill_(2 * x <= ROW[1], ROW[1]),
        gated_by_sign=lambda x: (
            x * (x > 0) + (x < 0).to(x.dtype) * torch.exp(x).sub(1) + (x - 1) * (x >= 1).type_as(x)
            - x.multiply(~(x > 0)) + x.mul(torch.logical_not(x <= 0))
        ),
        assigned_where=assigned_where,
    ),
}  # fmt: skip

PRODUCTS = {
    **plain(
        (3, 3),
        einsum_dots=lambda x: (
            torch.einsum("...i,oi->...o", x, TABLE[:3, :3].to(x)) + torch.einsum("b...,b...i->b...i", x[..., 0], x)
        ),
        einsum_diagonal=lambda x: torch.einsum("bii->bi", x) + torch.einsum("bij,bij->b", x, x)[:, None],
        einsum_three=lambda x: torch.einsum("bij,jk,bki->bi", x, TABLE[:3, :3].to(x), x.tanh()),
        einsum_four=lambda x: torch.einsum("bi,ij,j,bjk->bk", x[:, 0], TABLE[:3, :3].to(x), ROW[:3].to(x), x),
        prod=lambda x: x.prod(1) + x.prod(-1, keepdim=True)[..., 0] * torch.prod(x[:, :2], 1),
        log_add=lambda x: torch.logaddexp(x, x.mT) + torch.logaddexp(x, ROW[:3].to(x)),
        hypot=lambda x: torch.hypot(x, x.mT) + torch.hypot(x + 3, ROW[:3].to(x)),
    ),
    **layers(VECTOR, bilinear=lambda: Fn(lambda p, x: p[0](x, x.tanh()[:, :4]) + p[0](x, torch.ones_like(x)[:, :4]),
                                         nn.Bilinear(6, 4, 2))),
    **layers(VECTOR, bilinear_weights=lambda: Fn(lambda p, x: p[0](torch.ones_like(x)[:, :4], x),
                                                 nn.Bilinear(4, 6, 2, bias=False))),
    **layers(LINE, bilinear_rows=lambda: Fn(lambda p, x: p[0](x, x[:, :, :2]), nn.Bilinear(7, 2, 3))),
}  # fmt: skip

SIMPLER = {
    **plain(
        VECTOR,
        clip_tensors=lambda x: torch.clip(x, ROW - 0.5, ROW + 0.5),
        absolute_named=lambda x: torch.absolute(x) + torch.special.expit(x),
        moved_axes=lambda x: torch.moveaxis(x.view(-1, 2, 3), 1, 2).flatten(1),
        aminmax=lambda x: torch.aminmax(x, dim=-1).max[:, None] - torch.aminmax(x, dim=-1, keepdim=True)[0],
        differences=lambda x: torch.diff(x)[:, :4] + torch.diff(x, 2),
        lerp=lambda x: torch.lerp(x, x.flip(1), 0.3) + x.lerp(ROW.to(x), ROW.abs().to(x)) + x.lerp(-x, 0.8),
        addcmul=lambda x: torch.addcmul(x, x.flip(1), ROW, value=0.5) + torch.addcdiv(x, x, ROW.to(x) + 2),
        kron=lambda x: torch.kron(x, ROW[:2]),
        einsum=lambda x: torch.einsum("bi,oi->bo", x, TABLE.to(x)) + torch.tensordot(x, TABLE.T.to(x), 1),
        einsum_wide=lambda x: torch.einsum("bi,oi->bo", x, WIDE) + torch.tensordot(x, WIDE.T, 1) + F.linear(x, WIDE),
        stacks=lambda x: torch.cat([torch.column_stack([x, x]), torch.fliplr(x)], 1),
    ),
    **layers(VECTOR, tanhshrink=lambda: nn.Tanhshrink()),
}  # fmt: skip
"""Modules with operations without a reader, which PyTorch decomposes into others."""

ACTIVATIONS = {
    **plain(
        VECTOR,
        hard_tanh=lambda x: F.hardtanh(x, -0.4, 0.9) + F.hardtanh(x + 0, inplace=True),
        relu6=lambda x: F.relu6(3 * x) + F.relu6(x * 2, inplace=True),
        relu=lambda x: F.relu(x) + F.relu(x * 2, inplace=True) + torch.relu(-x),
        absolute=lambda x: x.abs() + (x - 0.1).abs_(),
        leaky=lambda x: F.leaky_relu(x, 0.3) + F.leaky_relu(x * 2, inplace=True),
        random_leaky=lambda x: F.rrelu(x, 0.1, 0.4),
        softplus=lambda x: F.softplus(x) + F.softplus(x, beta=2),
        log_sigmoid=lambda x: F.logsigmoid(x),
        celu=lambda x: F.celu(x, 0.7) + F.celu(x * 2, inplace=True),
        elu=lambda x: F.elu(x, 0.7) + F.elu(x * 2, inplace=True),
        selu=lambda x: F.selu(x) + F.selu(x * 2, inplace=True),
        exponential=lambda x: x.exp() - (x * 0.5).exp_(),
        square=lambda x: x.square() - (x * 0.5).square_() + x**2,
        cube=lambda x: x**3 / 5 + x.pow(2) * x,
        quotients=lambda x: torch.reciprocal(1 + torch.exp(-x)) + x / (1 + torch.abs(x)),
        logarithm=lambda x: torch.log(torch.sigmoid(x)) + torch.log(x * x + 0.5),
        logarithms_of_sums=lambda x: torch.log1p(torch.exp(x)) + torch.log1p(x * x) + torch.expm1(x),
        roots=lambda x: torch.sqrt(x * x + 1) + (x * x + 2).sqrt_() + torch.rsqrt(x * x + 0.1),
        powers=lambda x: x**5 + (1 + x.abs()) ** -2 + (x * x + 1) ** 1.5 + x.pow(torch.tensor(4.0)),
        norms=lambda x: (
            torch.linalg.vector_norm(x, dim=1, keepdim=True)
            + torch.linalg.norm(x, dim=1, keepdim=True)
            + torch.linalg.vector_norm(x, 1, 1, True)
            + torch.linalg.vector_norm(x, float("inf"), 1, True)
        ),
        log_sum=lambda x: torch.logsumexp(x, 1, keepdim=True) + x,
        gates=lambda x: F.glu(torch.cat([x, x.flip(1)], 1), 1) + x * torch.sigmoid(x.flip(1)) / (1 + x[:, :1].square()),
        thresholds=lambda x: torch.where(x > 0.5, x, 0.5) + torch.where(x > 0, x, 0.1 * x),
        thresholds_of_numbers=lambda x: torch.where(x < 0, 0.0, x) + torch.where(x > 0, 1.0, 1.0),
        thresholds_below=lambda x: torch.where(x <= 0, -x, x) + torch.where(x < 0, x, 0.0),
        thresholds_in_part=lambda x: torch.where(MASK, torch.where(x > 0, x, 0.1 * x), x * x.flip(1)),
        thresholds_of_tensors=lambda x: (
            torch.where(x > x.flip(1), x - x.flip(1), 0.0)
            + torch.where(x >= ROW, 0.0, x - ROW)
            + torch.where(x.flip(1) <= x, 0.0, 3 * (x.flip(1) - x))
        ),
        thresholds_of_curves=lambda x: (
            torch.where(x < 0, torch.exp(x) - 1, x)
            + torch.where(x >= 0, 2 * torch.tanh(x), 0.5 * x)
            + torch.where(x < ROW, x - ROW, 2 * (x - ROW))
        ),
        gelu=lambda x: F.gelu(x) + F.gelu(x - 1, approximate="tanh") + torch.ops.aten.gelu_(x * 2),
        silu=lambda x: F.silu(x) + F.silu(x * 2, inplace=True),
        mish=lambda x: F.mish(x) + F.mish(x * 2, inplace=True),
        hard_swish=lambda x: F.hardswish(x) + F.hardswish(x * 2, inplace=True),
        sine=lambda x: x.sin() + (x * 2).sin_() - x.cos() + (x + 1).cos_(),
        sigmoid=lambda x: x.sigmoid() - (x * 2).sigmoid_(),
        tanh=lambda x: x.tanh() - (x * 2).tanh_(),
        arctan=lambda x: x.atan() - (x * 2).atan_() + torch.arctan(x) + (x * 3).arctan_(),
        erf=lambda x: x.erf() - (x * 2).erf_() + torch.special.erf(x) + torch.erfc(x),
        hyperbolic=lambda x: torch.sinh(x) - torch.cosh(x / 2) + torch.tan(x / 9),
        other_bases=lambda x: torch.exp2(x) + 3.0**x + torch.log2(x * x + 1) - torch.log10(torch.sigmoid(x) + 1),
    ),
    "prelu": (lambda: nn.Sequential(nn.PReLU(), nn.PReLU(3)), IMAGE),
    "prelu-kernel": (lambda: Fn(lambda p, x: torch._prelu_kernel(x, p[0].weight), nn.PReLU()), VECTOR),
}


def squeezed_and_excited(p: Any, x: Tensor) -> Tensor:
    """Channels times gates that are computed from their means, inside a residual block, as in MobileNetV3."""
    h = F.hardswish(p[0](x))
    gates = F.hardsigmoid(p[2](F.relu(p[1](F.adaptive_avg_pool2d(h, 1)))))
    return x + h * gates


def placed_tokens(p: Any, x: Tensor) -> Any:
    """Tokens with a class token, learned places by a table, and others by an embedding of their numbers."""
    tokens = torch.cat([p[1].weight[:1].expand(x.shape[0], 1, -1), x], 1)
    return p[0](tokens + p[1].weight + p[2](torch.arange(tokens.shape[1])))


NETWORKS = {
    **layers(
        IMAGE,
        squeeze_and_excite=lambda: Fn(
            squeezed_and_excited, nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
        ),
        residual=lambda: Fn(
            lambda p, x: F.relu(x + p[1](F.relu(p[0](x)))), *(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        ),
        dense_blocks=lambda: Fn(
            lambda p, x: torch.cat([(h := torch.cat([x, F.relu(p[0](x))], 1)), F.relu(p[1](h))], 1).mean((2, 3)),
            nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(5, 2, 1),
        ),
        classifier=lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Flatten(),
            nn.Linear(8, 2),
        ),
    ),
    **layers(
        (4, 3),
        tokens=lambda: Fn(lambda p, x: x + p[1](F.relu(p[0](x.mT))).mT, nn.Linear(4, 5), nn.Linear(5, 4)),
        places=lambda: Fn(placed_tokens, nn.Linear(3, 2), nn.Embedding(5, 3), nn.Embedding(6, 3)),
        embedded=lambda: Fn(lambda p, x: x.softmax(2) @ p[0].weight + F.linear(x, p[0].weight.T), nn.Embedding(3, 2)),
    ),
}  # fmt: skip

ONE_INPUT: dict[str, tuple[Make, Shape]] = {
    **plain(
        IMAGE,
        reduced=lambda x: (x[0].sum() + x.mean() + x[0, 0].mean(0).sum(0)).reshape(1, 1),
        ravelled=lambda x: x.ravel()[None] + x.flatten()[None],
        squeezed_away=lambda x: x.squeeze().mT.unsqueeze(0),
        unbatched_pools=lambda x: (F.avg_pool2d(x[0], 2) + F.max_pool2d(x[0], 2))[None],
        unbatched_adaptive=lambda x: (F.adaptive_avg_pool2d(x[0], 2) - F.adaptive_max_pool2d(x[0], 2))[None],
    ),
    **plain(
        VECTOR,
        max_all=lambda x: x.max()[None] - x.min()[None],
        viewed_as_one=lambda x: x.view(1, 2, 3) * 2,
        constant=lambda x: torch.ones(1, 4, dtype=x.dtype),
        outer_of_first=lambda x: torch.outer(x[0], ROW.to(x))[None],
        gathered_of_first=lambda x: x.gather(-1, T([[0, 2]])) + x[0, 1],
    ),
    "unbatched-pool1d": (lambda: Fn(lambda _, x: (F.avg_pool1d(x[0], 2) - F.max_pool1d(x[0], 2))[None]), LINE),
    "unbatched-conv": (lambda: Fn(lambda p, x: p[0](x[0]).unsqueeze(0), nn.Conv2d(3, 2, 3)), IMAGE),
    "turned": (lambda: Fn(lambda p, x: (p[0].weight @ x[0].T).T[None], nn.Linear(3, 2)), (4, 3)),
    "dot": (lambda: Fn(lambda p, x: torch.dot(x[0], p[0].weight[0]).reshape(1, 1), nn.Linear(6, 2)), VECTOR),
}  # fmt: skip
"""Modules that are right for a batch of one only."""
MIXED = ("reduced", "ravelled", "squeezed-away", "max-all")
"""Those of them that mix the entries of a batch."""

CASES: dict[str, tuple[Make, Shape]] = {
    **CONVOLUTIONS, **NORMALISATIONS, **POOLS, **PADS, **SHAPES, **SUMS, **EXTREMES, **ACTIVATIONS, **NETWORKS,
    **CHOICES, **PRODUCTS, **SIMPLER, **recurrent_cases.TORCH,
}  # fmt: skip
EVERY = {**CASES, **ONE_INPUT}
