"""The shaper of one direction of a link: what is asked of the kernel, and what the kernel says it does.

HTB with one class. Mininet's own recipe leaves `cburst` at 1600 bytes; with rate = ceil that bucket binds, and the
tokens of every late wake-up are lost (up to a third of the rate). Here both buckets hold 50 ms of the rate, so that
a writer that wakes late catches up. HTB holds a blocking sender back instead of dropping what it sends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from .errors import MachineError

BURST_S = 0.050
MIN_BURST_BYTES, MAX_BURST_BYTES = 15_000, 1_000_000
QUANTUM_BYTES = 1514  # one full frame: ends the kernel's "quantum is big" warning, alters nothing with one class
QUEUE_PACKETS = 1000
SEND_BUFFER_S = 0.2
MIN_SEND_BUFFER_BYTES, MAX_SEND_BUFFER_BYTES = 32_000, 1_000_000


@dataclass(frozen=True)
class Shape:
    """One direction's shaper. `rate_bps` counts whole Ethernet frames without FCS, as the interface counters do."""

    rate_bps: int

    @property
    def burst_bytes(self) -> int:
        """Depth of the token bucket: 50 ms of the rate, at least ten frames, at most what the queue can feed."""
        return round(min(max(self.rate_bps / 8 * BURST_S, MIN_BURST_BYTES), MAX_BURST_BYTES))

    def tc_arguments(self) -> list[str]:
        """`tc` arguments that install the shaper, each with a place for the interface's name."""
        rate = f"rate {self.rate_bps}bit ceil {self.rate_bps}bit"
        bucket = f"burst {self.burst_bytes} cburst {self.burst_bytes} quantum {QUANTUM_BYTES}"
        return [
            "qdisc add dev {} root handle 5: htb default 1",
            f"class add dev {{}} parent 5: classid 5:1 htb {rate} {bucket}",
            f"qdisc add dev {{}} parent 5:1 handle 10: pfifo limit {QUEUE_PACKETS}",
        ]


def send_buffer_bytes(rate_bps: float) -> int:
    """Socket send buffer that keeps a shaper of `rate_bps` fed while its writer sleeps: 0.2 s, within bounds.

    The kernel wakes a writer when half of the buffer is free, and its default holds 92 packets: too few to ride out
    a busy CPU at high rates, more than a second of queue at low ones.
    """
    return round(min(max(rate_bps / 8 * SEND_BUFFER_S, MIN_SEND_BUFFER_BYTES), MAX_SEND_BUFFER_BYTES))


@dataclass(frozen=True)
class Installed:
    """What the kernel says of an interface's root class: rates in bit/s, and packets that its queues dropped."""

    rate_bps: int
    ceil_bps: int
    drops: int


def read_back(interfaces: dict[str, str]) -> dict[str, Installed]:
    """What the kernel says of each interface, named with the path of its namespace; unshaped ones are left out.

    The netlink library forks a child for each namespace, which must not inherit our signal handlers: it runs in a
    process of its own, one for all interfaces.
    """
    done = subprocess.run([sys.executable, "-m", __name__, json.dumps(interfaces)], capture_output=True, text=True)
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise MachineError(f"the shapers cannot be read back from the kernel: {complaint[-1]}")
    return {name: Installed(**found) for name, found in json.loads(done.stdout).items()}


def _read_interfaces(interfaces: dict[str, str]) -> dict[str, dict[str, int]]:
    from pyroute2 import NetNS

    found, by_namespace = {}, {}
    for name, path in interfaces.items():
        by_namespace.setdefault(path, []).append(name)
    for path, names in by_namespace.items():
        with NetNS(path) as netlink:
            for name in names:
                for index in netlink.link_lookup(ifname=name):
                    found.update({name: shaper for shaper in _read_classes(netlink, index)})
    return found


def _read_classes(netlink, index: int):
    for message in netlink.get_classes(index=index):
        options = message.get_attr("TCA_OPTIONS")
        if message.get_attr("TCA_KIND") == "htb" and options is not None:
            htb = options.get_attr("TCA_HTB_PARMS")
            queues = (
                qdisc.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE") for qdisc in netlink.get_qdiscs(index=index)
            )
            # HTB counts what its leaf drops as its own: the largest figure is the total.
            yield {
                "rate_bps": htb["rate"] * 8,
                "ceil_bps": htb["ceil"] * 8,
                "drops": max(queue["drops"] for queue in queues),
            }


if __name__ == "__main__":
    print(json.dumps(_read_interfaces(json.loads(sys.argv[1]))))
