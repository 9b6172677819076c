"""Image triplets of a run for a page: sent, received, and their difference, as data URIs within a budget of bytes.

The difference is |sent - received| per channel, multiplied by one factor for all triplets of a page so that they can be
compared; it is taken at full size, before any picture is made smaller for the page.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from .report_values import is_number

MAX_TRIPLETS = 12
MAX_SIDE_PX = 384
# Of pictures in a page; base64 adds a third, so a page stays below 5 MB.
MAX_PICTURE_BYTES = 3_000_000
# Tried in turn until the pictures fit: without loss first.
WEBP_QUALITIES = (None, 92, 75, 50)
DIFFERENCE_FACTORS = (16, 8, 4, 2, 1)
# This share of the difference's values may be clipped by the factor chosen.
CLIPPED_SHARE = 0.01


@dataclass
class Triplet:
    """One image as sent and received; `problem` says why a picture is not shown."""

    facts: dict[str, Any]
    size_px: tuple[int, int] | None = None
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    uris: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def bpp(self) -> float | None:
        """Bits of the prompt for each pixel of the image sent."""
        prompt_bytes = self.facts.get("prompt_bytes")
        if not is_number(prompt_bytes) or self.size_px is None:
            return None
        return 8 * prompt_bytes / (self.size_px[0] * self.size_px[1])


@dataclass(frozen=True)
class Gallery:
    """The triplets of a page, how many there are in all, and how their pictures were prepared."""

    triplets: list[Triplet]
    total: int
    factor: int
    webp_quality: int | None  # None: without loss
    reduced: bool


def load_gallery(folder: Path, limit: int = MAX_TRIPLETS) -> Gallery:
    """Read `triplets.json` of a run's images folder and its pictures; nothing outside the folder is opened.

    Raises `OSError` where the list cannot be read and `ValueError` where it is not what a run writes.
    """
    listed = json.loads((folder / "triplets.json").read_text(encoding="utf-8"))
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise ValueError("it is not a list of mappings")
    triplets = [_load(folder, facts) for facts in listed[:limit]]
    factor = _difference_factor([t.pictures["difference"] for t in triplets if "difference" in t.pictures])
    reduced = False
    for triplet in triplets:
        if "difference" in triplet.pictures:
            triplet.pictures["difference"] = triplet.pictures["difference"].point(lambda v: min(255, v * factor))
        for kind, picture in triplet.pictures.items():
            small = _at_most(picture, MAX_SIDE_PX)
            reduced = reduced or small.size != picture.size
            triplet.pictures[kind] = small
    return Gallery(triplets, len(listed), factor, _embed(triplets), reduced)


def _load(folder: Path, facts: dict[str, Any]) -> Triplet:
    triplet = Triplet(facts)
    for kind in ("sent", "received"):
        name = facts.get(kind)
        try:
            triplet.pictures[kind] = _open(folder, name)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            triplet.problem = f"{kind}: {name!r} is not shown ({_one_line(error)})"
    if "sent" in triplet.pictures:
        triplet.size_px = triplet.pictures["sent"].size
    if len(triplet.pictures) == 2:
        sent, received = triplet.pictures["sent"], triplet.pictures["received"]
        if sent.size == received.size:
            triplet.pictures["difference"] = ImageChops.difference(sent, received)
        else:
            triplet.problem = (
                f"no difference: {sent.width}x{sent.height} was sent, {received.width}x{received.height} came"
            )
    return triplet


def _open(folder: Path, name: Any) -> Image.Image:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError("no file is named")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError("it lies outside the run's images folder")
    if not path.is_file():
        raise ValueError("there is no such file")
    with Image.open(path, formats=("PNG", "WEBP", "JPEG")) as picture:
        return picture.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _difference_factor(differences: list[Image.Image]) -> int:
    """The largest factor that clips no more than CLIPPED_SHARE of all values of all differences."""
    counts = [0] * 256
    for picture in differences:
        histogram = picture.histogram()
        for value in range(256):
            counts[value] += histogram[value] + histogram[value + 256] + histogram[value + 512]
    for factor in DIFFERENCE_FACTORS[:-1]:
        if sum(counts[255 // factor + 1 :]) <= CLIPPED_SHARE * sum(counts):
            return factor
    return DIFFERENCE_FACTORS[-1]


def _at_most(picture: Image.Image, side_px: int) -> Image.Image:
    scale = side_px / max(picture.size)
    if scale >= 1:
        return picture
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _embed(triplets: list[Triplet]) -> int | None:
    """Give each picture its data URI; the first of WEBP_QUALITIES at which all of them fit the budget."""
    pictures = [(triplet, kind) for triplet in triplets for kind in triplet.pictures]
    for quality in WEBP_QUALITIES:
        encoded = [_webp(triplet.pictures[kind], quality) for triplet, kind in pictures]
        if sum(map(len, encoded)) <= MAX_PICTURE_BYTES:
            break
    for (triplet, kind), data in zip(pictures, encoded):
        triplet.uris[kind] = "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
    return quality


def _webp(picture: Image.Image, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, "WEBP", lossless=True, quality=50, method=2)  # here `quality` is effort, not fidelity
    else:
        picture.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
