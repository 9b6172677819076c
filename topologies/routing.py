"""What gives an emulated network its addresses and routes, as text for `ip -4|-6 -batch`; nothing is run here.

Main tables hold shortest paths between identity addresses. A planned path is a table of its own that packets enter
by their UDP source port, at the source and at every hop, so that a content's packets all follow the plan.
"""

from __future__ import annotations

from collections import deque

from .addressing import AddressPlan, interface_name
from .errors import ScenarioError
from .spec import Scenario

# Order of the rules in a node: intercepted prompts first, then planned paths, then the main table (32766).
PATH_RULE_PRIORITY = 200


def shortest_path_commands(scenario: Scenario, plan: AddressPlan, node: str) -> list[str]:
    """Addresses, neighbours and main-table routes of one node."""
    nodad = " nodad" if plan.version == 6 else ""  # a tentative address cannot be a route's source yet
    commands = [f"address add {plan.node(node)}/{plan.host_prefix} dev lo{nodad}"]
    for link in scenario.links:
        if node in (link.a, link.b):
            peer = link.b if node == link.a else link.a
            interface = interface_name(node, peer)
            commands += [
                f"address add {plan.link_end(link, node)}/{plan.link_prefix} dev {interface}{nodad}",
                # Permanent neighbours: no ARP or ND exchange is ever in a measured window.
                f"neighbour replace {plan.link_end(link, peer)} lladdr {plan.mac(link, peer)} dev {interface} "
                "nud permanent",
            ]
    for target, hop in next_hops(scenario, node).items():
        commands.append(f"route add {_via(scenario, plan, node, hop, target)} src {plan.node(node)}")
    return commands


def path_commands(
    scenario: Scenario, plan: AddressPlan, path: list[str], source_port: int, table: int
) -> dict[str, list[str]]:
    """Per node of `path`, the commands that send datagrams from `source_port` on towards the path's last node."""
    target, commands = path[-1], {}
    for node, hop in zip(path, path[1:]):
        commands[node] = [
            f"route add {_via(scenario, plan, node, hop, target)} table {table}",
            f"rule add priority {PATH_RULE_PRIORITY + table} ipproto udp sport {source_port} lookup {table}",
        ]
    return commands


def next_hops(scenario: Scenario, node: str) -> dict[str, str]:
    """First hop of a path with fewest links from `node` to every node that it can reach."""
    hops: dict[str, str] = {}
    waiting = deque([node])
    while waiting:
        here = waiting.popleft()
        for link in scenario.links:
            if here in (link.a, link.b):
                there = link.b if here == link.a else link.a
                if there != node and there not in hops:
                    hops[there] = hops.get(here, there)
                    waiting.append(there)
    return hops


def _via(scenario: Scenario, plan: AddressPlan, node: str, hop: str, target: str) -> str:
    if node == hop:
        raise ScenarioError(f"a path visits {node} twice in a row")
    gateway = plan.link_end(scenario.link(node, hop), hop)
    return f"{plan.node(target)}/{plan.host_prefix} via {gateway} dev {interface_name(node, hop)}"
