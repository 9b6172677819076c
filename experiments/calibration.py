"""Real packets over every link in both directions, before a run is believed: does each carry what the spec says?

iperf3 saturates the links, several at a time while the machine has room for them; the rate is read from the
receiver's interface counter, so that it is the layer-2 rate whatever iperf3 reports.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from dataclasses import dataclass

from gnl.node_apps.protocol.header import LAYER2_OVERHEAD_BYTES
from gnl.topologies.errors import MachineError, RunError
from gnl.topologies.network import EmulatedNetwork
from gnl.topologies.shaping import send_buffer_bytes
from gnl.topologies.spec import LinkSpec

from .counters import SAMPLE_EVERY_S, Sampler, Series, edge_s
from .processes import Processes

TOLERANCE = 0.01
# Links calibrated at once carry together at most so much, or the machine and not the link would be measured.
MAX_TOGETHER_BPS = 300e6
WARM_UP_S, MEASURE_S = 0.8, 2.0
# One iperf3 sends at most about 1.5 Gbit/s of datagrams on one core; TCP, in larger calls, reaches 2 Gbit/s.
TCP_ABOVE_BPS = 800e6
FIRST_PORT = 5201
TIME_LIMIT_S = 30  # iperf3 ends by itself even if nobody stops it
# Enough frames in the measured time that one more or less is below the tolerance.
_FRAMES = 1000
_LISTEN = "0A"  # the kernel's number of the state, in hexadecimal


@dataclass(frozen=True)
class Direction:
    """One direction of a link, to be saturated."""

    link: LinkSpec
    source: str
    target: str

    @property
    def configured_bps(self) -> int:
        return self.link.capacity_bps(self.source, self.target)


def calibrate(network: EmulatedNetwork, sampler: Sampler, processes: Processes) -> list[dict]:
    """Saturate every direction of every link and return rows as in `result.json`.

    Raises `RunError` naming the first direction that is off by more than 1%, with what was reached.
    """
    directions = [Direction(network.scenario.link(*ends), *ends) for ends in network.directions()]
    rows = []
    with network.without_loss():
        for group in groups_of(directions):
            rows += _saturate(network, sampler, processes, group)
    order = {(d.link.name, f"{d.source}->{d.target}"): i for i, d in enumerate(directions)}
    return sorted(rows, key=lambda row: order[row["link"], row["direction"]])


def require_iperf3() -> None:
    """Say that the load generator is missing before anything is built."""
    if shutil.which("iperf3") is None:
        raise MachineError("iperf3 is not on this machine, and calibrates the links: apt-get install iperf3")


def require_calibrated(rows: list[dict]) -> None:
    """Stop a run on a network that is not what its spec says."""
    for row in rows:
        if abs(row["rel_error"]) > TOLERANCE:
            raise RunError(
                f"link {row['direction']} carries {row['measured_mbit']:.4g} Mbit/s here, not the "
                f"{row['configured_mbit']:g} of the spec ({100 * row['rel_error']:+.1f}%): lower its bw_mbit, "
                "or free the machine's CPUs"
            )


def groups_of(directions: list[Direction]) -> list[list[Direction]]:
    """Directions that can be saturated together: as many as fit MAX_TOGETHER_BPS, fastest first."""
    groups: list[list[Direction]] = []
    for direction in sorted(directions, key=lambda d: -d.configured_bps):
        for group in groups:
            if sum(d.configured_bps for d in group) + direction.configured_bps <= MAX_TOGETHER_BPS:
                group.append(direction)
                break
        else:
            groups.append([direction])
    return groups


def saturating_load(rate_bps: float, ip_version: int) -> list[str]:
    """iperf3's options for filling a link: a blocking sender of datagrams, or TCP at the highest rates."""
    if rate_bps > TCP_ABOVE_BPS:
        return []
    size_bytes, buffer_bytes = datagram_bytes(rate_bps, ip_version), send_buffer_bytes(rate_bps)
    return ["-u", "-b", "0", "-l", str(size_bytes), "-w", str(buffer_bytes)]


