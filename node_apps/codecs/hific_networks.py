"""The networks of HiFiC at full size (Mentzer et al., "High-Fidelity Generative Image Compression", NeurIPS 2020).

    x --E--> y --h_a--> z --round--> z_hat --h_s--> (mu, sigma)      y_hat = round(y - mu) + mu      y_hat --G--> x_hat

y is at 1/16, z at 1/64 of the image. Parameters have the names, and paddings and norms the form, of the widely used
PyTorch port (Justin-Tan/high-fidelity-generative-compression), so that its checkpoints fit. It pads by reflection
where the authors' TensorFlow code pads with zeros. The discriminator is needed for training only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn.functional as F
from gnl.node_apps.codecs.strips import in_strips
from torch import Tensor, nn

STRIDE, Y_STRIDE = 64, 16
STRIP_PIXELS = 1 << 20
# Rows of y beside a strip that E, and G behind its residual blocks, look at; of z for h_s.
E_MARGIN, TAIL_MARGIN, H_S_MARGIN = 3, 2, 2
_LEAST_SIDE = 128  # h_a reflects two rows at 1/32 of the image: it needs three
_DENSITY_WIDTHS = (1, 3, 3, 3, 1)


@dataclass(frozen=True)
class HificShape:
    """The numbers that the paper gives; `channels` are E's from fine to coarse, and G's backwards."""

    channels: tuple[int, ...] = (60, 120, 240, 480, 960)
    y_channels: int = 220
    z_channels: int = 320
    residual_blocks: int = 9


class ChannelNorm(nn.Module):
    """(x - mean) / sqrt(variance + 0.001) * gamma + beta, moments over the channels at each place.

    The variance is the unbiased one, in the port as in the authors' code. Fastest in channels_last.
    """

    _EPSILON = 1e-3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        bias_correction = (channels - 1) / channels
        weight = self.gamma.flatten() * bias_correction**0.5
        places = x.permute(0, 2, 3, 1)
        normed = F.layer_norm(places, (channels,), weight, self.beta.flatten(), self._EPSILON * bias_correction)
        return normed.permute(0, 3, 1, 2)


def make_encoder(shape: HificShape) -> nn.Sequential:
    """E: (B, 3, H, W), sides multiples of 16, to y (B, y_channels, H/16, W/16)."""
    widths = shape.channels
    blocks = OrderedDict(conv_block1=_normed(nn.ReflectionPad2d(3), nn.Conv2d(3, widths[0], 7)))
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:]), 2):
        pad = nn.ReflectionPad2d((0, 1, 1, 0))
        blocks[f"conv_block{number}"] = _normed(pad, nn.Conv2d(inputs, outputs, 3, stride=2))
    blocks["conv_block_out"] = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(widths[-1], shape.y_channels, 3))
    return nn.Sequential(blocks)


class Generator(nn.Module):
    """G: y_hat (B, y_channels, h, w) to x_hat (B, 3, 16h, 16w), nominally in the range of E's input, not clipped."""

    def __init__(self, shape: HificShape) -> None:
        super().__init__()
        widths = shape.channels[::-1]
        self.conv_block_init = nn.Sequential(
            ChannelNorm(shape.y_channels),
            nn.ReflectionPad2d(1),
            nn.Conv2d(shape.y_channels, widths[0], 3),
            ChannelNorm(widths[0]),
        )
        self._blocks, self._tail = [], []
        for number in range(shape.residual_blocks):
            self._blocks.append(f"resblock_{number}")
            self.add_module(self._blocks[-1], ResidualBlock(widths[0]))
        for number, (inputs, outputs) in enumerate(zip(widths, widths[1:]), 1):
            self._tail.append(f"upconv_block{number}")
            up = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
            self.add_module(self._tail[-1], _normed(up))
        self._tail.append("conv_block_out")
        self.conv_block_out = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(widths[-1], 3, 7))

    def trunk(self, y_hat: Tensor) -> Tensor:
        """All that happens at 1/16 of the resolution, the long skip included."""
        head = self.conv_block_init(y_hat)
        x = head
        for name in self._blocks:
            x = self.get_submodule(name)(x)
        return x + head

    def tail(self, x: Tensor) -> Tensor:
        """The upsampling, a place of the image depending on TAIL_MARGIN rows and columns around it only."""
        for name in self._tail:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, y_hat: Tensor) -> Tensor:
        rows = strip_rows(y_hat.shape[0] * y_hat.shape[3] * Y_STRIDE**2)
        return in_strips(self.tail, [self.trunk(y_hat)], rows, TAIL_MARGIN, Y_STRIDE)


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu_(self.norm1(self.conv1(self.pad(x))))
        return x + self.norm2(self.conv2(self.pad(inner)))


