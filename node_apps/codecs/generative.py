"""The generative codec: networks, exact hyper-synthesis and entropy coder behind the Codec interface.

    slice 0    height u16 | width u16 | bytes of z u32 | z string | y string        (network order)

The image is padded to multiples of 64 for coding. Loading reads and checks the weights but computes nothing and touches
no GPU, so that a service may load first and fork afterwards; the networks are built at the first use.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
import torch
from gnl.node_apps.codecs import networks
from gnl.node_apps.codecs.devices import resolve_device, set_threads
from gnl.node_apps.codecs.entropy import SYMBOL_LIMIT, SymbolCoder
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt, require_image, require_size
from gnl.node_apps.codecs.layout import LAYOUT, read_tables
from gnl.node_apps.codecs.pinned import PinnedHyperSynthesis, PinnedLayer
from gnl.topologies.errors import BitstreamError, CodecError
from safetensors.torch import load as load_tensors

SLICE_PREFIX = struct.Struct("!HHI")
BATCH_PIXELS = 1 << 20
_Y_STRIDE = 16
# An image of one colour takes about ten times this; a prompt under it would only make g work for nothing.
LEAST_BITS_PER_PIXEL = 1 / 256


class GenerativeCodec(Codec):
    """A trained mean-scale hyperprior codec with a generator as its decoder."""

    def __init__(self, facts: CodecFacts, path: Path, device: str = "auto", threads: Optional[int] = None) -> None:
        """`path` must be the file whose SHA-256 is in `facts`; CodecError says what is wrong with it otherwise."""
        self.facts = facts
        self._wanted_device = resolve_device(device, lazily=True)
        set_threads(threads)
        self._shape, self._tensors = _read_weights(path, facts)
        try:
            layers = [
                PinnedLayer(self._tensors[f"h_s.{n}.weight"].numpy(), self._tensors[f"h_s.{n}.bias"].numpy())
                for n in range(3)
            ]
            self._z_coder = SymbolCoder(*read_tables(self._tensors, "z"))
            self._y_coder = SymbolCoder(*read_tables(self._tensors, "y"))
        except (KeyError, BitstreamError) as error:
            raise CodecError(f"{path}: a tensor is missing or unusable ({error}); train it again") from error
        self._h_s = PinnedHyperSynthesis(layers, networks.SCALE_LEVELS)
        self._built: dict[str, torch.nn.Module] = {}

    @property
    def device(self) -> str:
        """Where the networks run: `cpu` or `cuda`."""
        return resolve_device(self._wanted_device)

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        """Code an image at this codec's one operating point, whatever `bpp` asks for."""
        self.require_point(bpp)
        height, width = require_image(image).shape[:2]
        with torch.inference_mode():
            x = torch.from_numpy(np.array(image.transpose(2, 0, 1)[None])).to(self.device).float() / 255.0
            y = self._network("g_a")(networks.pad_to_stride(x))
            z = self._network("h_a")(y)
            z_hat = torch.round(z).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT).cpu()
            mu, index = self._h_s(z_hat)
            symbols = torch.round(y.cpu() - mu).numpy()
        z_string = self._z_coder.encode(z_hat.numpy().ravel(), _channel_indexes(z_hat.shape[1:]))
        coded = index > 0
        y_string = self._y_coder.encode(symbols[coded], index[coded])
        body = SLICE_PREFIX.pack(height, width, len(z_string)) + z_string + y_string
        return Prompt(self.facts.codec_id, self.facts.weights_id, (_fill(body, height * width),))

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
                each = z_shape[1] * z_shape[2] * networks.STRIDE**2
                step = max(1, BATCH_PIXELS // each)
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

    def _decode_alike(self, batch: list[_Parsed]) -> list[np.ndarray]:
        """Images of prompts whose latents have one shape."""
        y_hat = self._decode_latents(batch).to(self.device).contiguous(memory_format=torch.channels_last)
        g_s = self._network("g_s")
        x_hat = g_s.linear(y_hat) + g_s.network(y_hat.to(self._g_s_dtype())).float()
        pixels = x_hat.mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [np.ascontiguousarray(one[: p.height, : p.width]) for one, p in zip(pixels, batch)]

    def _decode_latents(self, batch: list[_Parsed]) -> torch.Tensor:
        """y_hat (B, y_channels, H/16, W/16) float32 on the CPU; the same on every machine."""
        z_indexes = _channel_indexes(batch[0].z_shape)
        z_hat = np.stack([self._z_coder.decode(one.z_string, z_indexes).reshape(one.z_shape) for one in batch])
        mu, indexes = self._h_s(torch.from_numpy(z_hat))
        symbols = np.zeros(indexes.shape, np.float32)
        for one, index, found in zip(batch, indexes, symbols):
            coded = index > 0
            found[coded] = self._y_coder.decode(one.y_string, index[coded])
        return mu + torch.from_numpy(symbols)

    def _network(self, part: str) -> torch.nn.Module:
        if part not in self._built:
            network = _build(part, self._shape, self._tensors).to(self.device)
            if part == "g_s":
                network.network.to(self._g_s_dtype())
            self._built[part] = network
        return self._built[part]

    def _g_s_dtype(self) -> torch.dtype:
        """bfloat16 where the CPU multiplies in it, twice as fast; g_s was trained so. Only the correction that g_s
        adds to the linear part is computed in it."""
        return torch.bfloat16 if self.device == "cpu" and _cpu_multiplies_bfloat16() else torch.float32


class _Parsed:
    """The fields of one prompt, checked before anything of the image's size is allocated."""

    def __init__(self, slices: tuple[bytes, ...], z_channels: int) -> None:
        if len(slices) != 1:
            raise BitstreamError(f"prompt of {len(slices)} slices: this codec has exactly one")
        body = slices[0]
        if len(body) < SLICE_PREFIX.size:
            raise BitstreamError(f"prompt of {len(body)} bytes: at least {SLICE_PREFIX.size} are needed")
        self.height, self.width, z_bytes = SLICE_PREFIX.unpack_from(body)
        require_size(self.height, self.width)
        if len(body) < _least_bytes(self.height * self.width):
            raise BitstreamError(f"prompt of {len(body)} bytes for {self.width}x{self.height}: too few for that size")
        rest = len(body) - SLICE_PREFIX.size
        if z_bytes > rest:
            raise BitstreamError(f"prompt announces {z_bytes} bytes of z, {rest} bytes are left")
        self.z_string = body[SLICE_PREFIX.size : SLICE_PREFIX.size + z_bytes]
        self.y_string = body[SLICE_PREFIX.size + z_bytes :]
        rows, columns = -(-self.height // networks.STRIDE), -(-self.width // networks.STRIDE)
        self.z_shape = (z_channels, rows, columns)


@functools.cache
def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _least_bytes(pixels: int) -> int:
    return int(pixels * LEAST_BITS_PER_PIXEL / 8)


def _fill(body: bytes, pixels: int) -> bytes:
    """`body`, with zeros behind it if it is shorter than decoders accept; whole words, as the y string needs."""
    missing = max(0, _least_bytes(pixels) - len(body))
    return body + bytes(-(-missing // 4) * 4)


def _channel_indexes(shape: tuple[int, ...]) -> np.ndarray:
    """Each channel its own table: (C * h * w,) int32."""
    channels, rows, columns = shape
    return np.repeat(np.arange(channels, dtype=np.int32), rows * columns)


def _read_weights(path: Path, facts: CodecFacts) -> tuple[networks.NetworkShape, dict[str, torch.Tensor]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}; reinstall gnl, or train the codec again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != facts.weights_sha256:
        raise CodecError(
            f"{path}: sha256 {found}, expected {facts.weights_sha256} as its .json says; "
            "restore the pair from the repository, or train again"
        )
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
        if metadata["layout"] != LAYOUT:
            raise CodecError(f"{path}: layout {metadata['layout']!r}, this release reads {LAYOUT!r}; train again")
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(metadata["shape"]).items()}
        return networks.NetworkShape(**fields), load_tensors(data)
    except (ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{path}: no codec weights ({error}); restore the file, or train again") from error


def _build(part: str, shape: networks.NetworkShape, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network `part` in float32 with the stored weights, its filters in channels-last order."""
    make = {"g_a": networks.make_g_a, "h_a": networks.make_h_a, "g_s": networks.make_g_s}[part]
    with torch.device("meta"):
        network = make(shape)
    state = {}
    for name in network.state_dict():
        value = tensors[f"{part}.{name}"].numpy().astype(np.float32)
        if value.ndim == 4:
            value = np.ascontiguousarray(value.transpose(0, 2, 3, 1))
            state[name] = torch.from_numpy(value).permute(0, 3, 1, 2)
        else:
            state[name] = torch.from_numpy(value)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
