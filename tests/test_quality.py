import math

import numpy as np
import pytest
from gnl.experiments.quality import MS_SSIM_LEAST_SIDE, PerceptualDistance, ms_ssim, mse, mse_normalised, psnr_db
from gnl.topologies.errors import CodecError, UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.signal import fftconvolve

IMAGES = arrays(np.uint8, (5, 7, 3))


def test_figures_worked_by_hand():
    first = np.zeros((2, 2, 3), np.uint8)
    second = first.copy()
    second[0, 0] = (3, 4, 0)
    assert mse(first, second) == pytest.approx(25 / 12)
    assert psnr_db(first, second) == pytest.approx(10 * math.log10(255**2 * 12 / 25))
    assert mse_normalised(first, second) == pytest.approx(25 / 12 / 255**2)


def test_differences_do_not_wrap_around():
    assert mse(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)) == 255**2


@given(IMAGES)
@settings(deadline=None)
def test_the_inversion_is_one_and_the_image_itself_is_zero(image):
    assert mse_normalised(image, 255 - image) == pytest.approx(1.0)
    assert mse_normalised(image, image) == 0.0
    assert psnr_db(image, image) == math.inf


@given(IMAGES, IMAGES)
@settings(deadline=None)
def test_mse_agrees_with_float_arithmetic_and_is_symmetric(first, second):
    assert mse(first, second) == pytest.approx(((first.astype(float) - second.astype(float)) ** 2).mean())
    assert mse(first, second) == mse(second, first)


@given(IMAGES, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_larger_difference_lowers_psnr(image, seed):
    sign = np.where(image < 128, 1, -1)
    near, far = (image + sign * step for step in (1, 5))
    assert psnr_db(image, near.astype(np.uint8)) > psnr_db(image, far.astype(np.uint8))


@pytest.mark.parametrize(
    "other",
    [np.zeros((5, 7, 3)), np.zeros((7, 5, 3), np.uint8), np.zeros((5, 7), np.uint8), np.zeros((5, 7, 3), np.int8)],
)
def test_arrays_that_cannot_be_compared_are_refused(other):
    with pytest.raises(UsageError, match="one shape"):
        mse(np.zeros((5, 7, 3), np.uint8), other)


def test_empty_arrays_are_refused():
    with pytest.raises(UsageError):
        mse(np.zeros((0, 7, 3), np.uint8), np.zeros((0, 7, 3), np.uint8))


def scipy_ms_ssim(first, second):
    """Wang et al. 2003 with scipy's filters: 11 taps of sigma 1.5, only where they fit; means of two by two between."""
    values = []
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def local(x):
        return fftconvolve(x, window, mode="valid")

    for channel in range(3):
        x, y = (one[..., channel].astype(float) / 255 for one in (first, second))
        value = 1.0
        for level, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            mx, my = local(x), local(y)
            vx, vy, both = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
            structure = (2 * both + 0.03**2) / (vx + vy + 0.03**2)
            luminance = (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)
            value *= (structure * luminance if level == 4 else structure).mean() ** weight
            x, y = (one.reshape(len(one) // 2, 2, -1, 2).mean((1, 3)) for one in (x, y))
        values.append(value)
    return np.mean(values)


def test_ms_ssim_is_that_of_its_definition():
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[0:192, 0:224]
    first = np.stack([127 + 90 * np.sin(rows / 9), 127 + 90 * np.cos(columns / 7), (rows + columns) / 2], -1)
    second = np.clip(first + rng.normal(0, 20, first.shape), 0, 255).astype(np.uint8)
    first = first.astype(np.uint8)
    assert ms_ssim(first, second) == pytest.approx(scipy_ms_ssim(first, second), abs=1e-4)
    assert ms_ssim(first, first) == pytest.approx(1.0)


@pytest.mark.parametrize("side, known", [(MS_SSIM_LEAST_SIDE, True), (MS_SSIM_LEAST_SIDE - 1, False)])
def test_ms_ssim_needs_room_for_five_scales(side, known):
    image = np.zeros((side, 200, 3), np.uint8)
    assert (ms_ssim(image, image) is not None) == known


def test_missing_lpips_weights_name_the_file(tmp_path):
    with pytest.raises(CodecError, match="alexnet_features_imagenet.pth is missing"):
        PerceptualDistance(tmp_path)
