"""Baselines without weights: JPEG and WebP through Pillow, and the stub that isolates the network from the decoder."""

from __future__ import annotations

import io
import struct
from typing import Optional

import numpy as np
from gnl.node_apps.codecs.content import read_pillow
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt, require_image, require_size
from gnl.topologies.errors import BitstreamError, CodecError
from PIL import Image

STUB_CODEC_ID, JPEG_CODEC_ID, WEBP_CODEC_ID = 240, 16, 17
STUB_MAX_BYTES = 1 << 24
_LEAST_QUALITY = {"jpeg": 1, "webp": 0}
_MOST_DIGITS = 20
_STUB_PREFIX = struct.Struct("!HH")
# Of what the format offers at a quality, the smallest file is taken.
_SAVE_OPTIONS = {
    "JPEG": tuple({"optimize": True, "subsampling": "4:2:0", "progressive": choice} for choice in (False, True)),
    "WEBP": ({"method": 6},),
}


class PillowCodec(Codec):
    """A conventional image format at one quality. Not generative: a node that forwards it adds nothing."""

    def __init__(self, facts: CodecFacts, pillow_name: str, quality: float) -> None:
        """`quality` is 1 to 100; WebP has fractions too, and 0."""
        self.facts = facts
        self._pillow_name = pillow_name
        self._quality = quality

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        self.require_point(bpp)
        if bpp is not None:
            raise CodecError(f"{self.facts.name} has no target of {bpp} bpp: choose a quality by its name instead")
        picture = Image.fromarray(require_image(image))
        files = [self._save(picture, options) for options in _SAVE_OPTIONS[self._pillow_name]]
        return Prompt(self.facts.codec_id, 0, (min(files, key=len),))

    def decode(self, prompt: Prompt) -> np.ndarray:
        slices = self.require_own(prompt)
        if len(slices) != 1:
            raise BitstreamError(f"{self.facts.name} prompt of {len(slices)} slices: it has exactly one")
        return read_pillow(slices[0], self._pillow_name)

    def _save(self, picture: Image.Image, options: dict) -> bytes:
        out = io.BytesIO()
        picture.save(out, self._pillow_name, quality=self._quality, **options)
        return out.getvalue()


class StubCodec(Codec):
    """A prompt of a chosen size whose image is noise: for measuring the network alone, never a quality."""

    def __init__(self, facts: CodecFacts, size_bytes: int) -> None:
        self.facts = facts
        self._size_bytes = size_bytes

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        self.require_point(bpp)
        height, width = require_image(image).shape[:2]
        prefix = _STUB_PREFIX.pack(height, width)
        filler = np.random.default_rng(image[0, 0].tolist()).bytes(self._size_bytes - len(prefix))
        return Prompt(self.facts.codec_id, 0, (prefix + filler,))

    def decode(self, prompt: Prompt) -> np.ndarray:
        slices = self.require_own(prompt)
        if len(slices) != 1 or len(slices[0]) != self._size_bytes:
            sizes = [len(piece) for piece in slices]
            raise BitstreamError(f"{self.facts.name} prompt with slices of {sizes} bytes: one of {self._size_bytes}")
        height, width = _STUB_PREFIX.unpack_from(slices[0])
        require_size(height, width)
        seed = int.from_bytes(slices[0][-8:], "big")
        noise = np.random.default_rng(seed).bytes(height * width * 3)
        return np.frombuffer(noise, np.uint8).reshape(height, width, 3).copy()


def _is_number(text: str) -> bool:
    """Whether it is a whole number, of no more digits than int() takes."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def parse_quality(name: str, text: str) -> int:
    """The quality of `jpeg:<q>` or `webp:<q>`; CodecError unless it is a whole number up to 100, from 1 (WebP: 0)."""
    least = _LEAST_QUALITY[name]
    if _is_number(text) and least <= int(text) <= 100:
        return int(text)
    shown = text[:_MOST_DIGITS]
    raise CodecError(f"codec {name}:{shown}: the quality must be a whole number from {least} to 100, as in {name}:30")


def parse_stub_size(text: str) -> int:
    """The prompt size of `stub:<bytes>`; CodecError unless it holds the image's size and is at most 16 MiB."""
    least = _STUB_PREFIX.size
    if _is_number(text) and least <= int(text) <= STUB_MAX_BYTES:
        return int(text)
    shown = text[:_MOST_DIGITS]
    raise CodecError(f"codec stub:{shown}: give the prompt's bytes, {least} to {STUB_MAX_BYTES}, as in stub:4000")
