"""Interpolation and verdicts by hand, intervals against scipy and against what is known of normal samples."""

import dataclasses
import math

import numpy as np
import pytest
from gnl.experiments import equal_rate
from gnl.experiments.baseline_files import curve_labels
from gnl.experiments.equal_rate import (
    EQUAL,
    LEAST,
    MOST,
    FrechetDistances,
    bootstrap,
    check_scalable,
    compare_means,
    match,
    spread,
    verdict_of,
    weights_at,
)
from gnl.experiments.frechet import FRECHET, frechet_distance
from gnl.experiments.rate_quality import ORIGINAL, Figures, Measured, matched_label
from scipy import stats

RNG = np.random.default_rng(11)


def test_the_spread_is_students():
    values = RNG.normal(3, 2, 40)
    found = spread(values)
    low, high = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    assert found == pytest.approx((values.mean(), values.std(ddof=1), low, high))
    assert math.isnan(spread(values[:1]).sd)


def test_weights_are_linear_in_log_bpp_between_neighbours():
    weights, where = weights_at(0.2, [0.4, 0.1, 1.6])  # in any order: half way from 0.1 to 0.4
    assert weights == pytest.approx([0.5, 0.5, 0]) and where == EQUAL
    weights, _ = weights_at(0.8, [0.1, 0.4, 1.6])
    assert weights == pytest.approx([0, 0.5, 0.5])


@pytest.mark.parametrize("bpp, expected, where", [(0.1, [1, 0], EQUAL), (0.4, [0, 1], EQUAL)])
def test_points_themselves_are_on_the_curve(bpp, expected, where):
    weights, found = weights_at(bpp, [0.1, 0.4])
    assert weights == pytest.approx(expected) and found == where


def test_beyond_the_curve_its_end_is_taken_and_said():
    weights, where = weights_at(0.09, [0.4, 0.1])
    assert weights.tolist() == [0, 1] and where == LEAST
    weights, where = weights_at(0.41, [0.4, 0.1])
    assert weights.tolist() == [1, 0] and where == MOST


def test_two_points_of_one_rate_do_not_divide_by_zero():
    weights, where = weights_at(0.1, [0.1, 0.1, 0.3])
    assert weights.sum() == pytest.approx(1) and weights[2] == 0 and where == EQUAL


@pytest.mark.parametrize(
    "ratio, where, verdict",
    [
        (0.6, EQUAL, "pass"),
        (0.7, EQUAL, "FAIL"),
        (0.6, LEAST, "pass"),  # even against more bits
        (0.7, LEAST, "open"),
        (0.6, MOST, "open"),  # only against fewer bits
    ],
)
def test_verdicts(ratio, where, verdict):
    assert verdict_of(ratio, 0.65, where) == verdict
    assert verdict_of(ratio, None, where) is None


def figures(bpp, lpips):
    return Figures(bpp, None, 30.0 - 10 * lpips, 0.01, None, lpips)


def made_up(own_bpp, own_lpips, count=30, noise=0.0):
    """Photographs on which JPEG's LPIPS falls by 0.1 from point to point, its rate doubling from 0.1 bpp on."""
    measured = Measured()
    scale = 1 + noise * RNG.normal(size=count)
    for family in ("jpeg", "webp"):
        for number, label in enumerate(curve_labels(family)):
            measured.figures[label] = [figures(0.1 * 2**number, (1.2 - 0.1 * number) * s) for s in scale]
    measured.figures["gnl-low"] = [figures(own_bpp, own_lpips * s) for s in scale]
    return measured


def test_a_codec_half_way_between_two_points():
    found = compare_means(made_up(0.1 * math.sqrt(2), 0.575), "gnl-low", "jpeg", "lpips")
    assert found.baseline_value == pytest.approx(1.15) and found.ratio == pytest.approx(0.5)
    assert found.where == EQUAL and found.baseline_bpp == pytest.approx(found.bpp)
    assert found.ci95 == pytest.approx((0.5, 0.5)) and (found.target, found.verdict) == (0.65, "pass")


def test_below_the_least_point_no_miss_is_claimed():
    found = compare_means(made_up(0.05, 1.0), "gnl-low", "webp", "lpips")
    assert (found.where, found.baseline_bpp, found.baseline_value) == (LEAST, pytest.approx(0.1), pytest.approx(1.2))
    assert found.verdict == "open"
    assert compare_means(made_up(0.05, 0.6), "gnl-low", "webp", "lpips").verdict == "pass"


def test_a_point_without_any_loss_elsewhere_on_the_curve_changes_nothing():
    measured = made_up(0.1, 0.5)
    last = curve_labels("jpeg")[-1]
    measured.figures[last][3] = dataclasses.replace(measured.figures[last][3], psnr_db=math.inf)
    assert compare_means(measured, "gnl-low", "jpeg", "psnr_db").baseline_value == pytest.approx(18)


def test_what_is_better_when_higher_has_no_ratio():
    found = compare_means(made_up(0.1, 0.5), "gnl-low", "jpeg", "psnr_db")
    assert (found.value, found.baseline_value) == (pytest.approx(25), pytest.approx(18)) and found.ratio is None


