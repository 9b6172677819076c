import dataclasses
import random

import pytest
from gnl.controller.plan import diamond_of, plan_run
from gnl.controller.sizes import LEVELS, Sizes, sizes_of_catalogue, sizes_of_means
from gnl.node_apps.protocol.header import KIND_CONTENT, KIND_PROMPT, Header
from gnl.node_apps.protocol.packetise import packetise
from gnl.topologies.errors import ScenarioError
from gnl.topologies.files import load_scenario
from gnl.topologies.named import NAMED
from hypothesis import given, settings
from hypothesis import strategies as st

RAW_256 = 8 + 3 * 256 * 256
rates = st.integers(1, 20_000).map(lambda tenths: tenths / 10)
bodies = st.lists(st.integers(1, 60_000), min_size=1, max_size=6)


def close(value, rel=1e-9):
    return pytest.approx(value, rel=rel)


def diamond(*sets):
    return load_scenario("diamond", list(sets))


def capacities(c_sr, c_rd, c_sg, c_gd, *more):
    values = {"s-r": c_sr, "r-d": c_rd, "s-g": c_sg, "g-d": c_gd}
    return diamond(*(f"links.{link}.bw_mbit={value}" for link, value in values.items()), *more)


def on_the_wire(size_bytes, kind=KIND_CONTENT, overhead_bytes=42):
    """Layer-2 bytes of a body, counted on the datagrams that the source really cuts."""
    datagrams = packetise(bytes(size_bytes), Header(kind))
    return len(datagrams) + -(-len(datagrams) // 1440) * overhead_bytes


@given(rates, rates, rates, rates, bodies, st.data(), st.none() | st.floats(0.1, 1e4))
@settings(deadline=None)
def test_plan_against_the_closed_forms(c_sr, c_rd, c_sg, c_gd, contents, data, rate):
    prompts = data.draw(st.lists(st.integers(1, 60_000), min_size=len(contents), max_size=len(contents)))
    sizes = Sizes(tuple(contents), tuple(contents), tuple((size,) for size in prompts), True, "given")
    plan = plan_run(capacities(c_sr, c_rd, c_sg, c_gd), sizes, rate)

    c_sr, c_rd, c_sg, c_gd = (round(c * 1e6) for c in (c_sr, c_rd, c_sg, c_gd))
    length = 8 * sum(map(on_the_wire, contents)) / len(contents)
    prompt_length = 8 * sum(on_the_wire(size, KIND_PROMPT) for size in prompts) / len(prompts)
    by_r, by_g = min(c_sr, c_rd), min(c_sg, c_gd)
    lam = min(c_sg / prompt_length, c_gd / length, float("inf") if rate is None else rate)

    wire = plan.analytic("wire")
    assert wire["max_flow_bps"] == close(by_r + by_g)
    assert plan.max_flow.value_bps == by_r + by_g
    by_hand = {"s-r": by_r, "r-d": by_r, "s-g": lam * prompt_length, "g-d": lam * length}
    assert wire["flows_bps"] == {link: close(flow) for link, flow in by_hand.items()}
    assert wire["y_g_bps"] == pytest.approx(lam * (length - prompt_length), rel=1e-9, abs=1e-3)
    assert wire["g_flow"] == close(1 + lam * (length - prompt_length) / (by_r + by_g))
    assert wire["delivery_gain"] == close((by_r + lam * length) / (by_r + by_g))
    assert wire["contents_per_s"] == close(by_r / length + lam)

    payload = plan.analytic("payload")
    mean, prompt_mean = 8 * sum(contents) / len(contents), 8 * sum(prompts) / len(prompts)
    assert payload["max_flow_bps"] == close((by_r + by_g) / length * mean)
    assert payload["y_g_bps"] == pytest.approx(lam * (mean - prompt_mean), rel=1e-9, abs=1e-3)
    assert payload["delivery_gain"] == close((by_r / length + lam) / ((by_r + by_g) / length))
    for hop in plan.diamond.hops:
        for phase in (plan.replicate, plan.generate):
            assert phase.flows_bps["wire"][hop.link] <= hop.capacity_bps * (1 + 1e-9)
            assert phase.flows_bps["payload"][hop.link] < phase.flows_bps["wire"][hop.link]
    for stream, hop in zip(plan.generate.streams, (plan.diamond.by_router[0], plan.diamond.by_genai[0])):
        assert stream.rate_bps == close(wire["flows_bps"][hop.link])
        assert stream.paced == (stream.rate_bps < hop.capacity_bps * (1 - 1e-9))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12), st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_plan_against_brute_force(c_sg, c_gd, prompt_packets, content_packets):
    """Try every rate that whole microseconds between prompts allow: none that fits both links beats lambda*."""
    sizes = sizes_of_means(content_packets * 1408, prompt_packets * 1408, True, "given")
    plan = plan_run(capacities(10, 10, c_sg, c_gd), sizes)
    best = 0.0
    for gap_us in range(1, 200_000, 7):
        prompts_bps = prompt_packets * (1408 + 74) * 8 * 1e6 / gap_us
        contents_bps = content_packets * (1408 + 74) * 8 * 1e6 / gap_us
        if prompts_bps <= c_sg * 1e6 and contents_bps <= c_gd * 1e6:
            best = max(best, 1e6 / gap_us)
    assert best <= plan.rate.lambda_per_s * (1 + 1e-12)
    slowest_gap_us = 1e6 / plan.rate.lambda_per_s
    assert best >= 1e6 / (slowest_gap_us + 8)


