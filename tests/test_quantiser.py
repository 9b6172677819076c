"""The quantiser against samples of the Gaussians that it models: quantiles of each, in place of random draws."""

from itertools import pairwise

import numpy as np
import pytest
from gnl.node_apps.codecs import quantiser
from gnl.node_apps.codecs.quantiser import LEVELS, LEVELS_PER_PLANE, PLANES
from scipy import stats

UNIT = stats.norm.ppf((np.arange(200_001) + 0.5) / 200_001)
SHIFTS = quantiser.centroid_shifts()


def sigma(level):
    return quantiser.SCALE_MIN * 3.0 ** (level / LEVELS_PER_PLANE)


def planes_of(residuals, level):
    """(PLANES, n): the whole number of plane 0 and the digits behind it, each rounded from what is left; plane 0 of
    the lowest level is taken to be 0."""
    known, planes = np.zeros_like(residuals), []
    for plane in range(PLANES):
        symbol = np.rint((residuals - known) * 3.0**plane)
        if plane == 0 and level == 0:
            symbol[:] = 0
        planes.append(symbol)
        known = known + symbol / 3.0**plane
    return np.asarray(planes)


def entropy(symbols):
    counts = np.unique(symbols, return_counts=True)[1] / symbols.size
    return -(counts * np.log2(counts)).sum()


def squared_error(residuals, planes, plane):
    """With every cell's own mean as its reconstruction; planes up to `plane` known, -1 for none."""
    if plane < 0:
        return np.mean(residuals**2)
    cells = sum(planes[p] * 3 ** (plane - p) for p in range(plane + 1)).astype(np.int64)
    cells -= cells.min()
    mean = np.bincount(cells, residuals) / np.maximum(np.bincount(cells), 1)
    return np.mean((residuals - mean[cells]) ** 2)


def test_a_plane_is_a_factor_of_three():
    table = np.asarray(quantiser.scale_table())
    assert len(table) == LEVELS and table[0] == quantiser.SCALE_MIN
    assert np.allclose(table, [sigma(level) for level in range(LEVELS)])
    assert np.allclose(table[LEVELS_PER_PLANE:], 3 * table[:-LEVELS_PER_PLANE])


@pytest.mark.parametrize("level", [1, 6, 13, 22])
def test_planes_put_together_are_the_residual_rounded_to_the_last_step(level):
    residuals = np.random.default_rng(level).normal(0, sigma(level), 5000)
    planes = planes_of(residuals, level)
    assert set(np.unique(planes[1:])) == {-1, 0, 1}
    for plane in range(PLANES):
        known = sum(planes[p] / 3.0**p for p in range(plane + 1))
        assert np.allclose(known, np.rint(residuals * 3**plane) / 3**plane)


@pytest.mark.parametrize("level", [3, 8, 13, 20, 26])
def test_digits_occur_as_often_as_their_probabilities_say(level):
    """A level's scale in plane p is that of plane 0 of a level LEVELS_PER_PLANE * p higher."""
    for plane in range(1, PLANES):
        digits = planes_of(UNIT * sigma(level), level)[plane]
        wanted = quantiser.digit_probabilities()[min(level + LEVELS_PER_PLANE * plane, LEVELS - 1)]
        found = [np.mean(digits == digit) for digit in (-1, 0, 1)]
        assert np.allclose(found, wanted, atol=2e-3)


def test_digit_probabilities_are_distributions_alike_for_both_signs():
    found = quantiser.digit_probabilities()
    assert found.shape == (LEVELS, 3) and np.allclose(found.sum(1), 1) and np.allclose(found[:, 0], found[:, 2])
    assert found[0, 1] > 0.999 and np.allclose(found[-1], 1 / 3, atol=1e-3)


def test_expected_bits_are_the_entropies_of_what_occurs():
    bits = quantiser.class_bits()
    assert bits.shape == (LEVELS, PLANES) and bits[0, 0] == 0
    for level in range(LEVELS):
        for plane, symbols in enumerate(planes_of(UNIT * sigma(level), level)):
            assert bits[level, plane] == pytest.approx(entropy(symbols), abs=4e-3)


def test_every_class_is_sent_once_but_the_one_that_is_nearly_always_zero():
    order = [tuple(one) for one in quantiser.class_order().tolist()]
    assert sorted(order) == [(level, plane) for level in range(LEVELS) for plane in range(PLANES) if level or plane]
    assert np.mean(np.rint(UNIT * sigma(0)) == 0) > 0.999


def test_the_planes_of_a_level_come_in_their_order():
    order = quantiser.class_order()
    for level in range(LEVELS):
        planes = order[order[:, 0] == level, 1].tolist()
        assert planes == sorted(planes)


def test_what_a_bit_saves_falls_along_the_order():
    gain = {}
    for level in range(LEVELS):
        residuals = UNIT * sigma(level)
        planes = planes_of(residuals, level)
        errors = [squared_error(residuals, planes, plane) for plane in range(-1, PLANES)]
        if level == 0:
            errors[1] = errors[0]
        for plane in range(PLANES):
            if level or plane:
                gain[level, plane] = (errors[plane] - errors[plane + 1]) / entropy(planes[plane])
    gains = [gain[tuple(one)] for one in quantiser.class_order().tolist()]
    assert all(later <= 1.02 * earlier + 1e-5 for earlier, later in pairwise(gains))
    assert gains[0] > 1000 * gains[-1]


@pytest.mark.parametrize("level", [0, 3, 6, 12, 20, 31])
def test_shifts_are_those_of_truncated_gaussians(level):
    for symbol in range(1, SHIFTS.shape[1]):
        cell = stats.truncnorm((symbol - 0.5) / sigma(level), (symbol + 0.5) / sigma(level), scale=sigma(level))
        assert SHIFTS[level, symbol] == pytest.approx(symbol - cell.mean(), abs=1e-3)
    assert SHIFTS[level, 0] == 0


@pytest.mark.parametrize("level", [0, 2, 6, 11, 16])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_reconstructions_are_the_means_of_their_cells(level, count):
    """Plane 0 of the lowest level is never sent: its residuals are those that are 0 there."""
    residuals = UNIT * sigma(level)
    if level == 0:
        residuals = residuals[np.rint(residuals) == 0]
    symbols = np.rint(residuals * 3 ** (count - 1)).astype(np.int32)
    planes, index = np.full(symbols.shape, count, np.int8), np.full(symbols.shape, level, np.int32)
    shown = quantiser.reconstruct(symbols, planes, index, SHIFTS)
    assert shown.dtype == np.float32
    step = 3.0 ** (1 - count)
    for symbol in range(-4, 5):
        here = symbols == symbol
        if here.sum() > 2000:
            assert len(np.unique(shown[here])) == 1
            assert shown[here][0] == pytest.approx(residuals[here].mean(), abs=0.02 * step)
    assert np.mean((shown - residuals) ** 2) <= np.mean((symbols * step - residuals) ** 2)


def test_large_symbols_share_the_last_shift_and_unknown_latents_stay_where_they_are():
    symbols = np.array([100, -100, 7, 5, 0, 3], np.int32)
    planes = np.array([1, 1, 0, 1, 3, 2], np.int8)
    index = np.array([31, 31, 12, 10, 9, 31], np.int32)
    shown = quantiser.reconstruct(symbols, planes, index, SHIFTS)
    last = SHIFTS[31, -1]
    assert np.allclose(shown, [100 - last, last - 100, 0, 5 - SHIFTS[10, -1], 0, (3 - SHIFTS[31, 3]) / 3])
