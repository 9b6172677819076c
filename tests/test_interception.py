"""Interception at a generative node: prompts only, both families, and nothing that outlives the router program."""

import re

import pytest
from gnl.node_apps.protocol.header import CONTENT_PORT, PROMPT_PORT
from gnl.topologies.interception import INTERCEPT_MARK, INTERCEPT_TABLE, intercept_commands, intercept_rules


def test_prompts_are_taken_and_contents_are_not():
    """A second generative node on the path must not take the contents that the first one made."""
    ports = {int(port) for port in re.findall(r"dport (\d+)", intercept_rules(PROMPT_PORT))}
    assert ports == {PROMPT_PORT} and CONTENT_PORT not in ports


def test_each_family_has_a_rule_that_hands_over_to_the_same_port():
    found = re.findall(r"meta nfproto (ipv[46]) udp dport \d+ tproxy (ip6?) to :(\d+)", intercept_rules(PROMPT_PORT))
    assert set(found) == {("ipv4", "ip", str(PROMPT_PORT)), ("ipv6", "ip6", str(PROMPT_PORT))}


def test_nothing_but_an_open_socket_decides_so_that_a_dead_router_lets_go():
    """A drop, reject, redirect or queue verdict would go on taking prompts when the router program has died."""
    rules = intercept_rules(PROMPT_PORT)
    assert "policy accept" in rules and not re.search(r"\b(drop|reject|redirect|queue|dnat)\b", rules)


@pytest.mark.parametrize("version, everything", [(4, "0.0.0.0/0"), (6, "::/0")])
def test_marked_packets_are_delivered_here_whatever_their_destination(version, everything):
    rule, route = intercept_commands(version)
    mark = re.search(r"mark set (\d+)", intercept_rules(PROMPT_PORT))[1]
    assert int(mark) == INTERCEPT_MARK and f"fwmark {mark} " in rule and rule.endswith(f"lookup {INTERCEPT_TABLE}")
    assert route == f"route add local {everything} dev lo table {INTERCEPT_TABLE}"