def test_fig_1_when_g_d_binds():
    plan = plan_run(diamond(), sizes_of_means(RAW_256, 1229, True, "given"))
    assert (plan.min_cut, plan.binds) == (("s-r", "s-g"), ("g-d",))
    plain, prompts = plan.generate.streams
    assert (plain.kind, plain.path, plain.paced) == ("plain", ("s", "r", "d"), False)
    assert (prompts.kind, prompts.path, prompts.paced) == ("prompt", ("s", "g", "d"), True)
    assert plan.analytic("wire")["flows_bps"]["g-d"] == close(20e6)
    assert plan.analytic("wire")["delivery_gain"] == close(2.5)
    assert "2.5 times" in plan.difference("wire")
    assert [stream.paced for stream in plan.replicate.streams] == [False, False]


def test_fig_1_when_s_g_binds_both_gains_agree():
    plan = plan_run(diamond(), sizes_of_means(RAW_256, 40_000, True, "given"))
    assert plan.binds == ("s-g",) and not plan.generate.streams[1].paced
    assert plan.difference("wire") is None
    assert plan.analytic("wire")["g_flow"] == close(plan.analytic("wire")["delivery_gain"])
    assert "on the wire they agree" in plan.difference("payload")


def test_r_g_binds_and_the_scenario_may_fix_it():
    sizes = sizes_of_means(RAW_256, 1229, True, "given")
    for plan in (plan_run(diamond(), sizes, 5), plan_run(diamond("generation_rate_images_per_s=5"), sizes)):
        assert (plan.binds, plan.rate.lambda_per_s, plan.generation_rate_images_per_s) == (("R_g",), 5, 5)
    assert plan_run(diamond("generation_rate_images_per_s=5"), sizes, 7).rate.lambda_per_s == 7


def test_prompts_below_one_packet_pay_whole_headers():
    plan = plan_run(capacities(10, 10, 0.1, 2000), sizes_of_means(RAW_256, 10, True, "given"))
    assert plan.means["wire"].prompt_bits == (10 + 32 + 42) * 8
    assert plan.rate.lambda_per_s == close(100_000 / 672)


def test_ip_version_6_costs_20_bytes_a_packet():
    sizes = sizes_of_means(1408, 100, True, "given")
    four, six = (plan_run(diamond(f"ip_version={version}"), sizes) for version in (4, 6))
    for kind in ("plain_bits", "content_bits", "prompt_bits"):
        assert getattr(six.means["wire"], kind) - getattr(four.means["wire"], kind) == 160
        assert getattr(six.means["payload"], kind) == getattr(four.means["payload"], kind)


def test_each_slice_is_packetised_alone():
    sizes = Sizes((1000,), (1000,), ((1408, 1, 0),), True, "given")
    assert sizes.prompt_packets() == [3]
    assert sizes.means("wire").prompt_bits == (1409 + 3 * 74) * 8
    assert sizes.means("payload").prompt_bits == 1409 * 8


