"""`result.json` and its companions: complete, consistent with one another, whole or not there."""

import dataclasses
import json
import math

import numpy as np
import pytest
from gnl.experiments import result as module
from gnl.experiments.images import LoadedImage
from gnl.experiments.measure import flows_of, image_counts, measured_figures
from gnl.experiments.quality import mse, psnr_db
from gnl.experiments.repeats import Repeat, RunOptions
from gnl.experiments.result import result_of, write_images, write_result
from gnl.experiments.run import RunRecord
from gnl.experiments.summary import render
from gnl.experiments.windows import Window
from gnl.node_apps.catalogue import write_catalogue
from gnl.node_apps.codecs.content import pack
from gnl.node_apps.codecs.prompt_file import pack_file
from gnl.node_apps.codecs.registry import load_codec
from gnl.node_apps.decoder_client import GenerationRate
from gnl.topologies.errors import RunError
from gnl.topologies.files import load_scenario
from gnl.topologies.named import NAMED
from gnl.topologies.spec import scenario_to_dict
from PIL import Image
from synthetic_run import diamond_plan, every, fact, hop_flows, router_said, series_of_flows, traffic

SIDE, IMAGES = 16, 4
NAMES = ["a.png", "b & <b>.png", "c\n.png", "d\udcff.png"]


