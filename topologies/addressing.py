"""The address plan of an emulated network, a pure function of its specification.

Every node has one identity address on its loopback, the one that contents are sent from and to; every link has a
small subnet of its own. Nothing here is reachable from the host: the addresses live in the nodes' namespaces alone.

                       IPv4                IPv6
    node n (from 1)    10.201.n>>8.n&255   fd67:6e6c:201::n
    link k, end a      10.200.x.y          fd67:6e6c:200:k::1     (x, y: the k-th /30)
    link k, end b      10.200.x.y + 1      fd67:6e6c:200:k::2
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from .errors import ScenarioError
from .spec import LinkSpec, Scenario

MAX_LINKS = 1 << 14


@dataclass(frozen=True)
class AddressPlan:
    """Addresses of a scenario's nodes and link ends; all methods return plain strings."""

    scenario: Scenario

    def __post_init__(self) -> None:
        if len(self.scenario.links) > MAX_LINKS:
            raise ScenarioError(f"{len(self.scenario.links)} links: at most {MAX_LINKS} have addresses here")

    @property
    def version(self) -> int:
        return self.scenario.ip_version

    @property
    def host_prefix(self) -> int:
        """Length of a prefix that holds one address."""
        return 32 if self.version == 4 else 128

    def node(self, name: str) -> str:
        """Identity address of a node."""
        number = 1 + [node.name for node in self.scenario.nodes].index(name)
        base = "10.201.0.0" if self.version == 4 else "fd67:6e6c:201::"
        return str(ipaddress.ip_address(base) + number)

    def link_end(self, link: LinkSpec, node: str) -> str:
        """Address of `node`'s interface on `link`."""
        index, side = self.scenario.links.index(link), 1 if node == link.a else 2
        if self.version == 4:
            return str(ipaddress.ip_address("10.200.0.0") + 4 * index + side)
        return str(ipaddress.ip_address(f"fd67:6e6c:200:{index:x}::") + side)

    @property
    def link_prefix(self) -> int:
        """Prefix length of a link's subnet."""
        return 30 if self.version == 4 else 64

    def mac(self, link: LinkSpec, node: str) -> str:
        """Locally administered MAC address of `node`'s interface on `link`."""
        index, side = self.scenario.links.index(link), 1 if node == link.a else 2
        return f"02:67:6e:{index >> 8:02x}:{index & 255:02x}:{side:02x}"


def interface_name(node: str, neighbour: str) -> str:
    """The interface of `node` towards `neighbour`: unique in its namespace, which is where it is created."""
    return f"{node}-{neighbour}"
