"""Drawings of a report: rates carry every byte once, axes start at zero, and any small network fits its frame."""

import json
import re

import pytest
from gnl.experiments.report_series import read_series
from gnl.experiments.report_topology import draw_topology, label_size
from gnl.experiments.report_values import Document, link_flows
from gnl.experiments.report_windows import draw_window_errors, window_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from report_run import LINKS, make_run, page_of, result_tree


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("good") / "run", repeats=3)
    return folder, page_of(folder), json.loads((folder / "result.json").read_text())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.4), st.integers(0, 10**7)), min_size=3, max_size=60), st.floats(1e5, 1e9))
def test_bins_carry_every_byte_once(tmp_path_factory, steps, capacity):
    times, counter = [0.0], [0]
    for length, count in steps:
        times.append(times[-1] + length)
        counter.append(counter[-1] + count)
    path = tmp_path_factory.mktemp("series") / "series.json"
    path.write_text(json.dumps({"t": times, "links": {"a-b": {"rx_bytes": counter}}}))
    series = read_series(path)
    width, points = series.binned_bps("a-b", capacity)
    covered = len(points) * width
    assert covered <= times[-1] + 1e-6 and times[-1] - covered < width
    carried = sum(rate * width / 8 for _, rate in points)
    expected = series.bytes_at("a-b", min(covered, times[-1]))
    assert carried == pytest.approx(expected, rel=1e-6, abs=1e-3)


def test_a_gap_of_the_sampler_is_a_gap_of_the_line(tmp_path):
    times = [i * 0.05 for i in range(40)] + [8 + i * 0.05 for i in range(40)]
    series = {"t": times, "links": {"a-b": {"rx_bytes": [int(t * 1e5) for t in times]}}}
    (tmp_path / "series.json").write_text(json.dumps(series))
    _, points = read_series(tmp_path / "series.json").binned_bps("a-b", 1e6)
    assert all(rate is None for moment, rate in points if 2.5 < moment < 7.5)
    assert all(rate == pytest.approx(8e5, rel=1e-3) for moment, rate in points if moment < 1.5)


def test_timeline_draws_windows_phases_and_predictions(good):
    folder, page, _ = good
    series = json.loads((folder / "series.json").read_text())
    windows = [window for phase in series["phases"] for window in phase["windows"]]
    discarded = [window for window in windows if window[2] != "ok"]
    panels = len(LINKS) + 1
    classes = [attributes.get("class", "") for tag, attributes in page.tags if tag == "rect" and "x" in attributes]
    assert classes.count("window") == panels * (len(windows) - len(discarded))
    assert classes.count("window discarded") == panels * len(discarded) > 0
    repeats = sum(phase["name"] == "generate" for phase in series["phases"])
    lines = [a for tag, a in page.tags if tag == "line" and a.get("class") == "predicted"]
    assert len(lines) == len(LINKS) * 2 * repeats
    assert "14% of the CPU was stolen" in page.text


def test_each_window_s_error_is_drawn_where_it_is(tmp_path):
    """Bytes at a known rate: 0.08% over, 0.04% under, and one discarded window far outside the axis."""
    series = {"t": [0, 5, 10, 15], "links": {"s-r": {"rx_bytes": [0, 6_255_000, 12_502_500, 15_000_000]}}}
    verdicts = [[0, 5, "ok"], [5, 10, "ok"], [10, 15, "discarded: stalled"]]
    series["phases"] = [{"name": "generate", "repeat": 0, "t0": 0, "t1": 15, "windows": verdicts}]
    (tmp_path / "series.json").write_text(json.dumps(series))
    read = read_series(tmp_path / "series.json")
    ((label, found),) = window_errors(read, link_flows(Document(result_tree())))
    assert label == "generate, s-r"
    assert [error for _, _, error in found] == pytest.approx([8e-4, -4e-4, -0.6004])
    svg = str(draw_window_errors([(label, found)]))
    zero, left, right = (
        float(re.search(rf'x="([\d.]+)"[^>]*>{re.escape(text)}<', svg)[1])
        for text in ("as predicted", "−0.1%", "+0.1%")
    )
    used = [float(x) + 4 for x in re.findall(r'class="mark" d="M([\d.]+),', svg)]
    assert [(x - zero) / (right - zero) for x in used] == pytest.approx([0.8, -0.4], abs=1e-3)
    assert [float(x) for x in re.findall(r'class="mark discarded" d="M([\d.]+),', svg)] == [left]


