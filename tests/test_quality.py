import math

import numpy as np
import pytest
from gnl.experiments.quality import PerceptualDistance, mse, mse_normalised, psnr_db
from gnl.topologies.errors import CodecError, UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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


def test_missing_lpips_weights_name_the_file(tmp_path):
    with pytest.raises(CodecError, match="alexnet_features_imagenet.pth is missing"):
        PerceptualDistance(tmp_path)
