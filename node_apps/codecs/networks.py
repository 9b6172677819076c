"""The networks of gnl's generative codecs: analysis, hyperprior and generator, all convolutional.

    x --g_a--> y --h_a--> z --round--> z_hat --h_s--> (mu, scale index)      y_hat = round(y - mu) + mu
                                                                             y_hat --g_s--> x_hat

Mean-scale hyperprior of Minnen, Balle and Toderici (NeurIPS 2018); generator in the manner of HiFiC (Mentzer et al.,
NeurIPS 2020), sized for one CPU core: residual blocks at 1/16 and 1/8 of the resolution, sub-pixel upsampling (Shi et
al., CVPR 2016), nothing at full resolution. y is at 1/16, z at 1/64 of the image, whose sides are multiples of 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE, Y_STRIDE = 64, 16
SCALE_LEVELS = 32
SCALE_MIN, SCALE_MAX = 0.13, 24.0
SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)


@dataclass(frozen=True)
class NetworkShape:
    """Channels and residual blocks; the numbers that turn a weights file back into networks."""

    y_channels: int = 96
    z_channels: int = 48
    hyper_channels: int = 64
    g_a_channels: tuple[int, int, int] = (64, 128, 192)
    g_a_blocks: tuple[int, int] = (2, 1)
    g_s_channels: tuple[int, int, int] = (160, 96, 48)
    g_s_blocks: tuple[int, int, int] = (2, 3, 1)


class Residual(nn.Module):
    """x + conv(relu(conv(x))), without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu_(self.first(x)))


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [Residual(channels) for _ in range(count)]


def _up(inputs: int, outputs: int, factor: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs * factor**2, 3, padding=1), nn.PixelShuffle(factor)]


class Refined(nn.Module):
    """The sum of a linear block transform and a network that corrects it.

    The linear part can start as the principal components of image blocks, so that training begins with a working
    transform codec instead of noise.
    """

    def __init__(self, linear: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + self.linear(x)


def make_g_a(shape: NetworkShape) -> Refined:
    """Analysis: (B, 3, H, W) in [0, 1] to y (B, y_channels, H/16, W/16)."""
    quarter, eighth, sixteenth = shape.g_a_channels
    linear = nn.Sequential(nn.PixelUnshuffle(Y_STRIDE), nn.Conv2d(3 * Y_STRIDE**2, shape.y_channels, 1))
    network = nn.Sequential(
        nn.PixelUnshuffle(4),
        nn.Conv2d(48, quarter, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
        *_blocks(eighth, shape.g_a_blocks[0]),
        nn.ReLU(),
        nn.Conv2d(eighth, sixteenth, 3, stride=2, padding=1),
        *_blocks(sixteenth, shape.g_a_blocks[1]),
        nn.ReLU(),
        nn.Conv2d(sixteenth, shape.y_channels, 3, padding=1),
    )
    return Refined(linear, network)


def make_g_s(shape: NetworkShape) -> Refined:
    """Generator: y_hat (B, y_channels, H/16, W/16) to x_hat (B, 3, H, W), nominally in [0, 1], not clipped."""
    sixteenth, eighth, quarter = shape.g_s_channels
    linear = nn.Sequential(nn.Conv2d(shape.y_channels, 3 * Y_STRIDE**2, 1), nn.PixelShuffle(Y_STRIDE))
    network = nn.Sequential(
        nn.Conv2d(shape.y_channels, sixteenth, 3, padding=1),
        *_blocks(sixteenth, shape.g_s_blocks[0]),
        nn.ReLU(),
        *_up(sixteenth, eighth),
        *_blocks(eighth, shape.g_s_blocks[1]),
        nn.ReLU(),
        *_up(eighth, quarter),
        *_blocks(quarter, shape.g_s_blocks[2]),
        nn.ReLU(),
        *_up(quarter, 3, 4),
    )
    return Refined(linear, network)


class WithMagnitude(nn.Module):
    """(B, C, H, W) to (B, 2C, H, W): the values and their magnitudes, which tell how busy a place is."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x.abs()), dim=1)


def make_h_a(shape: NetworkShape) -> nn.Sequential:
    """Hyper-analysis: y to z (B, z_channels, H/64, W/64)."""
    return nn.Sequential(
        WithMagnitude(),
        nn.Conv2d(2 * shape.y_channels, shape.hyper_channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(shape.hyper_channels, shape.hyper_channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(shape.hyper_channels, shape.z_channels, 3, stride=2, padding=1),
    )


def make_h_s(shape: NetworkShape) -> nn.Sequential:
    """Hyper-synthesis: z_hat to (mu, scale index), (B, 2 y_channels, H/16, W/16). Convolution, shuffle and ReLU only:
    `pinned.PinnedHyperSynthesis` repeats it in exact arithmetic."""
    return nn.Sequential(
        *_up(shape.z_channels, shape.hyper_channels),
        nn.ReLU(),
        *_up(shape.hyper_channels, shape.hyper_channels),
        nn.ReLU(),
        nn.Conv2d(shape.hyper_channels, 2 * shape.y_channels, 3, padding=1),
    )


def scale_table() -> list[float]:
    """The standard deviations that scale indexes stand for, geometric from SCALE_MIN to SCALE_MAX."""
    return [SCALE_MIN * math.exp(SCALE_STEP * level) for level in range(SCALE_LEVELS)]


def pad_to_stride(x: Tensor) -> Tensor:
    """Replicate the last row and column of (B, C, H, W) until both sides are multiples of STRIDE."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
