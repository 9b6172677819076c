"""Sizes of what is sent: plain images, prompts and generated contents, as payload and on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnl.node_apps.protocol.header import packets_of, wire_bytes_of
from gnl.topologies.errors import ScenarioError

LEVELS = ("wire", "payload")


@dataclass(frozen=True)
class Sizes:
    """Body bytes of every image that is sent in turn, and whether g makes contents from prompts at all.

    `plain_bytes[i]`, `content_bytes[i]`: image i as the source sends it plain, and as g sends what it generated (they
    differ where the content format compresses). `prompt_slices[i]`: bytes of each slice of its prompt. `origin` says
    in one sentence where the figures come from.
    """

    plain_bytes: tuple[int, ...]
    content_bytes: tuple[int, ...]
    prompt_slices: tuple[tuple[int, ...], ...]
    generative: bool
    origin: str

    def __post_init__(self) -> None:
        counts = {len(self.plain_bytes), len(self.content_bytes), len(self.prompt_slices)}
        if len(counts) != 1 or counts == {0}:
            raise ScenarioError(f"sizes of {sorted(counts)} images: give plain, content and prompt bytes of each image")
        for size_bytes in (*self.plain_bytes, *self.content_bytes):
            _whole("content bytes", size_bytes, 1)
        for slices in self.prompt_slices:
            if not slices:
                raise ScenarioError("a prompt without a slice: give the bytes of at least one slice of each prompt")
            for size_bytes in slices:
                _whole("prompt slice bytes", size_bytes, 0)

    def means(self, level: str, ip_version: int = 4, survivals: Sequence[float] | None = None) -> MeanSizes:
        """Mean bits at a level: `wire` (layer 2, from the actual packetisation) or `payload` (bodies alone).

        `survivals`: share of each image's prompts that reach g; contents are weighted with it, since g makes no others.
        """
        if level == "wire":
            plain = [wire_bytes_of(size, ip_version) for size in self.plain_bytes]
            content = [wire_bytes_of(size, ip_version) for size in self.content_bytes]
            prompt = [sum(wire_bytes_of(size, ip_version) for size in slices) for slices in self.prompt_slices]
        elif level == "payload":
            plain, content = list(self.plain_bytes), list(self.content_bytes)
            prompt = [sum(slices) for slices in self.prompt_slices]
        else:
            raise ValueError(f"level {level!r} is none of {LEVELS}")
        weights = survivals if survivals is not None and sum(survivals) else [1.0] * len(content)
        weighted = sum(size * weight for size, weight in zip(content, weights)) / sum(weights)
        return MeanSizes(8 * sum(plain) / len(plain), 8 * weighted, 8 * sum(prompt) / len(prompt))

    def plain_packets(self) -> list[int]:
        return [packets_of(size) for size in self.plain_bytes]

    def content_packets(self) -> list[int]:
        return [packets_of(size) for size in self.content_bytes]

    def prompt_packets(self) -> list[int]:
        return [sum(packets_of(size) for size in slices) for slices in self.prompt_slices]


@dataclass(frozen=True)
class MeanSizes:
    """Mean bits of a plain image, of a content that g generates (`L`) and of a prompt (`L_p`)."""

    plain_bits: float
    content_bits: float
    prompt_bits: float


def sizes_of_catalogue(images: Sequence[Mapping[str, Any]], generative: bool, origin: str) -> Sizes:
    """Sizes from the `images` list of a catalogue: `content_bytes` of the plain image, `prompt_slices`, and, where the
    format compresses, `generated_bytes` of what g makes of it (taken as `content_bytes` where absent)."""
    try:
        plain = tuple(image["content_bytes"] for image in images)
        content = tuple(image.get("generated_bytes") or image["content_bytes"] for image in images)
        prompts = tuple(tuple(image["prompt_slices"]) for image in images)
    except (KeyError, TypeError, AttributeError) as error:
        raise ScenarioError(f"{origin}: an image without content_bytes or prompt_slices ({error}): remove it") from None
    return Sizes(plain, content, prompts, generative, origin)


def sizes_of_means(content_bytes: float, prompt_bytes: float, generative: bool, origin: str) -> Sizes:
    """Sizes as if every image had the mean size, each prompt in one slice."""
    size_bytes, prompt_size_bytes = max(1, round(content_bytes)), max(1, round(prompt_bytes))
    return Sizes((size_bytes,), (size_bytes,), ((prompt_size_bytes,),), generative, origin)


def _whole(what: str, value: Any, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ScenarioError(f"{what} is {value!r}: give a whole number of at least {low}")
