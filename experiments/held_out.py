"""A codec in training on photographs that it is not trained with: its figures, and a grid of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from gnl.node_apps.codecs.interface import Codec
from gnl.node_apps.codecs.photos import HeldOut
from gnl.node_apps.codecs.training_config import TrainingConfig
from gnl.topologies.errors import CodecError
from PIL import Image

from .picture_grid import CELL_PX, Cell, draw_grid
from .quality import PerceptualDistance, mse

_BUDGETS_BPP = (0.05, 0.15, 0.3, 0.45, 1.0)
_CAPTION_LETTERS = 36


def budgets(config: TrainingConfig) -> list[float | None]:
    """The rates at which a codec is looked at: its own, or some of the range that it is trained for."""
    if config.budget_bpp is None:
        return [None]
    low, high = config.budget_bpp
    return [bpp for bpp in _BUDGETS_BPP if low <= bpp <= high] or [low, high]


class _Shot(NamedTuple):
    """A decoded photograph, (H, W, 3) uint8, and its figures."""

    image: np.ndarray
    figures: dict[str, float]


def check(
    codec: Codec, photos: Sequence[HeldOut], rates: Sequence[float | None], lpips: PerceptualDistance
) -> tuple[list[dict[str, float]], Image.Image]:
    """Mean figures of `photos` through `codec` at each of `rates`, and the pictures, a row a photograph.

    The means are without photographs that need more than a rate allows; a rate that none meets is left out.
    """
    shots = [[_shot(codec, photo.pixels, bpp, lpips) for bpp in rates] for photo in photos]
    grid = draw_grid(
        [
            [Cell((photo.path.name[:_CAPTION_LETTERS], "original"), photo.pixels), *map(_cell, row, rates)]
            for photo, row in zip(photos, shots)
        ]
    )
    figures = []
    for bpp, column in zip(rates, zip(*shots)):
        met = [shot.figures for shot in column if shot]
        if met:
            means = {name: fmean(one[name] for one in met) for name in met[0]}
            figures.append(({} if bpp is None else {"budget_bpp": bpp}) | means | {"photographs": len(met)})
    return figures, grid


def _shot(codec: Codec, image: np.ndarray, bpp: float | None, lpips: PerceptualDistance) -> _Shot | None:
    """None where `bpp` is too little for this image."""
    try:
        prompt = codec.encode(image, bpp)
    except CodecError:
        return None
    shown = codec.decode(prompt)
    pixels = image.shape[0] * image.shape[1]
    figures = {"bpp": 8 * prompt.size_bytes / pixels, "mse": mse(image, shown), "lpips": lpips(image, shown)}
    return _Shot(shown, figures)


def _cell(shot: _Shot | None, bpp: float | None) -> Cell:
    if shot is None:
        return Cell((f"{bpp:g} bpp", "is too little for it"), np.full((CELL_PX, CELL_PX, 3), 255, np.uint8))
    return Cell((f"{shot.figures['bpp']:.3f} bpp", f"LPIPS {shot.figures['lpips']:.3f}"), shot.image)
