"""The codec's networks in training: rates estimated by CompressAI's entropy models, quantisation with gradients.

Rate from additive uniform noise, reconstruction from rounded latents with straight-through gradients (Minnen and
Singh, ICIP 2020). y has a trained gain for each channel, which sets its quantisation step and with it its rate: the
networks see latents of about unit variance, whatever the rate. Latents whose scale index is 0 are not coded at all,
here as in the bitstream: y_hat = mu. A scalable codec is trained at a bit budget drawn for each image: the classes of
`quantiser.class_order` that fit are received, the rest is not, as when a prompt is cut there.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from gnl.node_apps.codecs import networks, quantiser
from gnl.node_apps.codecs.entropy import import_entropy_models
from torch import Tensor, nn

_START_GAIN, _START_DEVIATION, _START_Z_DEVIATION = 1.5, 7.0, 2.0


@dataclass
class Estimate:
    """One training pass: x_hat (B, 3, H, W), not clipped; the estimated bits per pixel of y and z, (B,) each; y_hat
    (B, y_channels, H/16, W/16); and the bits per pixel that plane 0 of all latents would take."""

    x_hat: Tensor
    y_bpp: Tensor
    z_bpp: Tensor
    y_hat: Tensor
    plane0_bpp: float


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
    """Kaiming weights, zero biases, and residual branches that start small."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1, nonlinearity="leaky_relu")
            nn.init.zeros_(module.bias)
    for module in part.modules():
        if isinstance(module, networks.Residual):
            module.second.weight.mul_(0.1)


def _pixels(latents: Tensor) -> int:
    return latents.shape[2] * latents.shape[3] * networks.Y_STRIDE**2


