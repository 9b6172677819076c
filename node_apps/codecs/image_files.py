"""Image files as RGB arrays: the one reader of runs, `gnl encode`, benchmarks and training.

What the eye is meant to see is what comes out: upright as the file's EXIF says, transparent parts on white, colour
profiles applied, deep greys and floating point scaled to 8 bits, the first picture where a file holds several. Colours
of 16 bits keep their upper 8.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from gnl.node_apps.codecs.interface import MAX_PIXELS, MAX_SIDE, size_allowed
from gnl.topologies.errors import CodecError
from PIL import Image, ImageCms, ImageOps

# A few kilobytes of PNG can claim gigapixels; the header says so before anything is decoded.
MAX_SCALED_PIXELS = 150_000_000
_TIFF_BITS = 258
_TIFF_INTERPRETATION, _WHITE_IS_ZERO = 262, 0
_TIFF_SAMPLE_FORMAT, _UNSIGNED = 339, (1,)


class ReadImage(NamedTuple):
    """`pixels` is (H, W, 3) uint8 RGB; `notes` say what of the file is not in them."""

    pixels: np.ndarray
    notes: tuple[str, ...]


def read_image(
    file: str | Path | BinaryIO, size_px: int | None = None, within_px: int | None = None
) -> ReadImage:
    """Read one image file; `size_px` crops the middle square and scales it to that side, `within_px` scales all of the
    image down until neither side is longer.

    Raises CodecError, without the file's name in it, where the file is damaged, no image, or too large: beyond
    MAX_SCALED_PIXELS, and for an image that is not scaled beyond what codecs accept. OSError where it cannot be opened.
    """
    source = open(file, "rb") if isinstance(file, (str, Path)) else contextlib.nullcontext(file)
    with source as stream, warnings.catch_warnings():
        # Pillow warns at 89 megapixels, which a camera can reach, and of EXIF that it cannot read.
        warnings.simplefilter("ignore")
        try:
            return _read(stream, size_px, within_px)
        except CodecError:
            raise
        except Exception as error:  # Pillow's readers raise whatever a damaged file makes them raise
            raise CodecError(_reason(error)) from error


def _read(stream: BinaryIO, size_px: int | None, within_px: int | None) -> ReadImage:
    with Image.open(stream) as opened:
        _refuse_too_large(opened.size, size_px or within_px)
        # A JPEG decoder can scale by powers of two at no cost: keep a few times what is needed.
        if size_px is not None:
            opened.draft(None, (4 * size_px, 4 * size_px))
        elif within_px is not None:
            opened.draft(None, tuple(2 * within_px * side // max(opened.size) or 1 for side in opened.size))
        notes = ["only the first of its pictures is taken"] if getattr(opened, "is_animated", False) else []
        opened.load()
        with contextlib.suppress(Exception):  # nonsense as EXIF, beside sound pixels: every viewer ignores it
            ImageOps.exif_transpose(opened, in_place=True)
        image = _rgb(opened, notes)
    if size_px is not None:
        image = _square(image, size_px)
    elif within_px is not None:
        image.thumbnail((within_px, within_px), Image.Resampling.LANCZOS)
    return ReadImage(np.array(image, dtype=np.uint8), tuple(notes))


def _refuse_too_large(size: tuple[int, int], size_px: int | None) -> None:
    width, height = size
    if width * height > MAX_SCALED_PIXELS:
        raise CodecError(f"{width}x{height} pixels: at most {MAX_SCALED_PIXELS // 1_000_000} million are read")
    if size_px is None and not size_allowed(height, width):
        raise CodecError(
            f"{width}x{height} pixels: codecs take up to {MAX_SIDE} a side and {MAX_PIXELS} in all; scale it down first"
        )


def _rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image, notes).convert("RGB")
    if image.mode in ("P", "PA") or "transparency" in image.info or "A" in image.mode.upper():
        image = _on_white(image, notes)
    if profile and image.mode in ("RGB", "CMYK", "L", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return converted if converted is not None else image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # A profile that does not fit the pixels is common; every viewer then ignores it.
    return image.convert("RGB")


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # the transparent colour of 16 bits a channel, the pixels being of 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    rgba = image.convert("RGBA")
    if rgba.getextrema()[3][0] == 255:
        return rgba.convert("RGB")
    notes.append("its transparent parts lie on white")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _from_deep_grey(image: Image.Image, notes: list[str]) -> Image.Image:
    """Scale 16-bit, 32-bit and floating grey to 8 bits; Pillow's own conversion clips at 255."""
    tags = getattr(image, "tag_v2", {})
    stored = np.asarray(image)
    if image.mode == "I" and tags and tags.get(_TIFF_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED:
        stored = stored.view(np.uint32)
    grey = np.nan_to_num(stored.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(grey.max(initial=0.0))
    if image.mode == "F":
        full_scale = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else max(65535.0, top)
    elif image.mode == "I" and top <= 255.0 and image.format != "PPM":
        full_scale = 255.0
    else:
        bits = tags.get(_TIFF_BITS, (16,))[0]
        full_scale = max(4095.0 if bits == 12 else 65535.0, top)
    if image.mode == "F" or full_scale > 65535.0:
        notes.append(f"its values from 0 to {full_scale:g} are taken as black to white")
    if tags.get(_TIFF_INTERPRETATION) == _WHITE_IS_ZERO:
        grey = full_scale - grey
    levels = np.clip(np.rint(grey * (255.0 / full_scale)), 0, 255).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int) and (stored == key).any():
        levels[stored == key] = 255
        notes.append("its transparent parts lie on white")
    return Image.fromarray(levels)


def _square(image: Image.Image, size_px: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size_px, size_px), Image.Resampling.LANCZOS, box=box)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow reads"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    text = str(error) or type(error).__name__
    return "does not decode: " + " ".join(text.split())[:200]
