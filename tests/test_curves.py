"""Points of curves: each is what its codec does to the patches, a stop loses no more than a pass, inputs never mix."""

import json
import subprocess
import sys

import numpy as np
import pytest
from gnl.experiments import curve_points, curves
from gnl.experiments.curve_points import Group, Quality, measure_group, statistics_of
from gnl.experiments.curves import CurvesOptions, groups_of, measure_curves, read_curves, render
from gnl.experiments.frechet import FeatureStatistics, frechet_distance
from gnl.experiments.patches import cut
from gnl.experiments.quality import mse_normalised, psnr_db
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError, UsageError
from PIL import Image

D = 6


def means_of(images):
    """Means of the quarters of two colours: enough to tell pictures apart."""
    places = [(a, b, c) for a in (0, 32) for b in (0, 32) for c in (0, 1)][:D]
    return np.array([[image[a : a + 32, b : b + 32, c].mean() for a, b, c in places] for image in images])


class Means:
    """In place of a network."""

    name, size = "means", D

    def __call__(self, images):
        return means_of(images)


features = Means()


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, size in enumerate(((200, 140), (64, 64), (150, 70), (40, 90))):
        small = np.random.default_rng(number).integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(images / f"{number}.png")
    return images


@pytest.fixture(autouse=True)
def small_features(monkeypatch):
    monkeypatch.setattr(curves, "EfficientNetLite2", lambda device: features)


def patches_of(folder, most=100):
    return cut(sorted(folder.iterdir()), 64, 48, most)


class TestPatches:
    def test_squares_lie_every_stride_and_are_the_photographs_pixels(self, folder):
        found = patches_of(folder)
        expected = [(0, top, left) for top in (0, 48) for left in (0, 48, 96)] + [(1, 0, 0), (2, 0, 0), (2, 0, 48)]
        assert list(found.places) == expected and len(found) == 9
        first = np.asarray(Image.open(folder / "0.png"))
        for (_, top, left), patch in zip(expected[:6], found):
            assert np.array_equal(patch, first[top : top + 64, left : left + 64])
        assert found.left_out == (("3.png", "40x90, a side is under 64"),) and found.name(4) == "0.png at 48,48"

    def test_fewer_are_spread_evenly(self, folder):
        assert patches_of(folder, 3).places == tuple(patches_of(folder).places[number] for number in (0, 3, 6))

    def test_the_size_as_stored_is_that_of_the_files(self, folder):
        pixels = {"0.png": 200 * 140, "1.png": 64 * 64, "2.png": 150 * 70}
        stored = [8 * (folder / name).stat().st_size / count for name, count in pixels.items()]
        assert patches_of(folder).stored_bpp == pytest.approx(np.mean(stored))

    def test_nothing_to_cut_is_an_error(self, folder):
        with pytest.raises(UsageError, match="none of 4 photographs has a square of 512"):
            cut(sorted(folder.iterdir()), 512, 128, 10)


class TestPoints:
    def test_a_point_is_the_mean_of_what_the_codec_does(self, folder):
        patches, codec = patches_of(folder), load_codec("jpeg:30")
        originals = statistics_of(patches, features)
        (point,) = measure_group(Group("jpeg:30"), patches, originals, features, Quality())
        prompts = [codec.encode(patch) for patch in patches]
        shown = [codec.decode(prompt) for prompt in prompts]
        rates = [8 * prompt.size_bytes / 64**2 for prompt in prompts]
        assert point["patches"] == 9 and point["gamma"] == 0 and point["skipped"] == []
        assert point["bpp"]["mean"] == pytest.approx(np.mean(rates)) == pytest.approx(point["bpp_raw"]["mean"])
        assert point["bpp"]["sd"] == pytest.approx(np.std(rates, ddof=1), rel=1e-5)
        for name, measure in (("mse_normalised", mse_normalised), ("psnr_db", psnr_db)):
            values = [measure(*pair) for pair in zip(patches, shown)]
            assert point[name]["mean"] == pytest.approx(np.mean(values)) and point[name]["n"] == 9
        expected = frechet_distance(features(list(patches)), features(shown))
        assert point["frechet"] == pytest.approx(expected, rel=1e-6, abs=1e-6) and point["ms_ssim"] is None

    def test_swapped_pixels_are_those_of_the_codec_around(self, folder):
        patches = patches_of(folder, 3)
        originals = statistics_of(patches, features)
        points = measure_group(Group("jpeg:20", None, (0.0, 0.25, 1.0)), patches, originals, features, Quality())
        swapping = load_codec("ps:0.25:jpeg:20")
        prompts = [swapping.encode(patch) for patch in patches]
        shown = [swapping.decode(prompt) for prompt in prompts]
        assert points[1]["bpp"]["mean"] == pytest.approx(np.mean([8 * one.size_bytes / 4096 for one in prompts]))
        losses = [mse_normalised(*pair) for pair in zip(patches, shown)]
        assert points[1]["mse_normalised"]["mean"] == pytest.approx(np.mean(losses))
        plain, quarter, all_of_it = (point["bpp_raw"]["mean"] for point in points)
        plain += 8 / 64**2  # one byte says where the pixels begin
        assert quarter - plain == pytest.approx(6) and all_of_it - plain == pytest.approx(24)  # Eq. 5, L = 24 BPP
        assert points[2]["mse_normalised"]["mean"] == 0 and points[2]["frechet"] == pytest.approx(0, abs=1e-6)
        assert points[2]["psnr_db"] is None and [point["gamma"] for point in points] == [0, 0.25, 1]

    def test_a_patch_that_the_codec_refuses_is_named_and_compared_with_nothing(self, folder, monkeypatch):
        patches, codec = patches_of(folder), load_codec("jpeg:30")
        wanted, encode = list(patches), codec.encode

        def picky(image, bpp=None):
            if np.array_equal(image, wanted[2]):
                raise CodecError("too odd")
            return encode(image, bpp)

        codec.encode = picky
        monkeypatch.setattr(curve_points, "load_codec", lambda *_: codec)
        originals = statistics_of(patches, features)
        (point,) = measure_group(Group("jpeg:30"), patches, originals, features, Quality())
        assert point["skipped"] == [{"patch": "0.png at 96,0", "reason": "too odd"}] and point["patches"] == 8
        left = [image for number, image in enumerate(wanted) if number != 2]
        shown = [codec.decode(encode(image)) for image in left]
        assert point["frechet"] == pytest.approx(frechet_distance(features(left), features(shown)), rel=1e-6)

    def test_a_codec_that_refuses_all_is_an_error(self, folder, monkeypatch):
        codec = load_codec("jpeg:30")
        codec.encode = lambda *_: (_ for _ in ()).throw(CodecError("no"))
        monkeypatch.setattr(curve_points, "load_codec", lambda *_: codec)
        with pytest.raises(CodecError, match="jpeg:30 codes none of 9 patches .first: no"):
            measure_group(Group("jpeg:30"), patches_of(folder), FeatureStatistics(D), features, Quality())