def make_hyper_analysis(shape: HificShape) -> nn.Sequential:
    """h_a: y to z (B, z_channels, H/64, W/64)."""
    width, strided = shape.z_channels, {"stride": 2, "padding": 2, "padding_mode": "reflect"}
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape.y_channels, width, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, width, 5, **strided),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(width, width, 5, **strided),
        )
    )


def make_hyper_synthesis(shape: HificShape) -> nn.Sequential:
    """One of the two halves of h_s: z_hat to mu, or to sigma before its lower bound, (B, y_channels, H/16, W/16)."""
    width, strided = shape.z_channels, {"stride": 2, "padding": 2, "output_padding": 1}
    return nn.Sequential(
        OrderedDict(
            conv1=nn.ConvTranspose2d(width, width, 5, **strided),
            relu1=nn.ReLU(),
            conv2=nn.ConvTranspose2d(width, width, 5, **strided),
            relu2=nn.ReLU(),
            conv3=nn.ConvTranspose2d(width, shape.y_channels, 3, padding=1),
        )
    )


class FactorizedDensity(nn.Module):
    """The density of z: one monotonic network a channel (Balle et al., ICLR 2018, appendix 6.1)."""

    def __init__(self, shape: HificShape) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(zip(_DENSITY_WIDTHS, _DENSITY_WIDTHS[1:])):
            for kind, columns in (("H", inputs), ("a", 1), ("b", 1)):
                parameter = nn.Parameter(torch.zeros(shape.z_channels, outputs, columns))
                self.register_parameter(f"{kind}_{number}", parameter)

    def cumulative(self, points: Tensor) -> Tensor:
        """P(z < point) of every channel, (z_channels, n), for points (n,)."""
        x = points.expand(self.H_0.shape[0], 1, -1)
        for number in range(len(_DENSITY_WIDTHS) - 1):
            matrix, factor, bias = (getattr(self, f"{kind}_{number}") for kind in "Hab")
            x = F.softplus(matrix) @ x + bias
            x = x + torch.tanh(factor) * torch.tanh(x)
        return torch.sigmoid(x[:, 0])


PARTS: dict[str, Callable[[HificShape], nn.Module]] = {
    "Encoder": make_encoder,
    "Generator": Generator,
    "Hyperprior.analysis_net": make_hyper_analysis,
    "Hyperprior.synthesis_mu": make_hyper_synthesis,
    "Hyperprior.synthesis_std": make_hyper_synthesis,
    "Hyperprior.hyperlatent_likelihood": FactorizedDensity,
}


def parameter_shapes(shape: HificShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of a checkpoint that coding needs; allocates none."""
    with torch.device("meta"):
        parts = {prefix: make(shape) for prefix, make in PARTS.items()}
    return {
        f"{prefix}.{name}": tuple(value.shape)
        for prefix, part in parts.items()
        for name, value in part.named_parameters()
    }


def pad_image(x: Tensor) -> Tensor:
    """Repeat the last row and column of (B, C, H, W) until `padded_side` of both sides is reached."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, padded_side(width) - width, 0, padded_side(height) - height), mode="replicate")


def padded_side(side: int) -> int:
    """The side of an image as it is coded: a multiple of STRIDE, and what the reflections need."""
    return max(_LEAST_SIDE, -(-side // STRIDE) * STRIDE)


def strip_rows(row_pixels: int) -> int:
    """Rows of a tensor to compute at once, where a row covers so many pixels: each has 60 channels in the end."""
    return max(1, STRIP_PIXELS // row_pixels)


def _normed(*layers: nn.Module) -> nn.Sequential:
    """The layers, the last a convolution, then ChannelNorm and ReLU."""
    return nn.Sequential(*layers, ChannelNorm(layers[-1].out_channels), nn.ReLU(inplace=True))