def test_timeline_axis_starts_at_zero(good):
    _, page, _ = good
    labels = re.findall(r'class="tick"[^>]*y="([\d.]+)">(\d+)%<', page.source)
    heights = {share: float(y) for y, share in labels[-5:-2]}  # the last link's panel
    assert heights["0"] - heights["50"] == pytest.approx(heights["50"] - heights["100"], abs=0.11)


def without_planned_replication():
    tree = result_tree()
    del tree["plan"]["replicate_flows_bps"]
    return tree


def replicated(tree):
    return {link.name: link.replicated_bps for link in link_flows(Document(tree))}


def test_replicate_prediction_is_the_plan_s():
    tree = result_tree()
    tree["plan"]["replicate_flows_bps"]["wire"] = {"s-g": 1.5e6, "g-d": None}
    assert replicated(tree) == {"s-r": None, "r-d": None, "s-g": 1.5e6, "g-d": None}


def test_replicate_prediction_without_a_plan_is_the_least_capacity_of_each_path():
    tree = without_planned_replication()
    assert replicated(tree) == {"s-r": 10e6, "r-d": 10e6, "s-g": 2e6, "g-d": 2e6}
    tree["run"]["scenario"]["links"]["s-r"]["loss_percent"] = 10.0
    assert list(replicated(tree).values()) == pytest.approx([10e6, 9e6, 2e6, 2e6])
    tree["run"]["scenario"]["links"]["r-g"] = {"bw_mbit": 5.0}
    assert set(replicated(tree).values()) == {None}


def test_a_link_named_against_the_flow_is_drawn_along_it():
    tree = result_tree()
    links = tree["run"]["scenario"]["links"]
    links["r-s"] = {**links.pop("s-r"), "bw_mbit": 3.0, "bw_back_mbit": 10.0}
    link = next(link for link in link_flows(Document(tree)) if link.name == "r-s")
    assert (link.a, link.b, link.capacity_bps, link.capacity_back_bps) == ("s", "r", 10e6, 3e6)


def test_diamond_is_drawn_as_in_the_paper():
    tree = Document(result_tree())
    svg = str(draw_topology(tree, link_flows(tree)))
    spots = {
        name: (float(x), float(y)) for x, y, name in re.findall(r'node-name" x="([\d.]+)" y="([\d.]+)"[^>]*>(\w)<', svg)
    }
    assert spots["s"][0] < spots["r"][0] == spots["g"][0] < spots["d"][0]
    assert spots["r"][1] < spots["s"][1] == spots["d"][1] < spots["g"][1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_network_is_drawn_inside_its_frame(data):
    count = data.draw(st.integers(2, 8))
    names = [f"n{i}" for i in range(count)]
    roles = [data.draw(st.sampled_from(["source", "router", "genai", "sink"])) for _ in names]
    pairs = data.draw(
        st.lists(st.sampled_from([(a, b) for a in names for b in names if a < b]), unique=True, max_size=12)
    )
    links = {f"{a}-{b}": {"bw_mbit": 1.0} for a, b in pairs}
    scenario = {"nodes": {name: {"role": role} for name, role in zip(names, roles)}, "links": links}
    document = Document({"run": {"scenario": scenario}})
    svg = str(draw_topology(document, link_flows(document)))
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    boxes = [tuple(map(float, m)) for m in re.findall(r'<rect x="(-?[\d.]+)" y="(-?[\d.]+)"', svg)]
    assert len(boxes) == len(links)
    label_w, label_h = label_size(link_flows(document))
    assert all(0 <= x <= width - label_w and 0 <= y <= height - label_h for x, y in boxes)
    spots = re.findall(r'node-name" x="([\d.]+)" y="([\d.]+)"', svg)
    assert len(set(spots)) == count
    assert all(0 < float(x) < width and 0 < float(y) < height for x, y in spots)


def test_two_samples_at_one_time_are_no_fault(tmp_path):
    series = {"t": [0, 1, 1, 2, 2], "links": {"a-b": {"rx_bytes": [0, 100, 150, 300, 400]}}}
    (tmp_path / "series.json").write_text(json.dumps(series))
    read = read_series(tmp_path / "series.json")
    assert [read.bytes_at("a-b", moment) for moment in (0, 0.5, 1, 1.5, 2)] == [0, 50, 150, 225, 400]
