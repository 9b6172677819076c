"""The pixels that travel beside a prompt: which ones they are, and how they are coded.

    raw      R u8, G u8, B u8 of each pixel: 24 bits, as the paper counts them
    coded    pixels u32 | outliers u16 | scale u8 of Y, Co and Cg | outliers i16... | rANS string       (network order)

Coded are the differences of the true pixels from generated ones. No symbol depends on a generated pixel: where another
kind of device generates one that differs by a rounding, the pixel decoded is off by no more than that.
"""

from __future__ import annotations

import functools
import math
import struct
from typing import Union

import numpy as np
from gnl.node_apps.codecs.entropy import FREQUENCY_TOTAL, SymbolCoder
from gnl.topologies.errors import BitstreamError

# Differences from -LIMIT to LIMIT have a place in each of SCALES tables; those at the ends stand for all beyond too.
LIMIT, SCALES = 100, 15
_HEAD = struct.Struct("!IHBBB")
_RAW_SCALES = (255, 255, 255)
_FEISTEL_ROUNDS = 6


class RawPixels:
    """Pixels as they are."""

    PACKET_PIXELS = 448

    @staticmethod
    def encode(true: np.ndarray, generated: np.ndarray) -> bytes:
        """The slice of the pixels `true`, (n, 3) uint8."""
        return true.tobytes()

    @staticmethod
    def count(body: bytes) -> int:
        """Pixels in a slice; BitstreamError if it is none."""
        if len(body) % 3:
            raise BitstreamError(f"slice of {len(body)} bytes: raw pixels have 3 each")
        return len(body) // 3

    @staticmethod
    def decode(body: bytes, generated: np.ndarray) -> np.ndarray:
        """The pixels, (n, 3) uint8, of a slice."""
        return np.frombuffer(body, np.uint8).reshape(-1, 3)


class CodedPixels:
    """True less generated pixels, as Y, Co and Cg with a table for each; as they are, with scales of 255, if shorter.

    The differences are signed, not modulo 256: a generated pixel that is off by one cannot turn white into black.
    """

    PACKET_PIXELS = 576

    @staticmethod
    def encode(true: np.ndarray, generated: np.ndarray) -> bytes:
        """The slice that makes the pixels `true` of those `generated`, both (n, 3) uint8."""
        planes = _to_ycocg(true.astype(np.int32) - generated)
        outliers = planes[np.abs(planes) >= LIMIT]
        raw = _HEAD.pack(len(true), 0, *_RAW_SCALES) + true.tobytes()
        if len(outliers) >= 1 << 16:
            return raw
        coder, bits = _tables()
        symbols = planes.clip(-LIMIT, LIMIT)
        found = np.stack([np.bincount(plane + LIMIT, minlength=bits.shape[1]) for plane in symbols])
        scales = (found @ bits.T).argmin(axis=1)
        string = coder.encode(symbols.ravel(), np.repeat(scales, len(true)))
        coded = _HEAD.pack(len(true), len(outliers), *scales) + outliers.astype(">i2").tobytes() + string
        return min(coded, raw, key=len)

    @staticmethod
    def count(body: bytes) -> int:
        """Pixels in a slice; BitstreamError if it is none, or has fewer bits than so many pixels can take."""
        if len(body) <= _HEAD.size:
            raise BitstreamError(f"slice of {len(body)} bytes: coded pixels take more than {_HEAD.size}")
        count, outliers, *scales = _HEAD.unpack_from(body)
        raw = tuple(scales) == _RAW_SCALES
        if not raw and max(scales) >= SCALES:
            raise BitstreamError(f"slice with scales {scales}: known are 0 to {SCALES - 1}")
        # under the narrowest table a pixel takes 2 bits
        if not 1 <= count <= 8 * len(body) or (raw and len(body) != _HEAD.size + 3 * count):
            raise BitstreamError(f"slice of {len(body)} bytes announces {count} pixels")
        return count

    @staticmethod
    def decode(body: bytes, generated: np.ndarray) -> np.ndarray:
        """The pixels, (n, 3) uint8, of a slice whose `count` is n; BitstreamError if its string is damaged."""
        count, outliers, *scales = _HEAD.unpack_from(body)
        if tuple(scales) == _RAW_SCALES:
            return np.frombuffer(body, np.uint8, offset=_HEAD.size).reshape(-1, 3)
        string_at = _HEAD.size + 2 * outliers
        coder, _ = _tables()
        planes = coder.decode(body[string_at:], np.repeat(scales, count)).reshape(3, count)
        beyond = np.abs(planes) >= LIMIT
        if np.count_nonzero(beyond) != outliers:
            raise BitstreamError(f"slice announces {outliers} outliers and has {np.count_nonzero(beyond)}")
        planes[beyond] = np.frombuffer(body[_HEAD.size : string_at], ">i2")
        return (generated + _from_ycocg(planes)).clip(0, 255).astype(np.uint8)


