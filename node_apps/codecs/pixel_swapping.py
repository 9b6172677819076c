"""Pixel swapping around any codec: true pixels travel behind its prompt and replace generated ones (Eq. 5).

    slice 0      inner slices u8 | slice 0 of the inner codec
    slices 1..   the other slices of the inner codec, then the swapped pixels: raw in `ps-raw`, coded in `ps`
                 (`swapped_pixels`)

Which pixels these are follows from the CRC-32 of the inner slice 0, so that it costs no bits. A larger gamma swaps the
pixels of a smaller one and more: any prefix of the slices decodes, and a slice that is missing costs its own pixels.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Iterator, Optional, Sequence
from zlib import crc32

import numpy as np
from gnl.node_apps.codecs.interface import BudgetError, Codec, CodecFacts, Prompt, at_least_bpp, require_image
from gnl.node_apps.codecs.swapped_pixels import CodedPixels, PixelCoding, RawPixels, pixel_numbers
from gnl.topologies.errors import BitstreamError, CodecError

FAMILIES = {"ps": 64, "ps-raw": 128}  # added to the inner codec's id
NAMES = tuple(f"{family}:[<gamma>:]<codec>" for family in FAMILIES)
MAX_INNER_ID = 63
MAX_INNER_SLICES, MAX_SWAP_SLICES = 95, 160
_SAMPLE_GAMMA = 0.1


@dataclass(frozen=True)
class SwapName:
    """A name taken apart: `ps` or `ps-raw`, the fraction of pixels swapped where the name has it, the codec inside."""

    family: str
    gamma: Optional[float]
    inner: str


@dataclass(frozen=True)
class SwapSizes:
    """A prompt of pixel swapping: `gamma`, bytes of the inner prompt, and of the whole with pixels raw and coded."""

    gamma: float
    inner_bytes: int
    raw_bytes: int
    coded_bytes: int


def parse_name(name: str) -> SwapName:
    """Take `ps:INNER`, `ps:GAMMA:INNER`, or the same with `ps-raw`, apart; CodecError says what is wrong with it."""
    family, _, rest = name.partition(":")
    first, _, inner = rest.partition(":")
    try:
        gamma = float(first)
    except ValueError:
        gamma, inner = None, rest
    if gamma is not None and not 0 < gamma <= 1:
        raise CodecError(f"codec {name}: the fraction of swapped pixels must be above 0 and at most 1, as in 0.05")
    if not inner:
        raise CodecError(f"codec {name}: name the codec whose pixels are swapped, as in {family}:0.05:gnl-low")
    if inner.partition(":")[0] in FAMILIES:
        raise CodecError(f"codec {name}: pixels are swapped only once; name another codec behind {family}:")
    return SwapName(family, gamma, inner)


def describe_swapping(name: str, swap: SwapName, inner: CodecFacts) -> CodecFacts:
    """The facts of pixel swapping around a codec of facts `inner`; CodecError if that one's id is too high."""
    if inner.codec_id > MAX_INNER_ID:
        raise CodecError(f"codec {name}: pixels cannot be swapped around {inner.name}; name a codec of images")
    points: tuple[float, ...] = ()
    if swap.family == "ps-raw" and swap.gamma is not None:
        points = tuple(point + 24 * swap.gamma for point in inner.operating_points_bpp)
    return CodecFacts(
        name=name,
        codec_id=FAMILIES[swap.family] + inner.codec_id,
        weights_sha256=inner.weights_sha256,
        generative=inner.generative,
        scalable=swap.gamma is None,
        operating_points_bpp=points,
        deterministic_on=inner.deterministic_on,
    )


