"""Routes of an emulated network: shortest by an independent oracle, and planned paths that end where they should."""

import ipaddress
import re

import networkx as nx
import pytest
from gnl.topologies.addressing import AddressPlan
from gnl.topologies.errors import ScenarioError
from gnl.topologies.interception import INTERCEPT_PRIORITY
from gnl.topologies.named import NAMED
from gnl.topologies.routing import PATH_RULE_PRIORITY, next_hops, path_commands, shortest_path_commands
from gnl.topologies.spec import LinkSpec, NodeSpec, Scenario
from hypothesis import assume, given, settings
from hypothesis import strategies as st

MAIN_TABLE_PRIORITY = 32766


@st.composite
def scenarios(draw):
    count = draw(st.integers(2, 8))
    pairs = [(i, j) for i in range(count) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    turned = [pair if draw(st.booleans()) else pair[::-1] for pair in chosen]
    nodes = tuple(NodeSpec(f"n{i}", "router") for i in range(count))
    return Scenario(
        "random",
        nodes,
        tuple(LinkSpec(f"n{a}", f"n{b}", 10.0) for a, b in turned),
        ip_version=draw(st.sampled_from([4, 6])),
    )


def graph_of(scenario):
    graph = nx.Graph()
    graph.add_nodes_from(node.name for node in scenario.nodes)
    graph.add_edges_from((link.a, link.b) for link in scenario.links)
    return graph


@given(scenarios())
@settings(deadline=None)
def test_next_hops_lie_on_shortest_paths(scenario):
    graph = graph_of(scenario)
    for node in graph:
        distance = nx.single_source_shortest_path_length(graph, node)
        hops = next_hops(scenario, node)
        assert set(hops) == set(distance) - {node}
        for target, hop in hops.items():
            assert graph.has_edge(node, hop)
            assert nx.shortest_path_length(graph, hop, target) == distance[target] - 1


@given(scenarios())
@settings(deadline=None)
def test_every_gateway_is_the_neighbours_address_on_the_interface_that_is_named(scenario):
    """A gateway of another link would be unreachable, and the network would come up without that route."""
    plan = AddressPlan(scenario)
    owner = {plan.link_end(link, node): (link, node) for link in scenario.links for node in (link.a, link.b)}
    names = {plan.node(node.name): node.name for node in scenario.nodes}
    for node in (entry.name for entry in scenario.nodes):
        routes = [text for text in shortest_path_commands(scenario, plan, node) if text.startswith("route")]
        assert len(routes) == len(next_hops(scenario, node))
        for text in routes:
            target, gateway, device, source = re.fullmatch(
                r"route add (\S+) via (\S+) dev (\S+) src (\S+)", text
            ).groups()
            link, hop = owner[gateway]
            assert {link.a, link.b} == {node, hop} and device == f"{node}-{hop}"
            assert names[source] == node
            network = ipaddress.ip_network(target)
            assert network.num_addresses == 1 and next_hops(scenario, node)[names[str(network[0])]] == hop


@given(scenarios())
@settings(deadline=None)
def test_neighbours_are_permanent_and_carry_the_peers_mac(scenario):
    """An ARP or ND exchange in a measured window would count as traffic."""
    plan = AddressPlan(scenario)
    for node in (entry.name for entry in scenario.nodes):
        own = [link for link in scenario.links if node in (link.a, link.b)]
        found = [text for text in shortest_path_commands(scenario, plan, node) if text.startswith("neighbour")]
        wanted = set()
        for link in own:
            peer = link.b if node == link.a else link.a
            wanted.add(
                f"neighbour replace {plan.link_end(link, peer)} lladdr {plan.mac(link, peer)} "
                f"dev {node}-{peer} nud permanent"
            )
        assert set(found) == wanted


@given(scenarios(), st.data())
@settings(deadline=None)
def test_a_planned_path_leads_hop_by_hop_to_its_last_node(scenario, data):
    graph = graph_of(scenario)
    source = data.draw(st.sampled_from(sorted(graph)))
    reachable = sorted(set(nx.node_connected_component(graph, source)) - {source})
    assume(reachable)
    target = data.draw(st.sampled_from(reachable))
    path = data.draw(st.sampled_from(list(nx.all_simple_paths(graph, source, target))))
    plan = AddressPlan(scenario)
    commands = path_commands(scenario, plan, path, 20001, 1001)
    here, seen = source, [source]
    while here != target:
        route, rule = commands[here]
        destination, device, table = re.fullmatch(r"route add (\S+) via \S+ dev (\S+) table (\d+)", route).groups()
        assert destination == f"{plan.node(target)}/{plan.host_prefix}"
        priority, port, looked_up = map(
            int, re.fullmatch(r"rule add priority (\d+) ipproto udp sport (\d+) lookup (\d+)", rule).groups()
        )
        assert (port, looked_up) == (20001, int(table))
        assert INTERCEPT_PRIORITY < priority < MAIN_TABLE_PRIORITY
        here = device.removeprefix(f"{here}-")
        seen.append(here)
    assert seen == path and target not in commands


def test_two_paths_through_one_node_have_rules_of_their_own():
    scenario = NAMED["diamond"]
    plan = AddressPlan(scenario)
    rules = [
        path_commands(scenario, plan, ["s", middle, "d"], 20000 + i, 1000 + i)["s"][1]
        for i, middle in enumerate(("r", "g"))
    ]
    priorities = [re.search(r"priority (\d+)", rule)[1] for rule in rules]
    assert len(set(priorities)) == 2 and int(priorities[0]) == PATH_RULE_PRIORITY + 1000


def test_a_path_over_a_link_that_is_not_there_is_refused():
    scenario = NAMED["diamond"]
    with pytest.raises(ScenarioError, match="no link between r and g"):
        path_commands(scenario, AddressPlan(scenario), ["s", "r", "g", "d"], 20000, 1000)
    with pytest.raises(ScenarioError, match="twice in a row"):
        path_commands(scenario, AddressPlan(scenario), ["s", "s", "g", "d"], 20000, 1000)
