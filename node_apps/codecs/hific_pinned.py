"""HiFiC's hyper-synthesis in exact arithmetic, so that both ends derive the same frequency tables on any machine.

As in `pinned`: weights and activations are integers held in float64, and every product and partial sum stays below
2^53, so that each is exact and no order of summation, thread count, batch or strip can change it. These networks were
not trained for it, so that the grid is finer, and the bound is checked for the weights at hand instead of assumed.

    weights in units of 2^-16, activations in 2^-10, sums in 2^-26, rounded half up to 2^-10 after each layer
"""

from __future__ import annotations

from typing import Sequence

import torch
import torch.nn.functional as F
from gnl.node_apps.codecs.hific_networks import H_S_MARGIN, STRIDE, Y_STRIDE, strip_rows
from gnl.node_apps.codecs.strips import in_strips
from gnl.topologies.errors import CodecError
from torch import Tensor, nn

WEIGHT_BITS, ACTIVATION_BITS = 16, 10
_ACTIVATION_TOP = 1 << 22
_EXACT_BELOW = 2**53


def quantise_synthesis(h_s: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """Integer weights (I, O, k, k) int32 and biases (O,) int64 of the transposed convolutions of
    `hific_networks.make_hyper_synthesis`; CodecError if a weight is too large."""
    layers = []
    for conv in (module for module in h_s if isinstance(module, nn.ConvTranspose2d)):
        weight = torch.round(conv.weight.detach().double().cpu() * 2.0**WEIGHT_BITS)
        bias = torch.round(conv.bias.detach().double().cpu() * 2.0 ** (WEIGHT_BITS + ACTIVATION_BITS))
        if not (weight.abs().max() < 2.0**31 and bias.abs().max() < _EXACT_BELOW):
            raise CodecError("hyper-synthesis has weights of 2^15 or more: train it again")
        layers.append((weight.to(torch.int32), bias.to(torch.int64)))
    return layers


class PinnedSynthesis:
    """One half of h_s in float64 integers on `device`, the same on every one; CodecError for weights that would not
    stay exact."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], device: str = "cpu") -> None:
        self._layers = [(weight.double().to(device), bias.double().to(device)) for weight, bias in layers]
        for weight, bias in self._layers:
            largest = (weight.abs().sum((0, 2, 3)) * _ACTIVATION_TOP + bias.abs()).max()
            if not largest < _EXACT_BELOW:
                raise CodecError(f"hyper-synthesis sums reach 2^{largest.log2():.1f}: below 2^53 they are exact")

    def __call__(self, z_hat: Tensor) -> Tensor:
        """The output for integer z_hat (B, C, h, w): (B, y_channels, 4h, 4w) float64, integers of 2^-10."""
        x = z_hat.double() * 2**ACTIVATION_BITS
        rows = strip_rows(x.shape[0] * x.shape[3] * STRIDE**2)
        return in_strips(self._all_layers, [x], rows, H_S_MARGIN, STRIDE // Y_STRIDE)

    def _all_layers(self, x: Tensor) -> Tensor:
        top = _ACTIVATION_TOP
        x = x.clamp(-top, top)
        for weight, bias in self._layers[:-1]:
            x = _round_half_up(_transposed_convolution(x, weight, bias, stride=2)).clamp_(0, top)
        return _round_half_up(_transposed_convolution(x, *self._layers[-1], stride=1)).clamp_(-top, top)


def _transposed_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """To `stride` times the size, as one matrix product and sums: a library's convolution may take the way through
    Fourier or Winograd transforms, which are not exact."""
    inputs, outputs, kernel, _ = weight.shape
    size = (x.shape[2] * stride, x.shape[3] * stride)
    columns = weight.view(inputs, -1).T @ x.flatten(2)
    return F.fold(columns, size, kernel, padding=kernel // 2, stride=stride).add_(bias.view(1, outputs, 1, 1))


def _round_half_up(x: Tensor) -> Tensor:
    """floor(x / 2^WEIGHT_BITS + 1/2), exact in float64 for the integers that occur here."""
    return torch.floor(x.mul_(2.0**-WEIGHT_BITS).add_(0.5))
