"""Hyper-synthesis in exact arithmetic: both ends must derive the same frequency table for every latent.

One different rounding between encoder and decoder destroys the rest of the image, and floating-point sums depend on
thread count, batch size and device. So here weights and activations are integers held in float64, and every product
and partial sum stays below 2^53: each is exact, and no order of summation can change it (Balle, Johnston and Minnen,
"Integer networks for data compression with latent-variable models", ICLR 2019).

    weights and input in units of 2^-12 and 2^-8, sums in 2^-20, rounded half up to 2^-8 between layers
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from gnl.topologies.errors import CodecError
from torch import Tensor, nn

WEIGHT_BITS, ACTIVATION_BITS = 12, 8
_SUM_BITS = WEIGHT_BITS + ACTIVATION_BITS
_ACTIVATION_TOP = 1 << 15
_WEIGHT_TOP = (1 << 15) - 1
_UPSAMPLED = 2
_UPSAMPLING_LAYERS = 2  # of make_h_s: its first ones


@dataclass(frozen=True)
class PinnedLayer:
    """One convolution: integer weights (O, I, k, k), k odd, and biases (O,)."""

    weight: np.ndarray
    bias: np.ndarray


def quantise_layers(h_s: nn.Sequential) -> list[PinnedLayer]:
    """The convolutions of `networks.make_h_s` in integers; CodecError if a weight is too large to stay exact."""
    layers = []
    for conv in (module for module in h_s if isinstance(module, nn.Conv2d)):
        weight = np.rint(conv.weight.detach().double().cpu().numpy() * 2**WEIGHT_BITS)
        bias = np.rint(conv.bias.detach().double().cpu().numpy() * 2**_SUM_BITS)
        if np.abs(weight).max() > _WEIGHT_TOP or np.abs(bias).max() > 2.0**31 - 1:
            raise CodecError(f"hyper-synthesis weight {np.abs(weight).max() / 2**WEIGHT_BITS}: below 8 stays exact")
        layers.append(PinnedLayer(np.ascontiguousarray(weight, np.int16), np.ascontiguousarray(bias, np.int32)))
    return layers


class PinnedHyperSynthesis:
    """h_s in float64 integers on `device`; the same result for any threads, batch, device and machine."""

    def __init__(self, layers: list[PinnedLayer], scale_levels: int, device: str = "cpu") -> None:
        self._layers = [
            (
                torch.from_numpy(layer.weight.astype(np.float64)).to(device),
                torch.from_numpy(layer.bias.astype(np.float64)).to(device),
            )
            for layer in layers
        ]
        self._scale_levels = scale_levels

    def __call__(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scale indexes of y, from integer z_hat (B, C, h, w).

        Returns mu (B, y_channels, 4h, 4w) float32 on a grid of 2^-8, and indexes likewise, int32.
        """
        top = _ACTIVATION_TOP
        x = (z_hat.double() * 2**ACTIVATION_BITS).clamp(-top, top)
        for number, (weight, bias) in enumerate(self._layers[:-1]):
            x = _round_half_up(_convolve(x, weight, bias), WEIGHT_BITS)
            x = (F.pixel_shuffle(x, _UPSAMPLED) if number < _UPSAMPLING_LAYERS else x).clamp(0, top)
        mu, raw_index = _convolve(x, *self._layers[-1]).chunk(2, dim=1)
        mu = _round_half_up(mu, WEIGHT_BITS).clamp(-top, top) / 2**ACTIVATION_BITS
        index = _round_half_up(raw_index, _SUM_BITS).clamp(0, self._scale_levels - 1)
        return mu.float(), index.to(torch.int32)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution as one matrix product: a library's convolution may take the way through Fourier or Winograd
    transforms, which are not exact."""
    outputs, _, kernel, _ = weight.shape
    columns = F.unfold(x, kernel, padding=kernel // 2)
    product = weight.view(outputs, -1) @ columns + bias[:, None]
    return product.view(len(x), outputs, *x.shape[-2:])


def _round_half_up(x: Tensor, bits: int) -> Tensor:
    """floor(x / 2^bits + 1/2), exact in float64 for the integers that occur here."""
    return torch.floor(x * 2.0**-bits + 0.5)
