"""Claims are judged by the data: each can hold, fail, and be open."""

import json
from types import SimpleNamespace

import pytest
from gnl.experiments.claims import claims_of, compare, render
from gnl.experiments.optimize import OptimizeOptions, fitted_curves, optimize
from test_optimize import document

L = 5.0


class Curve:
    def __init__(self, loss, low):
        self.loss, self.domain_bpp = loss, (low, L)

    def __call__(self, sizes):
        return self.loss(sizes)


def series(name, loss, low=0.1, miss=0.0):
    """A series whose curve is `loss` of the sizes, and misses its points by `miss`."""
    bpp = (low, 1.0, L)
    losses = tuple(float(loss(size)) + miss for size in bpp)
    return SimpleNamespace(name=name, curve=Curve(loss, low), bpp=bpp, losses=losses)


def straight(slope):
    return lambda x: slope * (L - x)


class TestComparison:
    def test_it_says_where_the_first_is_lower(self):
        found = compare(series("a", lambda x: (L - x) * (0.5 + 0.1 * x)), series("b", straight(0.8), low=0.4))
        ((low, high),) = found.lower
        assert (found.low, found.high, low) == (0.4, L, 0.4) and high == pytest.approx(3.0, abs=0.3)
        assert found.higher and found.lower_share + found.higher_share < 1
        assert str(found).startswith("a against b: better at 0.40 to ")

    def test_curves_that_hardly_differ_are_equal(self):
        found = compare(series("a", straight(1.0)), series("b", straight(1.005)))
        assert not found.lower and not found.higher and "better at no size (0%" in str(found)

    def test_what_is_within_what_the_fits_miss_is_no_difference(self):
        first = series("a", straight(1.0))
        assert compare(first, series("b", straight(1.1))).lower_share > 0.8
        assert compare(first, series("b", straight(1.1), miss=0.5)).lower_share == 0
        found = compare(series("a", straight(1.0), miss=0.06), series("b", straight(1.1), miss=-0.08))
        assert found.lower[0][1] == pytest.approx(L - 1, abs=0.01)  # where they are sqrt(.06^2 + .08^2) apart


def claims(tmp_path, changed=lambda one: one, validated=None, **options):
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(document(points=[one for one in map(changed, document()["points"]) if one])))
    asked = OptimizeOptions(path, **options)
    fitted = fitted_curves(asked)
    return {one.claim: one for one in claims_of(fitted, optimize(asked, fitted), validated)}


def verdict_on(found, words):
    (claim,) = [one for text, one in found.items() if words in text]
    return claim.holds


def test_what_is_not_there_is_open(tmp_path):
    found = claims(tmp_path, lambda one: one if one["codec"].startswith("gnl") and not one["gamma"] else None)
    for words in ("PS gains", "JPEG gains", "at least as good", "GenAI beats", "at a bound", "On real packets", "grid"):
        assert verdict_on(found, words) is None, words
    assert verdict_on(found, "PE gains") is not None
    assert "cannot be said: JPEG gains nothing" in render(list(found.values()))
    assert verdict_on(claims(tmp_path, weights=(0.5, 1.0)), "PE gains") is None


def test_gains_are_those_of_the_optima(tmp_path):
    assert verdict_on(claims(tmp_path, weights=(0.1, 0.2, 0.3)), "PE gains") is True
    assert verdict_on(claims(tmp_path, weights=(1.0, 2.0, 50.0)), "PE gains") is False
    assert verdict_on(claims(tmp_path, weights=(0.1, 0.2, 0.3)), "PS gains") is True
    assert verdict_on(claims(tmp_path, weights=(1.0, 2.0, 50.0)), "PS gains") is False


def test_worse_curves_fail(tmp_path):
    def worse(factor):
        return lambda one: {**one, "frechet": factor * one["frechet"]} if one["codec"].startswith("jpeg") else one

    assert verdict_on(claims(tmp_path, worse(3.0)), "at least as good") is True
    assert verdict_on(claims(tmp_path, worse(0.1)), "at least as good") is False
    assert verdict_on(claims(tmp_path, worse(0.1)), "best prompts of PE are smaller") is False


def test_the_cost_of_swapped_pixels_is_told(tmp_path):
    found = claims(tmp_path)
    assert verdict_on(found, "swapped pixel costs L = 4.78") is False

    def cheap(one):
        return {**one, "bpp": {"mean": one["bpp"]["mean"] - 7 * one["gamma"]}}

    assert verdict_on(claims(tmp_path, cheap), "swapped pixel costs") is True


def test_jpeg_is_judged_by_packets_alone(tmp_path):
    def measured(gain):
        row = {"valid": True, "lambda_per_s": None, "prompt_bpp": 0.3, "reasons": []}
        gains = {level: {"measured": gain, "ci95": None, "error": gain - 1} for level in ("wire", "payload")}
        best = {"series": "PE JPEG", "metric": "perception", "w": 1.0, "prompt_size": 0.3, "g_flow": 1.0, "trial": "a"}
        return {"due": {"figure": ["a"]}, "figure": {"optima": [best]}, "trials": {"a": {**row, "g_flow": gains}}}

    for gain, holds in ((1.0001, True), (1.02, False)):
        found = claims(tmp_path, validated=measured(gain))
        assert verdict_on(found, "JPEG gains") is holds and verdict_on(found, "On real packets") is holds
