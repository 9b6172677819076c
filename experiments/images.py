"""Load the photographs of a run: the sample set or any folder, in a fixed order, as RGB arrays."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gnl.topologies.errors import UsageError
from PIL import Image, ImageCms, ImageOps

SAMPLE_FOLDER = Path(__file__).resolve().parent / "sample_images"
# A few kilobytes of PNG can claim gigapixels; the header says so before anything is decoded.
MAX_PIXELS = 150_000_000
MAX_SIDE_PX = 8192
SAMPLE_SUFFIX = ".jpg"


class LoadedImage(NamedTuple):
    """A photograph: `name` is its file name, `image` is (H, W, 3) uint8 RGB."""

    name: str
    image: np.ndarray


def load_images(
    source: str | Path, size_px: int | None = 256, limit: int | None = None
) -> tuple[list[LoadedImage], list[tuple[str, str]]]:
    """Read the images of a source, and list what was skipped and why.

    `source` is "sample" or a folder (its own files, not those of its subfolders), read in the order of the file
    names. `size_px` crops the middle square and scales it to that side; None leaves the image as it is. `limit` stops
    after so many readable images. Returns (images, [(file name, reason), ...]).
    Raises `UsageError` where there is no folder, or no readable image in it.
    """
    paths = _candidates(source)
    images: list[LoadedImage] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        if limit is not None and len(images) >= limit:
            break
        try:
            if not path.is_file():
                raise UsageError("not a regular file, or a link that leads nowhere")
            images.append(LoadedImage(path.name, load_image(path, size_px)))
        except Exception as error:  # Decoders raise whatever a damaged file makes them raise.
            skipped.append((path.name, _reason(error)))
    if not images:
        first = f" (first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise UsageError(
            f"no readable image among the {len(skipped)} files of {source}{first}: give a folder of JPEG, PNG, WebP,"
            " TIFF or other images that Pillow reads, or 'sample'"
        )
    return images, skipped


def load_image(path: str | Path, size_px: int | None = None) -> np.ndarray:
    """Read one image as (H, W, 3) uint8 RGB, upright, its transparent parts on white, its first frame if it moves.

    Raises `UsageError` where it is too large to take in, and whatever Pillow raises on an unreadable file.
    """
    with warnings.catch_warnings():
        # Pillow warns at 89 megapixels, which a camera can reach; the limit here is our own.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            _refuse_too_large(opened.size, size_px)
            if size_px is not None:
                # A JPEG decoder can scale by powers of two at no cost: keep four times what is needed.
                opened.draft(None, (4 * size_px, 4 * size_px))
            upright = ImageOps.exif_transpose(opened)
            image = _rgb(upright)
    if size_px is not None:
        image = _square(image, size_px)
    return np.array(image, dtype=np.uint8)


def _candidates(source: str | Path) -> list[Path]:
    if source == "sample":
        return sorted(SAMPLE_FOLDER.glob("*" + SAMPLE_SUFFIX))
    folder = Path(source)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise UsageError(f"image folder {str(source)!r} is {what}: give a folder of images, or 'sample'")
    try:
        paths = sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"image folder {source} cannot be read ({error.strerror}): give one that you may read"
        ) from None
    if not paths:
        raise UsageError(f"image folder {source} holds no files: give a folder with at least one image, or 'sample'")
    return paths


def _refuse_too_large(size: tuple[int, int], size_px: int | None) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UsageError(f"{width}x{height} pixels: at most {MAX_PIXELS // 1_000_000} million are read")
    if size_px is None and max(size) > MAX_SIDE_PX:
        raise UsageError(f"{width}x{height} pixels: at most {MAX_SIDE_PX} a side are sent; give size_px to scale it")


def _rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image).convert("RGB")
    if image.mode == "P" or image.mode == "PA" or "transparency" in image.info or "A" in image.mode:
        image = _on_white(image)
    if profile and image.mode in ("RGB", "CMYK", "L", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return converted if converted is not None else image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # A profile that does not fit the pixels is common; every viewer then ignores it.
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and floating grey to 8 bits; Pillow's own conversion clips at 255."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(grey.max(initial=0.0))
    if image.mode == "F":
        full_scale = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else max(65535.0, top)
    elif image.mode == "I" and top <= 255.0:
        full_scale = 255.0
    else:
        full_scale = max(65535.0, top)
    return Image.fromarray(np.clip(np.rint(grey * (255.0 / full_scale)), 0, 255).astype(np.uint8))


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
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return " ".join(text.split())[:200]
