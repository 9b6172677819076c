import dataclasses

import pytest
from gnl.topologies.errors import ScenarioError
from gnl.topologies.named import NAMED
from gnl.topologies.spec import (
    ContentSpec,
    LinkSpec,
    NodeSpec,
    Scenario,
    scenario_from_dict,
    scenario_to_dict,
)
from hypothesis import given, settings
from hypothesis import strategies as st

rates = st.floats(0.1, 2000, allow_nan=False)
links = st.builds(
    LinkSpec,
    st.just("s"),
    st.just("d"),
    rates,
    bw_back_mbit=st.none() | rates,
    delay_ms=st.floats(1, 10_000),
    jitter_ms=st.floats(0, 10_000),
    loss_percent=st.floats(0, 100),
)
contents = st.builds(
    ContentSpec,
    size_px=st.none() | st.integers(1, 8192),
    bpp=st.none() | st.floats(1e-4, 48),
    format=st.sampled_from(["raw", "png", "jpeg:1", "jpeg:100"]),
    max_images=st.integers(1, 100_000),
    force_slow_codec=st.booleans(),
)


def tree():
    return scenario_to_dict(NAMED["diamond"])


@given(links, contents, st.sampled_from([4, 6]), st.floats(0, 2000), st.none() | st.floats(1e-6, 1e9))
@settings(deadline=None)
def test_plain_data_gives_the_scenario_back(link, content, ip_version, f_min_mbit, rate):
    nodes = (NodeSpec("s", "source"), NodeSpec("d", "sink"))
    scenario = Scenario("x", nodes, (link,), content, ip_version, f_min_mbit, rate)
    assert scenario_from_dict(scenario_to_dict(scenario)) == scenario


def test_diamond_is_fig_1():
    scenario = NAMED["diamond"]
    assert {node.name: node.role for node in scenario.nodes} == {
        "s": "source", "r": "router", "g": "genai", "d": "sink",
    }  # fmt: skip
    assert {link.name: link.bw_mbit for link in scenario.links} == {"s-r": 10, "r-d": 10, "s-g": 2, "g-d": 20}


def test_ten_times_the_diamond():
    for link, tenfold in zip(NAMED["diamond"].links, NAMED["diamond-x10"].links):
        assert dataclasses.replace(link, bw_mbit=link.bw_mbit * 10) == tenfold