PixelCoding = Union[type[RawPixels], type[CodedPixels]]


def _to_ycocg(rgb: np.ndarray) -> np.ndarray:
    """YCoCg-R (Malvar and Sullivan 2003), reversible in integers: (n, 3) int32 to (3, n)."""
    red, green, blue = rgb.T
    co = red - blue
    middle = blue + (co >> 1)
    cg = green - middle
    return np.stack([middle + (cg >> 1), co, cg])


def _from_ycocg(planes: np.ndarray) -> np.ndarray:
    y, co, cg = planes
    middle = y - (cg >> 1)
    blue = middle - (co >> 1)
    return np.stack([blue + co, cg + middle, blue], axis=1)


@functools.cache
def _tables() -> tuple[SymbolCoder, np.ndarray]:
    """The coder of differences, and the bits that each symbol takes under each table, (SCALES, 2 LIMIT + 1).

    Table t is Student's t of three degrees of freedom, whose weight of k is 1 / (s^2 + k^2)^2, with s^2 = 2^t: it fits
    these differences better than Laplace's or Gauss's. Made of whole numbers, so the same on every machine.
    """
    steps = np.array([_frequencies(1 << scale) for scale in range(SCALES)])
    cdf = np.pad(steps.cumsum(axis=1), ((0, 0), (1, 0))).astype(np.int32)
    each = np.ones(SCALES, np.int32)
    return SymbolCoder(cdf, each * cdf.shape[1], each * -LIMIT), -np.log2(steps[:, :-1] / FREQUENCY_TOTAL)


def _frequencies(square: int) -> list[int]:
    """Frequencies of -LIMIT..LIMIT and of the coder's escape, which has no use here: at least 1 each."""
    weights = [(1 << 60) // (square + k * k) ** 2 for k in range(-LIMIT, LIMIT + 1)]
    free, total = FREQUENCY_TOTAL - len(weights) - 1, sum(weights)
    found = [1 + weight * free // total for weight in weights]
    found[LIMIT] += FREQUENCY_TOTAL - 1 - sum(found)
    return [*found, 1]


def pixel_numbers(order: np.ndarray, pixels: int, seed: int) -> np.ndarray:
    """Which of an image's pixels (row * width + column) are swapped first, second...: those at the places `order`.

    `order` holds numbers from 0 to `pixels` - 1, and this is a permutation of them: a Feistel network on the nearest
    square (Black and Rogaway 2002), repeated where it leads out of the image. Our own, because the streams of numpy's
    generators may change with its version, and both ends must agree for good.
    """
    side = math.isqrt(pixels - 1) + 1
    found = _shuffled(order.astype(np.uint64), side, seed)
    while (outside := found >= pixels).any():
        found[outside] = _shuffled(found[outside], side, seed)
    return found.astype(np.int64)


def _shuffled(numbers: np.ndarray, side: int, seed: int) -> np.ndarray:
    """A permutation of 0 to side^2 - 1: the row of a number is moved by a hash of its column, and so on in turn."""
    one, other = np.divmod(numbers, np.uint64(side))
    for turn in range(_FEISTEL_ROUNDS):
        moved = one + (_splitmix(other | np.uint64(seed << 32 | turn << 16)) >> np.uint64(32))
        one, other = other, moved % np.uint64(side)
    return one * np.uint64(side) + other


def _splitmix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), of uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
