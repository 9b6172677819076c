import json

import numpy as np
import pytest
from gnl.experiments import codec_benchmark as benchmark
from gnl.experiments.codec_benchmark import Row, at_equal_bpp, compare, measure_codec
from gnl.experiments.quality import psnr_db
from gnl.node_apps.codecs.registry import load_codec
from PIL import Image


def row(codec, bpp, lpips):
    return Row(codec, bpp, 0.0, None, 20.0, 0.0, 0.1, lpips, 0.0)


def picture(seed, side=64):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def test_a_baseline_is_interpolated_between_its_points_only():
    curve = [row("jpeg:9", 0.4, 0.2), row("jpeg:1", 0.2, 0.6), row("jpeg:5", 0.3, 0.3)]
    assert at_equal_bpp(0.25, curve) == pytest.approx(0.45)
    assert at_equal_bpp(0.4, curve) == pytest.approx(0.2)
    assert at_equal_bpp(0.19, curve) is None and at_equal_bpp(0.41, curve) is None and at_equal_bpp(0.3, []) is None


def test_the_comparison_states_ratio_and_lowest_point():
    rows = [row("gnl-low", 0.25, 0.15), row("jpeg:1", 0.2, 0.6), row("jpeg:5", 0.3, 0.3), row("webp:1", 0.3, 0.4)]
    jpeg, webp = compare(rows, ["gnl-low"])
    assert jpeg["baseline_lpips_at_equal_bpp"] == pytest.approx(0.45) and jpeg["ratio"] == pytest.approx(1 / 3)
    assert webp["ratio"] is None and webp["baseline_lowest"] == {"codec": "webp:1", "bpp": 0.3, "lpips": 0.4}


def test_a_row_holds_the_means_of_what_was_measured():
    images = [picture(seed) for seed in range(3)]
    codec = load_codec("jpeg:20")
    found = measure_codec(codec, images, lambda a, b: float(a[0, 0, 0]))
    prompts = [codec.encode(image) for image in images]
    assert found.bpp == pytest.approx(np.mean([8 * prompt.size_bytes / 64**2 for prompt in prompts]))
    shown = [psnr_db(image, codec.decode(prompt)) for image, prompt in zip(images, prompts)]
    assert found.psnr_db == pytest.approx(np.mean(shown)) and found.psnr_db_sd == pytest.approx(np.std(shown, ddof=1))
    assert found.lpips == pytest.approx(np.mean([image[0, 0, 0] for image in images]))
    assert 0 < found.bpp_without_header < found.bpp


def test_the_jpeg_header_is_told_from_the_scan():
    data = load_codec("jpeg:20").encode(picture(1)).slices[0]
    scan = benchmark._jpeg_scan_bytes(data)
    start = data.rindex(b"\xff\xda")
    assert scan == len(data) - start - 2 - int.from_bytes(data[start + 2 : start + 4], "big")


def test_the_command_writes_its_figures(tmp_path, capsys):
    for seed in range(3):
        Image.fromarray(picture(seed, 80)).save(tmp_path / f"{seed}.png")
    out = tmp_path / "figures.json"
    arguments = ["--images", str(tmp_path), "--size", "48", "--limit", "2", "--codec", "jpeg:35", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    document = json.loads(out.read_text())
    assert document["images"] == {"count": 2, "size_px": 48}
    assert document["rows"][0]["codec"] == "jpeg:35" and document["rows"][0]["lpips"] is None
    assert {speed["threads"] for speed in document["speed"]} == {1, 2}
    assert all(speed["decode_per_s"] > 0 for speed in document["speed"])
    assert "jpeg:35" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--size", "8"], ["--limit", "0"], ["--codec", "nonsense"]])
def test_arguments_that_are_none_end_with_status_2(tmp_path, capsys, more):
    Image.fromarray(picture(0, 80)).save(tmp_path / "a.png")
    assert benchmark.main(["--images", str(tmp_path), *more]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_recorded_figures_become_the_operating_point(tmp_path):
    sidecar = tmp_path / "codec.json"
    sidecar.write_text('{"sha256": "00", "steps": 7}')
    benchmark.record_figures(sidecar, row("codec", 0.15, 0.2), 9, 256)
    document = json.loads(sidecar.read_text())
    assert document["operating_points_bpp"] == [0.15] and document["steps"] == 7
    assert document["measured"]["lpips"] == 0.2 and document["measured"]["images"].startswith("9 photographs")


def test_a_codec_without_a_record_cannot_be_recorded(tmp_path, capsys):
    Image.fromarray(picture(0, 80)).save(tmp_path / "a.png")
    arguments = ["--images", str(tmp_path), "--size", "48", "--codec", "jpeg:20", "--record", "--no-speed"]
    assert benchmark.main(arguments) == 2
    assert "jpeg:20 has no record" in capsys.readouterr().err
