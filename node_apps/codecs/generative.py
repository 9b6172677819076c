"""What gnl's generative codecs share: weights, networks, exact hyper-synthesis, and pictures from latents.

The image is padded to multiples of 64 for coding. Loading reads and checks the weights but computes nothing and touches
no GPU, so that a service may load first and fork afterwards; the networks are built at the first use. How symbols
become slices is the business of `fixed_rate` and `scalable`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
import torch
from gnl.node_apps.codecs import networks, quantiser
from gnl.node_apps.codecs.devices import resolve_device, set_threads
from gnl.node_apps.codecs.entropy import SYMBOL_LIMIT, SymbolCoder
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt, require_image, require_size
from gnl.node_apps.codecs.layout import LAYOUT, read_tables, unpack_filters
from gnl.node_apps.codecs.pinned import PinnedHyperSynthesis, PinnedLayer
from gnl.node_apps.codecs.strips import in_strips
from gnl.topologies.errors import BitstreamError, CodecError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

SIZE_PREFIX = struct.Struct("!HH")  # height and width, at the head of slice 0
# An image of one colour takes about ten times this; a prompt under it would only make g work for nothing.
LEAST_BITS_PER_PIXEL = 1 / 256
BATCH_PIXELS = 1 << 20
_STRIP_PIXELS = 1 << 21
_H_S_LAYERS = 4
# Rows of latents beyond which a pixel, or a latent, depends on nothing; likewise rows of z for the hyper-synthesis.
_MARGIN, _Z_MARGIN = 12, 2


@dataclass
class Analysed:
    """An image as its encoder sees it: z (z_channels, h, w) whole numbers; of each latent the scale index and the
    residual y - mu, (y_channels, 4h, 4w), in steps of plane 0."""

    z: np.ndarray
    index: np.ndarray
    residual: np.ndarray


@dataclass
class Received:
    """What a prompt's slices hold: the image's size, z, and where its symbols go on, in the subclass's own terms."""

    height: int
    width: int
    z: np.ndarray
    rest: object