def options(folder, tmp_path, **changes):
    given = dict(
        images=[folder], out=tmp_path / "out", size_px=64, stride_px=48, codecs=("jpeg:30", "webp:50"), gammas=(0.5,),
        command="gnl curves",
    )  # fmt: skip
    return CurvesOptions(**{**given, **changes})


class TestCommand:
    def test_the_file_names_every_input_and_has_every_point(self, folder, tmp_path, capsys):
        document = measure_curves(options(folder, tmp_path))
        assert document == read_curves(tmp_path / "out" / "curves.json")
        assert [(one["codec"], one["gamma"]) for one in document["points"]] == [
            ("jpeg:30", 0), ("jpeg:30", 0.5), ("webp:50", 0), ("webp:50", 0.5),
        ]  # fmt: skip
        inputs = document["inputs"]
        assert (inputs["photographs"], inputs["patches"], inputs["size_px"], inputs["stride_px"]) == (3, 9, 64, 48)
        assert document["features"] == "means" and document["command"] == "gnl curves"
        assert len(document["pixels_sha256"]) == 64
        table = render(document)
        assert f"{document['points'][1]['bpp']['mean']:.4f}" in table and "n = 9" in table
        assert "1 of 4 photographs left out" in (said := capsys.readouterr().err) and "2 of 2: webp:50" in said

    def test_it_goes_on_where_it_stopped(self, folder, tmp_path, monkeypatch):
        whole = measure_curves(options(folder, tmp_path))
        measured = []
        real = curves.measure_group

        def once(group, *rest):
            if measured:
                raise KeyboardInterrupt
            measured.append(group.codec)
            return real(group, *rest)

        monkeypatch.setattr(curves, "measure_group", once)
        with pytest.raises(KeyboardInterrupt):
            measure_curves(options(folder, tmp_path, out=tmp_path / "again"))
        assert len(read_curves(tmp_path / "again" / "curves.json")["points"]) == 2
        measured.clear()
        again = measure_curves(options(folder, tmp_path, out=tmp_path / "again"))
        assert measured == ["webp:50"] and again["points"] == whole["points"]

    def test_more_fractions_of_pixels_come_beside_those_that_are_there(self, folder, tmp_path, monkeypatch):
        whole = measure_curves(options(folder, tmp_path, gammas=(0.2, 0.5)))
        asked, real = [], curves.measure_group
        monkeypatch.setattr(curves, "measure_group", lambda group, *rest: asked.append(group) or real(group, *rest))
        measure_curves(options(folder, tmp_path, out=tmp_path / "again"))
        again = measure_curves(options(folder, tmp_path, out=tmp_path / "again", gammas=(0.2,)))
        assert [group.gammas for group in asked] == [(0, 0.5), (0, 0.5), (0.2,), (0.2,)]
        assert again["points"] == whole["points"]

    def test_points_of_other_weights_are_measured_anew(self, folder, tmp_path):
        document = measure_curves(options(folder, tmp_path, codecs=("jpeg:30",)))
        path = tmp_path / "out" / "curves.json"
        path.write_text(path.read_text().replace('"weights_sha256": null', '"weights_sha256": "of old"'))
        assert measure_curves(options(folder, tmp_path, codecs=("jpeg:30",), gammas=()))["points"] == [
            document["points"][0]
        ]

    def test_too_few_patches_are_said(self, folder, tmp_path, capsys):
        measure_curves(options(folder, tmp_path, patches=4, codecs=("jpeg:30",)))
        assert f"only 4 patches for {D} features" in capsys.readouterr().err

    @pytest.mark.parametrize("change", [{"size_px": 48}, {"patches": 5}, {"stride_px": 32}])
    def test_other_inputs_do_not_get_into_the_file(self, folder, tmp_path, change):
        measure_curves(options(folder, tmp_path, codecs=("jpeg:30",)))
        before = (tmp_path / "out" / "curves.json").read_bytes()
        with pytest.raises(UsageError, match="measured with another .*give another --out"):
            measure_curves(options(folder, tmp_path, codecs=("jpeg:30",), **change))
        assert (tmp_path / "out" / "curves.json").read_bytes() == before

    @pytest.mark.parametrize(
        "text, says",
        [
            ("", "not of gnl curves"),
            ("[]", "not of gnl curves"),
            ('{"schema": 99}', "version 99, this gnl reads 1: gnl curves makes one anew"),
            ('{"schema": 1, "points": []}', "no inputs, content_bpp, features in it"),
        ],
    )
    def test_files_that_are_no_curves_are_refused(self, tmp_path, text, says):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(UsageError, match=says):
            read_curves(tmp_path / "c.json")
        with pytest.raises(UsageError, match="No such file"):
            read_curves(tmp_path / "absent.json")