def round_through(x: Tensor) -> Tensor:
    """Round, with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


class PlaneChooser(nn.Module):
    """Which planes of each latent fit a bit budget, by the expected bits of their classes."""

    def __init__(self) -> None:
        super().__init__()
        order = torch.from_numpy(quantiser.class_order()).long()
        self.register_buffer("level", order[:, 0], persistent=False)
        self.register_buffer("plane", order[:, 1], persistent=False)
        bits = torch.from_numpy(quantiser.class_bits()).float()
        self.register_buffer("bits", bits[self.level, self.plane], persistent=False)

    def forward(self, index: Tensor, budget_bits: Tensor) -> Tensor:
        """Planes received of each latent, (B, C, h, w) int64, for whole scale indexes and budgets (B,).

        The class that no longer fits whole is received in part, at random places.
        """
        flat = index.long().flatten(1)
        count = torch.zeros(flat.shape[0], quantiser.LEVELS, device=flat.device)
        count.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
        cost = count[:, self.level] * self.bits
        before = cost.cumsum(1) - cost
        share = ((budget_bits[:, None] - before) / cost.clamp_min(1e-9)).clamp(0.0, 1.0) * (cost > 0)
        table = torch.zeros(flat.shape[0], quantiser.LEVELS * quantiser.PLANES, device=flat.device)
        table[:, self.level * quantiser.PLANES + self.plane] = share
        planes = torch.zeros_like(flat)
        whole = torch.ones_like(flat, dtype=torch.bool)
        draw = torch.rand(flat.shape, device=flat.device)
        for plane in range(quantiser.PLANES):
            here = table[:, plane :: quantiser.PLANES].gather(1, flat)
            never = (flat == 0) & (plane == 0)
            whole = whole & ((draw < here) | never)
            planes = torch.where(whole & ~never, torch.full_like(planes, plane + 1), planes)
        return planes.view(index.shape)


class TransformCoder(nn.Module):
    """g_a, h_a, h_s, g_s and the two entropy models, trained jointly."""

    def __init__(self, shape: networks.NetworkShape) -> None:
        super().__init__()
        bottleneck, gaussian = import_entropy_models()
        self.shape = shape
        self.g_a = networks.Analysis(shape)
        self.h_a = networks.make_h_a(shape)
        self.h_s = networks.make_h_s(shape)
        self.g_s = networks.Synthesis(shape)
        self.z_model = bottleneck(shape.z_channels, init_scale=4)
        self.y_model = gaussian(quantiser.scale_table(), scale_bound=quantiser.SCALE_MIN)
        self.log_gain = nn.Parameter(torch.zeros(shape.y_channels))
        self.chooser = PlaneChooser()
        plane0_bits = torch.from_numpy(quantiser.class_bits()[:, 0]).float()
        self.register_buffer("plane0_bits", plane0_bits, persistent=False)
        self.register_buffer("shifts", torch.from_numpy(quantiser.centroid_shifts()), persistent=False)

    def start_from_blocks(self, x: Tensor) -> None:
        """Set the weights to start training from, given sample crops (B, 3, H, W) in [0, 1].

        The linear parts become the principal components of the crops' blocks, whitened; the gains are such that one
        quantisation step fits all, save where the variance would outgrow the frequency tables; the networks start
        small.
        """
        with torch.no_grad():
            for part in (self.g_a, self.h_a, self.h_s, self.g_s):
                _scale_for_depth(part)
            blocks = F.pixel_unshuffle(x - 0.5, networks.Y_STRIDE).permute(0, 2, 3, 1).flatten(0, 2).double()
            mean = blocks.mean(0)
            variance, basis = torch.linalg.eigh(torch.cov((blocks - mean).T))
            deviation = variance.flip(0)[: self.shape.y_channels].clamp_min(1e-12).sqrt()
            basis = basis.flip(1)[:, : self.shape.y_channels].T
            gain = deviation * (_START_DEVIATION / deviation).clamp_max(_START_GAIN)
            self.log_gain.copy_(torch.log(gain))
            forward, backward = self.g_a.linear[1], self.g_s.linear[0]
            whiten = basis / deviation[:, None]
            for linear, middle in ((forward, whiten), (backward, (basis * deviation[:, None]).T)):
                linear.weight.zero_()
                linear.weight[:, :, 1, 1] = middle.float()
            forward.bias.copy_(-whiten @ mean)
            backward.bias.copy_(mean)
            self.g_a.network[-1].weight.mul_(0.02)
            self.g_s.finish[-2].weight.mul_(0.1)
            self.h_s[-1].weight[: self.shape.y_channels].mul_(0.05)
            self.h_s[-1].bias[self.shape.y_channels :] = -math.log(quantiser.SCALE_MIN) / quantiser.SCALE_STEP
            z = self.h_a(self.g_a(x))
            self.h_a[-1].weight.mul_(_START_Z_DEVIATION / z.std())

    def forward(self, x: Tensor, half: bool = False, budget_bpp: Optional[Tensor] = None) -> Estimate:
        """x (B, 3, H, W) in [0, 1], sides multiples of 64; `half` runs g_a and g_s in bfloat16; `budget_bpp` (B,)
        is where the prompts of a scalable codec are cut, None codes plane 0 of every latent and nothing else."""
        y = self.analysed(x, half)
        pixels = x.shape[2] * x.shape[3]
        budget_bits = None if budget_bpp is None else budget_bpp * pixels
        y_hat, planes, level, y_bits, z_bits = self.code(y, budget_bits)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            x_hat = self.g_s(y_hat, networks.precision_of(planes))
        return Estimate(x_hat.float(), y_bits / pixels, z_bits / pixels, y_hat, self._plane0_bpp(level))

    def analysed(self, x: Tensor, half: bool = False) -> Tensor:
        """y (B, y_channels, H/16, W/16) float32 of x (B, 3, H, W) in [0, 1]."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            return self.g_a(x).float()

    def rates_bpp(self, y: Tensor) -> tuple[float, float]:
        """Mean bits per pixel of y, (B, y_channels, h, w), and its z; and what plane 0 alone takes of them."""
        _, _, level, y_bits, z_bits = self.code(y)
        return float((y_bits + z_bits).mean()) / _pixels(y), self._plane0_bpp(level)

    def _plane0_bpp(self, level: Tensor) -> float:
        return float(self.plane0_bits[level.long()].sum()) / (len(level) * _pixels(level))

    def code(
        self, y: Tensor, budget_bits: Optional[Tensor] = None, z_free: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """y_hat, of each latent the planes received and the scale level, and the estimated bits (B,) of y and of z.

        `z_free` fits the bits of z without a pull on z itself.
        """
        z = self.h_a(y)
        _, z_likelihood = self.z_model(z.detach() if z_free else z, training=True)
        z_bits = -torch.log2(z_likelihood).sum((1, 2, 3))
        mu, raw_index = self.h_s(round_through(z)).chunk(2, dim=1)
        log_gain = self.log_gain.view(1, -1, 1, 1)
        index = _BoundedIndex.apply(raw_index + log_gain / quantiser.SCALE_STEP, float(quantiser.LEVELS - 1))
        level = torch.round(index.detach())
        if budget_bits is None:
            planes = (level > 0).long()
        else:
            planes = self.chooser(level, (budget_bits - z_bits.detach()).clamp_min(0.0))
        finer = 3.0 ** (planes - 1).clamp_min(0)  # steps of the last plane received in one of plane 0
        residual = (y - mu) * torch.exp(log_gain) * finer
        sigma = quantiser.SCALE_MIN * torch.exp(quantiser.SCALE_STEP * index) * finer
        _, likelihood = self.y_model(residual, sigma, training=True)
        bits = -torch.log2(likelihood)
        coded = (planes > 0).float()
        centred = self._centred(residual, level + quantiser.LEVELS_PER_PLANE * (planes - 1))
        y_hat = centred * coded / finer * torch.exp(-log_gain) + mu
        # latents that are not coded cost nothing, but must stay near mu: their bits pull, and are not counted as rate
        idle_bits = (bits * (1 - coded)).sum((1, 2, 3))
        return y_hat, planes, level, (bits * coded).sum((1, 2, 3)) + idle_bits - idle_bits.detach(), z_bits

    def _centred(self, residual: Tensor, level: Tensor) -> Tensor:
        """The residual rounded and moved to the centroid of its cell, with the gradient of the identity."""
        symbol = torch.round(residual.detach())
        level = level.clamp(0, quantiser.LEVELS - 1).long()
        column = symbol.abs().clamp_max(self.shifts.shape[1] - 1).long()
        shift = self.shifts.flatten()[level * self.shifts.shape[1] + column]
        return residual + (symbol - torch.sign(symbol) * shift - residual.detach())

    def folded(self) -> TransformCoder:
        """A copy with gains of 1, the same in effect: the gains have moved into the convolutions around y."""
        copy = deepcopy(self)
        with torch.no_grad():
            gain = torch.exp(self.log_gain).view(-1, 1, 1, 1)
            for last in (copy.g_a.linear[1], copy.g_a.network[-1]):
                last.weight.mul_(gain)
                last.bias.mul_(gain.flatten())
            for first in (copy.g_s.linear[0], copy.g_s.latents):
                first.weight[:, : self.shape.y_channels].div_(gain.view(1, -1, 1, 1))
            copy.h_a[1].weight.div_(gain.repeat(2, 1, 1, 1).view(1, -1, 1, 1))
            last, channels = copy.h_s[-1], self.shape.y_channels
            last.weight[:channels].mul_(gain)
            last.bias[:channels].mul_(gain.flatten())
            last.bias[channels:].add_(self.log_gain / quantiser.SCALE_STEP)
            copy.log_gain.zero_()
        return copy