def test_generated_contents_may_be_smaller_than_plain_ones():
    images = [
        {"content_bytes": 20_000, "generated_bytes": 10_000, "prompt_slices": [500]},
        {"content_bytes": 30_000, "prompt_slices": [500]},
    ]
    sizes = sizes_of_catalogue(images, True, "given")
    plan = plan_run(diamond(), sizes, 1)
    assert plan.analytic("payload")["flows_bps"]["g-d"] == close((10_000 + 30_000) / 2 * 8)
    assert plan.replicate.streams[0].contents_per_s == close(10e6 / (sum(map(on_the_wire, (20_000, 30_000))) / 2 * 8))


def test_a_codec_that_does_not_generate_only_replicates():
    plan = plan_run(diamond(), sizes_of_means(RAW_256, 5502, False, "given"))
    wire = plan.analytic("wire")
    assert not plan.generates and plan.rate is None and plan.binds == ()
    assert wire["flows_bps"] == {"s-r": 10e6, "r-d": 10e6, "s-g": close(2e6), "g-d": close(2e6)}
    assert (wire["y_g_bps"], wire["g_flow"], wire["delivery_gain"]) == (0, 1, close(1))
    assert wire["contents_per_s"] == close(10e6 / 8 / on_the_wire(RAW_256) + 2e6 / 8 / on_the_wire(5502))
    assert plan.analytic("payload")["g_flow"] == 1


def test_below_f_min_everything_is_replicated():
    plan = plan_run(diamond("f_min_mbit=1.5"), sizes_of_means(RAW_256, 1229, True, "given"))
    assert not plan.generates and plan.binds == ()
    assert plan.generate.streams == plan.replicate.streams and plan.generate.flows_bps == plan.replicate.flows_bps
    assert (plan.analytic("wire")["g_flow"], plan.analytic("wire")["delivery_gain"]) == (1, 1)
    assert any("f_min" in note and "bound by g-d" in note for note in plan.notes)


def test_prompts_larger_than_contents_are_said_to_be():
    plan = plan_run(diamond(), sizes_of_means(1000, 5000, True, "given"))
    assert plan.analytic("wire")["y_g_bps"] < 0 and plan.analytic("wire")["g_flow"] < 1
    assert any("L_p = 5296 is above L = 1074 bytes, outside the paper's (1, L]" in note for note in plan.notes)


def test_a_path_narrow_at_its_end_is_paced():
    plan = plan_run(capacities(10, 4, 20, 2), sizes_of_means(RAW_256, 1229, True, "given"))
    assert [stream.paced for stream in plan.replicate.streams] == [True, True]
    assert [stream.rate_bps for stream in plan.replicate.streams] == [close(4e6), close(2e6)]
    assert plan.min_cut == ("r-d", "g-d")
    assert plan.analytic("wire")["delivery_gain"] == close(1) and plan.analytic("wire")["g_flow"] > 1.3


def test_names_and_directions_come_from_the_scenario(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nnodes: {z: {role: sink}, gen: {role: genai}, rel: {role: router}, a: {role: source}}\n"
        "links: {z-rel: {bw_mbit: 1, bw_back_mbit: 10}, a-gen: {bw_mbit: 2}, gen-z: {bw_mbit: 20},\n"
        "  rel-a: {bw_mbit: 3, bw_back_mbit: 10}}\n"
    )
    plan = plan_run(load_scenario(str(path)), sizes_of_means(RAW_256, 1229, True, "given"))
    prompts_bps = close(20e6 * on_the_wire(1229) / on_the_wire(RAW_256))
    flows = plan.analytic("wire")["flows_bps"]
    assert flows == {"rel-a": 10e6, "z-rel": 10e6, "a-gen": prompts_bps, "gen-z": close(20e6)}
    assert (plan.binds, plan.min_cut) == (("gen-z",), ("rel-a", "a-gen"))
    assert plan.generate.streams[1].path == ("a", "gen", "z")


