"""Every way in which a measurement becomes untrustworthy is said, and a clean one is left alone."""

import dataclasses
from types import SimpleNamespace

import pytest
from gnl.experiments.measure import image_counts
from gnl.experiments.repeats import Repeat
from gnl.experiments.validity import DECODER_REASONS, OWN_FAULTS, reasons_against
from gnl.experiments.windows import Window
from gnl.topologies.named import NAMED
from synthetic_run import cpu_stat, diamond_plan, every, fact, hop_flows, router_said, series_of_flows, traffic

CRC = 1234
LOSSY = dataclasses.replace(
    NAMED["diamond"],
    links=(*NAMED["diamond"].links[:3], dataclasses.replace(NAMED["diamond"].links[3], loss_percent=1)),
)


class Images(list):
    """A catalogue of four images, as far as validity looks at it."""

    entries = [SimpleNamespace(content_crc=CRC)] * 4


CATALOGUE = Images([None] * 4)


def facts_of(plain=6, made=10):
    return [fact(0, i, crc=CRC) for i in range(plain)] + [fact(1, i, "content", "explicit") for i in range(made)]


def repeat_of(
    scenario=NAMED["diamond"], replicate=None, generate=None, losses=None, windows=None, reached=1.0, filled=1.0
):
    plan = diamond_plan(scenario=scenario)
    first = traffic(plan.replicate, 0.0, facts=[fact(0, i, crc=CRC) for i in range(3)], contents=(3, 0))
    second = traffic(plan.generate, 20.0, facts=facts_of(), contents=(6, 10), router=router_said())
    first, second = dataclasses.replace(first, **(replicate or {})), dataclasses.replace(second, **(generate or {}))
    counts = {"sent": 1, "received": 1, "shaper_drops": 0, "interface_drops": 0, "lost_on_purpose": 0}
    flows = {name: rate * (reached if name == "g-d" else 1) for name, rate in plan.generate.flows_bps["wire"].items()}
    return Repeat(
        first,
        second,
        plan,
        windows
        or {
            "replicate": [Window(2, 7), Window(7, 12), Window(12, 17)],
            "generate": [Window(22, 27), Window(27, 32), Window(32, 37)],
        },
        {},
        {
            "wire": {
                "flows_bps": {**flows, "s-r": filled * flows["s-r"]},
                "max_flow_bps": filled * plan.gains["wire"].max_flow_bps,
            }
        },
        {"g->d": {**counts, **(losses or {})}},
        image_counts(plan, second),
        0.0,
    )


def reasons(repeat, scenario=NAMED["diamond"], stat=lambda t_s: cpu_stat(t_s + 50, 0.4)):
    series = series_of_flows(hop_flows(repeat.plan, repeat.plan.generate), every(0.2, 40), stat=stat)
    return reasons_against(repeat, scenario, CATALOGUE, series)


def only(found, *words):
    """The one reason given, which says all these words."""
    assert len(found) == 1, found
    assert all(word in found[0] for word in words), found
    assert "\n" not in found[0]


def source_with(phase, **changes):
    said = traffic(phase, contents=(6, 10)).source
    return {**said, "flows": [{**flow, **changes} for flow in said["flows"]]}


def test_a_clean_run_counts():
    assert reasons(repeat_of()) == [] == reasons(repeat_of(LOSSY), LOSSY)


def test_a_figure_that_differs_from_the_analysis_is_a_finding_and_no_reason():
    repeat = repeat_of(reached=1.015)
    assert reasons(repeat) == []


@pytest.mark.parametrize("phase", ["replicate", "generate"])
def test_too_few_quiet_windows(phase):
    windows = repeat_of().windows
    windows[phase] = [
        dataclasses.replace(windows[phase][0], discarded="the machine stood still for 300 ms"),
        *windows[phase][1:],
    ]
    only(reasons(repeat_of(windows=windows)), phase, "only 2 of 3", "stood still for 300 ms")


def test_a_window_to_spare_may_be_lost():
    windows = repeat_of().windows
    windows["replicate"] = [Window(0, 2, "the machine stood still for 300 ms"), *windows["replicate"]]
    assert reasons(repeat_of(windows=windows)) == []


def test_a_single_window_that_was_discarded_is_no_measurement():
    windows = {**repeat_of().windows, "generate": [Window(22, 27, "40% of the CPU was stolen")]}
    only(reasons(repeat_of(windows=windows)), "generate", "40% of the CPU was stolen")


def test_a_saturated_machine():
    found = reasons(repeat_of(), stat=lambda t_s: cpu_stat(t_s + 50, 0.995))
    assert len(found) == 2 and all("busy" in reason for reason in found)


