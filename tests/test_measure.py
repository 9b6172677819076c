"""From counters to figures: what the kernel counted as planned comes out as planned, and losses are told apart."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
from gnl.controller.sizes import LEVELS
from gnl.experiments.measure import (
    FIGURES,
    Losses,
    ci95,
    contents_rate,
    flows_of,
    image_counts,
    link_losses,
    mean_figures,
    measured_figures,
    relative_errors,
)
from gnl.experiments.windows import Window
from gnl.topologies.named import NAMED
from gnl.topologies.spec import LinkSpec, NodeSpec, Scenario
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import (
    diamond_plan,
    every,
    fact,
    hop_flows,
    router_said,
    sample,
    series_of_flows,
    traffic,
)

WINDOWS = [Window(2, 7), Window(7, 12), Window(12, 17)]
# The diamond with every link written the other way round, capacities likewise.
TURNED = Scenario(
    "turned",
    tuple(NodeSpec(name, role) for name, role in zip("dgrs", ("sink", "genai", "router", "source"))),
    (
        LinkSpec("d", "r", 1.0, 10.0),
        LinkSpec("r", "s", 3.0, 10.0),
        LinkSpec("d", "g", 4.0, 20.0),
        LinkSpec("g", "s", 5.0, 2.0),
    ),
)


def measured_of(plan, windows=WINDOWS):
    """The figures of a network that carries just what the plan says, read from its counters."""
    flows = {}
    for phase in (plan.replicate, plan.generate):
        series = series_of_flows(hop_flows(plan, phase), every(0.04, 20))
        flows[phase.name] = flows_of(plan, series, windows, 4)
    return {level: measured_figures(plan, flows["replicate"][level], flows["generate"][level], 1.0) for level in LEVELS}


@pytest.mark.parametrize("scenario", [NAMED["diamond"], TURNED], ids=lambda scenario: scenario.name)
def test_a_network_that_does_as_planned_measures_what_the_analysis_says(scenario):
    plan = diamond_plan(scenario=scenario)
    measured = measured_of(plan)
    for name in ("max_flow_bps", "y_g_bps", "g_flow", "delivery_gain"):
        assert measured["wire"][name] == pytest.approx(plan.analytic("wire")[name], rel=2e-3), name
    errors = relative_errors(measured["wire"], plan.analytic("wire"))
    assert all(abs(error) < 0.01 for error in errors.values())


def test_flows_are_named_as_the_scenario_names_its_links_and_measured_towards_the_sink():
    plan = diamond_plan(scenario=TURNED)
    flows = measured_of(plan)["wire"]["flows_bps"]
    assert set(flows) == {link.name for link in TURNED.links} == {"d-r", "r-s", "d-g", "g-s"}
    assert flows["d-g"] == pytest.approx(20e6, rel=1e-3) and flows["r-s"] == pytest.approx(10e6, rel=1e-3)


def test_eq_2_and_3_by_hand():
    plan = diamond_plan()
    replicate = {"s-r": 10e6, "r-d": 9e6, "s-g": 2e6, "g-d": 1e6}
    generate = {"s-r": 10e6, "r-d": 8e6, "s-g": 2e6, "g-d": 17e6}
    figures = measured_figures(plan, replicate, generate, 3.5)
    assert figures["max_flow_bps"] == 10e6 and figures["y_g_bps"] == 15e6
    assert figures["g_flow"] == 2.5 and figures["delivery_gain"] == 2.5 and figures["contents_per_s"] == 3.5
    assert figures["flows_bps"] == generate


def test_a_network_that_carried_nothing_has_no_gain_rather_than_a_division_by_zero():
    plan = diamond_plan()
    nothing = dict.fromkeys(("s-r", "r-d", "s-g", "g-d"), 0.0)
    figures = measured_figures(plan, nothing, nothing, 0.0)
    assert figures["g_flow"] is None and figures["delivery_gain"] is None
    errors = relative_errors(figures, plan.analytic("wire"))
    assert errors["g_flow"] is None and errors["max_flow_bps"] == -1 == errors["links_max"]


def test_discarded_windows_do_not_count():
    plan = diamond_plan()
    assert measured_of(plan, [Window(2, 7, "stolen"), *WINDOWS[1:]])["wire"]["flows_bps"]["g-d"] == pytest.approx(
        20e6, rel=1e-3
    )
    none = [Window(2, 7, "stolen")]
    assert measured_of(plan, none)["wire"]["g_flow"] is None


def test_contents_are_counted_when_they_are_complete_between_the_first_and_the_last_valid_window():
    facts = [fact(0, i, t_last_s=i * 0.5) for i in range(60)] + [
        fact(1, i, t_last_s=8, complete=False) for i in range(50)
    ]
    phase = traffic(diamond_plan().generate, facts=facts)
    assert contents_rate(phase, WINDOWS) == pytest.approx(2.0)
    assert contents_rate(phase, [Window(2, 7, "stolen"), *WINDOWS[1:]]) == pytest.approx(2.0)
    assert contents_rate(phase, [Window(2, 7, "stolen")]) == 0


@given(st.dictionaries(st.sampled_from(["s-r", "r-d", "s-g", "g-d"]), st.floats(-0.5, 0.5), min_size=4))
@settings(deadline=None)
def test_the_largest_link_error_is_the_one_farthest_off_with_its_sign(off):
    analytic = {"g_flow": 2.0, "delivery_gain": 2.5, "max_flow_bps": 12e6, "flows_bps": dict.fromkeys(off, 1e6)}
    measured = {**analytic, "flows_bps": {name: 1e6 * (1 + error) for name, error in off.items()}}
    errors = relative_errors(measured, analytic)
    farthest = max(abs(error) for error in off.values())
    # of errors that are alike but for rounding, either may be the largest
    largest = [error for error in off.values() if abs(error) > farthest - 1e-9]
    assert any(errors["links_max"] == pytest.approx(error, abs=1e-9) for error in largest)
    assert errors["g_flow"] == 0


def figures_with(**values):
    return {**dict.fromkeys(FIGURES, 1.0), **values, "flows_bps": {"s-r": values.get("g_flow", 1.0)}}


def test_the_interval_is_students():
    """Values and the two-sided 95% quantiles 4.3027 (2 degrees of freedom) and 2.7764 (4) from a printed t table."""
    three = ci95([figures_with(g_flow=value) for value in (2.0, 2.1, 2.2)])["g_flow"]
    assert three == pytest.approx([2.1 - 4.3027 * 0.1 / 3**0.5, 2.1 + 4.3027 * 0.1 / 3**0.5], rel=1e-4)
    values = (1.0, 2.0, 3.0, 4.0, 5.0)
    five = ci95([figures_with(g_flow=value) for value in values])["g_flow"]
    half = 2.7764 * 2.5**0.5 / 5**0.5
    assert five == pytest.approx([3 - half, 3 + half], rel=1e-4)


def test_the_interval_of_noise_holds_the_truth_nineteen_times_in_twenty():
    rng = random.Random(5)
    held = 0
    for _ in range(400):
        low, high = ci95([figures_with(g_flow=rng.gauss(2.5, 0.01)) for _ in range(4)])["g_flow"]
        held += low <= 2.5 <= high
    assert 0.92 < held / 400 < 0.98


def test_one_run_has_no_interval_and_a_figure_that_is_missing_once_has_none():
    assert ci95([figures_with()]) is None
    intervals = ci95([figures_with(g_flow=None), figures_with()])
    assert "g_flow" not in intervals and "max_flow_bps" in intervals


def test_means_over_repeats_keep_every_figure():
    mean = mean_figures([figures_with(g_flow=2.0), figures_with(g_flow=3.0)])
    assert mean["g_flow"] == mean["flows_bps"]["s-r"] == 2.5 and mean["max_flow_bps"] == 1.0
    assert mean_figures([figures_with(y_g_bps=None), figures_with(y_g_bps=4.0)])["y_g_bps"] == 4.0
    assert set(mean) == {*FIGURES, "flows_bps"}


def test_every_image_is_accounted_for_once():
    plan = diamond_plan()
    facts = [fact(0, i) for i in range(5)]
    facts += [fact(1, i, "content", "explicit") for i in range(7)]
    facts += [fact(1, 7 + i, "prompt") for i in range(2)] + [fact(1, 9, "content", "explicit", complete=False)]
    counts = image_counts(plan, traffic(plan.generate, facts=facts, contents=(5, 11), router=router_said()))
    assert counts == {"sent": 16, "delivered": 12, "generated": 7, "plain": 5, "partial": 1, "failed": 2, "missing": 1}
    assert sum(counts[name] for name in ("generated", "plain", "partial", "failed", "missing")) == counts["sent"]


def test_prompts_of_a_codec_that_does_not_generate_are_delivered_at_d():
    plan = diamond_plan(generative=False)
    facts = [fact(0, 0)] + [fact(1, i, "prompt") for i in range(3)]
    counts = image_counts(plan, traffic(plan.generate, facts=facts, contents=(1, 3)))
    assert Counter(counts) == Counter(sent=4, delivered=4, generated=0, plain=4, partial=0, failed=0, missing=0)


def test_drops_are_told_apart_by_cause_and_direction():
    """150 packets sent to r; one dropped by the interface, two at random, three in the shaper before."""
    network = SimpleNamespace(directions=lambda: [("s", "r"), ("r", "s")])
    before = sample(
        0.0, {"s": {"s-r": {"tx_packets": 1000, "rx_packets": 9}}, "r": {"r-s": {"rx_packets": 1000, "tx_packets": 9}}}
    )
    after = sample(
        9.0,
        {
            "s": {"s-r": {"tx_packets": 1150, "rx_packets": 9, "tx_drops": 0}},
            "r": {"r-s": {"rx_packets": 1149, "rx_drops": 1, "tx_packets": 9}},
        },
    )
    names = ("s->r", "r->s")
    losses = link_losses(
        network,
        Losses(before, {"s->r": 4, "r->s": 0}, dict.fromkeys(names, 5)),
        Losses(after, {"s->r": 7, "r->s": 0}, {"s->r": 7, "r->s": 5}),
    )
    assert losses["s->r"] == {
        "sent": 150,
        "received": 149,
        "shaper_drops": 3,
        "interface_drops": 1,
        "lost_on_purpose": 2,
    }
    assert not any(losses["r->s"].values())
