"""Delay, jitter and loss of a link, on top of its shaper.

Loss is an nftables rule at the ingress of the receiver, with or without netem in the kernel: a lost packet has then
used the link and is in `rx_bytes`, as on a real wire. (netem under HTB drops before the shaper, which would give the
lost packet's share of the link to others.) Delay and jitter need netem.
"""

from __future__ import annotations

import json
import subprocess

from .errors import MachineError
from .spec import LinkSpec

_PARTS = 1_000_000
_FRAME_BITS = 1514 * 8


def netem_arguments(link: LinkSpec, rate_bps: int) -> str | None:
    """`tc` arguments of the delay, as a leaf of the shaper's class; None where the link has none."""
    if not link.delay_ms:
        return None
    # Everything in flight waits in netem's queue: twice the bandwidth-delay product, or it would drop.
    in_flight = 2 * rate_bps * (link.delay_ms + link.jitter_ms) / 1e3 / _FRAME_BITS
    jitter = f" {link.jitter_ms:g}ms" if link.jitter_ms else ""
    queue = f"delay {link.delay_ms:g}ms{jitter} limit {1000 + round(in_flight)}"
    return f"qdisc replace dev {{}} parent 5:1 handle 10: netem {queue}"


def loss_rules(link: LinkSpec, interface: str) -> str | None:
    """nftables text that drops a random share of what `interface` receives; None where the link loses nothing."""
    if not link.loss_percent:
        return None
    lost = max(1, round(link.loss_percent / 100 * _PARTS))
    drawn = f"numgen random mod {_PARTS} < {lost} " if lost < _PARTS else ""
    return (
        f"table netdev {loss_table(interface)} {{\n"
        f"  chain ingress {{\n"
        f'    type filter hook ingress device "{interface}" priority 0;\n'
        f"    {drawn}counter drop\n"
        f"  }}\n"
        f"}}\n"
    )


def loss_table(interface: str) -> str:
    """Name of the nftables table that holds an interface's loss rule."""
    return f"gnl_loss_{interface.replace('-', '_')}"


def counted_packets(listing: str) -> int:
    """Sum of the packet counters in what `nft -j list table` printed."""
    rules = (item["rule"]["expr"] for item in json.loads(listing)["nftables"] if "rule" in item)
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


def require_netem(links: tuple[LinkSpec, ...]) -> None:
    """Refuse a delay that this kernel cannot make, before anything is built."""
    delayed = [link for link in links if link.delay_ms]
    if delayed and not kernel_has_netem():
        raise MachineError(
            f"links.{delayed[0].name}.delay_ms is {delayed[0].delay_ms:g}, and this kernel has no netem: "
            "`modprobe sch_netem` (Ubuntu: install linux-modules-extra-$(uname -r)), or set the delay to 0"
        )


def kernel_has_netem() -> bool:
    """Whether a netem queue can be made, tried in a namespace that ends with the attempt."""
    probe = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    return subprocess.run(["unshare", "-n", "sh", "-c", probe], capture_output=True).returncode == 0