def datagram_bytes(rate_bps: float, ip_version: int) -> int:
    """UDP payload for saturating a link: full-sized, or smaller where few of those would fit the measured time."""
    frame_bytes = rate_bps * MEASURE_S / 8 / _FRAMES
    return int(min(max(frame_bytes - LAYER2_OVERHEAD_BYTES[ip_version], 16), 1400))


def _saturate(network: EmulatedNetwork, sampler: Sampler, processes: Processes, group: list[Direction]) -> list[dict]:
    started = []

    def iperf3(node: str, *options: str) -> None:
        command = network.inside(node, "iperf3", *options)
        started.append(
            processes.start(command, f"iperf3 in {node}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    try:
        addresses = [network.plan.link_end(direction.link, direction.target) for direction in group]
        for port, (direction, address) in enumerate(zip(group, addresses), FIRST_PORT):
            iperf3(direction.target, "-s", "-1", "-B", address, "-p", str(port))
        _wait_listening(network, group)
        for port, (direction, address) in enumerate(zip(group, addresses), FIRST_PORT):
            load = saturating_load(direction.configured_bps, network.plan.version)
            iperf3(direction.source, "-c", address, "-p", str(port), "-t", str(TIME_LIMIT_S), *load)
        start_s = _all_flowing(sampler, group) + WARM_UP_S
        time.sleep(max(0.0, start_s + MEASURE_S + edge_s(MEASURE_S) - time.monotonic()) + SAMPLE_EVERY_S)
    finally:
        processes.stop(started)
    series = Series(sampler.samples)
    return [
        _row(
            direction,
            8 * series.rate(series.received(direction.source, direction.target), start_s, start_s + MEASURE_S),
        )
        for direction in group
    ]


def _wait_listening(network: EmulatedNetwork, group: list[Direction], limit_s: float = 10.0) -> None:
    """Wait until every iperf3 server accepts connections: a client that comes before it gives up at once."""
    wanted = {(direction.target, port) for port, direction in enumerate(group, FIRST_PORT)}
    deadline_s = time.monotonic() + limit_s
    while wanted := {(node, port) for node, port in wanted if port not in listening_ports(network.pid(node))}:
        if time.monotonic() > deadline_s:
            node, port = min(wanted)
            raise RunError(
                f"iperf3 does not listen on port {port} in node {node} after {limit_s:g} s: run `iperf3 -s` by hand"
            )
        time.sleep(0.02)


def listening_ports(pid: int) -> set[int]:
    """TCP ports that something listens on in the network namespace of a process (proc(5), net/tcp)."""
    ports = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/{table}") as lines:
            rows = [line.split() for line in lines.readlines()[1:]]
            ports |= {int(row[1].rsplit(":", 1)[1], 16) for row in rows if row[3] == _LISTEN}
    return ports


def _all_flowing(sampler: Sampler, group: list[Direction], limit_s: float = 8.0) -> float:
    """Wait until every direction carries traffic; returns when the last one began to."""
    before = Series([sampler.now()])
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        now = Series([sampler.now()])
        moved = [now.received(d.source, d.target)[0] - before.received(d.source, d.target)[0] > 4000 for d in group]
        if all(moved):
            return float(now.t_s[0])
        time.sleep(0.02)
    silent = [f"{d.source}->{d.target}" for d, ok in zip(group, moved) if not ok]
    raise RunError(
        f"no calibration traffic on {', '.join(silent)} within {limit_s:g} s: free the machine's CPUs and run again"
    )


def _row(direction: Direction, measured_bps: float) -> dict:
    configured_bps = direction.configured_bps
    return {
        "link": direction.link.name,
        "direction": f"{direction.source}->{direction.target}",
        "configured_mbit": configured_bps / 1e6,
        "measured_mbit": measured_bps / 1e6,
        "rel_error": measured_bps / configured_bps - 1,
    }