class GenerativeCodec(Codec):
    """A trained mean-scale hyperprior codec with a generator as its decoder."""

    def __init__(self, facts: CodecFacts, path: Path, device: str = "auto", threads: Optional[int] = None) -> None:
        """`path` must be the file whose SHA-256 is in `facts`; CodecError says what is wrong with it otherwise."""
        self.facts = facts
        self._wanted_device = resolve_device(device, lazily=True)
        set_threads(threads)
        self._shape, self._tensors = _read_weights(path, facts)
        try:
            self._layers = [
                PinnedLayer(self._tensors[f"h_s.{n}.weight"].numpy(), self._tensors[f"h_s.{n}.bias"].numpy())
                for n in range(_H_S_LAYERS)
            ]
            self._coder = SymbolCoder(*read_tables(self._tensors))
            self._order, self._cost, self._shifts = (
                self._tensors[f"quantiser.{name}"].numpy() for name in ("order", "cost", "shifts")
            )
        except (KeyError, BitstreamError) as error:
            raise CodecError(f"{path}: a tensor is missing or unusable ({error}); train it again") from error
        self._built: dict[str, object] = {}

    @property
    def device(self) -> str:
        """Where the networks run: `cpu` or `cuda`."""
        return resolve_device(self._wanted_device)

    @abstractmethod
    def _read(self, slices: tuple[bytes, ...]) -> Received:
        """The parts of a prompt, checked before anything of the image's size is allocated."""

    @abstractmethod
    def _symbols(self, received: Received, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each latent's symbol, in steps of its last plane, and how many planes were received; as `index`."""

    def decode(self, prompt: Prompt) -> np.ndarray:
        return self.decode_batch([prompt])[0]

    def decode_batch(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Decode prompts, those of one padded size together; BitstreamError if any of them does not decode."""
        received = [self._read(self.require_own(prompt)) for prompt in prompts]
        images: list[Optional[np.ndarray]] = [None] * len(received)
        with torch.inference_mode():
            for positions in _alike(received):
                for position, image in zip(positions, self._pictures([received[p] for p in positions])):
                    images[position] = image
        return images

    def latents(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """y_hat, (B, y_channels, H/16, W/16) float32, of prompts of one padded size: the same on every machine.

        What both ends must agree on; the pixels made from it may differ by a rounding between kinds of device.
        """
        received = [self._read(self.require_own(prompt)) for prompt in prompts]
        if len({one.z.shape for one in received}) != 1:
            raise CodecError(f"{len(received)} prompts of several sizes, or none: give prompts of one size")
        with torch.inference_mode():
            return self._latents(received)[0].cpu().numpy()

    def _analyse(self, image: np.ndarray) -> Analysed:
        """The image, (H, W, 3) uint8, as symbols to be; CodecError if it is none."""
        require_image(image)
        with torch.inference_mode():
            x = torch.from_numpy(np.array(image.transpose(2, 0, 1)[None])).to(self.device).float() / 255.0
            x = networks.pad_to_stride(x)
            rows = networks.Y_STRIDE * _strip_rows(x.shape[-1])
            margin = networks.Y_STRIDE * _MARGIN
            y = in_strips(self._network("g_a"), [x], rows, margin, networks.Y_STRIDE, shrinks=True)
            z = torch.round(self._network("h_a")(y)).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
            mu, index = self._hyper(z)
            residual = (y - mu).cpu().numpy()[0]
        return Analysed(z[0].cpu().numpy().astype(np.int32), index[0], residual)

    def _hyper(self, z: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """mu and scale indexes, (B, y_channels, 4h, 4w), of z (B, z_channels, h, w)."""
        rows = max(1, _strip_rows(z.shape[-1] * networks.STRIDE) * networks.Y_STRIDE // networks.STRIDE)
        scale = networks.STRIDE // networks.Y_STRIDE
        mu, index = in_strips(self._network("h_s"), [z], rows, _Z_MARGIN, scale)
        return mu, index.cpu().numpy()

    def _latents(self, batch: list[Received]) -> tuple[torch.Tensor, torch.Tensor]:
        """y_hat, (B, y_channels, H/16, W/16) float32, and the precision, (B, 1, H/16, W/16), on the device."""
        mu, indexes = self._hyper(torch.from_numpy(np.stack([one.z for one in batch])).to(self.device))
        added, precision = np.empty(indexes.shape, np.float32), []
        for number, (one, index) in enumerate(zip(batch, indexes)):
            symbols, planes = self._symbols(one, index)
            added[number] = quantiser.reconstruct(symbols, planes, index, self._shifts)
            precision.append(planes.mean(axis=0, keepdims=True, dtype=np.float32))
        y_hat = mu + torch.from_numpy(added).to(self.device)
        return y_hat, torch.from_numpy(np.stack(precision)).to(self.device)

    def _pictures(self, batch: list[Received]) -> list[np.ndarray]:
        """Images of prompts whose latents have one shape."""
        y_hat, precision = self._latents(batch)
        rows = _strip_rows(y_hat.shape[-1] * networks.Y_STRIDE)
        pixels = in_strips(self._paint, [y_hat, precision], rows, _MARGIN, networks.Y_STRIDE)
        pixels = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return [np.ascontiguousarray(one[: p.height, : p.width]) for one, p in zip(pixels, batch)]

    def _paint(self, y_hat: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) uint8 of latents and their precision."""
        dtype = self._g_s_dtype()
        both = [part.to(dtype).contiguous(memory_format=torch.channels_last) for part in (y_hat, precision)]
        x_hat = self._network("g_s")(*both).float()
        return x_hat.mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)

    def _network(self, part: str):
        if part not in self._built:
            if part == "h_s":
                self._built[part] = PinnedHyperSynthesis(self._layers, quantiser.LEVELS, self.device)
            else:
                dtype = self._g_s_dtype() if part == "g_s" else torch.float32
                self._built[part] = _build(part, self._shape, self._tensors).to(self.device, dtype)
        return self._built[part]

    def _g_s_dtype(self) -> torch.dtype:
        """bfloat16 where the device multiplies in it, several times as fast; g_s was trained so."""
        return torch.bfloat16 if self.device == "cuda" or _cpu_multiplies_bfloat16() else torch.float32


def read_size(body: bytes) -> tuple[int, int]:
    """Height and width at the head of slice 0; BitstreamError if it is too short, or too short for that size."""
    if len(body) < SIZE_PREFIX.size:
        raise BitstreamError(f"first slice of {len(body)} bytes: at least {SIZE_PREFIX.size} are needed")
    height, width = SIZE_PREFIX.unpack_from(body)
    require_size(height, width)
    if len(body) < least_bytes(height * width):
        raise BitstreamError(f"first slice of {len(body)} bytes for {width}x{height}: too few for that size")
    return height, width


def least_bytes(pixels: int) -> int:
    """Bytes under which a first slice is refused."""
    return int(pixels * LEAST_BITS_PER_PIXEL / 8)


def filled(string: bytes, missing: int) -> bytes:
    """An entropy-coded string with at least `missing` zeros behind it, whole words, which its decoder does not read."""
    return string + bytes(-(-max(0, missing) // 4) * 4)


def z_shape(height: int, width: int, channels: int) -> tuple[int, int, int]:
    """The shape of z for an image of that size."""
    return channels, -(-height // networks.STRIDE), -(-width // networks.STRIDE)


def z_tables(shape: tuple[int, int, int]) -> np.ndarray:
    """The table of each symbol of z, (C * h * w,) int32: one for each channel, behind those of y."""
    channels, rows, columns = shape
    return np.repeat(2 * quantiser.LEVELS + np.arange(channels, dtype=np.int32), rows * columns)


def _alike(received: list[Received]) -> list[list[int]]:
    """Positions of prompts of one padded size, in groups of at most BATCH_PIXELS, or one."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, one in enumerate(received):
        groups.setdefault(one.z.shape, []).append(position)
    cut = []
    for (_, rows, columns), positions in groups.items():
        step = max(1, BATCH_PIXELS // (rows * columns * networks.STRIDE**2))
        cut += [positions[start : start + step] for start in range(0, len(positions), step)]
    return cut


def _strip_rows(width: int) -> int:
    """Rows of latents that are computed at once for an image `width` pixels wide: bounds the memory it takes."""
    return max(8, _STRIP_PIXELS // (width * networks.Y_STRIDE) // 4 * 4)


@functools.cache
def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{path}: no codec weights ({error}); restore the file, or train again") from error


def _build(part: str, shape: networks.NetworkShape, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network `part` in float32 with the stored weights, its filters in channels-last order."""
    make = {"g_a": networks.Analysis, "h_a": networks.make_h_a, "g_s": networks.Synthesis}[part]
    with torch.device("meta"):
        network = make(shape)
    state = {}
    for name in network.state_dict():
        value = unpack_filters(f"{part}.{name}", tensors)
        if value.ndim == 4:
            value = np.ascontiguousarray(value.transpose(0, 2, 3, 1))
            state[name] = torch.from_numpy(value).permute(0, 3, 1, 2)
        else:
            state[name] = torch.from_numpy(value)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
