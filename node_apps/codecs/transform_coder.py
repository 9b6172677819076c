"""The codec's networks in training: rates estimated by CompressAI's entropy models, quantisation with gradients.

Rate from additive uniform noise, reconstruction from rounded latents with straight-through gradients (Minnen and
Singh, ICIP 2020). y has a trained gain for each channel, which sets its quantisation step and with it its rate: the
networks see latents of about unit variance, whatever the rate. Latents whose scale index is 0 are not coded at all,
here as in the bitstream: y_hat = mu.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gnl.node_apps.codecs import networks
from gnl.node_apps.codecs.entropy import import_entropy_models
from torch import Tensor, nn

_START_GAIN, _START_DEVIATION, _START_Z_DEVIATION = 1.5, 7.0, 2.0


@dataclass
class Estimate:
    """One training pass: x_hat (B, 3, H, W), not clipped, and the estimated bits per pixel of y and z."""

    x_hat: Tensor
    y_bpp: Tensor
    z_bpp: Tensor


class _BoundedIndex(torch.autograd.Function):
    """Clamp to [0, top], keeping the gradients that lead back inside."""

    @staticmethod
    def forward(ctx, raw: Tensor, top: float) -> Tensor:
        ctx.save_for_backward(raw)
        ctx.top = top
        return raw.clamp(0.0, top)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (raw,) = ctx.saved_tensors
        inward = ((raw >= 0) | (gradient < 0)) & ((raw <= ctx.top) | (gradient > 0))
        return gradient * inward, None


def _scale_for_depth(part: nn.Module) -> None:
    """Kaiming weights for a linear gain of 1, zero biases, and residual branches that start small."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    for module in part.modules():
        if isinstance(module, networks.Residual):
            module.second.weight.mul_(0.1)


def round_through(x: Tensor) -> Tensor:
    """Round, with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


class TransformCoder(nn.Module):
    """g_a, h_a, h_s, g_s and the two entropy models, trained jointly."""

    def __init__(self, shape: networks.NetworkShape) -> None:
        super().__init__()
        bottleneck, gaussian = import_entropy_models()
        self.shape = shape
        self.g_a = networks.make_g_a(shape)
        self.h_a = networks.make_h_a(shape)
        self.h_s = networks.make_h_s(shape)
        self.g_s = networks.make_g_s(shape)
        self.z_model = bottleneck(shape.z_channels, init_scale=4)
        self.y_model = gaussian(networks.scale_table(), scale_bound=networks.SCALE_MIN)
        self.log_gain = nn.Parameter(torch.zeros(shape.y_channels))

    def start_from_blocks(self, x: Tensor) -> None:
        """Set the weights to start training from, given sample crops (B, 3, H, W) in [0, 1].

        The linear parts become the principal components of the crops' blocks, whitened; the gains are such that one
        quantisation step fits all, save where the variance would outgrow the frequency tables; the networks start
        small.
        """
        with torch.no_grad():
            for part in (self.g_a, self.h_a, self.h_s, self.g_s):
                _scale_for_depth(part)
            blocks = F.pixel_unshuffle(x, networks.Y_STRIDE).permute(0, 2, 3, 1).flatten(0, 2).double()
            mean = blocks.mean(0)
            variance, basis = torch.linalg.eigh(torch.cov((blocks - mean).T))
            deviation = variance.flip(0)[: self.shape.y_channels].clamp_min(1e-12).sqrt()
            basis = basis.flip(1)[:, : self.shape.y_channels].T
            gain = deviation * (_START_DEVIATION / deviation).clamp_max(_START_GAIN)
            self.log_gain.copy_(torch.log(gain))
            forward, backward = self.g_a.linear[1], self.g_s.linear[0]
            whiten = basis / deviation[:, None]
            forward.weight.copy_(whiten[:, :, None, None])
            forward.bias.copy_(-whiten @ mean)
            backward.weight.copy_((basis * deviation[:, None]).T[:, :, None, None])
            backward.bias.copy_(mean)
            self.g_a.network[-1].weight.mul_(0.1)
            self.g_s.network[-2].weight.mul_(0.1)
            self.h_s[-1].weight[: self.shape.y_channels].mul_(0.05)
            self.h_s[-1].bias[self.shape.y_channels :] = -math.log(networks.SCALE_MIN) / networks.SCALE_STEP
            z = self.h_a(self.g_a(x))
            self.h_a[-1].weight.mul_(_START_Z_DEVIATION / z.std())

    def forward(self, x: Tensor, half: bool = False) -> Estimate:
        """x (B, 3, H, W) in [0, 1], sides multiples of 64; `half` runs g_a and g_s in bfloat16."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            y = self.g_a(x)
        y_hat, y_bits, z_bits = self.code(y.float())
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            x_hat = self.g_s(y_hat)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        return Estimate(x_hat.float(), y_bits / pixels, z_bits / pixels)

    def code(self, y: Tensor, z_free: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat, and the estimated bits of y and of z; `z_free` fits the bits of z without a pull on z itself."""
        z = self.h_a(y)
        _, z_likelihood = self.z_model(z.detach() if z_free else z, training=True)
        mu, raw_index = self.h_s(round_through(z)).chunk(2, dim=1)
        log_gain = self.log_gain.view(1, -1, 1, 1)
        residual = (y - mu) * torch.exp(log_gain)
        index = _BoundedIndex.apply(raw_index + log_gain / networks.SCALE_STEP, float(networks.SCALE_LEVELS - 1))
        sigma = networks.SCALE_MIN * torch.exp(networks.SCALE_STEP * index)
        _, y_likelihood = self.y_model(residual, sigma, training=True)
        coded = (index >= 0.5).float()
        y_hat = round_through(residual) * coded * torch.exp(-log_gain) + mu
        y_bits = -(torch.log(y_likelihood) * coded).sum() / math.log(2)
        y_idle_bits = -(torch.log(y_likelihood) * (1 - coded)).sum() / math.log(2)
        z_bits = -torch.log(z_likelihood).sum() / math.log(2)
        # latents that are not coded cost nothing, but must stay near mu: their bits pull, and are not counted as rate
        pull = y_idle_bits - y_idle_bits.detach()
        return y_hat, y_bits + pull, z_bits

    def folded(self) -> TransformCoder:
        """A copy with gains of 1, the same in effect: the gains have moved into the convolutions around y."""
        copy = deepcopy(self)
        with torch.no_grad():
            gain = torch.exp(self.log_gain).view(-1, 1, 1, 1)
            for last in (copy.g_a.linear[1], copy.g_a.network[-1]):
                last.weight.mul_(gain)
                last.bias.mul_(gain.flatten())
            for first in (copy.g_s.linear[0], copy.g_s.network[0]):
                first.weight.div_(gain.view(1, -1, 1, 1))
            copy.h_a[1].weight.div_(gain.repeat(2, 1, 1, 1).view(1, -1, 1, 1))
            last, channels = copy.h_s[-1], self.shape.y_channels
            last.weight[:channels].mul_(gain)
            last.bias[:channels].mul_(gain.flatten())
            last.bias[channels:].add_(self.log_gain / networks.SCALE_STEP)
            copy.log_gain.zero_()
        return copy
