import json

import pytest
import yaml
from gnl.topologies.errors import ScenarioError
from gnl.topologies.files import load_scenario, parse_yaml
from gnl.topologies.named import NAMED
from gnl.topologies.spec import scenario_to_dict
from hypothesis import given, settings
from hypothesis import strategies as st

MINE = """
name: mine
nodes: {a: {role: source}, b: {role: router}, no: {role: genai}, z: {role: sink}}
links:
  a-b: {bw_mbit: 5}
  b-z: {bw_mbit: 5, bw_back_mbit: 0.5}
  a-no: {bw_mbit: 1e0}
  no-z: {bw_mbit: 1.5e1, loss_percent: 2}
content: {codec: 'jpeg:30', size_px: null}
ip_version: 6
"""


def test_built_in_name():
    assert load_scenario("diamond") == NAMED["diamond"]


def test_yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    scenario = load_scenario(str(path))
    assert [node.name for node in scenario.nodes] == ["a", "b", "no", "z"]
    assert scenario.link("a", "no").bw_mbit == 1
    assert scenario.link("no", "z").bw_mbit == 15
    assert scenario.link("z", "b").capacity_bps("z", "b") == 500_000
    assert (scenario.content.size_px, scenario.content.codec, scenario.ip_version) == (None, "jpeg:30", 6)


@pytest.mark.parametrize("as_folder", [True, False])
def test_result_of_an_earlier_run_repeats_its_scenario(tmp_path, as_folder):
    scenario = load_scenario("diamond", ["links.s-g.bw_mbit=3"])
    result = {"schema": 1, "run": {"id": "x", "scenario": scenario_to_dict(scenario)}, "valid": True}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert load_scenario(str(tmp_path if as_folder else path)) == scenario
    assert load_scenario(str(path), ["links.s-g.bw_mbit=4"]).link("s", "g").bw_mbit == 4


def test_scenario_as_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(scenario_to_dict(NAMED["diamond"])))
    assert load_scenario(str(path)) == NAMED["diamond"]


@given(
    st.sampled_from(["s-r", "r-d", "s-g", "g-d"]),
    st.floats(0.1, 2000),
    st.sampled_from(["raw", "png", "jpeg:1", "jpeg:95"]),
)
@settings(deadline=None)
def test_overrides_change_what_they_name_and_nothing_else(link, bw_mbit, fmt):
    expected = scenario_to_dict(NAMED["diamond"])
    expected["links"][link]["bw_mbit"] = bw_mbit
    expected["content"]["format"] = fmt
    changed = load_scenario("diamond", [f"links.{link}.bw_mbit={bw_mbit!r}", f"content.format={fmt}"])
    assert scenario_to_dict(changed) == expected
    assert load_scenario("diamond") == NAMED["diamond"]


@pytest.mark.parametrize(
    ("sets", "read"),
    [
        (["content.codec=jpeg:30"], lambda s: s.content.codec == "jpeg:30"),
        (["content.codec=compressai:bmshj2018-hyperprior:1:/a=b.pth"], lambda s: s.content.codec.endswith("/a=b.pth")),
        (["content.size_px=null"], lambda s: s.content.size_px is None),
        (["links.s-g.bw_mbit=1", "links.s-g.bw_mbit=3"], lambda s: s.link("s", "g").bw_mbit == 3),
        (["links.s-g.bw_mbit = 3"], lambda s: s.link("s", "g").bw_mbit == 3),
        (["links.s-g.bw_back_mbit=1e2"], lambda s: s.link("s", "g").capacity_bps("g", "s") == 100_000_000),
        (["nodes.r.role=genai"], lambda s: s.nodes[1].role == "genai"),
        (["generation_rate_images_per_s=7.5"], lambda s: s.generation_rate_images_per_s == 7.5),
        (["links.s-g={bw_mbit: 4}"], lambda s: s.link("s", "g").bw_mbit == 4),
        (["name=mine"], lambda s: s.name == "mine"),
    ],
)
def test_overrides(sets, read):
    assert read(load_scenario("diamond", sets))


