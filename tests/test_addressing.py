"""Addresses of an emulated network, checked against `ipaddress`: unique, in their subnets, off everybody else's."""

import ipaddress
import re

import pytest
from gnl.topologies.addressing import MAX_LINKS, AddressPlan, interface_name
from gnl.topologies.errors import ScenarioError
from gnl.topologies.spec import LinkSpec, NodeSpec, Scenario
from hypothesis import given, settings
from hypothesis import strategies as st

versions = st.sampled_from([4, 6])


def chain(length, version=4):
    nodes = tuple(NodeSpec(f"n{i}", "router") for i in range(length))
    links = tuple(LinkSpec(f"n{i}", f"n{i + 1}", 10.0) for i in range(length - 1))
    return Scenario("chain", nodes, links, ip_version=version)


def star(leaves, version=4):
    nodes = (NodeSpec("hub", "router"), *(NodeSpec(f"n{i}", "router") for i in range(leaves)))
    links = tuple(LinkSpec(*(("hub", f"n{i}") if i % 2 else (f"n{i}", "hub")), 10.0) for i in range(leaves))
    return Scenario("star", nodes, links, ip_version=version)


@given(st.integers(2, 40), versions, st.sampled_from([chain, star]))
@settings(deadline=None, max_examples=40)
def test_no_address_and_no_mac_is_given_twice(size, version, shape):
    scenario = shape(size, version)
    plan = AddressPlan(scenario)
    ends = [(link, node) for link in scenario.links for node in (link.a, link.b)]
    addresses = [plan.node(node.name) for node in scenario.nodes] + [plan.link_end(*end) for end in ends]
    assert len(set(addresses)) == len(addresses)
    assert {ipaddress.ip_address(address).version for address in addresses} == {version}
    macs = [plan.mac(*end) for end in ends]
    assert len(set(macs)) == len(macs)


@given(st.integers(2, 300), versions)
@settings(deadline=None, max_examples=25)
def test_both_ends_of_a_link_are_the_hosts_of_a_subnet_of_its_own(size, version):
    scenario = chain(size, version)
    plan, subnets = AddressPlan(scenario), []
    for link in scenario.links:
        a, b = (ipaddress.ip_interface(f"{plan.link_end(link, node)}/{plan.link_prefix}") for node in (link.a, link.b))
        assert a.network == b.network and {a.ip, b.ip} <= set(
            list(a.network.hosts())[:2] if version == 4 else {a.ip, b.ip}
        )
        subnets.append(a.network)
    assert not any(x.overlaps(y) for i, x in enumerate(subnets) for y in subnets[i + 1 :])
    nodes = [ipaddress.ip_address(plan.node(node.name)) for node in scenario.nodes]
    assert not any(node in subnet for node in nodes for subnet in subnets)


def test_the_last_link_that_is_accepted_still_has_addresses_of_the_plan():
    index = MAX_LINKS - 1

    class Links(tuple):
        """So many links that making them all would take the test seconds: only the last one is ever asked for."""

        def __len__(self):
            return index + 1

        def index(self, _link):
            return index

    scenario, link = chain(2), LinkSpec("n0", "n1", 10.0)
    object.__setattr__(scenario, "links", Links((link,)))
    plan = AddressPlan(scenario)
    assert ipaddress.ip_address(plan.link_end(link, "n1")) in ipaddress.ip_network("10.200.0.0/16")
    object.__setattr__(scenario, "ip_version", 6)
    assert ipaddress.ip_address(plan.link_end(link, "n1")) in ipaddress.ip_network("fd67:6e6c:200::/48")


def test_more_links_than_addresses_are_refused():
    scenario = chain(2)
    object.__setattr__(scenario, "links", scenario.links * (MAX_LINKS + 1))
    with pytest.raises(ScenarioError, match=f"at most {MAX_LINKS}"):
        AddressPlan(scenario)


@given(st.integers(2, 300))
@settings(deadline=None, max_examples=10)
def test_macs_are_locally_administered_unicast(size):
    scenario = chain(size)
    plan = AddressPlan(scenario)
    for link in scenario.links:
        mac = plan.mac(link, link.b)
        assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) and int(mac[:2], 16) & 3 == 2


def test_interface_names_fit_the_kernel_for_the_longest_node_names():
    name = interface_name("abcdefg", "hijklmn")
    assert len(name) <= 15 and name != interface_name("hijklmn", "abcdefg")