def test_the_case_study_has_prompt_extension_pixel_swapping_and_jpeg():
    found = groups_of((), (0.1, 0.3), (0.5,))
    labels = [group.label for group in found]
    assert labels[:5] == ["gnl-low", "gnl-medium", "gnl-high", "gnl-scalable@0.1", "gnl-scalable@0.3"]
    assert all(group.gammas == (0, 0.5) for group in found[:3]) and all(group.gammas == (0,) for group in found[3:5])
    swapped = [group for group in found if group.codec.startswith("jpeg") and len(group.gammas) > 1]
    assert len(swapped) == 3 and len({group.label for group in found}) == len(found)


def test_figures_are_json(folder, tmp_path):
    document = measure_curves(options(folder, tmp_path, gammas=(1.0,), codecs=("jpeg:30",)))
    json.loads(json.dumps(document), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_single_patch_has_no_distance_and_is_told(folder, tmp_path, capsys):
    for name in ("0.png", "2.png", "3.png"):
        (folder / name).unlink()
    document = measure_curves(options(folder, tmp_path, gammas=(), codecs=("jpeg:30",)))
    assert document["points"][0]["frechet"] is None and "jpeg:30" in render(document)
    said = capsys.readouterr().err
    assert "of one patch unknown" in said and "1 photographs: reading their sizes" in said.splitlines()[0]


def test_workers_find_what_one_finds(folder, tmp_path):
    codecs, documents = ("jpeg:10", "jpeg:30", "webp:0"), []
    command = [sys.executable, "-m", "gnl.experiments.cli", "curves", "--images", str(folder), "--size", "64", "--json"]
    command += ["--stride", "48", "--patches", "4", "--gamma", "0.3", *(f"--codec={name}" for name in codecs)]
    for workers in ("1", "3"):
        asked = [*command, "--workers", workers, "--out", str(tmp_path / workers)]
        documents.append(json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)["points"])
    expected = [(codec, gamma) for codec in codecs for gamma in (0.0, 0.3)]
    assert [(point["codec"], point["gamma"]) for point in documents[1]] == expected
    for one, other in zip(*documents):
        assert one["bpp"] == other["bpp"] and one["mse_normalised"] == other["mse_normalised"]
        assert one["frechet"] == pytest.approx(other["frechet"], rel=1e-4)


def test_distances_are_shown_beside_the_baselines_at_the_same_rate():
    def point(codec, bpp, distance, gamma=0.0):
        return {"codec": codec, "asked_bpp": None, "gamma": gamma, "bpp": {"mean": bpp}, "frechet": distance}

    points = [point("jpeg:5", 0.1, 80.0), point("jpeg:9", 0.4, 40.0), point("webp:0", 0.3, 50.0)]
    points += [point("gnl-low", 0.2, 30.0), point("gnl-low", 0.9, 20.0, 0.1), point("gnl-high", 0.5, None)]
    document = {"points": points, "inputs": {"patches": 7}, "features": "means", "content_bpp": 4.0}
    rows = {tuple(line.split()[:2]): line.split() for line in render(document).splitlines()}
    assert rows["gnl-low", "0"][-3:] == ["30.00", "0.500", "<0.600"]  # halfway in log bpp: 60; WebP's least is larger
    assert rows["gnl-low", "0.1"][-1] == "20.00" and rows["jpeg:9", "0"][-1] == "40.00"
    assert rows["gnl-high", "0"] == ["gnl-high", "0", "0.5000"]
