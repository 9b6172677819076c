"""What every prompt codec is: prompts, facts, and the two directions.

    image (H, W, 3) uint8 --encode--> Prompt(slices, most important first) --decode--> image (H, W, 3) uint8

Slice 0 carries the image's height and width. Bytes that do not decode raise BitstreamError, so that a router can count
and drop them; an image or a setting that cannot be meant raises CodecError.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
from gnl.topologies.errors import BitstreamError, CodecError

MAX_SIDE = 8192
MAX_PIXELS = 1 << 25
MAX_SLICES = 255
MAX_BPP = 1e6  # of an image of one pixel the smallest file takes thousands


@dataclass(frozen=True)
class Prompt:
    """The coded form of one image, as independent slices with the most important first.

    `weights_id` is the first four bytes of the weights' SHA-256 as a big-endian number; 0 means that the codec has no
    weights.
    """

    codec_id: int
    weights_id: int
    slices: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        """Sum of the slices, without packet headers."""
        return sum(len(piece) for piece in self.slices)


@dataclass(frozen=True)
class CodecFacts:
    """What is known of a codec before it is loaded."""

    name: str
    codec_id: int
    weights_sha256: Optional[str]
    generative: bool
    scalable: bool
    operating_points_bpp: tuple[float, ...]
    deterministic_on: str

    @property
    def weights_id(self) -> int:
        """First four bytes of the weights' SHA-256; 0 without weights."""
        return int(self.weights_sha256[:8], 16) if self.weights_sha256 else 0


class BudgetError(CodecError):
    """An image needs more bits than it is given; `least` is the smallest prompt of it."""

    def __init__(self, message: str, least: Prompt) -> None:
        super().__init__(message)
        self.least = least


class Codec(ABC):
    """A prompt codec; `facts` says which."""

    facts: CodecFacts

    @abstractmethod
    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        """Code `image`, (H, W, 3) uint8; codecs of any rate take at most `bpp` bits per pixel, others their one rate.

        Raises CodecError for an image of another shape or type, and BudgetError where `bpp` is too little for it.
        """

    def encode_sample(self, image: np.ndarray) -> Prompt:
        """A prompt of whatever rate, to take a decoder through its work once."""
        return self.encode(image)

    def for_datagrams(self, prompt: Prompt, payload_bytes: int) -> Prompt:
        """The prompt with slices that suit datagrams of `payload_bytes`; codecs whose slices can be joined do so."""
        return prompt

    @abstractmethod
    def decode(self, prompt: Prompt) -> np.ndarray:
        """Make the image, (H, W, 3) uint8; BitstreamError if the prompt's bytes are not this codec's."""

    def decode_batch(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Decode several prompts; codecs that gain from batches override this."""
        return [self.decode(prompt) for prompt in prompts]

    def require_own(self, prompt: Prompt) -> tuple[bytes, ...]:
        """The prompt's slices, or BitstreamError if another codec, or other weights, made it."""
        if prompt.codec_id != self.facts.codec_id:
            raise BitstreamError(
                f"prompt of codec id {prompt.codec_id} given to {self.facts.name} (id {self.facts.codec_id}): "
                "decode it with the codec that made it"
            )
        if prompt.weights_id != self.facts.weights_id:
            raise BitstreamError(
                f"prompt made with weights {prompt.weights_id:08x}, {self.facts.name} has "
                f"{self.facts.weights_id:08x}: install the same weights at both ends"
            )
        if not 1 <= len(prompt.slices) <= MAX_SLICES:
            raise BitstreamError(f"prompt with {len(prompt.slices)} slices, {self.facts.name} takes 1 to {MAX_SLICES}")
        return prompt.slices

    def require_point(self, bpp: Optional[float]) -> None:
        """CodecError if `bpp` is no positive number; codecs of one operating point accept any up to MAX_BPP."""
        if bpp is not None and not 0 < bpp <= MAX_BPP:
            raise CodecError(
                f"bpp {bpp!r}: give a number above 0 and at most {MAX_BPP:g}, or none for {self.facts.name}'s own"
            )


def at_least_bpp(size_bytes: int, pixels: int) -> str:
    """Bits per pixel in words, rounded up: who asks for as many gets as many bytes."""
    return f"{math.ceil(8e4 * size_bytes / pixels) / 1e4:.4f}"


def require_image(image: np.ndarray) -> np.ndarray:
    """`image` itself if it is (H, W, 3) uint8 within the bounds, else CodecError."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise CodecError(f"image of {found}: give a numpy array of uint8 shaped (height, width, 3), RGB")
    height, width = image.shape[:2]
    if not size_allowed(height, width):
        raise CodecError(f"image of {width}x{height}: {_BOUNDS}; resize it first")
    return image


def require_size(height: int, width: int) -> None:
    """BitstreamError unless an image of this size may be decoded; called before anything is allocated."""
    if not size_allowed(height, width):
        raise BitstreamError(f"coded size {width}x{height}: {_BOUNDS}")


def size_allowed(height: int, width: int) -> bool:
    """Whether an image of this size stays within MAX_SIDE and MAX_PIXELS."""
    return 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS


_BOUNDS = f"sides of 1 to {MAX_SIDE} and at most {MAX_PIXELS} pixels are accepted"