def test_an_override_can_supply_what_the_file_lacks(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE.replace("{bw_mbit: 1e0}", "{}").replace("content: {codec: 'jpeg:30', size_px: null}", ""))
    with pytest.raises(ScenarioError, match="links.a-no has no capacity"):
        load_scenario(str(path))
    scenario = load_scenario(str(path), ["links.a-no.bw_mbit=2", "content.codec=webp:5"])
    assert (scenario.link("a", "no").bw_mbit, scenario.content.codec) == (2, "webp:5")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("links.s-g.bw_mbit", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("links..bw_mbit=3", "is not KEY=VALUE"),
        ("links.g-s.bw_mbit=3", "links.g-s is unknown: the link is called s-g here"),
        ("links.s-d.bw_mbit=3", "links.s-d is unknown: known here are s-r, r-d, s-g, g-d"),
        ("links.s-d={bw_mbit: 3}", "links.s-d is unknown"),
        ("nodes.x.role=sink", "nodes.x is unknown: known here are s, r, g, d"),
        ("links.s-g.bw=3", "unknown key links.s-g.bw: accepted here are bw_mbit"),
        ("contents.codec=x", "contents is unknown"),
        ("speed=3", "unknown key speed"),
        ("links.s-g.bw_mbit.x=3", "links.s-g.bw_mbit has no keys of its own"),
        ("links.s-g.bw_mbit={", "is no YAML"),
        ("links.s-g.bw_mbit=", "links.s-g has no capacity"),
        ("links.s-g.bw_mbit=ten", "links.s-g.bw_mbit is 'ten'"),
        ("links=3", "links is 3: give a mapping"),
    ],
)
def test_bad_overrides(assignment, message):
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario("diamond", [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no scenario"),
        (b"[1, 2]", "holds no scenario"),
        (b"name: [", "does not parse at line 1"),
        (b"name: a\nname: b", "line 2, column 1: key 'name' is given twice"),
        (b"links: {s-g: {bw_mbit: 1}, s-g: {bw_mbit: 2}}", "key 's-g' is given twice"),
        (b"? [a]\n: b", "a key is not plain text"),
        (b"a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        (b"&a {b: *a}", "recursive"),
        (b"[" * 100_000, "does not parse"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"a: \x00", "does not parse"),
        (b"a: 1\n--- \nb: 2", "does not parse"),
        (b"{}", "has no 'name'"),
        (b'{"schema": 1, "run": {}}', "has no run.scenario"),
        (b'{"schema": 1, "run": 3}', "has no run.scenario"),
    ],
)
def test_bad_files(tmp_path, data, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario(str(path))
    assert "\n" not in str(caught.value) and "bad.yaml" in str(caught.value)


def test_json_that_does_not_parse(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"schema": 1,\n "run"')
    with pytest.raises(ScenarioError, match="does not parse at line 2"):
        load_scenario(str(path))


def test_unknown_names_list_the_built_in_ones(tmp_path):
    with pytest.raises(ScenarioError, match=r"'diamnd' \(did you mean diamond\?\).*diamond, diamond-x10"):
        load_scenario("diamnd")
    with pytest.raises(ScenarioError, match="holds no result.json"):
        load_scenario(str(tmp_path))


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
@settings(deadline=None)
def test_any_text_is_plain_data_or_a_yaml_error(text):
    try:
        plain = parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        return
    json.dumps(plain, default=str)


@given(st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none())
@settings(deadline=None)
def test_numbers_read_as_json_writes_them(value):
    assert parse_yaml(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["no", "yes", "on", "off", "1:30", "2026-01-01", "jpeg:30", "1_000", "0x10", "s-g"])
def test_what_looks_odd_to_yaml_stays_text(text):
    assert parse_yaml(text) == text


def test_leading_zeros_are_decimal():
    assert parse_yaml("010") == 10
