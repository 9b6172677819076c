"""HiFiC (Mentzer et al. 2020) behind the Codec interface, with weights that `gnl convert` made.

    slice 0    height u16 | width u16 | bytes of z u32 | z string | y string        (network order)

The image is padded to multiples of 64, of at least 128, for coding. Loading reads and checks the weights but computes
nothing and touches no GPU, so that a service may load first and fork afterwards.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Callable, Optional, Sequence

import numpy as np
import torch
from gnl.node_apps.codecs.devices import resolve_device, set_threads
from gnl.node_apps.codecs.entropy import SYMBOL_LIMIT, SymbolCoder
from gnl.node_apps.codecs.generative import BATCH_PIXELS, filled, least_bytes, read_size
from gnl.node_apps.codecs.hific_checkpoint import LAYOUT, PINNED_PARTS, STORED_PARTS, file_sha256, part_tensors
from gnl.node_apps.codecs.hific_networks import (
    E_MARGIN,
    PARTS,
    STRIDE,
    Y_STRIDE,
    HificShape,
    pad_image,
    padded_side,
    parameter_shapes,
    strip_rows,
)
from gnl.node_apps.codecs.hific_pinned import ACTIVATION_BITS, PinnedSynthesis
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt, require_image
from gnl.node_apps.codecs.strips import in_strips
from gnl.topologies.errors import BitstreamError, CodecError
from safetensors import SafetensorError, safe_open
from torch import Tensor

_PREFIX = struct.Struct("!HHI")


class HificCodec(Codec):
    """E, G and hyperprior of one converted checkpoint."""

    def __init__(self, facts: CodecFacts, path: Path, device: str = "auto", threads: Optional[int] = None) -> None:
        """`path` must be the file whose SHA-256 is in `facts`; CodecError says what is wrong with it otherwise."""
        self.facts = facts
        self._wanted_device = resolve_device(device, lazily=True)
        set_threads(threads)
        self._shape, self._normalised, self._tensors = _read_weights(path, facts)
        try:
            self._z_coder, self._y_coder = (SymbolCoder(*_tables(self._tensors, prefix)) for prefix in "zy")
        except (KeyError, BitstreamError) as error:
            raise CodecError(f"{path}: a table is missing or unusable ({error}); convert it again") from error
        self._built: dict[str, Callable[[Tensor], Tensor]] = {}

    @property
    def device(self) -> str:
        """Where the networks run: `cpu` or `cuda`."""
        return resolve_device(self._wanted_device)

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        """Code an image at this codec's one operating point, whatever `bpp` asks for."""
        self.require_point(bpp)
        height, width = require_image(image).shape[:2]
        with torch.inference_mode():
            y = self._analysed(torch.from_numpy(np.array(image.transpose(2, 0, 1)[None])))
            z = self._network("Hyperprior.analysis_net")(y)
            z_hat = torch.round(z).nan_to_num_().clamp_(-SYMBOL_LIMIT, SYMBOL_LIMIT).cpu()
            mu, indexes = self._entropy_parameters(z_hat)
            symbols = torch.round(y.cpu() - mu).nan_to_num_().numpy()
        z_string = self._z_coder.encode(z_hat.numpy().ravel(), _channel_indexes(z_hat.shape[1:]))
        y_string = self._y_coder.encode(symbols.ravel(), indexes.ravel())
        body = _PREFIX.pack(height, width, len(z_string)) + z_string + y_string
        body = filled(body, least_bytes(height * width) - len(body))
        return Prompt(self.facts.codec_id, self.facts.weights_id, (body,))

    def decode(self, prompt: Prompt) -> np.ndarray:
        return self.decode_batch([prompt])[0]

    def decode_batch(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Decode prompts, those of one padded size together; BitstreamError if any of them does not decode."""
        parsed = [_Parsed(self.require_own(prompt), self._shape.z_channels) for prompt in prompts]
        images: list[Optional[np.ndarray]] = [None] * len(parsed)
        groups: dict[tuple[int, ...], list[int]] = {}
        for position, one in enumerate(parsed):
            groups.setdefault(one.z_shape, []).append(position)
        with torch.inference_mode():
            for z_shape, positions in groups.items():
                step = max(1, BATCH_PIXELS // (z_shape[1] * z_shape[2] * STRIDE**2))
                for start in range(0, len(positions), step):
                    chosen = positions[start : start + step]
                    for position, image in zip(chosen, self._decode_alike([parsed[p] for p in chosen])):
                        images[position] = image
        return images

    def latents(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """y_hat, (B, y_channels, H/16, W/16) float32, of prompts of one padded size: the same on every machine.

        What both ends must agree on; the pixels made from it may differ by a rounding between kinds of device.
        """
        parsed = [_Parsed(self.require_own(prompt), self._shape.z_channels) for prompt in prompts]
        if len({one.z_shape for one in parsed}) != 1:
            raise CodecError(f"{len(parsed)} prompts of several sizes, or none: give prompts of one size")
        with torch.inference_mode():
            return self._decode_latents(parsed).numpy()

    def _analysed(self, pixels: Tensor) -> Tensor:
        """y of (1, 3, H, W) uint8."""
        x = pixels.to(self.device).float() / 255.0
        x = pad_image(x * 2.0 - 1.0 if self._normalised else x).contiguous(memory_format=torch.channels_last)
        rows = strip_rows(x.shape[3] * Y_STRIDE)
        return in_strips(
            self._network("Encoder"), [x], rows * Y_STRIDE, E_MARGIN * Y_STRIDE, Y_STRIDE, shrinks=True
        )

    def _decode_alike(self, batch: list[_Parsed]) -> list[np.ndarray]:
        """Images of prompts whose latents have one shape."""
        y_hat = self._decode_latents(batch).to(self.device).contiguous(memory_format=torch.channels_last)
        x_hat = self._network("Generator")(y_hat)
        if self._normalised:
            x_hat = torch.tanh(x_hat).add_(1.0).div_(2.0)
        pixels = x_hat.nan_to_num_().mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1)
        return [np.ascontiguousarray(one[: p.height, : p.width]) for one, p in zip(pixels.cpu().numpy(), batch)]

    def _decode_latents(self, batch: list[_Parsed]) -> Tensor:
        """y_hat (B, y_channels, H/16, W/16) float32 on the CPU; the same on every machine."""
        z_indexes = _channel_indexes(batch[0].z_shape)
        z_hat = np.stack([self._z_coder.decode(one.z_string, z_indexes).reshape(one.z_shape) for one in batch])
        mu, indexes = self._entropy_parameters(torch.from_numpy(z_hat))
        symbols = [self._y_coder.decode(one.y_string, index.ravel()) for one, index in zip(batch, indexes)]
        return mu + torch.from_numpy(np.stack(symbols).reshape(mu.shape).astype(np.float32))

    def _entropy_parameters(self, z_hat: Tensor) -> tuple[Tensor, np.ndarray]:
        """mu of y, float32 on a grid of 2^-10, and the index of its frequency table: of the least scale that is not
        below sigma."""
        z_hat = z_hat.to(self.device)
        mu, sigma = (self._network(prefix)(z_hat) for prefix in PINNED_PARTS)
        indexes = torch.bucketize(sigma, self._tensors["y.thresholds"].to(sigma), out_int32=True)
        return (mu / 2**ACTIVATION_BITS).float().cpu(), indexes.cpu().numpy()

    def _network(self, prefix: str) -> Callable[[Tensor], Tensor]:
        """One of the networks on the device, built at its first use."""
        if prefix in self._built:
            return self._built[prefix]
        if prefix in PINNED_PARTS:
            self._built[prefix] = PinnedSynthesis(_layers(self._tensors, prefix), self.device)
        else:
            with torch.device("meta"):
                network = PARTS[prefix](self._shape)
            network.load_state_dict(part_tensors(self._tensors, prefix), assign=True)
            network = network.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
            self._built[prefix] = network
        return self._built[prefix]


class _Parsed:
    """The fields of one prompt, checked before anything of the image's size is allocated."""

    def __init__(self, slices: tuple[bytes, ...], z_channels: int) -> None:
        if len(slices) != 1:
            raise BitstreamError(f"prompt of {len(slices)} slices: this codec has exactly one")
        body = slices[0]
        if len(body) < _PREFIX.size:
            raise BitstreamError(f"prompt of {len(body)} bytes: at least {_PREFIX.size} are needed")
        self.height, self.width = read_size(body)
        z_bytes, rest = _PREFIX.unpack_from(body)[2], len(body) - _PREFIX.size
        if z_bytes > rest:
            raise BitstreamError(f"prompt announces {z_bytes} bytes of z, {rest} bytes are left")
        self.z_string = body[_PREFIX.size : _PREFIX.size + z_bytes]
        self.y_string = body[_PREFIX.size + z_bytes :]
        self.z_shape = (z_channels, padded_side(self.height) // STRIDE, padded_side(self.width) // STRIDE)


def _channel_indexes(z_shape: Sequence[int]) -> np.ndarray:
    channels, rows, columns = z_shape
    return np.repeat(np.arange(channels, dtype=np.int32), rows * columns)


def _layers(tensors: dict[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    return [tuple(tensors[f"{prefix}.conv{number}.{kind}"] for kind in ("weight", "bias")) for number in (1, 2, 3)]


def _tables(tensors: dict[str, Tensor], prefix: str) -> list[np.ndarray]:
    return [tensors[f"{prefix}.{kind}"].numpy() for kind in ("cdf", "lengths", "offsets")]


def _read_weights(path: Path, facts: CodecFacts) -> tuple[HificShape, bool, dict[str, Tensor]]:
    """Shape, whether pixels run from -1 to 1, and tensors of a converted file that is the one in `facts`."""
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}; give a file that gnl convert made") from error
    if digest != facts.weights_sha256:
        raise CodecError(
            f"{path}: sha256 {digest}, expected {facts.weights_sha256} as its .json says; convert the checkpoint again"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata["layout"] != LAYOUT:
            raise CodecError(f"{path}: layout {metadata['layout']!r}, this release reads {LAYOUT!r}; convert it again")
        fields = json.loads(metadata["shape"])
        shape = HificShape(**{**fields, "channels": tuple(fields["channels"])})
        _require_shapes(shape, tensors)
        return shape, bool(json.loads(metadata["normalised"])), tensors
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{path}: no weights of HiFiC ({error}); convert the checkpoint again") from error


def _require_shapes(shape: HificShape, tensors: dict[str, Tensor]) -> None:
    """ValueError or KeyError unless there is every parameter in its shape, and a table for every channel and scale."""
    wanted = {name: size for name, size in parameter_shapes(shape).items() if name.startswith(STORED_PARTS)}
    wanted |= {"z.lengths": (shape.z_channels,), "y.lengths": (len(tensors["y.thresholds"]) + 1,)}
    for name, size in wanted.items():
        if tuple(tensors[name].shape) != size:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)} instead of {size}")
