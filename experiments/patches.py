"""Squares cut from photographs as they are: the data set that curves are measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Optional

import numpy as np
from gnl.node_apps.codecs.image_files import read_image
from gnl.topologies.errors import CodecError, UsageError


@dataclass(frozen=True)
class Patches:
    """Squares of `size_px`, by photograph and place: (number in `paths`, top, left). Only one photograph is in memory.

    `left_out` has the photographs that are no use, with the reason; `stored_bpp` the mean bits per pixel of the files
    of those that are.
    """

    paths: tuple[Path, ...]
    places: tuple[tuple[int, int, int], ...]
    size_px: int
    left_out: tuple[tuple[str, str], ...]
    stored_bpp: float

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[np.ndarray]:
        for number, places in groupby(self.places, key=lambda place: place[0]):
            pixels = read_image(self.paths[number]).pixels
            for _, top, left in places:
                yield np.ascontiguousarray(pixels[top : top + self.size_px, left : left + self.size_px])

    def name(self, number: int) -> str:
        """Where a square comes from."""
        photograph, top, left = self.places[number]
        return f"{self.paths[photograph].name} at {left},{top}"


def cut(
    paths: Sequence[Path], size_px: int, stride_px: int, most: int, watched: Optional[Iterable[Path]] = None
) -> Patches:
    """Squares of `size_px` every `stride_px`, of which evenly spaced ones are taken where there are more than `most`.

    `watched` yields `paths` too, and shows how far the reading is. UsageError if no photograph has one.
    """
    if size_px < 32 or stride_px < 1 or most < 1:
        raise UsageError(f"size {size_px}, stride {stride_px}, patches {most}: at least 32, 1 and 1")
    places: list[tuple[int, int, int]] = []
    left_out: list[tuple[str, str]] = []
    stored: list[float] = []
    for number, path in enumerate(paths if watched is None else watched):
        try:
            height, width = read_image(path).pixels.shape[:2]
        except (CodecError, OSError) as error:
            left_out.append((path.name, getattr(error, "strerror", None) or str(error)))
            continue
        if min(height, width) < size_px:
            left_out.append((path.name, f"{width}x{height}, a side is under {size_px}"))
            continue
        stored.append(8 * path.stat().st_size / (height * width))
        places += [
            (number, top, left)
            for top in range(0, height - size_px + 1, stride_px)
            for left in range(0, width - size_px + 1, stride_px)
        ]
    if not places:
        first = f" (first: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise UsageError(f"none of {len(paths)} photographs has a square of {size_px} pixels{first}: give larger ones")
    if len(places) > most:
        places = [places[index * len(places) // most] for index in range(most)]
    return Patches(tuple(paths), tuple(places), size_px, tuple(left_out), float(np.mean(stored)))
