"""The measured windows of a phase: where they lie, which of them count, and the rates that they give.

A shaper's full bucket would add to a window that begins with the traffic, so the first SKIP_S are left out. A window
in which the hypervisor took the CPU away, or the machine stood still for longer than a bucket holds, says nothing about
the network: it is marked and not averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
from gnl.node_apps.protocol.header import HEADER_BYTES, LAYER2_OVERHEAD_BYTES
from gnl.topologies.shaping import BURST_S

from .counters import SAMPLE_EVERY_S, Series, edge_s

SKIP_S = 2.0
WINDOW_S = 4.0
MIN_WINDOWS = 3
MAX_STOLEN = 0.10
MAX_GAP_S = SAMPLE_EVERY_S + BURST_S
SATURATED = 0.98


@dataclass(frozen=True)
class Window:
    """A stretch of time, with the reason why it does not count, if there is one."""

    start_s: float
    stop_s: float
    discarded: str | None = None


def window_length_s(cycle_s: float, duration_s: float) -> float:
    """Length of a window that holds whole cycles through the catalogue, about WINDOW_S long.

    Prompts and compressed contents differ in size, so a rate is the planned mean only over whole cycles. Where a
    cycle is too long for MIN_WINDOWS of them, windows are a third of the duration at most.
    """
    longest_s = duration_s / MIN_WINDOWS
    if cycle_s > longest_s:
        return min(WINDOW_S, longest_s)
    cycles = max(1, round(min(WINDOW_S, longest_s) / cycle_s))
    return min(cycles, int(longest_s / cycle_s)) * cycle_s


def cut_windows(series: Series, start_s: float, stop_s: float, length_s: float) -> list[Window]:
    """Windows of `length_s` between two times, side by side, each judged by what the machine did meanwhile."""
    count = max(1, int((stop_s - start_s) / length_s + 1e-6))
    starts = start_s + np.arange(count) * length_s
    return [Window(begin, begin + length_s, _discarded(series, begin, begin + length_s)) for begin in starts.tolist()]


def _discarded(series: Series, start_s: float, stop_s: float) -> str | None:
    stolen, gap_s = series.stolen(start_s, stop_s), series.longest_gap_s(start_s, stop_s + edge_s(stop_s - start_s))
    if stolen > MAX_STOLEN:
        return f"{100 * stolen:.0f}% of the CPU was stolen"
    if gap_s > MAX_GAP_S:
        return f"the machine stood still for {1000 * gap_s:.0f} ms"
    return None


def valid_windows(windows: list[Window]) -> list[Window]:
    return [window for window in windows if window.discarded is None]


def median_rate(series: Series, cumulative: np.ndarray, windows: list[Window]) -> float:
    """Median over windows of a cumulative counter's rate per second; 0 without a window."""
    return median([series.rate(cumulative, w.start_s, w.stop_s) for w in windows]) if windows else 0.0


def link_flow_bps(series: Series, source: str, target: str, windows: list[Window], ip_version: int) -> dict[str, float]:
    """What `target` received from `source`, in bit/s: on the wire, and the payload behind all headers."""
    received = series.received(source, target)
    packets = series.received(source, target, "packets")
    overhead_bytes = HEADER_BYTES + LAYER2_OVERHEAD_BYTES[ip_version]
    return {
        "wire": 8 * median_rate(series, received, windows),
        "payload": 8 * median_rate(series, received - overhead_bytes * packets, windows),
    }
