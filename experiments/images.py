"""Load the photographs of a run: the sample set or any folder, in a fixed order, as RGB arrays."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from gnl.node_apps.codecs.image_files import read_image
from gnl.topologies.errors import UsageError

SAMPLE_FOLDER = Path(__file__).resolve().parent / "sample_images"
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
            images.append(LoadedImage(path.name, read_image(path, size_px).pixels))
        except (UsageError, OSError) as error:
            skipped.append((path.name, getattr(error, "strerror", None) or str(error)))
    if not images:
        first = f" (first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise UsageError(
            f"no readable image among the {len(skipped)} files of {source}{first}: give a folder of JPEG, PNG, WebP,"
            " TIFF or other images that Pillow reads, or 'sample'"
        )
    return images, skipped


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
