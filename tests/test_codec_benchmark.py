"""The command: what it measures, prints, writes and refuses, on small pictures and codecs that need no weights."""

import json
import math

import numpy as np
import pytest
from fake_scalable import FACTS, FakeScalable
from gnl.experiments import codec_benchmark as benchmark
from gnl.experiments.codec_benchmark import contenders_of, record_figures
from gnl.experiments.equal_rate import Spread
from gnl.experiments.frechet import FRECHET
from gnl.node_apps.codecs.registry import describe, load_codec
from PIL import Image

QUICK = ("--no-frechet", "--no-speed")


def picture(seed, side):
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(3):
        picture(seed, 80).save(images / f"{seed}.png")
    return images


@pytest.fixture
def scalable(monkeypatch):
    """A registry in which jpeg:35 is a dedicated codec, and gnl-scalable a codec of any rate."""
    monkeypatch.setattr(benchmark, "GENERATIVE_CODEC_IDS", {"jpeg:35": 16, "gnl-scalable": 4})
    monkeypatch.setattr(benchmark, "describe", lambda name: FACTS if name == FACTS.name else describe(name))
    real = benchmark.load_codec
    monkeypatch.setattr(
        benchmark, "load_codec", lambda name, *more: FakeScalable() if name == FACTS.name else real(name, *more)
    )


class Distance:
    """In place of LPIPS: the mean absolute difference."""

    def to_each(self, image, others):
        return [float(np.abs(image.astype(int) - other).mean()) / 255 for other in others]


@pytest.fixture
def lpips(monkeypatch):
    monkeypatch.setattr(benchmark, "PerceptualDistance", lambda folder, device: Distance())


@pytest.fixture
def features(monkeypatch):
    means = lambda images: np.stack([image.mean((0, 1)) for image in images])  # noqa: E731
    monkeypatch.setattr(benchmark, "EfficientNetLite2", lambda device: means)


def run(folder, *arguments, expect=0):
    status = benchmark.main(["--images", str(folder), *map(str, arguments)])
    assert status == expect


def test_both_views_are_measured_printed_and_written(folder, tmp_path, capsys, lpips, features):
    out = tmp_path / "figures.json"
    run(folder, "--lpips", "x", "--size", 48, "--limit", 2, "--codec", "jpeg:35", "--out", out)
    document = json.loads(out.read_text())
    assert [(view["view"], view["photographs"]) for view in document["views"]] == [("square48", 2), ("full", 2)]
    square = document["views"][0]
    assert square["frechet"] == {"features": FRECHET, "n": 2}
    own = square["rows"][0]
    assert own["codec"] == "jpeg:35" and own["ms_ssim"] is None and own["lpips"]["mean"] > 0
    codec = load_codec("jpeg:35")
    rates = [8 * codec.encode(np.asarray(picture(n, 80))).size_bytes / 6400 for n in (0, 1)]
    assert document["views"][1]["rows"][0]["bpp"]["mean"] == pytest.approx(np.mean(rates))
    compared = {(one["baseline"], one["metric"]) for one in square["at_equal_bpp"]}
    assert {("jpeg", "lpips"), ("webp", FRECHET), ("jpeg", "psnr_db")} <= compared
    jpeg = next(one for one in square["at_equal_bpp"] if (one["baseline"], one["metric"]) == ("jpeg", "lpips"))
    assert jpeg["ratio"] == pytest.approx(1, abs=0.1) and jpeg["verdict"] == "FAIL"
    assert {speed["threads"] for speed in document["speed"]} == {1, 2}
    shown = capsys.readouterr()
    assert "== square48: 2 photographs ==" in shown.out and "square48: measured: 2 in" in shown.err
    assert "square48: read and encoded: 2 in" in shown.err and "PSNR dB" in shown.out
    assert f"{FRECHET}" in shown.out and "the covariances are singular" in shown.out


def test_tiles_and_the_frechet_distance_alone(folder, capsys, features):
    picture(9, 600).save(folder / "large.png")
    run(folder, "--view", "tiles256", "--only-frechet", "--codec", "jpeg:35", "--no-speed")
    shown = capsys.readouterr().out
    assert "== tiles256: 4 photographs ==" in shown and "Frechet distance of n = 8 tiles" in shown
    assert "PSNR dB of both" not in shown and "Photograph by photograph" not in shown


def test_a_codec_matches_itself_photograph_by_photograph(folder, capsys, lpips):
    run(folder, "--lpips", "x", "--view", "full", "--codec", "jpeg:35", "--json", *QUICK)
    (view,) = json.loads(capsys.readouterr().out)["views"]
    jpeg = view["image_by_image"][0]
    assert (jpeg["baseline"], jpeg["more_bits"]) == ("jpeg", 0) and jpeg["ratio"] == pytest.approx(1, abs=0.02)


def test_a_single_photograph_has_no_spread_and_no_frechet_distance(folder, capsys, lpips, features):
    run(folder, "--lpips", "x", "--size", 48, "--view", "square256", "--limit", 1, "--codec", "jpeg:35", "--no-speed")
    assert "== square48: 1 photographs ==" in (shown := capsys.readouterr().out) and "nan" not in shown


def test_with_json_standard_output_has_nothing_else(folder, capsys):
    run(folder, "--view", "full", "--codec", "jpeg:35", "--json", *QUICK)
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["views"][0]["frechet"] is None and document["views"][0]["image_by_image"] == []


