"""Photographs as training crops: decoded once, then cut at random places, scales and orientations."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from gnl.topologies.errors import CodecError
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_KEPT_SIDE = 768


def find_photos(folders: Sequence[str | Path]) -> list[Path]:
    """Image files under the folders, sorted; CodecError if a folder is missing or holds none."""
    found: list[Path] = []
    for folder in map(Path, folders):
        here = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not here:
            raise CodecError(f"{folder}: no images ({', '.join(SUFFIXES)}) there; give a folder of photographs")
        found += here
    return found


def read_photo(path: Path) -> np.ndarray:
    """The photograph as (H, W, 3) uint8; CodecError if it does not decode."""
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"), np.uint8)
    except Exception as error:  # Pillow's readers raise many kinds
        raise CodecError(f"{path}: does not decode as an image ({error})") from error


def square_view(image: np.ndarray, side: int) -> np.ndarray:
    """The centre square of an image, its shorter side resized to `side` pixels: (side, side, 3) uint8."""
    height, width = image.shape[:2]
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS, box=box), np.uint8)


class CropSampler:
    """Random square crops of photographs held in memory."""

    def __init__(self, paths: Sequence[Path], seed: int, least_side: int) -> None:
        """`least_side`: a photo is never shrunk below this shorter side, and smaller photos are left out."""
        self._least_side = least_side
        self._rng = np.random.default_rng(seed)
        self._photos = []
        for path in paths:
            photo = Image.fromarray(read_photo(path))
            photo.thumbnail((_KEPT_SIDE, _KEPT_SIDE), Image.Resampling.LANCZOS)
            if min(photo.size) >= least_side:
                self._photos.append(photo)
        if not self._photos:
            raise CodecError(f"none of {len(paths)} photos has a shorter side of {least_side} pixels or more")

    def __len__(self) -> int:
        return len(self._photos)

    def draw(self, count: int, side: int) -> np.ndarray:
        """`count` crops of `side` pixels, (count, 3, side, side) float32 in [0, 1]."""
        crops = np.stack([self._one(side) for _ in range(count)])
        return crops.transpose(0, 3, 1, 2).astype(np.float32) / 255.0

    def _one(self, side: int) -> np.ndarray:
        photo = self._photos[self._rng.integers(len(self._photos))]
        short = min(photo.size)
        # squaring favours strong downscaling: whole scenes in few pixels, as routers' images are
        scale = 1 - (1 - self._least_side / short) * np.sqrt(self._rng.random())
        span = min(side / scale, short)
        left = self._rng.random() * (photo.width - span)
        top = self._rng.random() * (photo.height - span)
        box = (left, top, left + span, top + span)
        crop = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))
        return crop[:, ::-1] if self._rng.random() < 0.5 else crop
