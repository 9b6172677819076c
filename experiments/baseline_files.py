"""JPEG and WebP at their best: one photograph at any quality, and the quality that fits into given bytes.

JPEG is 4:2:0 with optimised Huffman tables, sequential or progressive, whichever is smaller; WebP is coded with its
slowest method, also at the qualities below 1, where it goes from 0.24 down to 0.16 bpp.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from statistics import fmean
from typing import Mapping, NamedTuple, Optional, Sequence

import numpy as np
from gnl.node_apps.codecs.baseline import JPEG_CODEC_ID, WEBP_CODEC_ID, PillowCodec
from gnl.node_apps.codecs.interface import CodecFacts, Prompt

FAMILIES = ("jpeg", "webp")
_QUALITIES = {
    "jpeg": tuple(range(1, 101)),
    "webp": (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1, 1.5, 2, 2.5, 3, 3.5, *range(4, 101)),
}
Curves = Mapping[str, Sequence[float]]
CURVES: Curves = {
    "jpeg": (1, 3, 4, 5, 6, 8, 10, 13, 17, 25, 40, 70),
    "webp": (0, 0.03, 0.3, 1, 2, 4, 7, 12, 20, 35, 65),
}
_BEYOND = 2

_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# A marker that ends entropy-coded data: not a stuffed zero, and none of the restart markers.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")


class Shot(NamedTuple):
    """One image through one codec; `picture_bytes` leaves out a JPEG's headers."""

    size_bytes: int
    image: np.ndarray
    picture_bytes: Optional[int] = None


class BaselineFiles:
    """One photograph as JPEG or WebP at any of the family's qualities, each coded once."""

    def __init__(self, family: str, image: np.ndarray) -> None:
        self._family = family
        self._image = image
        self._prompts: dict[float, Prompt] = {}

    @property
    def pixels(self) -> int:
        """Of the photograph."""
        return self._image.shape[0] * self._image.shape[1]

    def prompt(self, quality: float) -> Prompt:
        """The file at a quality."""
        if quality not in self._prompts:
            self._prompts[quality] = self._codec(quality).encode(self._image)
        return self._prompts[quality]

    def shot(self, quality: float) -> Shot:
        """What the file at a quality shows."""
        prompt = self.prompt(quality)
        picture = jpeg_picture_bytes(prompt.slices[0]) if self._family == "jpeg" else None
        return Shot(prompt.size_bytes, self._codec(quality).decode(prompt), picture)

    def at_most(self, size_bytes: int) -> float:
        """The highest quality whose file has at most so many bytes, by bisection; the lowest if none has."""
        qualities = _QUALITIES[self._family]
        return qualities[max(0, bisect_right(qualities, size_bytes, key=self._size) - 1)]

    def at_least(self, size_bytes: int) -> float:
        """The lowest quality whose file has at least so many bytes, by bisection; the highest if none has."""
        qualities = _QUALITIES[self._family]
        return qualities[min(len(qualities) - 1, bisect_left(qualities, size_bytes, key=self._size))]

    def _size(self, quality: float) -> int:
        return self.prompt(quality).size_bytes

    def _codec(self, quality: float) -> PillowCodec:
        codec_id = JPEG_CODEC_ID if self._family == "jpeg" else WEBP_CODEC_ID
        facts = CodecFacts(f"{self._family}:{quality:g}", codec_id, None, False, False, (), "any")
        return PillowCodec(facts, self._family.upper(), quality)


def curve_labels(family: str, curves: Curves = CURVES) -> list[str]:
    """The points of a family's curve, from the lowest quality."""
    return [f"{family}:{quality:g}" for quality in curves[family]]


def up_to(most_bpp: float, images: Sequence[np.ndarray]) -> Curves:
    """The curves without what is not needed to compare codecs of at most `most_bpp`: all points up to there on these
    few images, and two beyond, since other images differ."""
    found = {}
    for family, qualities in CURVES.items():
        files = [BaselineFiles(family, image) for image in images]
        kept = len(qualities)
        for number, quality in enumerate(qualities):
            bpps = [8 * one.prompt(quality).size_bytes / one.pixels for one in files]
            if fmean(bpps) > most_bpp:
                kept = number + _BEYOND
                break
        found[family] = qualities[:kept]
    return found


def jpeg_picture_bytes(data: bytes) -> int:
    """Bytes of a JPEG's entropy-coded scans alone, without its headers and tables."""
    position, found = 2, 0
    while data[position + 1] != _JPEG_END:
        marker = data[position + 1]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _JPEG_SCAN:
            end = _JPEG_MARKER.search(data, position).start()
            found += end - position
            position = end
    return found
