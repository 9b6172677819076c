"""How a generative node takes prompts off the wire without either end knowing it, and lets go of them if it dies.

A TPROXY rule hands prompt datagrams to a transparent socket. The rule matches only while such a socket is open: when
the router program ends, by SIGKILL too, the kernel closes the socket, the rule no longer matches, and prompts are
forwarded like all other packets. Contents use another port and never match.

    prompt  s:p -> d:18700  --[prerouting: tproxy, mark]--> rule: mark -> table: local --> router program
    other   s:p -> d:18701  ------------------------------> planned path or main table --> d
"""

from __future__ import annotations

INTERCEPT_MARK = 0x676E
INTERCEPT_TABLE = 99
INTERCEPT_PRIORITY = 100


def intercept_rules(prompt_port: int) -> str:
    """nftables text that hands UDP datagrams for `prompt_port` to a transparent socket, while there is one."""
    return f"""
table inet gnl_intercept {{
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    meta nfproto ipv4 udp dport {prompt_port} tproxy ip to :{prompt_port} meta mark set {INTERCEPT_MARK} counter accept
    meta nfproto ipv6 udp dport {prompt_port} tproxy ip6 to :{prompt_port} meta mark set {INTERCEPT_MARK} counter accept
  }}
}}
"""


def intercept_commands(ip_version: int) -> list[str]:
    """`ip -batch` commands that deliver marked packets locally, whatever their destination."""
    everything = "::/0" if ip_version == 6 else "0.0.0.0/0"
    return [
        f"rule add priority {INTERCEPT_PRIORITY} fwmark {INTERCEPT_MARK} lookup {INTERCEPT_TABLE}",
        f"route add local {everything} dev lo table {INTERCEPT_TABLE}",
    ]
