"""The kernel's counters of every interface, and the CPU time stolen from this machine, sampled while a run goes on.

Rates come from counters alone. A window's rate is the mean over many pairs of samples that lie the same time apart,
not one difference: a slow flow sends a packet now and then, and a single difference would be off by up to a packet.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from gnl.topologies.addressing import interface_name
from gnl.topologies.network import EmulatedNetwork

SAMPLE_EVERY_S = 0.04
SAMPLER_NICE = -15
# Averaging over this long at both ends of a window, a quarter of it at most.
EDGE_S = 1.0
GRID_S = 0.02
# Columns of /proc/net/dev; only these are kept of a sample, since a long run takes a hundred thousand of them.
_COLUMNS = {"rx_bytes": 0, "rx_packets": 1, "rx_drops": 3, "tx_bytes": 8, "tx_packets": 9, "tx_drops": 11}
_INDEX = {name: index for index, name in enumerate(_COLUMNS)}
_kept = itemgetter(*_COLUMNS.values())


@dataclass(frozen=True)
class Sample:
    """All counters at one time: `counters[node][interface]` in the order of `_COLUMNS`; CPU times in ticks."""

    t_s: float
    counters: dict[str, dict[str, tuple[int, ...]]]
    cpu_ticks: tuple[int, int, int]  # all, free (idle, or with tasks that give way), stolen


class Sampler:
    """Samples in a thread of its own from `start` to `stop`; reads the kernel through files it keeps open."""

    def __init__(self, network: EmulatedNetwork) -> None:
        self._files = {
            node.name: os.open(f"/proc/{network.pid(node.name)}/net/dev", os.O_RDONLY)
            for node in network.scenario.nodes
        }
        self._cpu = os.open("/proc/stat", os.O_RDONLY)
        self.samples: list[Sample] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_all, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._stopped.set()
        self._thread.join()
        for file in (*self._files.values(), self._cpu):
            os.close(file)

    def now(self) -> Sample:
        """One sample, read now."""
        counters = {node: _parse_net_dev(os.pread(file, 1 << 16, 0)) for node, file in self._files.items()}
        return Sample(time.monotonic(), counters, _parse_cpu(os.pread(self._cpu, 512, 0)))

    def _sample_all(self) -> None:
        # A late sample would look like a machine that stood still (Linux has a priority per thread).
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), SAMPLER_NICE)
        due_s = time.monotonic()
        while not self._stopped.is_set():
            self.samples.append(self.now())
            due_s = max(due_s + SAMPLE_EVERY_S, time.monotonic())
            self._stopped.wait(due_s - time.monotonic())


def _parse_net_dev(text: bytes) -> dict[str, tuple[int, ...]]:
    rows = (line.split(b":", 1) for line in text.splitlines()[2:])
    return {sys.intern(name.strip().decode()): tuple(map(int, _kept(values.split()))) for name, values in rows}


def _parse_cpu(text: bytes) -> tuple[int, int, int]:
    user, nice, system, idle, io_wait, irq, soft_irq, stolen = (
        int(word) for word in text.split(b"\n", 1)[0].split()[1:9]
    )
    # What runs at a positive nice value (the decoder, others' background work) gives way to the network's programs.
    return user + nice + system + idle + io_wait + irq + soft_irq + stolen, idle + io_wait + nice, stolen


class Series:
    """What a sampler saw up to now, as arrays; times are monotonic seconds."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = list(samples)  # a sampler that still runs adds to its own
        self.t_s = np.array([sample.t_s for sample in self.samples])

    def counter(self, node: str, neighbour: str, column: str) -> np.ndarray:
        """Cumulative counter of `node`'s interface towards `neighbour`: int64, one value a sample."""
        interface, index = interface_name(node, neighbour), _INDEX[column]
        return np.array([sample.counters[node][interface][index] for sample in self.samples], dtype=np.int64)

    def sent(self, source: str, target: str, unit: str = "bytes") -> np.ndarray:
        """What `source` put on the link to `target` ("bytes" or "packets")."""
        return self.counter(source, target, f"tx_{unit}")

    def received(self, source: str, target: str, unit: str = "bytes") -> np.ndarray:
        """What `target` took off the link from `source` ("bytes" or "packets")."""
        return self.counter(target, source, f"rx_{unit}")

    def rate(self, cumulative: np.ndarray, start_s: float, stop_s: float) -> float:
        """Mean rate per second of a cumulative counter in a window (see the module's head)."""
        return window_rate(self.t_s, cumulative, start_s, stop_s)

    def stolen(self, start_s: float, stop_s: float) -> float:
        """Share of CPU time that the hypervisor took away in a window."""
        total, _, stolen = self._cpu(start_s, stop_s)
        return stolen / total if total else 0.0

    def busy(self, start_s: float, stop_s: float) -> float:
        """Share of CPU time that was not free for the network's programs in a window: 1 means saturated."""
        total, free, _ = self._cpu(start_s, stop_s)
        return 1 - free / total if total else 0.0

    def longest_gap_s(self, start_s: float, stop_s: float) -> float:
        """Longest time between two samples in a window: longer than planned if the machine stood still."""
        # From the last sample before to the first one behind: a gap may lie across an edge.
        first, last = np.searchsorted(self.t_s, start_s, "right") - 1, np.searchsorted(self.t_s, stop_s)
        before, after = [start_s] if first < 0 else [], [stop_s] if last == len(self.t_s) else []
        return float(np.diff([*before, *self.t_s[max(first, 0) : last + 1], *after]).max())

    def _cpu(self, start_s: float, stop_s: float) -> tuple[float, float, float]:
        first, last = np.searchsorted(self.t_s, (start_s, stop_s))
        first, last = min(first, len(self.samples) - 1), min(last, len(self.samples) - 1)
        return tuple(np.subtract(self.samples[last].cpu_ticks, self.samples[first].cpu_ticks).tolist())


def window_rate(t_s: np.ndarray, cumulative: np.ndarray, start_s: float, stop_s: float) -> float:
    """Rate of a cumulative counter in a window, averaged over windows as long that start up to `edge_s` later.

    `t_s` (N,) float64 increasing, `cumulative` (N,); the result is per second. The counter is taken as linear between
    samples. All windows keep the length, so that one of whole cycles through unequal images stays one.
    """
    offsets = np.arange(0, edge_s(stop_s - start_s), GRID_S)
    begin = np.interp(start_s + offsets, t_s, cumulative)
    end = np.interp(stop_s + offsets, t_s, cumulative)
    return float((end - begin).mean() / (stop_s - start_s))


def edge_s(length_s: float) -> float:
    """How long traffic must go on after a window of `length_s`, for its rate to be averaged (`window_rate`)."""
    return min(EDGE_S, length_s / 4)