def pictures():
    rng = np.random.default_rng(7)
    return [LoadedImage(name, rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for name in NAMES]


def repeat_of(plan, start_s, number=0, reasons=()):
    """A repeat on a network that carries what was planned; `number` moves it a little."""
    flows, windows, phases = {}, {}, {}
    for phase, offset in ((plan.replicate, 0.0), (plan.generate, 25.0)):
        begin = start_s + offset
        times = every(0.04, begin + 20)
        planned = {ends: rate * (1 + 1e-3 * number) for ends, rate in hop_flows(plan, phase).items()}
        series = series_of_flows(planned, times)
        windows[phase.name] = [Window(begin + 2 + 5 * i, begin + 7 + 5 * i) for i in range(3)]
        flows[phase.name] = flows_of(plan, series, windows[phase.name], 4)
        facts = [fact(0, i) for i in range(3)] + [fact(1, i, "content", "explicit") for i in range(5)]
        phases[phase.name] = traffic(phase, begin, 15.0, facts, (3, 5), router_said(decode=5))
    measured = {
        level: measured_figures(plan, flows["replicate"][level], flows["generate"][level], 8.0)
        for level in ("wire", "payload")
    }
    losses = {"s->g": {"sent": 10, "received": 9, "shaper_drops": 0, "interface_drops": 0, "lost_on_purpose": 0}}
    return Repeat(
        phases["replicate"],
        phases["generate"],
        plan,
        windows,
        flows,
        measured,
        losses,
        image_counts(plan, phases["generate"]),
        5.0 if number == 0 else 0.0,
        list(reasons),
    )


def record_of(tmp_path, repeats=1, reasons=()):
    out = tmp_path / "out"
    received = out / "received" / "generate-0"
    received.mkdir(parents=True)
    images, codec = pictures(), load_codec("stub:100")
    scenario = dataclasses.replace(
        NAMED["diamond"], content=dataclasses.replace(NAMED["diamond"].content, codec="stub:100")
    )
    written = [(name, pack(image, "raw"), codec.encode(image)) for name, image in images]
    catalogue = write_catalogue(tmp_path / "catalogue", {}, written)
    plan = diamond_plan(8 + 3 * SIDE**2, 100, IMAGES, scenario=scenario)
    passes = [repeat_of(plan, 60.0 * i, i, reasons if i == 0 else ()) for i in range(repeats)]
    flows = hop_flows(plan, plan.generate)
    return RunRecord(
        "20260101-000000-abcdef",
        scenario,
        RunOptions(out, 15.0, repeats, 3, command="gnl run diamond"),
        "2026-01-01T00:00:00+00:00",
        catalogue,
        images,
        [("bad.jpg", "not an image that Pillow reads")],
        [{"link": "s-r", "direction": "s->r", "configured_mbit": 10.0, "measured_mbit": 10.0, "rel_error": 0.0}],
        {"device": "cpu", "threads": 1},
        GenerationRate(1.0, (50, 60, 40), (1, 1, 1), 0),
        plan,
        passes,
        series_of_flows(flows, every(0.1, 60.0 * repeats)),
        {"decoded": 12},
    )


@pytest.fixture
def record(tmp_path):
    return record_of(tmp_path)


SCHEMA = {
    "schema": None,
    "calibration": None,
    "quality": None,
    "valid": None,
    "reasons": None,
    "run": {"id", "scenario", "seed", "repeat", "duration_s", "versions", "host"},
    "codec": {
        "name",
        "device",
        "weights_sha256",
        "bpp_mean",
        "prompt_bytes_mean",
        "content_bytes_mean",
        "generation_rate_bps",
        "pixel_swapping",
    },
    "analytic": {"wire", "payload"},
    "measured": {"wire", "payload", "ci95"},
    "error": {"wire", "payload"},
    "images": {"sent", "delivered", "generated", "plain", "partial", "failed", "missing"},
    "packets": None,
}


def test_the_document_is_that_of_the_contract_and_strict_json(record):
    document = write_result(record)
    text = (record.options.out / "result.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) == json.loads(
        json.dumps(document)
    )
    for key, inner in SCHEMA.items():
        assert key in document and (inner is None or inner <= set(document[key])), key
    for side in ("analytic", "measured"):
        for level in ("wire", "payload"):
            assert set(document[side][level]) == {
                "max_flow_bps",
                "flows_bps",
                "y_g_bps",
                "g_flow",
                "delivery_gain",
                "contents_per_s",
            }
            assert list(document[side][level]["flows_bps"]) == ["s-r", "r-d", "s-g", "g-d"]
    assert document["valid"] is True and document["reasons"] == [] and document["measured"]["ci95"] is None
    assert document["error"]["wire"]["g_flow"] == pytest.approx(0, abs=0.005)


def test_the_result_says_how_to_repeat_the_run(record):
    write_result(record)
    assert load_scenario(str(record.options.out / "result.json")) == record.scenario
    document = json.loads((record.options.out / "result.json").read_text())
    assert document["run"]["scenario"] == json.loads(json.dumps(scenario_to_dict(record.scenario)))
    assert (document["run"]["seed"], document["run"]["duration_s"]) == (3, 15.0)


def test_repeats_are_averaged_with_an_interval_and_counted_together(tmp_path):
    document = write_result(record_of(tmp_path, repeats=3))
    figures = [repeat["measured"]["wire"]["max_flow_bps"] for repeat in document["repeats"]]
    assert len(set(figures)) == 3
    assert document["measured"]["wire"]["max_flow_bps"] == pytest.approx(sum(figures) / 3)
    low, high = document["measured"]["ci95"]["max_flow_bps"]
    assert low < sum(figures) / 3 < high
    assert set(document["measured"]["ci95"]["payload"]) >= {"g_flow", "max_flow_bps"}
    assert document["images"]["sent"] == 3 * 8 and document["packets"]["links"]["s->g"]["sent"] == 30
    # Two phases of three repeats, each of five contents decoded.
    assert (
        document["packets"]["genai_router"]["decode"] == 30
        and document["packets"]["genai_router"]["sent_contents"] == 6
    )


def test_one_repeat_that_does_not_count_makes_the_run_invalid(tmp_path):
    document = write_result(record_of(tmp_path, repeats=2, reasons=["the shaper dropped 3 packets"]))
    assert document["valid"] is False and document["reasons"] == ["the shaper dropped 3 packets"]
    assert [repeat["valid"] for repeat in document["repeats"]] == [False, True]


def test_generation_rate_is_the_mean_of_those_that_the_plans_used(record):
    repeats = [
        dataclasses.replace(record.repeats[0], plan=diamond_plan(8 + 3 * SIDE**2, 100, IMAGES, rate=rate))
        for rate in (39.2, 40.0)
    ]
    document = result_of(dataclasses.replace(record, repeats=repeats), {})
    assert document["codec"]["generation_rate_images_per_s"] == pytest.approx(39.6)
    assert [repeat["generation_rate_images_per_s"] for repeat in document["repeats"]] == [39.2, 40.0]
    assert document["codec"]["generation_rate_bps"] == pytest.approx(39.6 * 8 * (8 + 3 * SIDE**2))
    assert document["codec"]["generation_rate_measured"]["images_per_s_min"] == 40
    assert document["codec"]["bpp_mean"] == pytest.approx(8 * 100 / SIDE**2)


def test_pairs_of_what_was_sent_and_what_arrived(record):
    received = record.options.out / "received" / "generate-0"
    noise = np.clip(record.images[0].image.astype(int) + 3, 0, 255).astype(np.uint8)
    Image.fromarray(noise).save(received / "1-000000.png")
    Image.fromarray(record.images[2].image).save(received / "1-000002.png")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(received / "1-000003.png")
    Image.fromarray(noise).save(received / "0-000001.png")  # by r: no business of g's
    quality = write_images(record)
    rows = json.loads((record.options.out / "images" / "triplets.json").read_text())
    assert [(row["name"], row["made"]) for row in rows] == [(NAMES[0], "explicit"), (NAMES[2], "explicit")]
    assert rows[0]["psnr_db"] == pytest.approx(psnr_db(record.images[0].image, noise)) and rows[1]["psnr_db"] is None
    assert quality["images"] == 2 and quality["psnr_db"] == pytest.approx(rows[0]["psnr_db"])
    assert quality["mse"] == pytest.approx(mse(record.images[0].image, noise) / 2)
    for row, image in zip(rows, (record.images[0].image, record.images[2].image)):
        with Image.open(record.options.out / "images" / row["sent"]) as sent:
            assert np.array_equal(np.asarray(sent), image)


def test_plain_images_that_came_by_g_are_not_called_generated(record):
    facts = [fact(1, 0, "plain", "none")]
    generate = dataclasses.replace(record.repeats[0].generate, facts=facts)
    plain = dataclasses.replace(record, repeats=[dataclasses.replace(record.repeats[0], generate=generate)])
    Image.fromarray(record.images[0].image).save(record.options.out / "received" / "generate-0" / "1-000000.png")
    write_images(plain)
    assert [row["made"] for row in json.loads((record.options.out / "images" / "triplets.json").read_text())] == [
        "none"
    ]


def test_prompts_that_came_undecoded_are_decoded_at_d_with_one_codec(record, monkeypatch):
    def arrived(index):
        return record.options.out / "received" / "generate-0" / f"1-{index:06d}.gnl"

    loaded = []
    monkeypatch.setattr(module, "load_codec", lambda *arguments: loaded.append(1) or load_codec(*arguments))
    for index in range(3):
        arrived(index).write_bytes(pack_file(record.catalogue.prompt(index)))
    spoilt = dataclasses.replace(record.catalogue.prompt(3), slices=(b"x",))
    arrived(3).write_bytes(pack_file(spoilt))
    write_images(record)
    rows = json.loads((record.options.out / "images" / "triplets.json").read_text())
    assert [row["made"] for row in rows] == ["at d"] * 3 and len(loaded) == 1


def test_nothing_that_arrived_is_a_quality_of_nothing(record):
    assert write_images(record) == {"images": 0, "psnr_db": None, "mse": None, "mse_normalised": None}


def test_the_series_has_one_length_and_the_phases_lie_in_it(tmp_path):
    record = record_of(tmp_path, repeats=2)
    write_result(record)
    series = json.loads((record.options.out / "series.json").read_text())
    length = len(series["t"])
    assert series["t"][0] == 0 and len(series["stolen_cpu"]) == length
    assert set(series["links"]) == {"s-r", "r-d", "s-g", "g-d"}
    assert all(len(values) == length for link in series["links"].values() for values in link.values())
    names = [(phase["name"], phase["repeat"]) for phase in series["phases"]]
    assert names.count(("generate", 0)) == names.count(("generate", 1)) == names.count(("replicate", 1)) == 1
    assert all(phase["t0"] <= phase["t1"] <= series["t"][-1] + 1 for phase in series["phases"])
    assert all(begin < end and why == "ok" for phase in series["phases"] for begin, end, why, *_ in phase["windows"])


@pytest.mark.parametrize("failing", ["series.json", "result.json", "triplets.json"])
def test_a_full_disk_leaves_no_result_and_is_one_clear_line(record, monkeypatch, failing):
    real = module._write_json

    def write(path, document):
        if path.name == failing:
            raise OSError(28, "No space left on device")
        real(path, document)

    monkeypatch.setattr(module, "_write_json", write)
    with pytest.raises(RunError, match="No space left on device.*free space") as caught:
        write_result(record)
    assert "\n" not in str(caught.value) and not (record.options.out / "result.json").exists()


def test_a_document_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("{}")
    with pytest.raises(ValueError):
        module._write_json(path, {"g_flow": math.nan})
    assert path.read_text() == "{}" and list(tmp_path.iterdir()) == [path]


def test_the_text_for_the_terminal_can_be_made_of_what_was_written(tmp_path):
    record = record_of(tmp_path, repeats=2, reasons=["the shaper dropped 3 packets"])
    text = render(json.loads(json.dumps(write_result(record))), str(record.options.out))
    assert "NOT VALID" in text and "the shaper dropped 3 packets" in text and "bad.jpg" in text
