"""What the kernel of this machine can do, tried in a network namespace that ends with the attempt."""

from __future__ import annotations

import os
import subprocess
import sys

from gnl.node_apps.protocol.header import PROMPT_PORT
from gnl.topologies.impairment import loss_rules
from gnl.topologies.interception import intercept_commands, intercept_rules
from gnl.topologies.shaping import Shape
from gnl.topologies.spec import LinkSpec

PROBE_WITHIN_S = 4.0
_SOCKETS = """
import socket
def attempt(name, level, option, value):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.setsockopt(level, option, value)
        print(name + "\\t")
    except OSError as error:
        print(name + "\\t" + error.strerror)
attempt("udp_segment", socket.SOL_UDP, 103, 1440)
attempt("ip_transparent", socket.SOL_IP, 19, 1)
"""


def kernel_steps() -> dict[str, str]:
    """Shell commands that need each feature, by its name, in order: the ones that a network is made of."""
    link = LinkSpec("a", "b", 10.0, loss_percent=1.0)
    links = ("add gnl0 type veth peer name gnl1", "set lo up", "set gnl0 up", "set gnl1 up")
    rules = (*intercept_commands(4), "rule add ipproto udp sport 18800 lookup 77")
    return {
        "veth": " && ".join(f"ip link {change}" for change in links),
        "forwarding": "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "htb": " && ".join(f"tc {arguments.format('gnl0')}" for arguments in Shape(10_000_000).tc_arguments()),
        "offloads": "ethtool -K gnl0 tx-udp-segmentation off tso off gso off gro off",
        "policy_routing": " && ".join(f"ip -4 {rule}" for rule in rules),
        "nft_tproxy": _nft(intercept_rules(PROMPT_PORT)),
        "nft_loss": _nft(loss_rules(link, "gnl1") or ""),
        "netem": "tc qdisc add dev gnl1 root netem delay 1ms",
        "ipv6": "ip -6 address add fd00:9e::1/64 dev gnl0 nodad",
    }


def probe_kernel() -> dict[str, str] | None:
    """Try every feature: its name -> "" where it works, else the complaint.

    None where no namespace could be made (not root, and user namespaces are not for everyone here).
    """
    script = "\n".join(_step(name, commands) for name, commands in kernel_steps().items())
    script += f"\n'{sys.executable}' -I -S -c '{_SOCKETS}'"
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    try:
        done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=PROBE_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    results = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    return results or None


def probe_mnexec() -> str:
    """Try Mininet's helper that makes a node's namespaces: "" where it works, else the complaint."""
    try:
        done = subprocess.run(["mnexec", "-n", "true"], capture_output=True, text=True, timeout=PROBE_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]


def _step(name: str, commands: str) -> str:
    # One line each: the name, a tab, and nothing or the first line of the complaint.
    return (
        f"out=$( ( {commands}\n) 2>&1 </dev/null ) && printf '{name}\\t\\n'"
        f" || printf '{name}\\t%s\\n' \"$(printf '%s\\n' \"${{out:-failed}}\" | head -n 1)\""
    )


def _nft(rules: str) -> str:
    return f"printf '%s\\n' '{rules}' | nft -f -"
