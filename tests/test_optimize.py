"""The case study on made-up points: series as the paper has them, and optima that follow from them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from gnl.experiments import cli
from gnl.experiments.optimize import OptimizeOptions, optimize, render
from gnl.experiments.series import bits_of_swapped_pixels, series_of
from gnl.topologies.errors import ScenarioError, UsageError

L = 4.776
MODELS = {"gnl-low": 0.14, "gnl-medium": 0.30, "gnl-high": 0.45}


def point(codec, bpp, gamma=0.0, frechet=None, loss=None, asked=None):
    frechet = 80 * np.exp(-1.2 * bpp) if frechet is None else frechet
    mean = lambda value: {"mean": value, "sd": 0.0, "n": 9}  # noqa: E731
    return {
        "codec": codec, "asked_bpp": asked, "gamma": gamma, "bpp": mean(bpp), "bpp_raw": mean(bpp + 24 * gamma),
        "mse_normalised": mean(0.05 * np.exp(-bpp) if loss is None else loss), "frechet": float(frechet),
    }  # fmt: skip


def document(**changes):
    points = [point(name, bpp) for name, bpp in MODELS.items()]
    points += [point("gnl-scalable", bpp, asked=bpp) for bpp in (0.1, 0.3, 0.6, 1.0)]
    points += [point(f"jpeg:{q}", bpp, frechet=150 * np.exp(-bpp)) for q, bpp in ((5, 0.2), (30, 0.8), (80, 2.0))]
    for codec, bpp in (("gnl-low", 0.14), ("jpeg:9", 0.3)):
        start = 80 * np.exp(-1.2 * bpp)
        for gamma in (0.1, 0.3, 0.6, 0.9):
            points.append(point(codec, bpp + 10 * gamma, gamma, start * (1 - gamma) ** 1.5, 0.05 * (1 - gamma)))
    points.append(point("jpeg:9", 0.3, frechet=80 * np.exp(-0.36)))
    return {"schema": 1, "inputs": {}, "content_bpp": L, "features": "made_up", "points": points, **changes}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(document()))
    return path


def by_name(found):
    return {one.name: one for one in found}


class TestSeries:
    def test_they_are_those_of_the_paper_and_end_at_the_true_images(self):
        found = by_name(series_of(document(), "perception", L))
        assert list(found) == [
            "PE GenAI", "PE GenAI, scalable", "PE JPEG", "PS GenAI, gnl-low", "PS JPEG, jpeg:9",
        ]  # fmt: skip
        assert all((one.bpp[-1], one.losses[-1]) == (L, 0.0) for one in found.values())
        assert found["PE GenAI"].bpp[:3] == tuple(MODELS.values())
        assert [one.generates for one in found.values()] == [True, True, False, True, False]

    def test_perception_is_divided_by_the_first_fit_at_0_bpp(self):
        found = by_name(series_of(document(), "perception", L))["PE GenAI"]
        distances = [80 * np.exp(-1.2 * bpp) for bpp in MODELS.values()]
        scale = distances[0] / found.losses[0]
        assert found.losses[:3] == pytest.approx([one / scale for one in distances])
        assert scale == pytest.approx(80, rel=0.15) and found.curve.raw(np.zeros(1))[0] == pytest.approx(1, abs=0.02)

    def test_distortion_is_taken_as_it_is(self):
        found = by_name(series_of(document(), "distortion", L))["PE GenAI"]
        assert found.losses[0] == pytest.approx(0.05 * np.exp(-0.14))

    def test_swapped_pixels_are_counted_as_in_eq_5(self):
        found = by_name(series_of(document(), "distortion", L))["PS GenAI, gnl-low"]
        assert found.bpp == pytest.approx([0.14, *(0.14 + gamma * L for gamma in (0.1, 0.3, 0.6, 0.9)), L])
        assert found.curve.domain_bpp == pytest.approx((0.14, L))

    def test_the_size_of_a_content_can_be_given(self):
        found = by_name(series_of(document(), "distortion", 8.0))["PS GenAI, gnl-low"]
        assert found.bpp[1] == pytest.approx(0.14 + 0.8) and found.bpp[-1] == 8.0

    def test_a_swapped_pixel_takes_more_than_eq_5_counts(self):
        assert bits_of_swapped_pixels(document()) == pytest.approx({"gnl-low": 10.0, "jpeg:9": 10.0})

    def test_what_is_not_enough_is_said(self):
        few = document(points=[point("gnl-low", 0.14), point("jpeg:5", 0.2)])
        with pytest.raises(UsageError, match="curves of gnl-low, jpeg:5: the case study needs at least two of"):
            series_of(few, "perception", L)
        with pytest.raises(UsageError, match="L = 0.4 bpp is no larger than the prompts"):
            series_of(document(), "perception", 0.4)
        with pytest.raises(UsageError, match="metric 'beauty': give perception or distortion"):
            series_of(document(), "beauty", L)


class TestOptima:
    def test_the_weight_of_quality_makes_prompts_longer_and_the_gain_smaller(self, file):
        found = optimize(OptimizeOptions(file, weights=(0.0, 0.5, 2.0, 5.0)))
        for one in found["series"]:
            sizes = [best["prompt_size"] for best in one["optima"]]
            gains = [best["g_flow"] for best in one["optima"]]
            assert sizes == sorted(sizes) and gains == sorted(gains, reverse=True)
            assert sizes[0] == pytest.approx(one["curve"]["domain_bpp"][0])
            if not one["generates"]:
                assert gains == [1.0] * 4

    def test_gains_are_eq_3_of_the_size(self, file):
        found = optimize(OptimizeOptions(file))
        for one in (one for one in found["series"] if one["generates"]):
            for best in one["optima"]:
                rate = min(3.184 / best["prompt_size"], 1.0)
                assert best["rate_per_s"] == pytest.approx(rate, rel=1e-6)
                assert best["g_flow"] == pytest.approx(1 + rate * (L - best["prompt_size"]) / 3.184, rel=1e-6)

    def test_constraints_reach_the_problem(self, file):
        slow = optimize(OptimizeOptions(file, generation_rate=L / 4))["series"][0]["optima"][0]
        assert slow["rate_per_s"] == pytest.approx(0.25)
        with pytest.raises(ScenarioError, match="c_sg = 1 is below f_min = 2"):
            optimize(OptimizeOptions(file, c_sg=1.0, f_min=2.0))
        with pytest.raises(ScenarioError, match="quality_weight is nan"):
            optimize(OptimizeOptions(file, weights=(float("nan"),)))

    def test_in_bits_all_is_the_same_times_the_pixels(self, file):
        pixels = 256 * 256
        one = optimize(OptimizeOptions(file, c_sg=3.0, f_min=0.1, generation_rate=4.0, content_size=5.0))
        given = dict(c_sg=3.0 * pixels, f_min=0.1 * pixels, generation_rate=4.0 * pixels, content_size=5.0 * pixels)
        other = optimize(OptimizeOptions(file, **given, pixels=pixels))
        assert (one["unit"], other["unit"]) == ("bpp", "bits")
        assert other["problem"] == pytest.approx({key: value * pixels for key, value in one["problem"].items()})
        for ours, theirs in zip(one["series"], other["series"]):
            for best, found in zip(ours["optima"], theirs["optima"]):
                assert found["prompt_size"] == pytest.approx(best["prompt_size"] * pixels, rel=1e-6)
                assert (found["at"], found["w"]) == (best["at"], best["w"])
                for key in ("g_flow", "rate_per_s", "quality_loss"):
                    assert found[key] == pytest.approx(best[key], rel=1e-6)
        assert "(bits; flows in bit/s)" in render(other) and "L = 327680, c_sg = 196608" in render(other)

    def test_the_table_has_every_optimum_and_caution(self, file):
        found = optimize(OptimizeOptions(file))
        text = render(found)
        for one in found["series"]:
            assert f"{one['optima'][1]['g_flow']:.4f}" in text and all(c in text for c in one["curve"]["cautions"])

    def test_the_command(self, file):
        done = CliRunner().invoke(cli.main, ["optimize", str(file), "--w", "1", "--metric", "perception", "--json"])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert {one["metric"] for one in found["series"]} == {"perception"} and found["problem"]["c_sg"] == 3.184
        done = CliRunner().invoke(cli.main, ["optimize", str(file), "--c-sg", "1", "--f-min", "2"])
        assert done.exit_code == 2 and "below f_min" in done.stderr and done.stdout == ""


def test_points_without_a_distance_have_no_perception():
    alone = document()
    alone["points"][0]["frechet"] = None
    with pytest.raises(UsageError, match="gnl-low was measured on one patch"):
        series_of(alone, "perception", L)
    assert series_of(alone, "distortion", L)
