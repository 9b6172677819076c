"""Windows: whole cycles, no start-up, none in which the machine and not the network would be measured."""

import pytest
from gnl.experiments.windows import (
    MIN_WINDOWS,
    WINDOW_S,
    Window,
    cut_windows,
    link_flow_bps,
    median_rate,
    valid_windows,
    window_length_s,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import cpu_stat, every, series_of_flows


@given(st.floats(1e-3, 1e4), st.floats(3, 1000))
@settings(deadline=None)
def test_there_are_enough_windows_and_they_hold_whole_cycles_where_these_fit(cycle_s, duration_s):
    length_s = window_length_s(cycle_s, duration_s)
    assert 0 < length_s <= duration_s / MIN_WINDOWS * (1 + 1e-9)
    if cycle_s <= duration_s / MIN_WINDOWS:
        assert length_s / cycle_s == pytest.approx(round(length_s / cycle_s), abs=1e-6) and length_s >= cycle_s * (
            1 - 1e-9
        )
        assert abs(length_s - min(WINDOW_S, duration_s / MIN_WINDOWS)) <= cycle_s
    else:
        assert length_s == pytest.approx(min(WINDOW_S, duration_s / MIN_WINDOWS))


@given(st.floats(0.3, 6), st.floats(1, 30))
@settings(deadline=None, max_examples=20)
def test_windows_lie_side_by_side_between_the_two_times(length_s, duration_s):
    series = series_of_flows({("s", "r"): 1e6}, every(0.5, 10))
    windows = cut_windows(series, 7.0, 7.0 + duration_s, length_s)
    assert windows[0].start_s == 7.0
    for before, after in zip(windows, windows[1:]):
        assert after.start_s == pytest.approx(before.stop_s) and before.stop_s - before.start_s == pytest.approx(
            length_s
        )
    if length_s <= duration_s:
        assert windows[-1].stop_s <= 7.0 + duration_s + 1e-3
        assert windows[-1].stop_s > 7.0 + duration_s - length_s - 1e-3


def test_a_quiet_machine_has_all_its_windows():
    series = series_of_flows({("s", "r"): 1e6}, every(0.04, 20))
    assert [window.discarded for window in cut_windows(series, 2, 17, 5)] == [None] * 3


def test_stolen_cpu_and_stalls_discard_their_own_window_only():
    def stat(t_s):  # half of the CPU is taken away between 7 and 12
        stolen_s = min(max(t_s - 7, 0), 5)
        return cpu_stat(t_s + 100, 0.2, stolen=0.5 * stolen_s / (t_s + 100))

    series = series_of_flows({("s", "r"): 1e6}, [t for t in every(0.04, 20) if not 14 < t < 14.3], stat=stat)
    first, stolen, stalled = cut_windows(series, 2, 17, 5)
    assert first.discarded is None
    assert "50% of the CPU was stolen" in stolen.discarded
    assert "stood still" in stalled.discarded and "ms" in stalled.discarded
    assert valid_windows([first, stolen, stalled]) == [first]


def test_the_median_ignores_one_window_that_is_off():
    times = every(0.04, 20)
    series = series_of_flows({("s", "r"): 8e6}, times)
    cumulative = series.received("s", "r") + 10**9 * (series.t_s > 9)
    windows = [Window(2, 7), Window(7, 12), Window(12, 17)]
    assert 8 * median_rate(series, cumulative, windows) == pytest.approx(8e6, rel=1e-3)


def test_no_window_gives_no_rate():
    series = series_of_flows({("s", "r"): 8e6}, every(0.04, 1))
    assert median_rate(series, series.received("s", "r"), []) == 0.0


@pytest.mark.parametrize("version, overhead", [(4, 14 + 20 + 8), (6, 14 + 40 + 8)])
def test_payload_is_what_lies_behind_all_headers(version, overhead):
    """1408 bytes of payload and 32 of header in each datagram, whatever the internet protocol adds."""
    frame_bytes = 1440 + overhead
    series = series_of_flows({("s", "r"): 10e6}, every(0.04, 20), frame_bytes=frame_bytes)
    flow = link_flow_bps(series, "s", "r", [Window(2, 7), Window(7, 12), Window(12, 17)], version)
    assert flow["wire"] == pytest.approx(10e6, rel=1e-3)
    assert flow["payload"] / flow["wire"] == pytest.approx(1408 / frame_bytes, rel=1e-4)


def test_the_flow_of_a_link_is_that_of_its_direction():
    series = series_of_flows({("s", "r"): 10e6, ("r", "s"): 1e6}, every(0.04, 20))
    windows = [Window(2, 7), Window(7, 12), Window(12, 17)]
    assert link_flow_bps(series, "r", "s", windows, 4)["wire"] == pytest.approx(1e6, rel=3e-3)