def test_a_scalable_codec_is_measured_at_targets_and_at_the_rates_of_dedicated_ones(folder, scalable, lpips, capsys):
    names = ("--codec", "jpeg:35", "--codec", "gnl-scalable")
    run(folder, "--lpips", "x", "--view", "full", *names, "--bpp", 2.5, "--json", *QUICK)
    (view,) = json.loads(capsys.readouterr().out)["views"]
    own = view["rows"][0]["bpp"]["mean"]
    assert [row["codec"] for row in view["rows"][:3]] == ["jpeg:35", "gnl-scalable@2.5", f"gnl-scalable@{own:.4g}"]
    (check,) = view["scalable"]
    assert (check["dedicated"], check["dedicated_bpp"]) == ("jpeg:35", pytest.approx(own))
    assert check["bpp"] <= own and check["ratio"] == pytest.approx(1, abs=0.3)


def test_rates_go_to_codecs_that_have_a_choice_only(scalable):
    found = contenders_of(["jpeg:35", "gnl-scalable"], (0.1, 0.3), {"jpeg:35": 0.2})
    assert [one.label for one in found] == ["jpeg:35", "gnl-scalable@0.1", "gnl-scalable@0.3", "gnl-scalable@0.2"]


@pytest.mark.parametrize("views, names", [((), ["grid-full.png", "grid-square48.png"]), (("full",), ["grid.png"])])
def test_the_grid_is_a_picture_a_view(folder, tmp_path, views, names):
    chosen = [word for view in views for word in ("--view", view)]
    run(folder, "--size", 48, "--codec", "jpeg:35", "--grid", tmp_path / "grid.png", *chosen, *QUICK)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    assert Image.open(tmp_path / names[0]).size[0] == 4 * (256 + 4) + 4  # original, codec, JPEG, WebP


def test_many_codecs_take_several_lines_a_photograph(folder, tmp_path):
    names = [word for quality in (10, 30, 60) for word in ("--codec", f"jpeg:{quality}")]
    run(folder, "--view", "full", "--limit", 2, "--grid", tmp_path / "grid.png", *names, *QUICK)
    assert Image.open(tmp_path / "grid.png").size == (7 * (256 + 4) + 4, 2 * 2 * (256 + 2 * 16 + 4) + 4)


@pytest.mark.parametrize(
    "more, says",
    [
        (["--size", "8"], "size is at least 32"),
        (["--limit", "0"], "at least 1"),
        (["--batch", "0"], "at least 1"),
        (["--codec", "nonsense"], "nonsense"),
        (["--codec", "jpeg:30", "--bpp", "0.3"], "none of jpeg:30 has a choice"),
        (["--bpp", "-1"], "above 0"),
        (["--codec", "jpeg:20", "--record"], "jpeg:20 has no record"),
        (["--only-frechet", "--no-frechet"], "--only-frechet goes with none"),
        (["--codec", "gnl-low", "--record", "--view", "tiles256"], "add --view square256"),
        (["--codec", "jpeg:20", "--grid", "grid.gif"], "ends in .png"),
        (["--codec", "jpeg:20", "--out", "nowhere/at/all.json"], "is no folder that you may write to"),
    ],
)
def test_what_cannot_be_meant_ends_with_status_2_before_anything_is_measured(folder, capsys, more, says):
    run(folder, *more, expect=2)
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and says in shown.err and shown.out == ""


def test_a_damaged_photograph_is_named_before_anything_is_measured(folder, capsys):
    (folder / "zz.jpg").write_bytes(b"no image")
    run(folder, "--codec", "jpeg:35", *QUICK, expect=2)
    shown = capsys.readouterr()
    assert "zz.jpg" in shown.err and shown.out == ""


def row(label, **figures):
    empty = dict.fromkeys(("bpp_without_header", "psnr_db", "mse_normalised", "ms_ssim", "lpips"))
    return {"codec": label, **empty, **{name: Spread(mean, 0.01, 0, 0)._asdict() for name, mean in figures.items()}}


def test_the_record_of_a_fixed_codec_is_its_operating_point(tmp_path):
    sidecar = tmp_path / "codec.json"
    sidecar.write_text('{"sha256": "00", "steps": 7}')
    record_figures(sidecar, [row("codec", bpp=0.15, lpips=0.2) | {FRECHET: 12.5}], 9, 256)
    document = json.loads(sidecar.read_text())
    assert document["operating_points_bpp"] == [0.15] and document["steps"] == 7
    assert document["measured"]["lpips"] == 0.2 and document["measured"]["lpips_sd"] == 0.01
    assert document["measured"][FRECHET] == 12.5 and document["measured"]["images"].startswith("9 photographs")


def test_the_record_of_a_scalable_codec_has_a_point_a_rate_and_leaves_its_operating_points(tmp_path):
    sidecar = tmp_path / "codec.json"
    sidecar.write_text('{"sha256": "00", "operating_points_bpp": [0.03, 1.0]}')
    record_figures(sidecar, [row("codec@0.1", bpp=0.099), row("codec@0.3", bpp=0.298)], 9, 256)
    document = json.loads(sidecar.read_text())
    assert document["operating_points_bpp"] == [0.03, 1.0]
    assert [point["bpp"] for point in document["measured"]["points"]] == [0.099, 0.298]


def test_numbers_that_json_has_not_become_null():
    assert benchmark._finite({"a": [math.nan, 1.5], "b": (math.inf, None)}) == {"a": [None, 1.5], "b": [None, None]}
