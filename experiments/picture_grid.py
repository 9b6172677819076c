"""Pictures side by side with their captions: what figures do not show."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL_PX = 256
_GAP_PX, _LINE_PX, _FONT_PX = 4, 16, 13


class Cell(NamedTuple):
    """One picture, (H, W, 3) uint8, and the lines above it."""

    caption: tuple[str, ...]
    image: np.ndarray


def draw_grid(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Rows of cells on white; of a larger image, the middle CELL_PX in its own pixels, never scaled."""
    lines = max(len(cell.caption) for row in rows for cell in row)
    height, width = CELL_PX + lines * _LINE_PX + _GAP_PX, CELL_PX + _GAP_PX
    grid = Image.new("RGB", (width * max(map(len, rows)) + _GAP_PX, height * len(rows) + _GAP_PX), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(_FONT_PX)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            left, top = _GAP_PX + column * width, _GAP_PX + row * height
            for number, line in enumerate(cell.caption):
                draw.text((left, top + number * _LINE_PX), line, "black", font)
            grid.paste(Image.fromarray(_middle(cell.image)), (left, top + lines * _LINE_PX))
    return grid


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, (side - CELL_PX) // 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + CELL_PX, left : left + CELL_PX])
