"""The shaper's recipe: exact rates, buckets that a late writer can catch up from, buffers within bounds."""

import re

import pytest
from gnl.topologies.errors import MachineError
from gnl.topologies.shaping import Shape, read_back, send_buffer_bytes
from gnl.topologies.spec import MAX_BW_MBIT, MIN_BW_MBIT
from hypothesis import given, settings
from hypothesis import strategies as st

FRAME_BYTES = 1514
rates = st.integers(round(MIN_BW_MBIT * 1e6), round(MAX_BW_MBIT * 1e6))


@given(rates)
@settings(deadline=None)
def test_bucket_holds_fifty_milliseconds_within_its_bounds(rate_bps):
    burst = Shape(rate_bps).burst_bytes
    assert 15_000 <= burst <= 1_000_000
    if 15_000 < burst < 1_000_000:
        assert burst == pytest.approx(rate_bps / 8 * 0.05, abs=1)
    # Behind a bucket deeper than the queue the shaper would drop what its own burst lets through.
    assert burst <= 1000 * FRAME_BYTES


@given(rates)
@settings(deadline=None)
def test_both_buckets_and_both_rates_are_given_to_the_kernel_alike(rate_bps):
    """A cburst left to the kernel, or a ceil above the rate, is what makes a stock link miss its rate."""
    shape = Shape(rate_bps)
    (line,) = [text for text in shape.tc_arguments() if text.startswith("class")]
    words = dict(re.findall(r"(rate|ceil|burst|cburst|quantum) (\d+)", line))
    assert words["rate"] == words["ceil"] == str(rate_bps) and f"rate {rate_bps}bit" in line
    assert words["burst"] == words["cburst"] == str(shape.burst_bytes)


def test_every_command_names_the_interface_once_and_no_other():
    for text in Shape(10_000_000).tc_arguments():
        assert text.format("s-r").count("s-r") == 1 and "{" not in text.format("s-r")


@given(st.floats(1, 1e11))
@settings(deadline=None)
def test_send_buffer_is_a_fifth_of_a_second_within_bounds(rate_bps):
    size = send_buffer_bytes(rate_bps)
    assert isinstance(size, int) and 32_000 <= size <= 1_000_000
    assert size in (32_000, 1_000_000) or size == pytest.approx(rate_bps / 40, abs=1)


def test_reading_back_a_namespace_that_is_gone_is_one_clear_line():
    with pytest.raises(MachineError, match="cannot be read back") as caught:
        read_back({"s-r": "/proc/nowhere/ns/net"})
    assert "\n" not in str(caught.value)
