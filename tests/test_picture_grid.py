"""Pictures lie where they should, in their own pixels, under their captions."""

import numpy as np
from gnl.experiments.picture_grid import CELL_PX, Cell, draw_grid

GAP, LINE = 4, 16


def plain(level, height=CELL_PX, width=CELL_PX):
    return np.full((height, width, 3), level, np.uint8)


def test_cells_lie_in_rows_and_columns_under_their_captions():
    rows = [[Cell(("a", "b"), plain(10)), Cell(("c",), plain(20))], [Cell(("d",), plain(30))]]
    grid = np.asarray(draw_grid(rows))
    height, width = CELL_PX + 2 * LINE + GAP, CELL_PX + GAP
    assert grid.shape == (2 * height + GAP, 2 * width + GAP, 3)
    for row, column, level in ((0, 0, 10), (0, 1, 20), (1, 0, 30)):
        top, left = GAP + row * height + 2 * LINE, GAP + column * width
        assert (grid[top : top + CELL_PX, left : left + CELL_PX] == level).all()
    assert (grid[GAP : GAP + LINE, GAP:width] < 128).any()  # a caption
    assert (grid[height + GAP + 2 * LINE :, width + GAP :] == 255).all()  # no fourth cell


def test_of_a_large_image_the_middle_is_shown_unscaled():
    image = np.random.default_rng(0).integers(0, 256, (300, 401, 3), dtype=np.uint8)
    grid = np.asarray(draw_grid([[Cell(("x",), image)]]))
    shown = grid[GAP + LINE : GAP + LINE + CELL_PX, GAP : GAP + CELL_PX]
    assert np.array_equal(shown, image[22 : 22 + CELL_PX, 72 : 72 + CELL_PX])


def test_a_small_image_is_left_as_it_is():
    grid = np.asarray(draw_grid([[Cell(("x",), plain(9, 40, 30))]]))
    assert (grid[GAP + LINE : GAP + LINE + 40, GAP : GAP + 30] == 9).all() and (grid[GAP + LINE + 40 :] == 255).all()
