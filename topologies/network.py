"""A scenario realised in Mininet: routers that forward in the kernel, links that are shaped as the spec says.

`EmulatedNetwork(scenario)` is a context manager; leaving it takes down all that entering it made. Interfaces are
created inside the nodes' namespaces, so that no name of the host is ever taken.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from mininet.link import Link, TCIntf
from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.node import Node
from mininet.topo import Topo

from .addressing import AddressPlan, interface_name
from .errors import MachineError
from .impairment import counted_packets, loss_rules, loss_table, netem_arguments, require_netem
from .interception import intercept_commands, intercept_rules
from .interrupts import held_back
from .routing import path_commands, shortest_path_commands
from .shaping import Installed, Shape, read_back
from .spec import MAX_BW_MBIT, LinkSpec, Scenario

# The kernel keeps rates in whole bytes a second.
RATE_STEP_BPS = 8


class ForwardingNode(Node):
    """A Linux router: forwards IPv4 and IPv6 in the kernel and accepts asymmetric routes."""

    def config(self, ip_version: int = 4, **params):
        result = super().config(**params)
        off = [f"/proc/sys/net/ipv4/conf/{name}/rp_filter" for name in ("all", "default", *self.intfNames())]
        if ip_version == 6:
            on = ["/proc/sys/net/ipv6/conf/all/forwarding"]
            off += [f"/proc/sys/net/ipv6/conf/{name}/accept_dad" for name in ("all", *self.intfNames())]
        else:
            # Router solicitations and multicast reports would count as traffic.
            on = [
                "/proc/sys/net/ipv4/ip_forward",
                "/proc/sys/net/ipv6/conf/all/disable_ipv6",
                "/proc/sys/net/ipv6/conf/default/disable_ipv6",
            ]
        self.cmd("; ".join([f"echo 1 > {key}" for key in on] + [f"echo 0 > {key}" for key in off]))
        return result


class ShapedIntf(TCIntf):
    """An interface whose shaper holds its rate exactly, up to 2 Gbit/s; `bw` is in Mbit/s, as Mininet's."""

    bwParamMax = MAX_BW_MBIT

    def bwCmds(self, bw=None, **_recipes):
        if bw is None:
            return [], " root "
        return [f"%s {arguments.format('%s')}" for arguments in Shape(round(bw * 1e6)).tc_arguments()], " parent 5:1 "

    def config(self, bw=None, netem=None, **params):
        result = super().config(bw=bw, **params) or {}
        # Segmentation offload would count a batch of 45 datagrams as one packet with one header.
        offloads = self.cmd(f"ethtool -K {self} tx-udp-segmentation off tso off gso off gro off")
        outputs = result.get("tcoutputs", []) + ([self.tc(f"%s {netem.format('%s')}")] if netem else []) + [offloads]
        for output in outputs:
            if output.strip():
                raise MachineError(f"interface {self} could not be configured: {output.strip().splitlines()[0]}")
        return result


class ShapedLink(Link):
    """A veth pair with a `ShapedIntf` at each end; params1 and params2 carry each direction's capacity."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, cls1=ShapedIntf, cls2=ShapedIntf, **kwargs)


class ScenarioTopo(Topo):
    """A scenario as Mininet's own description of a network."""

    def build(self, scenario: Scenario, **_options):
        plan = AddressPlan(scenario)
        for node in scenario.nodes:
            self.addHost(node.name, cls=ForwardingNode, ip=None, ip_version=scenario.ip_version)
        for link in scenario.links:
            self.addLink(
                link.a,
                link.b,
                cls=ShapedLink,
                intfName1=interface_name(link.a, link.b),
                intfName2=interface_name(link.b, link.a),
                addr1=plan.mac(link, link.a),
                addr2=plan.mac(link, link.b),
                params1=_direction(link, link.a, link.b),
                params2=_direction(link, link.b, link.a),
            )


def _direction(link: LinkSpec, source: str, target: str) -> dict:
    rate_bps = link.capacity_bps(source, target)
    return {"bw": rate_bps / 1e6, "netem": netem_arguments(link, rate_bps)}


