"""The pacer: exact mean rate, small delays made up, long ones counted and not made up."""

import pytest
from gnl.node_apps.protocol.pacing import MAX_LAG_S, Pacer
from hypothesis import given, settings
from hypothesis import strategies as st

sizes = st.lists(st.integers(1, 12_000), min_size=1, max_size=60)
rates = st.floats(1e5, 1e9)


@given(sizes, rates, st.floats(0, 1e6))
@settings(deadline=None)
def test_a_writer_in_time_sends_each_bit_when_the_rate_says(bits, rate_bps, start_s):
    pacer, before, due_s = Pacer(rate_bps, start_s), 0, start_s
    for size in bits:
        due_s = pacer.release_s(size, due_s)
        assert due_s == pytest.approx(start_s + before / rate_bps, rel=1e-12, abs=1e-9)
        before += size
    assert pacer.lost_s == 0


@given(sizes, rates, st.lists(st.floats(0, MAX_LAG_S * 0.99), min_size=60, max_size=60))
@settings(deadline=None)
def test_short_delays_do_not_change_the_schedule(bits, rate_bps, delays):
    """Otherwise a busy machine would lower a paced flow, and lambda with it, without anybody being told."""
    pacer, before, last_due_s = Pacer(rate_bps, 10.0), 0, 10.0
    for size, delay_s in zip(bits, delays):
        due_s = 10.0 + before / rate_bps
        assert pacer.release_s(size, due_s + delay_s) == pytest.approx(due_s, abs=1e-6)
        before, last_due_s = before + size, due_s
    assert pacer.lost_s == 0 and last_due_s >= 10.0


@given(rates, st.floats(MAX_LAG_S, 60))
@settings(deadline=None)
def test_a_long_delay_is_counted_and_what_was_missed_does_not_follow_at_once(rate_bps, delay_s):
    pacer, size = Pacer(rate_bps, 0.0), 12_000
    now = delay_s
    released = 0
    while pacer.release_s(size, now) <= now:
        released += 1
        assert released * size <= MAX_LAG_S * rate_bps + 2 * size
    assert pacer.lost_s == pytest.approx(delay_s - MAX_LAG_S, abs=1e-6)


@given(rates, st.integers(1, 40))
@settings(deadline=None)
def test_the_head_start_goes_at_the_start_and_not_before(rate_bps, packets):
    size = 12_000
    pacer = Pacer(rate_bps, 5.0, head_start_bits=packets * size)
    due = [pacer.release_s(size, 0.0) for _ in range(packets + 2)]
    assert due[: packets + 1] == pytest.approx([5.0] * (packets + 1), abs=1e-6) and min(due) >= 5.0
    assert due[-1] == pytest.approx(5.0 + size / rate_bps, abs=1e-6)
    assert pacer.lost_s == 0


@pytest.mark.parametrize("rate_bps", [0, -1.0, float("nan")])
def test_a_rate_that_releases_nothing_is_refused(rate_bps):
    with pytest.raises(ValueError, match="rate above 0"):
        Pacer(rate_bps, 0.0)