class PixelSwapping(Codec):
    """Another codec's prompt with true pixels behind it. The inner codec codes at its own operating point."""

    def __init__(self, facts: CodecFacts, swap: SwapName, inner: Codec) -> None:
        self.facts = facts
        self._gamma = swap.gamma
        self._inner = inner
        self._coding: PixelCoding = {"ps": CodedPixels, "ps-raw": RawPixels}[swap.family]

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        """Swap the fraction of pixels that the name gives, or as many as a prompt of at most `bpp` has room for.

        CodecError unless exactly one of the two is given, BudgetError where the inner prompt alone is above `bpp`.
        """
        self.require_point(bpp)
        require_image(image)
        if self._gamma is not None and bpp is not None:
            raise CodecError(f"{self.facts.name} says how many pixels to swap, so does {bpp:g} bpp: give one of them")
        if self._gamma is not None:
            return self._encode_fraction(image, self._gamma)
        if bpp is None:
            family, _, inner = self.facts.name.partition(":")
            raise CodecError(
                f"{self.facts.name} must know how many pixels to swap: give a target such as --bpp 1.2, or their "
                f"fraction as in {family}:0.05:{inner}"
            )
        return self._encode_target(image, bpp)

    def encode_sample(self, image: np.ndarray) -> Prompt:
        return self._encode_fraction(image, self._gamma or _SAMPLE_GAMMA)

    def decode(self, prompt: Prompt) -> np.ndarray:
        return self.decode_batch([prompt])[0]

    def decode_batch(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Decode prompts, the inner ones together; BitstreamError if any of them does not decode."""
        parsed = [self._parse(prompt) for prompt in prompts]
        images = self._inner.decode_batch([inner for inner, _ in parsed])
        return [self._swap(image, *one) for image, one in zip(images, parsed, strict=True)]

    def sizes(self, image: np.ndarray, prompt: Prompt) -> SwapSizes:
        """What the pixels swapped in `prompt`, the prompt of `image`, take in either coding."""
        inner, bodies = self._parse(prompt)
        count = sum(self._coding.count(body) for body in bodies)
        coded = prompt
        if self._coding is not CodedPixels:
            coded = self._prompt(inner, self._slices(image, inner, CodedPixels).first(count))
        gamma = count / (image.shape[0] * image.shape[1])
        return SwapSizes(gamma, inner.size_bytes, 1 + inner.size_bytes + 3 * count, coded.size_bytes)

    def variants(self, image: np.ndarray, gammas: Sequence[float]) -> Iterator[tuple[SwapSizes, np.ndarray]]:
        """Sizes and the decoded image with each of these fractions of the pixels swapped, 0 for none; the inner codec
        runs only once."""
        inner = self._inner.encode(image)
        generated = self._inner.decode(inner)
        slices = _PixelSlices(image, generated, _seed(inner), self._coding)
        pixels = image.shape[0] * image.shape[1]
        for gamma in gammas:
            count = round(gamma * pixels)
            bodies = slices.first(count)
            coded = self._prompt(inner, bodies).size_bytes
            sizes = SwapSizes(count / pixels, inner.size_bytes, 1 + inner.size_bytes + 3 * count, coded)
            yield sizes, self._swap(generated, inner, bodies)

    def _encode_fraction(self, image: np.ndarray, gamma: float) -> Prompt:
        inner = self._inner.encode(image)
        count = round(gamma * image.shape[0] * image.shape[1])
        return self._prompt(inner, self._slices(image, inner, self._coding).first(count))

    def _encode_target(self, image: np.ndarray, bpp: float) -> Prompt:
        inner = self._inner.encode(image)
        pixels = image.shape[0] * image.shape[1]
        alone = self._prompt(inner, ())
        # a target computed from whole bytes keeps the last of them
        room = int(bpp * pixels / 8 + 1e-6) - alone.size_bytes
        if room < 0:
            raise BudgetError(
                f"{bpp:g} bpp for {self.facts.name}: {self._inner.facts.name} alone takes "
                f"{at_least_bpp(alone.size_bytes, pixels)} bpp of this image; give at least that",
                alone,
            )
        return self._prompt(inner, self._slices(image, inner, self._coding).within(room))

    def _slices(self, image: np.ndarray, inner: Prompt, coding: PixelCoding) -> _PixelSlices:
        return _PixelSlices(image, self._inner.decode(inner), _seed(inner), coding)

    def _prompt(self, inner: Prompt, bodies: Sequence[bytes]) -> Prompt:
        if len(inner.slices) > MAX_INNER_SLICES:
            raise CodecError(
                f"{self._inner.facts.name} makes {len(inner.slices)} slices of this image: pixels are swapped behind "
                f"at most {MAX_INNER_SLICES}; choose another codec"
            )
        slices = (bytes([len(inner.slices)]) + inner.slices[0], *inner.slices[1:], *bodies)
        return Prompt(self.facts.codec_id, self.facts.weights_id, slices)

    def _parse(self, prompt: Prompt) -> tuple[Prompt, tuple[bytes, ...]]:
        """The inner prompt, and the slices of swapped pixels, of which missing ones are empty."""
        slices = self.require_own(prompt)
        inner_slices = slices[0][0] if slices[0] else 0
        if not 1 <= inner_slices <= MAX_INNER_SLICES or len(slices) > inner_slices + MAX_SWAP_SLICES:
            raise BitstreamError(
                f"prompt of {len(slices)} slices, {inner_slices} of them {self._inner.facts.name}'s: 1 to "
                f"{MAX_INNER_SLICES} are possible, and {MAX_SWAP_SLICES} of pixels"
            )
        facts = self._inner.facts
        inner = Prompt(facts.codec_id, facts.weights_id, (slices[0][1:], *slices[1:inner_slices]))
        return inner, slices[inner_slices:]

    def _swap(self, image: np.ndarray, inner: Prompt, bodies: Sequence[bytes]) -> np.ndarray:
        """`image` with the pixels of `bodies` in their places."""
        pixels = np.array(image).reshape(-1, 3)
        step = _slice_pixels(len(pixels), self._coding)
        for start, body in ((index * step, body) for index, body in enumerate(bodies) if body):
            count = self._coding.count(body)
            if count > min(step, len(pixels) - start):
                raise BitstreamError(f"slice of {count} pixels from {start} on, in an image of {len(pixels)}")
            where = pixel_numbers(np.arange(start, start + count), len(pixels), _seed(inner))
            pixels[where] = self._coding.decode(body, pixels[where])
        return pixels.reshape(image.shape)


class _PixelSlices:
    """The slices of one image's swapped pixels, made as they are asked for."""

    def __init__(self, image: np.ndarray, generated: np.ndarray, seed: int, coding: PixelCoding) -> None:
        self._true, self._generated = image.reshape(-1, 3), generated.reshape(-1, 3)
        self._seed, self._coding = seed, coding
        self._step = _slice_pixels(len(self._true), coding)

    def first(self, count: int) -> list[bytes]:
        """Slices of the first `count` pixels."""
        return [self._slice(start, min(self._step, count - start)) for start in range(0, count, self._step)]

    def within(self, room: int) -> list[bytes]:
        """Slices of as many pixels as fit into `room` bytes."""
        bodies = []
        for start in range(0, len(self._true), self._step):
            most = min(self._step, len(self._true) - start)
            body = self._slice(start, most)
            if len(body) > room:
                fits = bisect_right(range(1, most), room, key=lambda count: len(self._slice(start, count)))
                return [*bodies, self._slice(start, fits)] if fits else bodies
            bodies.append(body)
            room -= len(body)
        return bodies

    def _slice(self, start: int, count: int) -> bytes:
        where = pixel_numbers(np.arange(start, start + count), len(self._true), self._seed)
        return self._coding.encode(self._true[where], self._generated[where])


def _slice_pixels(pixels: int, coding: PixelCoding) -> int:
    """Pixels of each slice but the last: what fills a packet, or more where the slices would be too many."""
    return max(coding.PACKET_PIXELS, -(-pixels // MAX_SWAP_SLICES))


def _seed(inner: Prompt) -> int:
    return crc32(inner.slices[0])
