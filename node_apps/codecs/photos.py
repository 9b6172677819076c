"""Photographs as training crops: decoded when they are needed, and cut at random places, scales and orientations.

Any number of photographs takes the same memory. A sliding part of them is in use at a time: crops come from WINDOW
photographs, of which one makes way for the next every CROPS_EACH crops.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

import numpy as np
from gnl.node_apps.codecs.image_files import read_image
from gnl.node_apps.codecs.training_config import LARGEST_PHOTO_SIDE
from gnl.topologies.errors import CodecError
from PIL import Image

SUFFIXES = tuple(".jpg .jpeg .jfif .png .webp .tif .tiff .bmp .ppm .jp2 .avif".split())
WINDOW, CROPS_EACH = 512, 8
HELD_OUT = 8
_LEAST_TO_HOLD_OUT = 5 * HELD_OUT


def find_photos(folders: Sequence[str | Path]) -> list[Path]:
    """Image files in the folders and all below them, in order; CodecError if a folder is missing or holds none.

    Links are followed, each folder is visited once, and names that begin with a dot are left out.
    """
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    for folder in map(Path, folders):
        try:
            os.listdir(folder)
        except OSError as error:
            raise CodecError(f"{folder}: {error.strerror}; give a folder of photographs") from error
        before = len(visited)
        here = _below(folder, visited)
        if not here and len(visited) > before:
            raise CodecError(f"{folder}: no images ({', '.join(SUFFIXES)}) there; give a folder of photographs")
        found += here
    return found


def _below(folder: Path, visited: set[tuple[int, int]]) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        facts = os.stat(place)
        if (facts.st_dev, facts.st_ino) in visited:
            folders.clear()
            continue
        visited.add((facts.st_dev, facts.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        named = (name for name in sorted(files) if not name.startswith("."))
        found += [Path(place, name) for name in named if name.lower().endswith(SUFFIXES)]
    return found


def square_view(image: np.ndarray, side: int) -> np.ndarray:
    """The centre square of an image, its shorter side resized to `side` pixels: (side, side, 3) uint8."""
    height, width = image.shape[:2]
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS, box=box), np.uint8)


class Album:
    """Photographs by number, read when they are asked for; the ones asked for last are kept. Threads may share it."""

    def __init__(self, paths: Sequence[Path], least_side: int) -> None:
        """`least_side`: photographs whose shorter side is below that are no use."""
        self.paths = list(paths)
        self.useless: dict[int, str] = {}  # why, by number, as far as they have been asked for
        self.least_side = least_side
        self._kept: OrderedDict[int, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def photo(self, number: int) -> Optional[Image.Image]:
        """A photograph, scaled down to sides of at most LARGEST_PHOTO_SIDE; None where it is no use."""
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            if number in self.useless:
                return None
        try:
            photo = self._read(self.paths[number])
        except (CodecError, OSError) as error:
            reason = f"{self.paths[number].name}: {getattr(error, 'strerror', None) or error}"
            with self._lock:
                self.useless[number] = reason
            return None
        with self._lock:
            self._kept[number] = photo
            while len(self._kept) > WINDOW:
                self._kept.popitem(last=False)
        return photo

    def _read(self, path: Path) -> Image.Image:
        photo = Image.fromarray(read_image(path, within_px=LARGEST_PHOTO_SIDE).pixels)
        if min(photo.size) < self.least_side:
            raise CodecError(f"{photo.width}x{photo.height}, its shorter side is under {self.least_side}")
        return photo

    def complaint(self) -> str:
        """How many photographs were no use, and why the first one; empty if all were."""
        with self._lock:
            reasons = list(self.useless.values())
        return f"{len(reasons)} of {len(self.paths)} photographs left out (first: {reasons[0]})" if reasons else ""


class CropSampler:
    """Random square crops of an album's photographs, the same ones for the same seed."""

    def __init__(self, album: Album, seed: int) -> None:
        self.album = album
        self._seed = seed
        self._order = np.random.default_rng(seed).permutation(len(album.paths))

    def draw(self, count: int, side: int, first: int) -> np.ndarray:
        """Crops number `first` and the following, (count, side, side, 3) uint8; CodecError if no photograph is any use.

        Repeats itself: the same `first` gives the same crops. Threads may call it.
        """
        rng = np.random.default_rng((self._seed, first))
        return np.stack([self._one(side, first + number, rng) for number in range(count)])

    def _one(self, side: int, number: int, rng: np.random.Generator) -> np.ndarray:
        photo = self._photo(number // CROPS_EACH + int(rng.integers(min(WINDOW, len(self._order)))))
        short = min(photo.size)
        least = min(self.album.least_side, short)
        # squaring favours strong downscaling: whole scenes in few pixels, as routers' images are
        scale = 1 - (1 - least / short) * np.sqrt(rng.random())
        span = min(side / scale, short)
        left = rng.random() * (photo.width - span)
        top = rng.random() * (photo.height - span)
        box = (left, top, left + span, top + span)
        crop = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))
        return crop[:, ::-1] if rng.random() < 0.5 else crop

    def _photo(self, place: int) -> Image.Image:
        """The photograph at a place of the order, or the next one that is any use."""
        for step in range(len(self._order)):
            photo = self.album.photo(int(self._order[(place + step) % len(self._order)]))
            if photo is not None:
                return photo
        raise CodecError(f"{self.album.complaint()}: give folders of larger, or whole, photographs")


class HeldOut(NamedTuple):
    """A photograph to look at in training: its file, and its centre square (S, S, 3) uint8."""

    path: Path
    pixels: np.ndarray


def hold_out(paths: Sequence[Path], least_side: int, side: int) -> tuple[list[Path], list[HeldOut]]:
    """The photographs to train with, and squares of `side` pixels of HELD_OUT others, evenly spaced.

    Where there are fewer than _LEAST_TO_HOLD_OUT none can be spared: training then has the ones shown, too. CodecError
    if no photograph is any use.
    """
    album, taken = Album(paths, least_side), []
    for start in (number * len(paths) // HELD_OUT for number in range(HELD_OUT)):
        rest = (number for number in range(start, len(paths)) if number not in taken)
        taken += [next((number for number in rest if album.photo(number) is not None), None)]
    taken = [number for number in taken if number is not None]
    if not taken:
        raise CodecError(f"{album.complaint()}: give folders of larger, or whole, photographs")
    shown = [HeldOut(paths[number], square_view(np.asarray(album.photo(number)), side)) for number in taken]
    spared = set(taken) if len(paths) >= _LEAST_TO_HOLD_OUT else set()
    return [path for number, path in enumerate(paths) if number not in spared], shown
