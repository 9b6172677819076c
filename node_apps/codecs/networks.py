"""The networks of gnl's generative codecs: analysis, hyperprior and generator, all convolutional.

    x --g_a--> y --h_a--> z --round--> z_hat --h_s--> (mu, scale index)      y_hat = quantised(y - mu) + mu
                                                              (y_hat, precision) --g_s--> x_hat

Mean-scale hyperprior of Minnen, Balle and Toderici (NeurIPS 2018); generator in the manner of HiFiC (Mentzer et al.,
NeurIPS 2020), sized for one CPU core: residual blocks from 1/16 to 1/4 of the resolution, sub-pixel upsampling (Shi et
al., CVPR 2016), one convolution at 1/2. y is at 1/16, z at 1/64 of the image, whose sides are multiples of 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE, Y_STRIDE = 64, 16
_LEAK = 0.1
_MIDDLE = 0.5  # pixels are coded as what they differ from grey: centred inputs train faster


@dataclass(frozen=True)
class NetworkShape:
    """Channels and residual blocks; the numbers that turn a weights file back into networks."""

    y_channels: int = 192
    z_channels: int = 64
    hyper_channels: int = 96
    g_a_channels: tuple[int, int, int] = (64, 128, 192)
    g_a_blocks: tuple[int, int, int] = (1, 2, 2)
    g_s_channels: tuple[int, int, int, int] = (192, 128, 64, 32)
    g_s_blocks: tuple[int, int, int] = (1, 3, 2)


def _active() -> nn.Module:
    """Leaky: without normalisation, rectified units die by the layer as long as a linear part does all the work."""
    return nn.LeakyReLU(_LEAK)


class Residual(nn.Module):
    """x + conv(activation(conv(x))), without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu_(self.first(x), _LEAK))


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [Residual(channels) for _ in range(count)]


def _up(inputs: int, outputs: int, factor: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs * factor**2, 3, padding=1), nn.PixelShuffle(factor)]


class Analysis(nn.Module):
    """x (B, 3, H, W) in [0, 1] to y (B, y_channels, H/16, W/16): a linear transform of overlapping blocks, and a
    network that corrects it.

    The linear part can start as the principal components of image blocks, so that training begins with a working
    transform codec instead of noise; its 3x3 window over blocks lets it learn to overlap them.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        quarter, eighth, sixteenth = shape.g_a_channels
        self.linear = nn.Sequential(
            nn.PixelUnshuffle(Y_STRIDE), nn.Conv2d(3 * Y_STRIDE**2, shape.y_channels, 3, padding=1)
        )
        self.network = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, quarter, 3, padding=1),
            *_blocks(quarter, shape.g_a_blocks[0]),
            _active(),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            *_blocks(eighth, shape.g_a_blocks[1]),
            _active(),
            nn.Conv2d(eighth, sixteenth, 3, stride=2, padding=1),
            *_blocks(sixteenth, shape.g_a_blocks[2]),
            _active(),
            nn.Conv2d(sixteenth, shape.y_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        centred = x - _MIDDLE
        return self.network(centred) + self.linear(centred)


class Synthesis(nn.Module):
    """y_hat (B, y_channels, H/16, W/16) and its precision (B, 1, H/16, W/16) to x_hat (B, 3, H, W), nominally in
    [0, 1], not clipped: the linear transform back, and a network that corrects it and makes what was not sent.

    The network looks at the linear picture from 1/4 of the resolution down (a U-Net, Ronneberger et al., MICCAI 2015)
    and joins it with the latents at 1/16. So it has a short way to what is easy, mending seams between blocks, and a
    long one to what is hard. The precision, `precision_of`, tells how much of each place was received.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        sixteenth, eighth, quarter, half = shape.g_s_channels
        self.linear = nn.Sequential(
            nn.Conv2d(shape.y_channels, 3 * Y_STRIDE**2, 3, padding=1), nn.PixelShuffle(Y_STRIDE)
        )
        self.look = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, quarter, 3, padding=1))
        self.down = nn.ModuleList(
            [
                nn.Sequential(_active(), nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)),
                nn.Sequential(_active(), nn.Conv2d(eighth, sixteenth, 3, stride=2, padding=1)),
            ]
        )
        self.latents = nn.Conv2d(shape.y_channels + 1, sixteenth, 3, padding=1)
        self.up = nn.ModuleList(
            [
                nn.Sequential(*_blocks(sixteenth, shape.g_s_blocks[0]), _active(), *_up(sixteenth, eighth)),
                nn.Sequential(*_blocks(eighth, shape.g_s_blocks[1]), _active(), *_up(eighth, quarter)),
            ]
        )
        self.finish = nn.Sequential(
            *_blocks(quarter, shape.g_s_blocks[2]), _active(), *_up(quarter, half), _active(), *_up(half, 3)
        )

    def forward(self, y_hat: Tensor, precision: Tensor) -> Tensor:
        picture = self.linear(y_hat)
        return picture + self.correct(picture, y_hat, precision) + _MIDDLE

    def correct(self, picture: Tensor, y_hat: Tensor, precision: Tensor) -> Tensor:
        """What is added to the linear picture, (B, 3, H, W)."""
        quarter = self.look(picture)
        eighth = self.down[0](quarter)
        sixteenth = self.down[1](eighth) + self.latents(torch.cat((y_hat, precision), dim=1))
        return self.finish(self.up[1](self.up[0](sixteenth) + eighth) + quarter)


def precision_of(planes: Tensor) -> Tensor:
    """(B, C, h, w) counts of the planes received of each latent to (B, 1, h, w): their mean over the channels."""
    return planes.float().mean(dim=1, keepdim=True)


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
        nn.Conv2d(shape.hyper_channels, shape.hyper_channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(shape.hyper_channels, 2 * shape.y_channels, 1),
    )


def pad_to_stride(x: Tensor) -> Tensor:
    """Replicate the last row and column of (B, C, H, W) until both sides are multiples of STRIDE."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


class Discriminator(nn.Module):
    """Tells photographs from generated images, given the latents that both share; used in training only.

    Patches like those of Isola et al. (CVPR 2017), conditional and spectrally normalised as in HiFiC. y_hat enters at
    1/8 of the resolution, where it is cheap.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        normalised = nn.utils.parametrizations.spectral_norm
        self.pixels = nn.Sequential(
            *self._layer(3, 48, 4, 2), *self._layer(48, 96, 4, 2), *self._layer(96, 192, 4, 2)
        )
        self.latents = nn.Sequential(*self._layer(shape.y_channels, 32, 3, 1), nn.Upsample(scale_factor=2))
        self.both = nn.Sequential(*self._layer(192 + 32, 192, 3, 1), normalised(nn.Conv2d(192, 1, 1)))

    @staticmethod
    def _layer(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1)
        return nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, y_hat: Tensor) -> Tensor:
        """Logits (B, 1, H/8, W/8) that x (B, 3, H, W) in [0, 1] is a photograph."""
        return self.both(torch.cat((self.pixels(2 * x - 1), self.latents(y_hat)), dim=1))
