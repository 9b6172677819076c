"""The report of a run shows what the run's files say, nothing else, and asks nothing of anybody."""

import json
import re
import subprocess
import sys

import pytest
from gnl.experiments.report import main, write_report
from gnl.experiments.report_images import load_gallery
from gnl.experiments.report_values import figure, significant
from gnl.topologies.errors import MachineError, UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_run import LINKS, at_path, make_run, page_of, read_back, result_tree, synthetic_pair

HOSTILE = "<script>alert('x')</script>\"><img src=//evil.example/x onerror=alert(1)>&amp;"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("good") / "run", repeats=3)
    return folder, page_of(folder), json.loads((folder / "result.json").read_text())


def test_page_is_self_contained(good):
    folder, page, _ = good
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "image", "use")
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            if name in attributes and not (tag == "data" and name == "data"):
                assert attributes[name].startswith("data:image/"), (tag, attributes[name][:60])
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?:|@import|url\((?!#)", page.source)
    policy = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in policy[0]
    assert sorted(path.name for path in folder.iterdir()) == ["images", "report.html", "result.json", "series.json"]


def test_every_figure_is_the_json_s(good):
    _, page, tree = good
    named = 0
    for attributes, text in page.figures:
        value = float(attributes.get("value") or attributes["data-value"])
        shown, rounding = read_back(text)
        if attributes["data-show"].startswith("mbit"):
            shown, rounding = shown * 1e6, rounding * 1e6
        assert shown == pytest.approx(value, abs=rounding), (attributes, text)
        if "data-path" in attributes:
            named += 1
            assert value == at_path(tree, attributes["data-path"])
    assert named > 100


def test_headlines_name_predicted_measured_error_and_interval(good):
    _, page, tree = good
    paths = {attributes.get("data-path") for attributes, _ in page.figures}
    for key in ("g_flow", "delivery_gain", "max_flow_bps"):
        for level_name in ("wire", "payload"):
            assert {f"{kind}/{level_name}/{key}" for kind in ("analytic", "measured", "error")} <= paths
        assert {f"measured/ci95/{key}/{end}" for end in (0, 1)} <= paths
        for index in range(len(tree["repeats"])):
            assert f"repeats/{index}/measured/wire/{key}" in paths


def test_every_link_s_flow_is_named_at_both_levels(good):
    _, page, _ = good
    paths = {attributes.get("data-path") for attributes, _ in page.figures}
    for name in LINKS:
        for level_name in ("wire", "payload"):
            assert {f"{kind}/{level_name}/flows_bps/{name}" for kind in ("analytic", "measured")} <= paths


def test_derived_figures_are_right(good):
    _, page, tree = good
    derived = [float(a.get("value") or a["data-value"]) for a, _ in page.figures if "data-path" not in a]
    for name, capacity in LINKS.items():
        measured, predicted = (tree[kind]["wire"]["flows_bps"][name] for kind in ("measured", "analytic"))
        assert any(value == pytest.approx(measured / predicted - 1, rel=1e-9) for value in derived)
        assert any(value == pytest.approx(measured / capacity / 1e6, rel=1e-9) for value in derived)


def test_valid_run_says_so(good):
    _, page, _ = good
    assert "✓ Valid run." in page.text and "Not a valid run" not in page.text
    assert any("verdict valid" == a.get("class") for _, a in page.tags)


@pytest.mark.parametrize("valid", [False, None, "true", 1])
def test_anything_but_true_is_not_valid(tmp_path, valid):
    tree = result_tree()
    tree.update(valid=valid, reasons=["link s-g was off calibration: 1.93 of 2 Mbit/s"])
    page = page_of(make_run(tmp_path / "run", tree))
    assert "✗ Not a valid run." in page.text and "Valid run." not in page.text.replace("Not a valid run.", "")
    assert "link s-g was off calibration: 1.93 of 2 Mbit/s" in page.text


def test_plan_is_told_in_words(tmp_path):
    tree = result_tree()
    tree["plan"].update(binds=["s-g", "g-d"], min_cut=["s-r", "s-g"], notes=["The source is paced on s-g."])
    text = page_of(make_run(tmp_path / "run", tree, series=False, pairs=0)).text
    assert "bound by s-g, g-d" in text and "min-cut while replicating s-r, s-g" in text
    assert tree["plan"]["sentence"] in text and "The source is paced on s-g." in text


def test_invalid_run_without_a_reason_says_that(tmp_path):
    tree = result_tree()
    tree.update(valid=False)
    assert "The result gives no reason." in page_of(make_run(tmp_path / "run", tree)).text


def test_faults_are_named_only_where_not_zero(tmp_path):
    tree = result_tree()
    clean = page_of(make_run(tmp_path / "a", tree)).text
    assert "counters of losses and faults are zero" in clean
    tree["packets"]["g"]["dropped"]["queue_full"] = 17
    tree["images"]["missing"] = 3
    page = page_of(make_run(tmp_path / "b", tree))
    assert "Not zero among the counters" in page.text and "g: dropped / queue_full 17" in page.text
    assert "counters of losses and faults are zero" not in page.text
    bad = [a for tag, a in page.tags if tag == "div" and a.get("class") == "bad"]
    assert len(bad) == 1


def test_a_bare_result_is_drawn(tmp_path):
    (tmp_path / "result.json").write_text('{"schema": 1}')
    page = page_of(tmp_path)
    assert "✗ Not a valid run." in page.text and page.figures == []
    assert "series.json cannot be read" in page.text


def all_parts(tree, path=()):
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from all_parts(value, (*path, key))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_part_may_be_missing_or_of_another_type(tmp_path_factory, data):
    tree = result_tree(repeats=2)
    for path in data.draw(
        st.lists(st.sampled_from([p for p in all_parts(tree) if p != ("schema",)]), max_size=6, unique=True)
    ):
        holder = tree
        for step in path[:-1]:
            holder = holder.get(step) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and path[-1] in holder:
            holder[path[-1]] = data.draw(
                st.sampled_from([None, [], {}, "text", -1.5, True, float("nan"), [1, {}], {"a": [2]}])
            )
    folder = make_run(tmp_path_factory.mktemp("part"), tree, series=False, pairs=0)
    for attributes, _ in page_of(folder).figures:
        if "data-path" in attributes:
            assert float(attributes.get("value") or attributes["data-value"]) == at_path(tree, attributes["data-path"])


@pytest.mark.parametrize(
    "content, says",
    [
        ("{", "is not JSON"),
        ("[]", "not a mapping"),
        ('{"t": [0, 1], "links": {"s-g": {"rx_bytes": [1]}}}', "1 samples for 2 times"),
        ('{"t": [1, 0], "links": {}}', "times run backwards"),
        ('{"t": [0], "links": {}}', "fewer than two samples"),
        ('{"t": [0, 1], "links": {}, "phases": [{"name": "x"}]}', "t0, t1"),
        (
            '{"t": [0, 1], "links": {}, "phases": [{"name": "x", "t0": 0, "t1": 1, "windows": [[0, 1]]}]}',
            "[t0, t1, verdict]",
        ),
    ],
)
def test_broken_series_is_named(tmp_path, content, says):
    folder = make_run(tmp_path / "run", series=False, pairs=0)
    (folder / "series.json").write_text(content)
    assert says in page_of(folder).text


def test_broken_pictures_are_named_and_the_others_shown(tmp_path):
    folder = make_run(tmp_path / "run", series=False, pairs=4)
    (folder / "images" / "000-sent.png").write_bytes(b"\x89PNG nonsense")
    (folder / "images" / "001-generated.png").unlink()
    Image.new("RGB", (5, 7)).save(folder / "images" / "002-generated.png")
    page = page_of(folder)
    assert "000-sent.png' is not shown" in page.text and "there is no such file" in page.text
    assert "96x96 was sent, 5x7 came" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + 1 + 2 + 3


def test_no_picture_outside_the_folder_is_opened(tmp_path):
    secret, _ = synthetic_pair(9)
    secret.save(tmp_path / "secret.png")
    folder = make_run(tmp_path / "run", series=False, pairs=2)
    (folder / "images" / "001-sent.png").unlink()
    (folder / "images" / "001-sent.png").symlink_to(tmp_path / "secret.png")
    listed = json.loads((folder / "images" / "triplets.json").read_text())
    listed[0]["sent"] = "../../secret.png"
    listed[0]["received"] = str(tmp_path / "secret.png")
    (folder / "images" / "triplets.json").write_text(json.dumps(listed))
    gallery = load_gallery(folder / "images")
    assert gallery.triplets[0].uris == {} and set(gallery.triplets[1].uris) == {"received"}
    assert "outside the run's images folder" in gallery.triplets[0].problem


@pytest.mark.parametrize("content", [None, "{", '{"schema": 2}', "[]"])
def test_no_usable_result_is_a_usage_error(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(UsageError, match=r"result\.json .*: (give|this gnl)"):
        write_report(tmp_path)
    assert main([str(tmp_path)]) == 2 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_half_written(tmp_path):
    folder = make_run(tmp_path / "run", series=False, pairs=0)
    (folder / "report.html").mkdir()
    with pytest.raises(MachineError, match="cannot be written .*--out"):
        write_report(folder)
    assert not (folder / "report.html.part").exists()


def test_hostile_names_are_only_text(tmp_path):
    tree = result_tree()
    tree["run"].update(
        id=HOSTILE, command=HOSTILE, started=HOSTILE, versions={HOSTILE: HOSTILE}, host={HOSTILE: [HOSTILE]}
    )
    tree["run"]["scenario"]["name"] = HOSTILE
    tree["run"]["scenario"]["nodes"][HOSTILE] = {"role": HOSTILE}
    link = f"{HOSTILE.replace('-', '')}-d"
    tree["run"]["scenario"]["links"][link] = {"bw_mbit": 3.0}
    tree["analytic"]["wire"]["flows_bps"][link] = 1e6
    tree["packets"][HOSTILE] = {"dropped" + HOSTILE: 4, "other": HOSTILE}
    tree["codec"]["name"] = tree["quality"][HOSTILE] = tree["plan"]["binds"] = tree["plan"]["sentence"] = HOSTILE
    tree["calibration"][0].update(link=HOSTILE, direction=HOSTILE)
    tree.update(valid=False, reasons=[HOSTILE], repeats=[{"valid": False, "reasons": [HOSTILE]}])
    folder = make_run(tmp_path / HOSTILE.replace("/", "_"), tree)
    series = json.loads((folder / "series.json").read_text())
    series["phases"][0].update(name=HOSTILE, windows=[[1, 2, "discarded: " + HOSTILE]])
    series["links"][link] = series["links"]["s-r"]
    (folder / "series.json").write_text(json.dumps(series))
    listed = json.loads((folder / "images" / "triplets.json").read_text())
    listed[0].update(name=HOSTILE, made=HOSTILE, sent=HOSTILE)
    (folder / "images" / "triplets.json").write_text(json.dumps(listed))
    page = page_of(folder)
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(a["src"].startswith("data:image/webp") for tag, a in page.tags if tag == "img")
    assert not [a for _, a in page.tags if "onerror" in a]
    assert page.text.count("alert('x')") > 15


def test_command_to_repeat_survives_a_shell(tmp_path):
    folder = make_run(tmp_path / "my run; $(x)", series=False, pairs=0)
    command = next(text for text in page_of(folder).texts if text.startswith("gnl run ") and "result.json" in text)
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True).stdout
    assert words.splitlines() == ["gnl", "run", str(folder / "result.json")]


def test_rounding_up_keeps_the_number_of_digits():
    assert [significant(value) for value in (9.999996, 9.99994, -0.1, 123456.7)] == [
        "10.000",
        "9.9999",
        "\u22120.10000",
        "123457",
    ]


@given(st.floats(-1e12, 1e12, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-12))
def test_significant_keeps_five_digits(value):
    shown, _ = read_back(significant(value))
    assert shown == pytest.approx(value, rel=0.51e-4)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), True, "3", [3]])
def test_what_is_no_number_is_a_dash(value):
    assert ">–<" in figure(value) and figure(value, svg=True) == "–"
    assert "<data" not in figure(value)


def test_importing_the_report_is_light():
    heavy = ["jinja2", "PIL", "numpy", "matplotlib", "torch"]
    code = f"import sys, gnl.experiments.report; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
