"""Counters read from the kernel's text, and rates of known staircases."""

import numpy as np
import pytest
from gnl.experiments import counters
from gnl.experiments.counters import SAMPLE_EVERY_S, Series, window_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import cpu_stat, every, net_dev, sample, series_of_flows, staircase

columns = st.dictionaries(
    st.sampled_from(["rx_bytes", "rx_packets", "rx_drops", "tx_bytes", "tx_packets", "tx_drops"]),
    st.integers(0, 2**63 - 1),
    max_size=6,
)


@given(columns, columns)
@settings(deadline=None)
def test_each_column_is_the_kernels(to_r, to_g):
    series = Series([sample(1.0, {"s": {"s-r": to_r, "s-g": to_g}})])
    for neighbour, given_columns in (("r", to_r), ("g", to_g)):
        for column in ("rx_bytes", "rx_packets", "rx_drops", "tx_bytes", "tx_packets", "tx_drops"):
            assert series.counter("s", neighbour, column).tolist() == [given_columns.get(column, 0)]


def test_sent_is_read_at_the_sender_and_received_at_the_receiver():
    nodes = {
        "s": {"s-r": {"tx_bytes": 70, "rx_bytes": 1}},
        "r": {"r-s": {"rx_bytes": 60, "tx_bytes": 2, "rx_packets": 5}},
    }
    series = Series([sample(0.0, nodes)])
    assert series.sent("s", "r")[0] == 70 and series.received("s", "r")[0] == 60
    assert series.received("s", "r", "packets")[0] == 5 and series.received("r", "s")[0] == 1


def test_samples_that_come_later_change_nothing():
    """The report's figures were made while the sampler went on: a counter had one value more than there were times."""
    nodes = {"s": {"s-r": {"tx_bytes": 70}}}
    samples = [sample(0.0, nodes), sample(1.0, nodes)]
    series = Series(samples)
    samples.append(sample(2.0, nodes))
    assert len(series.sent("s", "r")) == len(series.t_s) == 2 and series.rate(series.sent("s", "r"), 0.0, 1.0) == 0


def test_wide_counters_glued_to_the_name_are_parsed():
    """The kernel writes `eth0:123` without a space once the figure is wide."""
    text = net_dev({"s-r": {"rx_bytes": 5}}).replace(b"s-r: 5", b"s-r:5")
    assert b"s-r:5" in text and counters._parse_net_dev(text)["s-r"][0] == 5


@pytest.mark.parametrize(
    "rate_bps, frame_bytes", [(20e6, 1482), (2e6, 1482), (0.16e6, 1482), (0.1e6, 1482), (1e9, 1482), (50e3, 58)]
)
@pytest.mark.parametrize("start_s", [2.0, 2.011, 2.38])
def test_the_rate_of_a_staircase_is_the_true_rate(rate_bps, frame_bytes, start_s):
    """A slow flow sends a frame now and then: a single difference would be off by up to a frame (7% at 0.1 Mbit/s)."""
    rng = np.random.default_rng(round(start_s * 1000))
    t_s = np.cumsum(rng.uniform(0.03, 0.05, 400))
    cumulative = np.array([staircase(rate_bps, t, frame_bytes)[0] for t in t_s])
    frame_error = 8 * frame_bytes / (rate_bps * 4)
    assert 8 * window_rate(t_s, cumulative, start_s, start_s + 5) == pytest.approx(
        rate_bps, rel=max(0.0006, 0.2 * frame_error)
    )


@given(st.floats(1e5, 1e9), st.floats(2, 5), st.floats(0.9, 10))
@settings(deadline=None)
def test_a_smooth_flow_is_measured_exactly_whatever_the_window(rate, start_s, length_s):
    t_s = np.array(every(SAMPLE_EVERY_S, 20))
    assert window_rate(t_s, rate * t_s, start_s, start_s + length_s) == pytest.approx(rate, rel=1e-9)


def test_a_window_of_whole_cycles_is_exact_though_the_rate_is_not_constant():
    """Images of unequal size, over and over: what counts is the mean of a cycle."""
    t_s = np.array(every(0.04, 20))
    cumulative = 1000 * t_s + 300 * np.sin(2 * np.pi * t_s / 1.98)
    assert window_rate(t_s, cumulative, 3, 3 + 2 * 1.98) == pytest.approx(1000, rel=1e-4)


def test_nothing_outside_the_window_counts():
    t_s = np.array(every(0.04, 20))
    cumulative = 1000 * t_s + 1e9 * (t_s >= 12) + 1e9 * (t_s > 1)
    assert window_rate(t_s, cumulative, 5, 10) == pytest.approx(1000)


@pytest.mark.parametrize("busy, stolen", [(0.0, 0.0), (0.5, 0.0), (0.99, 0.0), (0.4, 0.25)])
def test_cpu_shares(busy, stolen):
    series = series_of_flows({("s", "r"): 1e6}, every(0.04, 10), stat=lambda t_s: cpu_stat(t_s + 100, busy, stolen))
    assert series.busy(2, 8) == pytest.approx(busy + stolen, abs=0.005)
    assert series.stolen(2, 8) == pytest.approx(stolen, abs=0.005)


def test_background_work_that_gives_way_does_not_saturate_the_machine():
    series = series_of_flows(
        {("s", "r"): 1e6}, every(0.04, 10), stat=lambda t_s: cpu_stat(t_s + 100, 0.1, 0.0, nice=0.9)
    )
    assert series.busy(2, 8) == pytest.approx(0.1, abs=0.005)


def test_cpu_shares_of_no_time_at_all_are_nothing():
    series = series_of_flows({("s", "r"): 1e6}, [0.0, 0.04])
    assert series.busy(5, 5) == 0 == series.stolen(5, 5)


@pytest.mark.parametrize(
    "from_s, to_s, seen", [(5.0, 5.6, True), (1.8, 2.4, True), (7.7, 8.3, True), (0.5, 1.5, False), (8.5, 9.5, False)]
)
def test_a_machine_that_stood_still_is_seen_also_across_the_edges_of_a_window(from_s, to_s, seen):
    times = [t_s for t_s in every(0.04, 10) if not from_s < t_s < to_s]
    series = series_of_flows({("s", "r"): 1e6}, times)
    assert (series.longest_gap_s(2, 8) > 0.5) == seen


def test_a_window_without_samples_is_one_gap():
    series = series_of_flows({("s", "r"): 1e6}, [0.0, 0.04, 9.0])
    assert series.longest_gap_s(2, 8) >= 6
    assert series_of_flows({("s", "r"): 1e6}, [0.0, 0.04]).longest_gap_s(2, 8) >= 6