def test_the_interval_of_a_ratio_narrows_where_both_vary_together():
    measured = made_up(0.1, 0.5, count=200, noise=0.3)
    low, high = compare_means(measured, "gnl-low", "jpeg", "lpips").ci95
    assert high - low < 1e-6
    own = measured.figures["gnl-low"]
    measured.figures["gnl-low"] = own[100:] + own[:100]
    low, high = compare_means(measured, "gnl-low", "jpeg", "lpips").ci95
    assert 0.02 < high - low < 0.1 and low < 0.5 / 1.2 < high


def test_the_bootstrap_of_a_mean_is_that_of_theory():
    values = RNG.normal(5, 2, 400)
    low, high = bootstrap(lambda share: share @ values, 400)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_photograph_by_photograph():
    measured = Measured()
    measured.figures["gnl-low"] = [figures(0.2, 0.1), figures(0.1, 0.3)]
    measured.figures[matched_label("jpeg", "gnl-low")] = [figures(0.19, 0.4), figures(0.14, 0.2)]
    found = match(measured, "gnl-low", "jpeg")
    assert (found.bpp, found.baseline_bpp) == (pytest.approx(0.15), pytest.approx(0.165))
    assert (found.more_bits, found.better) == (0.5, 0.5)
    assert found.ratio == pytest.approx(0.4 / 0.6) and found.ci95 == pytest.approx((0.25, 1.5))


@pytest.mark.parametrize("lpips, verdict", [(0.223, "pass"), (0.225, "FAIL")])
def test_a_scalable_codec_beside_a_dedicated_one(lpips, verdict):
    measured = Measured()
    measured.figures["gnl-low"] = [figures(0.15, 0.2)] * 3
    measured.figures["gnl-scalable@0.15"] = [figures(0.149, lpips)] * 3
    found = check_scalable(measured, "gnl-scalable@0.15", "gnl-low")
    assert found.ratio == pytest.approx(lpips / 0.2) and (found.target, found.verdict) == (1.12, verdict)
    assert (found.bpp, found.dedicated_bpp) == (pytest.approx(0.149), pytest.approx(0.15))


@pytest.fixture
def with_features():
    """Two tiles a photograph; the baselines' features stray the less, the more bits they have."""
    measured = made_up(0.1 * math.sqrt(2), 0.5, count=20)
    original = RNG.normal(size=(40, 6))
    measured.photo_of_tile = [tile // 2 for tile in range(40)]
    measured.features[ORIGINAL] = list(original)
    for family in ("jpeg", "webp"):
        for number, label in enumerate(curve_labels(family)):
            measured.features[label] = list(original + RNG.normal(size=original.shape) * 2 / (number + 1))
    measured.features["gnl-low"] = list(original + 0.1 * RNG.normal(size=original.shape))
    return measured


def test_frechet_distances_are_of_the_originals_and_compared_at_equal_bpp(with_features):
    frechet = FrechetDistances(with_features)
    sets = {label: np.stack(rows) for label, rows in with_features.features.items()}
    own, first, second = (frechet_distance(sets[ORIGINAL], sets[label]) for label in ("gnl-low", "jpeg:1", "jpeg:3"))
    found = frechet.compare("gnl-low", "jpeg")
    assert frechet.count == 40 and found.metric == FRECHET and found.where == EQUAL
    assert found.value == pytest.approx(own) and found.baseline_value == pytest.approx((first + second) / 2)
    assert found.ratio == pytest.approx(2 * own / (first + second)) and found.verdict == "pass"
    assert found.ci95[0] < found.ratio < found.ci95[1]
    assert frechet(ORIGINAL) == pytest.approx(0, abs=1e-9)


def test_a_photographs_tiles_are_left_out_together(with_features):
    features = {label: np.stack(rows) for label, rows in with_features.features.items()}
    kept = np.array([photo % 10 != 3 for photo in with_features.photo_of_tile])
    assert kept.sum() == 36
    expected = frechet_distance(features[ORIGINAL][kept], features["jpeg:5"][kept])
    assert FrechetDistances(with_features)("jpeg:5", without=3) == pytest.approx(expected)


def test_the_jackknife_of_a_mean_is_that_of_theory():
    count = 200
    measured = Measured(photo_of_tile=list(range(count)))
    values = RNG.normal(1, 1, count)
    groups = np.arange(count) % 10
    low, high = FrechetDistances(measured).jackknife(lambda without: values[groups != without].mean(), values.mean())
    of_groups = [values[groups == group].mean() for group in range(10)]
    expected = stats.t.interval(0.95, 9, values.mean(), stats.sem(of_groups))
    assert (low, high) == pytest.approx(expected)


def test_with_fewer_photographs_than_groups_the_interval_is_unknown(with_features):
    with_features.photo_of_tile = [photo % 9 for photo in with_features.photo_of_tile]
    assert all(map(math.isnan, FrechetDistances(with_features).compare("gnl-low", "webp").ci95))


def test_the_targets_are_those_that_are_published():
    assert equal_rate.TARGETS[("lpips", "jpeg")] == 0.65 and equal_rate.TARGETS[("lpips", "webp")] == 0.75
    assert {equal_rate.TARGETS[FRECHET, family] for family in ("jpeg", "webp")} == {0.6}