class EmulatedNetwork:
    """A scenario's network, up and verified while the context lasts.

    Generative nodes hand datagrams for `prompt_port` to whatever program listens there transparently.
    `shaped=False` leaves out the shapers (for measuring what a router program can do at most).
    """

    def __init__(self, scenario: Scenario, prompt_port: int, shaped: bool = True):
        self.scenario, self.plan = scenario, AddressPlan(scenario)
        self.prompt_port, self.shaped = prompt_port, shaped
        self._mininet: Mininet | None = None

    def __enter__(self) -> EmulatedNetwork:
        require_mininet()
        require_netem(self.scenario.links)
        setLogLevel("critical")  # what goes wrong is raised here, in one line
        try:
            # Mininet's own initialisation raises limits of the host and leaves them so; nothing here needs them.
            Mininet.inited = True
            self._mininet = Mininet(topo=ScenarioTopo(scenario=self.scenario), controller=None, build=False)
            self._mininet.build()
            self._mininet.start()
            self._configure()
            if self.shaped:
                self.verify_shapers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        if self._mininet is not None:
            network, self._mininet = self._mininet, None
            # Links end with the namespaces that they are in. Mininet's own way has each node's shell delete them, and
            # waits for ever for a shell that was killed, or that was interrupted in the middle of a command.
            with held_back():
                for node in network.hosts:
                    node.terminate()

    def pid(self, node: str) -> int:
        """Process that holds the node's namespace."""
        return self._mininet[node].pid

    def netns_path(self, node: str) -> str:
        return f"/proc/{self.pid(node)}/ns/net"

    def inside(self, node: str, *command: str) -> list[str]:
        """The command line that runs `command` in the node's namespace, in a process with the same pid."""
        return ["mnexec", "-a", str(self.pid(node)), *command]

    def run_inside(self, node: str, *command: str, text: str | None = None) -> str:
        """Run a command in a node and return its output; raises `MachineError` with its first complaint."""
        done = subprocess.run(self.inside(node, *command), input=text, capture_output=True, text=True)
        if done.returncode:
            complaint = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
            raise MachineError(f"`{' '.join(command)}` failed in node {node}: {complaint[0]}")
        return done.stdout

    def install_path(self, path: list[str], source_port: int, table: int) -> None:
        """Route datagrams with `source_port` to the path's last node along the path, at every node of it."""
        for node, commands in path_commands(self.scenario, self.plan, path, source_port, table).items():
            self._ip_batch(node, commands)

    def directions(self) -> list[tuple[str, str]]:
        """Both directions of every link, as (sender, receiver), in spec order."""
        return [ends for link in self.scenario.links for ends in ((link.a, link.b), (link.b, link.a))]

    def shapers(self) -> dict[tuple[str, str], Installed]:
        """The kernel's state of the shaper of every direction; a direction without one is left out."""
        interfaces = {interface_name(node, neighbour): self.netns_path(node) for node, neighbour in self.directions()}
        found = read_back(interfaces) if self.shaped else {}
        return {ends: found[name] for ends in self.directions() if (name := interface_name(*ends)) in found}

    def verify_shapers(self) -> None:
        """Compare every shaper in the kernel with the spec; raises `MachineError` at the first that differs."""
        shapers = self.shapers()
        for source, target in self.directions():
            wanted = self.scenario.link(source, target).capacity_bps(source, target)
            found = shapers.get((source, target))
            if found is None:
                raise MachineError(f"link {source}->{target} is unshaped in the kernel: wanted {wanted} bit/s")
            if abs(found.rate_bps - wanted) > RATE_STEP_BPS or found.ceil_bps != found.rate_bps:
                raise MachineError(
                    f"link {source}->{target} is shaped to {found.rate_bps} bit/s in the kernel: wanted {wanted}"
                )

    @contextlib.contextmanager
    def without_loss(self) -> Iterator[None]:
        """Links lose nothing while the context lasts: a load generator must be able to set up its connections."""
        for node, neighbour in self.directions():
            if self.scenario.link(node, neighbour).loss_percent:
                table = loss_table(interface_name(node, neighbour))
                self.run_inside(node, "nft", "delete", "table", "netdev", table)
        try:
            yield
        finally:
            self._lose()

    def lost_on_purpose(self, node: str, neighbour: str) -> int:
        """Packets from `node` that the scenario's random loss has taken at `neighbour`."""
        if not self.scenario.link(node, neighbour).loss_percent:
            return 0
        table = loss_table(interface_name(neighbour, node))
        return counted_packets(self.run_inside(neighbour, "nft", "-j", "list", "table", "netdev", table))

    def _ip_batch(self, node: str, commands: list[str]) -> None:
        self.run_inside(node, "ip", f"-{self.plan.version}", "-batch", "-", text="\n".join(commands) + "\n")

    def _configure(self) -> None:
        for node in self.scenario.nodes:
            commands = shortest_path_commands(self.scenario, self.plan, node.name)
            if node.role == "genai":
                self.run_inside(node.name, "nft", "-f", "-", text=intercept_rules(self.prompt_port))
                commands += intercept_commands(self.scenario.ip_version)
            self._ip_batch(node.name, commands)
        self._lose()
        if not self.shaped:
            for node, neighbour in self.directions():
                self.run_inside(node, "tc", "qdisc", "del", "dev", interface_name(node, neighbour), "root")

    def _lose(self) -> None:
        for node, neighbour in self.directions():
            if rules := loss_rules(self.scenario.link(node, neighbour), interface_name(node, neighbour)):
                self.run_inside(node, "nft", "-f", "-", text=rules)


def require_mininet() -> None:
    """Say what is missing before anything is built."""
    if os.geteuid() != 0:
        raise MachineError("an emulated network needs root: run the same command with sudo")
    for program, package in (
        ("mnexec", "mininet"),
        ("tc", "iproute2"),
        ("ethtool", "ethtool"),
        ("nft", "nftables"),
        ("ifconfig", "net-tools"),
    ):
        if shutil.which(program) is None:
            raise MachineError(f"{program} is not on this machine: apt-get install {package}")