def test_capacity_has_two_directions():
    link = LinkSpec("a", "b", 10, bw_back_mbit=0.3)
    assert link.capacity_bps("a", "b") == 10_000_000
    assert link.capacity_bps("b", "a") == 300_000
    assert LinkSpec("a", "b", 10).capacity_bps("b", "a") == 10_000_000
    with pytest.raises(ScenarioError, match="does not join a to c"):
        link.capacity_bps("a", "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(link={}), "unknown key link: accepted here are name, nodes, links"),
        (lambda t: t.pop("nodes"), "no 'nodes'"),
        (lambda t: t.pop("links"), "no 'links'"),
        (lambda t: t.update(links=[]), "links is \\[\\]: give a mapping"),
        (lambda t: t.update(content=[]), "content is \\[\\]: give a mapping"),
        (lambda t: t["links"]["s-r"].pop("bw_mbit"), "links.s-r has no capacity: give bw_mbit from 0.1 to 2000"),
        (lambda t: t["links"]["s-r"].update(bw_mbit=None), "links.s-r has no capacity"),
        (lambda t: t["links"]["s-r"].update(bw_mbit=-1), "links.s-r.bw_mbit is -1: give a number from 0.1 to 2000"),
        (lambda t: t["links"]["s-r"].update(bw_mbit=2001), "links.s-r.bw_mbit is 2001"),
        (lambda t: t["links"]["s-r"].update(bw_mbit=float("nan")), "links.s-r.bw_mbit is nan"),
        (lambda t: t["links"]["s-r"].update(bw_mbit=True), "links.s-r.bw_mbit is True"),
        (lambda t: t["links"]["s-r"].update(bw_mbit="10"), "links.s-r.bw_mbit is '10'"),
        (lambda t: t["links"]["s-r"].update(bw_back_mbit=0), "links.s-r.bw_back_mbit is 0.*or null"),
        (lambda t: t["links"]["s-r"].update(loss_percent=101), "loss_percent is 101"),
        (lambda t: t["links"]["s-r"].update(jitter_ms=1), "without a delay"),
        (lambda t: t["links"]["s-r"].update(bw=1), "unknown key links.s-r.bw: accepted here are bw_mbit"),
        (lambda t: t["links"].update({"s-x": {"bw_mbit": 1}}), "names node 'x', unknown here: nodes are s, r, g, d"),
        (lambda t: t["links"].update({"s-s": {"bw_mbit": 1}}), "joins s to itself"),
        (lambda t: t["links"].update({"r-s": {"bw_mbit": 1}}), "given twice"),
        (lambda t: t["links"].update({"sr": {"bw_mbit": 1}}), "not two node names"),
        (lambda t: t["nodes"].update({"s": {}}), "nodes.s has no role"),
        (lambda t: t["nodes"].update({"s": {"role": "host"}}), "nodes.s.role is 'host': give one of source"),
        (lambda t: t["nodes"].update({"s": {"role": ["sink"]}}), "nodes.s.role is"),
        (lambda t: t["nodes"].update({"toolongname": {"role": "sink"}}), "'toolongname' is not usable"),
        (lambda t: t["nodes"].update({"a;b": {"role": "sink"}}), "'a;b' is not usable"),
        (lambda t: t["content"].update(size_px=0), "content.size_px is 0: give a whole number from 1 to 8192, or null"),
        (lambda t: t["content"].update(size_px=256.0), "content.size_px is 256.0"),
        (lambda t: t["content"].update(format="jpeg:101"), "content.format is 'jpeg:101'"),
        (lambda t: t["content"].update(format=None), "content.format is None: give a text"),
        (lambda t: t["content"].update(codec=30), "content.codec is 30: give a text"),
        (lambda t: t["content"].update(images=""), "content.images is ''"),
        (lambda t: t["content"].update(max_images=100_001), "from 1 to 100000"),
        (lambda t: t["content"].update(force_slow_codec="yes"), "give true or false"),
        (lambda t: t["content"].update(bpp=0), "content.bpp is 0"),
        (lambda t: t["content"].update(quality=1), "unknown key content.quality"),
        (lambda t: t.update(ip_version=5), "ip_version is 5: give 4 or 6"),
        (lambda t: t.update(ip_version="4"), "ip_version is '4'"),
        (lambda t: t.update(f_min_mbit=-1), "f_min_mbit is -1"),
        (lambda t: t.update(generation_rate_images_per_s=0), "generation_rate_images_per_s is 0.*or null"),
    ],
)  # fmt: skip
def test_refusals_name_the_value_and_what_is_accepted(change, message):
    plain = tree()
    change(plain)
    with pytest.raises(ScenarioError, match=message) as caught:
        scenario_from_dict(plain)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("plain", [None, [], "diamond", 3])
def test_a_scenario_is_a_mapping(plain):
    with pytest.raises(ScenarioError, match="a scenario is a mapping"):
        scenario_from_dict(plain)


def test_a_node_given_twice_is_refused():
    with pytest.raises(ScenarioError, match="node s is given twice"):
        Scenario("x", (NodeSpec("s", "source"), NodeSpec("s", "sink")), ())


def test_only_and_link_find_one_or_say_what_there_is():
    scenario = NAMED["diamond"]
    assert scenario.only("genai").name == "g"
    assert scenario.link("d", "g") is scenario.link("g", "d")
    with pytest.raises(ScenarioError, match="no link between r and g: links are s-r, r-d, s-g, g-d"):
        scenario.link("r", "g")
    nodes = tuple(NodeSpec("g", "router") if node.role == "genai" else node for node in scenario.nodes)
    without = dataclasses.replace(scenario, nodes=nodes)
    with pytest.raises(ScenarioError, match="2 nodes of role 'router'"):
        without.only("router")