@pytest.mark.parametrize("program", ["source", "router", "sink"])
def test_a_program_that_used_a_whole_core(program):
    said = getattr(repeat_of().generate, program)
    only(reasons(repeat_of(generate={program: {**said, "cpu_s": 16.9}})), f"the {program} program used a whole core")


def test_a_source_behind_its_schedule():
    plan = diamond_plan()
    found = reasons(repeat_of(generate={"source": source_with(plan.generate, lost_s=0.25)}))
    assert len(found) == 2 and "0.25 s behind its schedule on flow 0" in found[0]


@pytest.mark.parametrize("scenario", [NAMED["diamond"], LOSSY], ids=["lossless", "lossy"])
class TestLossesThatAreNobodysPlan:
    """On links that are to lose packets these would hide among the losses that were asked for."""

    @pytest.mark.parametrize("cause", ["shaper_drops", "interface_drops"])
    def test_drops_on_the_way(self, scenario, cause):
        only(reasons(repeat_of(scenario, losses={cause: 7}), scenario), "g->d", "dropped 7 packets")

    @pytest.mark.parametrize("program", ["router", "sink"])
    def test_full_receive_buffers(self, scenario, program):
        said = getattr(repeat_of(scenario).generate, program)
        said = {**said, "counters": {**said["counters"], "receive_buffer_drops": 3}}
        only(
            reasons(repeat_of(scenario, generate={program: said}), scenario),
            f"the {program}'s receive buffer dropped 3",
        )

    @pytest.mark.parametrize("name", OWN_FAULTS)
    def test_bounds_of_the_programs(self, scenario, name):
        said = repeat_of(scenario).generate.sink
        said = {**said, "counters": {**said["counters"], name: 2}}
        only(reasons(repeat_of(scenario, generate={"sink": said}), scenario), "sink", "2 x", name)

    @pytest.mark.parametrize("name", DECODER_REASONS)
    def test_a_decoder_that_did_not_keep_up(self, scenario, name):
        found = reasons(repeat_of(scenario, generate={"router": router_said(**{name: 4})}), scenario)
        only(found, "decoder", "4 prompts", name)

    @pytest.mark.parametrize("name", ["in_flight_at_stop", "waiting_at_stop"])
    def test_prompts_left_in_the_router(self, scenario, name):
        found = reasons(repeat_of(scenario, generate={"router": {**router_said(), name: 5}}), scenario)
        only(found, "5 prompts were still in the generative router")

    def test_a_router_that_could_not_send(self, scenario):
        router = {**router_said(), "sent": {"contents": 5, "send_error_101": 2}}
        only(
            reasons(repeat_of(scenario, generate={"router": router}), scenario),
            "could not send 2 times",
            "send_error_101",
        )

    def test_prompts_that_g_let_pass(self, scenario):
        facts = [*facts_of(made=9), fact(1, 9, "prompt")]
        only(reasons(repeat_of(scenario, generate={"facts": facts}), scenario), "1 of 16 images were not generated")

    def test_plain_images_that_arrived_altered(self, scenario):
        facts = [*facts_of(plain=5), fact(0, 5, crc=CRC + 1)]
        only(reasons(repeat_of(scenario, generate={"facts": facts}), scenario), "1 plain images arrived altered")

    def test_a_queue_that_never_emptied(self, scenario):
        only(reasons(repeat_of(scenario, generate={"drained": False}), scenario), "generate", "never emptied")


@pytest.mark.parametrize(
    "facts, words",
    [
        (facts_of(made=9), "1 of 16 images never arrived"),
        ([*facts_of(made=9), fact(1, 9, "content", "explicit", complete=False)], "1 of 16 images arrived in part"),
    ],
)
def test_images_that_are_missing_count_against_a_run_only_where_links_lose_nothing(facts, words):
    only(reasons(repeat_of(generate={"facts": facts})), words)
    assert reasons(repeat_of(LOSSY, generate={"facts": facts}), LOSSY) == []


def test_links_that_the_programs_do_not_fill():
    short_of_plan = reasons(repeat_of(filled=0.9))
    assert len(short_of_plan) == 2 and all("reached 90.0% of the plan" in reason for reason in short_of_plan)
    assert reasons(repeat_of(LOSSY, filled=0.9), LOSSY) == []


def test_a_router_that_emptied_a_queue_was_not_in_a_steady_state():
    only(reasons(repeat_of(reached=1.05)), "g-d carried 105.0% of the plan", "emptying a queue")


def test_a_router_that_was_the_bottleneck():
    only(reasons(repeat_of(reached=0.97)), "g-d carried 97.0% of the plan", "bottleneck")


def test_every_reason_is_given():
    repeat = repeat_of(losses={"shaper_drops": 1}, generate={"drained": False, "facts": facts_of(made=9)}, reached=0.5)
    assert len(reasons(repeat)) == 4
