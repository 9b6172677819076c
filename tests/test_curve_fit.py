"""Fitted curves: each family finds itself again, the best is taken, and doubtful fits say what is wrong."""

import numpy as np
import pytest
from gnl.experiments.curve_fit import FAMILIES, Curve, bands, fit_curve, r_squared
from gnl.topologies.errors import UsageError
from scipy.stats import linregress

X = np.array([0.14, 0.3, 0.45, 0.8, 1.2, 2.0, 3.0, 4.7])
TRUE = {
    "polynomial of degree 2": (0.02, -0.2, 0.5),
    "polynomial of degree 3": (-0.0035, 0.04, -0.18, 0.45),
    "exponential": (0.6, 1.3, 0.02),
    "power": (0.7, 0.4, 1.2),
    "rational": (0.6, 0.01, 2.5),
    "logistic": (0.9, 1.5, 0.7),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_finds_its_own_curve(family):
    y = FAMILIES[family].function(X, *TRUE[family])
    curve = fit_curve(X, y, families=[family])
    assert curve.r2 > 1 - 1e-6 and curve.raw(X) == pytest.approx(y, abs=2e-4)


@pytest.mark.parametrize("family", ("exponential", "power", "logistic", "rational"))
def test_the_family_that_made_the_points_is_taken_in_spite_of_noise(family):
    y = FAMILIES[family].function(X, *TRUE[family]) + np.random.default_rng(2).normal(0, 1e-4, len(X))
    curve = fit_curve(X, y)
    assert curve.r2 > 0.9999 and not curve.cautions and set(curve.others) | {curve.family} == set(FAMILIES)
    assert curve.r2 >= max(r2 for name, r2 in curve.others.items() if not fit_curve(X, y, families=[name]).cautions)
    assert curve(X) == pytest.approx(y, abs=2e-3)


def test_r2_is_that_of_a_linear_regression():
    rng = np.random.default_rng(1)
    y = 3 * X + rng.normal(size=len(X))
    line = linregress(X, y)
    assert r_squared(y, line.slope * X + line.intercept) == pytest.approx(line.rvalue**2)


def test_the_fit_is_the_least_squares_of_polyfit():
    y = np.random.default_rng(4).random(len(X))
    curve = fit_curve(X, y, families=["polynomial of degree 3"], highest=None)
    assert curve.parameters == pytest.approx(np.polyfit(X, y, 3))


def test_a_curve_that_rises_or_leaves_its_range_says_so():
    curve = fit_curve([0.1, 0.5, 1, 2, 4], [0.2, 0.1, 0.3, 0.7, 0.95], (0.1, 6), ["polynomial of degree 2"])
    assert "not monotone: the loss rises" in curve.cautions[0] and "not within [0, 1]" in curve.cautions[1]


def test_losses_above_the_most_are_said_and_fitted():
    curve = fit_curve([0.1, 0.5, 1, 2, 4], [1.6, 1.1, 0.7, 0.3, 0.05])
    assert curve.cautions == ("losses up to 1.6, above 1, which is assumed to be the most",) and curve.r2 > 0.99
    assert curve(np.array([0.1]))[0] == pytest.approx(1.6, abs=0.05)


def test_as_many_points_as_parameters_is_said():
    curve = fit_curve([0.1, 0.5, 1], [0.5, 0.2, 0.1], families=["exponential"])
    assert curve.cautions == ("3 points for 3 parameters: it goes through them whatever they are",)


def test_a_step_between_points_that_lie_far_apart_is_said():
    x = np.array([0.15, 0.35, 1.0, 2.0, 4.0])
    y = FAMILIES["logistic"].function(x, 0.9, 20.0, 2.6)
    curve = fit_curve(x, y, families=["logistic"])
    assert len(curve.cautions) == 1 and "turns where nothing was measured" in curve.cautions[0]
    assert "from 2 to 4 bpp; measure between them" in curve.cautions[0]
    x = np.sort([*x, 2.4, 2.55, 2.65, 2.8])
    assert not fit_curve(x, FAMILIES["logistic"].function(x, 0.9, 20.0, 2.6), families=["logistic"]).cautions


def test_nothing_is_said_of_turns_beyond_the_points():
    x = np.array([1.0, 1.5, 2.0, 2.5])
    assert not fit_curve(x, (1 + 4 * x) ** -2.0, domain_bpp=(0.0, 8.0), families=["power"]).cautions


def test_a_sound_family_is_taken_before_one_of_higher_r2():
    y = [0.5, 0.31, 0.16, 0.0]
    curve = fit_curve([0.14, 0.3, 0.45, 4.776], y, domain_bpp=(0.14, 4.776))
    assert curve.others["polynomial of degree 3"] == pytest.approx(1) and curve.family != "polynomial of degree 3"


def test_no_loss_is_below_0():
    curve = Curve("exponential", (2.0, 1.0, -0.5), (0.1, 9.0), 1.0, 9, {})
    assert curve(np.array([0.0, 9.0])).tolist() == [1.5, 0.0]


def test_bands_hold_the_truth_and_narrow_with_more_points():
    at = np.linspace(0.2, 4, 30)
    truth = FAMILIES["exponential"].function(at, *TRUE["exponential"])
    widths = []
    for count in (8, 60):
        x = np.geomspace(0.14, 4.7, count)
        y = FAMILIES["exponential"].function(x, *TRUE["exponential"]) + np.random.default_rng(3).normal(0, 0.01, count)
        low, high = bands(fit_curve(x, y, families=["exponential"]), x, y, at)
        assert ((low <= truth) & (truth <= high)).mean() > 0.7
        widths.append((high - low).mean())
    assert widths[1] < widths[0]
    assert np.isnan(bands(fit_curve(X[:3], X[:3], families=["exponential"]), X[:3], X[:3], at)).all()


@pytest.mark.parametrize(
    "x, y, says",
    [
        ([0.1, 0.2], [1, 0.5], "2 different prompt sizes"),
        ([0.1, 0.1, 0.1, 0.1], [1, 0.5, 0.2, 0], "1 different prompt sizes"),
        ([0.1, 0.2, 0.3], [1, np.nan, 0.2], "finite numbers"),
        ([0.1, 0.2, 0.3], [1, 0.2], "as many"),
        ([-0.1, 0.2, 0.3], [1, 0.2, 0.1], "finite numbers"),
    ],
)
def test_points_that_cannot_be_fitted_are_refused(x, y, says):
    with pytest.raises(UsageError, match=says):
        fit_curve(x, y)
