"""`gnl codecs`: every codec with its facts, what was measured now, and why others cannot be used."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from gnl.experiments import cli, codec_list
from gnl.experiments.codec_list import list_codecs, measure_codec, render
from gnl.experiments.images import load_images
from gnl.node_apps.codecs import registry
from gnl.node_apps.codecs.pixel_swapping import NAMES
from gnl.node_apps.codecs.registry import GENERATIVE_CODEC_IDS, WEIGHTS_DIR, codec_names, describe, load_codec
from gnl.topologies.errors import CodecError


@pytest.fixture
def light_only(monkeypatch):
    """Only codecs that need no tensor library are measured, and each for a moment."""
    monkeypatch.setattr(registry, "GENERATIVE_CODEC_IDS", {})
    monkeypatch.setattr(codec_list, "LEAST_S", 0.01)


def by_name(entries):
    return {entry["name"]: entry for entry in entries}


def test_without_measuring_every_name_has_its_facts_and_no_codec_is_loaded(monkeypatch):
    monkeypatch.setattr(codec_list, "load_codec", lambda *_: pytest.fail("loaded"))
    entries = list_codecs(measure=False)
    assert [entry["name"] for entry in entries] == codec_names()
    for name, codec_id in GENERATIVE_CODEC_IDS.items():
        entry = by_name(entries)[name]
        if not (WEIGHTS_DIR / f"{name}.json").exists():
            assert f"{name}.json" in entry["unusable"]
            continue
        facts = describe(name)
        assert entry["codec_id"] == codec_id and entry["weights_sha256"] == facts.weights_sha256
        assert entry["weights_bytes"] == (WEIGHTS_DIR / f"{name}.safetensors").stat().st_size
        assert entry["operating_points_bpp"] == list(facts.operating_points_bpp) and entry["generative"]
    assert by_name(entries)["jpeg:<quality>"]["codec_id"] == 16
    assert not any("measured" in entry for entry in entries)


def test_what_is_measured_is_what_the_codec_does():
    photos = [image.image for image in load_images("sample", 256, 3)[0]]
    found = measure_codec("jpeg:30", photos)
    codec = load_codec("jpeg:30")
    expected = np.mean([8 * codec.encode(photo).size_bytes / 65536 for photo in photos])
    assert found["bpp"] == pytest.approx(expected)
    assert found["encode_per_s"] > 0 and found["decode_per_s"] > 0 and 0 <= found["others_cpu_share"] <= 1
    assert (found["images"], found["size_px"], found["device"], found["name"]) == (3, 256, "cpu", "jpeg:30")


def test_the_speed_is_that_of_the_median_call(monkeypatch):
    now = iter(np.cumsum([0, 0.1, 0, 0.1, 0, 5.0, 0, 0.1, 0, 0.1]))
    monkeypatch.setattr(codec_list.time, "perf_counter", lambda: next(now))
    results, median_s = codec_list._timed(lambda item: item * 10, [1, 2, 3, 4, 5], 5)
    assert results == [10, 20, 30, 40, 50] and median_s == pytest.approx(0.1)


def test_slow_codecs_are_not_decoded_more_often_than_needed(monkeypatch):
    calls = []
    monkeypatch.setattr(codec_list, "LEAST_S", 0.0)
    codec_list._timed(calls.append, [1, 2, 3], 1)
    assert calls == [1]


def test_families_are_measured_by_an_example(light_only):
    entries = list_codecs()
    found = by_name(entries)["webp:<quality>"]
    assert found["measured"]["name"] == "webp:30" and found["measured"]["images"] == codec_list.IMAGES
    assert "measured" not in by_name(entries)["stub:<bytes>"]
    table = render(entries)
    row = next(line for line in table.splitlines() if line.startswith("webp"))
    assert f"{found['measured']['bpp']:.3f}" in row and f"{found['measured']['decode_per_s']:.1f}" in row
    assert "4 of the sample photographs at 256x256" in table


def test_pixel_swapping_is_measured_around_a_codec(monkeypatch):
    monkeypatch.setattr(codec_list, "codec_names", lambda: ["gnl-low", *NAMES])
    monkeypatch.setattr(codec_list, "LEAST_S", 0.01)
    plain, swapped, raw = (entry["measured"]["bpp"] for entry in list_codecs())
    assert raw == pytest.approx(plain + 0.1 * 24, rel=0.05) and plain < swapped < raw


@pytest.mark.parametrize("share, said", [(0.05, False), (0.4, True)])
def test_a_busy_machine_is_said(light_only, monkeypatch, share, said):
    monkeypatch.setattr(codec_list.OtherLoad, "share", lambda self: share)
    assert ("up to 40% of the CPU" in render(list_codecs())) == said


def test_a_codec_without_its_weights_says_why(monkeypatch, tmp_path, light_only):
    monkeypatch.setattr(registry, "GENERATIVE_CODEC_IDS", {"gnl-none": 7})
    entries = list_codecs()
    assert "gnl-none.json" in by_name(entries)["gnl-none"]["unusable"]
    assert "gnl-none is not usable: " in render(entries) and "webp:<quality>" in render(entries)


def test_a_codec_that_does_not_load_keeps_its_facts(monkeypatch):
    def fails(*_):
        raise CodecError("the weights are not those of the record")

    monkeypatch.setattr(codec_list, "load_codec", fails)
    entry = by_name(list_codecs())["gnl-low"]
    assert entry["codec_id"] == 1 and entry["unusable"].startswith("the weights")


def test_the_command(light_only):
    for arguments, measured in ((["codecs", "--json"], True), (["codecs", "--json", "--no-measure"], False)):
        done = CliRunner().invoke(cli.main, arguments, prog_name="gnl")
        assert done.exit_code == 0, done.output
        assert ("measured" in by_name(json.loads(done.stdout))["jpeg:<quality>"]) == measured
    done = CliRunner().invoke(cli.main, ["codecs", "--no-measure"], prog_name="gnl")
    assert done.stdout.startswith("codec") and "measured" not in done.stdout
