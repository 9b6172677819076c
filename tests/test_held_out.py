"""Held-out photographs through a codec in training: figures at several rates, and a grid of pictures."""

from pathlib import Path

import numpy as np
import pytest
from fake_scalable import FakeScalable
from gnl.experiments.held_out import budgets, check
from gnl.experiments.picture_grid import CELL_PX
from gnl.node_apps.codecs.interface import Codec
from gnl.node_apps.codecs.photos import HeldOut
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError
from tiny_training import small_config

RNG = np.random.default_rng(0)
PHOTOS = [
    HeldOut(Path(f"{contrast}.png"), RNG.integers(128 - contrast, 128 + contrast, (64, 64, 3), dtype=np.uint8))
    for contrast in (8, 120)
]


def distance(image, other):
    return float(np.abs(image.astype(int) - other).mean()) / 255


class Costly(FakeScalable):
    """Refuses what takes more than it is given."""

    def encode(self, image, bpp=None):
        prompt = super().encode(image, bpp)
        if 8 * prompt.size_bytes > bpp * image.shape[0] * image.shape[1]:
            raise CodecError("needs more")
        return prompt


@pytest.mark.parametrize(
    "range_bpp, found",
    [
        ([0.03, 1.0], [0.05, 0.15, 0.3, 0.45, 1.0]),
        ([0.1, 0.4], [0.15, 0.3]),
        ([1.5, 3.0], [1.5, 3.0]),
        (None, [None]),
    ],
)
def test_rates_lie_in_the_range_that_is_trained_for(range_bpp, found):
    assert budgets(small_config(budget_bpp=range_bpp)) == found


def test_figures_are_means_over_the_photographs():
    codec = load_codec("jpeg:30")
    (figures,), _ = check(codec, PHOTOS, [None], distance)
    shown = [codec.decode(codec.encode(photo.pixels)) for photo in PHOTOS]
    assert figures["bpp"] == np.mean([8 * codec.encode(photo.pixels).size_bytes / 64**2 for photo in PHOTOS])
    assert figures["lpips"] == np.mean([distance(photo.pixels, one) for photo, one in zip(PHOTOS, shown)])
    errors = [np.mean((photo.pixels.astype(float) - one) ** 2) for photo, one in zip(PHOTOS, shown)]
    assert figures["mse"] == pytest.approx(np.mean(errors))
    assert figures["photographs"] == 2 and "budget_bpp" not in figures


def test_rates_that_a_photograph_does_not_meet_are_without_it():
    least = [8 * FakeScalable().encode(photo.pixels, 0.001).size_bytes / 64**2 for photo in PHOTOS]
    between = sum(least) / 2
    figures, _ = check(Costly(), PHOTOS, [0.001, between, 24.0], distance)
    assert [(one["budget_bpp"], one["photographs"]) for one in figures] == [(between, 1), (24.0, 2)]
    assert all(one["bpp"] <= one["budget_bpp"] for one in figures)


def test_the_grid_has_a_row_a_photograph_and_a_column_a_rate():
    _, grid = check(Costly(), PHOTOS, [0.01, 24.0], distance)
    line, gap = 16, 4
    assert grid.size == (gap + 3 * (CELL_PX + gap), gap + 2 * (CELL_PX + 2 * line + gap))
    top = gap + 2 * line
    assert np.array_equal(np.asarray(grid)[top : top + 64, gap : gap + 64], PHOTOS[0].pixels)


def test_a_codec_that_decodes_wrongly_is_an_error_not_a_figure():
    class Broken(Codec):
        facts = FakeScalable.facts

        def encode(self, image, bpp=None):
            return FakeScalable().encode(image, 24.0)

        def decode(self, prompt):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        check(Broken(), PHOTOS, [None], distance)