def test_loss_against_single_packets_thrown_away_at_random():
    """A Monte Carlo of 40,000 images: packets die one by one, and an image with a dead packet is not whole."""
    sizes = Sizes((3000, 9000), (4000, 7000), ((500, 2000), (3000,)), True, "given")
    loss = {"s-r": 1, "r-d": 2, "s-g": 5, "g-d": 3}
    scenario = capacities(10, 10, 0.5, 20, *(f"links.{link}.loss_percent={p}" for link, p in loss.items()))
    plan = plan_run(scenario, sizes)
    rng = random.Random(7)
    alive = lambda link, packets: sum(rng.random() >= loss[link] / 100 for _ in range(packets))  # noqa: E731
    trials, made_bits, whole, plain_whole = 40_000, 0, 0, 0
    for trial in range(trials):
        index = trial % 2
        packets = sum(-(-size // 1408) for size in sizes.prompt_slices[index])
        if alive("s-g", packets) == packets:
            made_bits += 8 * on_the_wire(sizes.content_bytes[index])
            count = -(-sizes.content_bytes[index] // 1408)
            whole += alive("g-d", count) == count
        count = -(-sizes.plain_bytes[index] // 1408)
        plain_whole += alive("r-d", alive("s-r", count)) == count
    lam, plain_per_s = plan.rate.lambda_per_s, plan.generate.streams[0].contents_per_s
    flows = plan.generate.flows_bps["wire"]
    assert flows["g-d"] == close(lam * made_bits / trials, 0.01)
    assert flows["r-d"] == close(10e6 * 0.99)
    assert plan.generate.contents_per_s == close((lam * whole + plain_per_s * plain_whole) / trials, 0.015)
    assert plan.analytic("wire")["max_flow_bps"] == close(9.9e6 + 0.5e6 * 0.95)
    assert any("lost on s-r, r-d, s-g, g-d" in note and "min-cut of 10.5 Mbit/s" in note for note in plan.notes)


def test_a_link_that_loses_everything_is_refused():
    with pytest.raises(ScenarioError, match="loses every packet"):
        plan_run(diamond("links.s-r.loss_percent=100"), sizes_of_means(1000, 100, True, "given"))


def test_every_prompt_lost_is_a_flow_of_nothing():
    sizes = sizes_of_means(200_000, 60_000, True, "given")
    plan = plan_run(diamond("links.s-g.loss_percent=99.999"), sizes)
    assert plan.analytic("wire")["flows_bps"]["g-d"] == pytest.approx(0, abs=1e-30)
    assert plan.analytic("wire")["flows_bps"]["s-g"] == close(2e6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes.r.role": "genai"}, "0 nodes of role 'router': exactly one"),
        ({"nodes.d.role": "router"}, "2 nodes of role 'router'"),
        ({"nodes.g.role": "router"}, "2 nodes of role 'router'"),
    ],
)
def test_other_roles_are_refused(change, message):
    with pytest.raises(ScenarioError, match=message):
        diamond_of(diamond(*(f"{key}={value}" for key, value in change.items())))


def test_other_links_are_refused():
    scenario = NAMED["diamond"]
    more = (*scenario.links, dataclasses.replace(scenario.links[0], a="r", b="g"))
    with pytest.raises(ScenarioError, match="has a link r-g, which the diamond has not"):
        diamond_of(dataclasses.replace(scenario, links=more))
    with pytest.raises(ScenarioError, match="no link between g and d"):
        diamond_of(dataclasses.replace(scenario, links=scenario.links[:3]))


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_generation_rates_that_are_none_are_refused(rate):
    with pytest.raises(ScenarioError, match="give images per second"):
        plan_run(diamond(), sizes_of_means(1000, 100, True, "given"), rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (), (), True, "x"), "sizes of"),
        (((1,), (1, 2), ((1,),), True, "x"), "sizes of"),
        (((0,), (1,), ((1,),), True, "x"), "content bytes is 0"),
        (((1,), (1.5,), ((1,),), True, "x"), "content bytes is 1.5"),
        (((1,), (1,), ((),), True, "x"), "without a slice"),
        (((1,), (1,), ((-1,),), True, "x"), "prompt slice bytes is -1"),
    ],
)
def test_sizes_that_are_none_are_refused(arguments, message):
    with pytest.raises(ScenarioError, match=message):
        Sizes(*arguments)


def test_a_catalogue_without_sizes_is_refused():
    with pytest.raises(ScenarioError, match="without content_bytes or prompt_slices"):
        sizes_of_catalogue([{"content_bytes": 3}], True, "catalogue x")


def test_levels_are_named():
    sizes = sizes_of_means(1, 1, True, "x")
    assert [sizes.means(level).plain_bits for level in LEVELS] == [600, 8]
    with pytest.raises(ValueError, match="level 'ip'"):
        sizes.means("ip")
