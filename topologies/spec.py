"""A scenario as frozen data: nodes, links, and what is sent over them.

A specification describes; `network` realises it. Every capacity is given: a missing one is an error, never an
unlimited link. Rates are layer-2 rates in Mbit/s (Ethernet frame without FCS), the unit that the kernel's shaper
and the interface counters use.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from .errors import ScenarioError

ROLES = ("source", "router", "genai", "sink")
MIN_BW_MBIT, MAX_BW_MBIT = 0.1, 2000.0
# The kernel's limit is 15 characters for an interface, and an interface is called "node-node".
NODE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,6}")


@dataclass(frozen=True)
class NodeSpec:
    """A node and what it does: `source`, `router` (replicates), `genai` (generates from prompts) or `sink`."""

    name: str
    role: str

    def __post_init__(self) -> None:
        if not NODE_NAME.fullmatch(self.name):
            raise ScenarioError(
                f"node name {self.name!r} is not usable: give 1 to 7 letters, digits or '_', the first a letter"
            )
        if self.role not in ROLES:
            raise ScenarioError(f"nodes.{self.name}.role is {self.role!r}: give one of {', '.join(ROLES)}")


@dataclass(frozen=True)
class LinkSpec:
    """A link from `a` to `b`, named "a-b". `bw_back_mbit` is the capacity from b to a (as `bw_mbit` where None).

    `delay_ms`, `jitter_ms` and `loss_percent` act on packets from a to b and from b to a alike.
    """

    a: str
    b: str
    bw_mbit: float
    bw_back_mbit: float | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0

    def __post_init__(self) -> None:
        for end in (self.a, self.b):
            if not NODE_NAME.fullmatch(end):
                raise ScenarioError(f"link {self.name} has an end {end!r}: name a link by its two nodes, as in s-r")
        if self.a == self.b:
            raise ScenarioError(f"link {self.name} joins {self.a} to itself: give two different nodes")
        _in_range(f"links.{self.name}.bw_mbit", self.bw_mbit, MIN_BW_MBIT, MAX_BW_MBIT)
        _in_range(f"links.{self.name}.bw_back_mbit", self.bw_back_mbit, MIN_BW_MBIT, MAX_BW_MBIT, optional=True)
        _in_range(f"links.{self.name}.delay_ms", self.delay_ms, 0, 10_000)
        _in_range(f"links.{self.name}.jitter_ms", self.jitter_ms, 0, 10_000)
        _in_range(f"links.{self.name}.loss_percent", self.loss_percent, 0, 100)
        if self.jitter_ms and not self.delay_ms:
            raise ScenarioError(f"links.{self.name}.jitter_ms is {self.jitter_ms} without a delay: give delay_ms too")

    @property
    def name(self) -> str:
        return f"{self.a}-{self.b}"

    def capacity_bps(self, source: str, target: str) -> int:
        """Layer-2 capacity of one direction in bit/s, an integer so that min-cuts are exact."""
        if (source, target) == (self.a, self.b):
            return round(self.bw_mbit * 1e6)
        if (source, target) == (self.b, self.a):
            return round((self.bw_mbit if self.bw_back_mbit is None else self.bw_back_mbit) * 1e6)
        raise ScenarioError(f"link {self.name} does not join {source} to {target}")


@dataclass(frozen=True)
class ContentSpec:
    """What is sent. `images`: "sample" or a folder. `size_px`: side of the square that images are cropped to, or
    None to leave them as they are. `codec`, `bpp`: the prompt codec and its target. `format`: what g sends to d
    and what plain images are (`raw`, `png`, `jpeg:Q`). `max_images`: at most so many of the folder are used.
    `force_slow_codec`: run even a codec that takes seconds to decode an image."""

    images: str = "sample"
    size_px: int | None = 256
    codec: str = "gnl-scalable"
    bpp: float | None = None
    format: str = "raw"
    max_images: int = 64
    force_slow_codec: bool = False

    def __post_init__(self) -> None:
        for key in ("images", "codec", "format"):
            value = getattr(self, key)
            if not isinstance(value, str) or not value:
                example = f"{key}: {_default(ContentSpec, key)}"
                raise ScenarioError(f"content.{key} is {value!r}: give a text, as in {example}")
        _in_range("content.size_px", self.size_px, 1, 8192, integer=True, optional=True)
        _in_range("content.max_images", self.max_images, 1, 100_000, integer=True)
        _in_range("content.bpp", self.bpp, 1e-4, 48, optional=True)
        if not isinstance(self.force_slow_codec, bool):
            raise ScenarioError(f"content.force_slow_codec is {self.force_slow_codec!r}: give true or false")
        match = re.fullmatch(r"raw|png|jpeg:(\d{1,3})", self.format)
        if not match or (match[1] and not 1 <= int(match[1]) <= 100):
            raise ScenarioError(f"content.format is {self.format!r}: give raw, png or jpeg:Q with Q from 1 to 100")


@dataclass(frozen=True)
class Scenario:
    """A whole scenario. `generation_rate_images_per_s` fixes R_g by hand (else a run measures it);
    `f_min_mbit` is the paper's least prompt flow that generation needs."""

    name: str
    nodes: tuple[NodeSpec, ...]
    links: tuple[LinkSpec, ...]
    content: ContentSpec = field(default_factory=ContentSpec)
    ip_version: int = 4
    f_min_mbit: float = 0.0
    generation_rate_images_per_s: float | None = None

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise ScenarioError(f"node {name} is given twice: give every node one name of its own")
        pairs = [frozenset((link.a, link.b)) for link in self.links]
        for link in self.links:
            for end in (link.a, link.b):
                if end not in names:
                    known = ", ".join(names)
                    raise ScenarioError(f"link {link.name} names node {end!r}, unknown here: nodes are {known}")
        for link, pair in zip(self.links, pairs):
            if pairs.count(pair) > 1:
                raise ScenarioError(f"link {link.name} is given twice: give one link between two nodes")
        if isinstance(self.ip_version, bool) or self.ip_version not in (4, 6):
            raise ScenarioError(f"ip_version is {self.ip_version!r}: give 4 or 6")
        _in_range("f_min_mbit", self.f_min_mbit, 0, MAX_BW_MBIT)
        rate = self.generation_rate_images_per_s
        _in_range("generation_rate_images_per_s", rate, 1e-6, 1e9, optional=True)

    def only(self, role: str) -> NodeSpec:
        """The one node of a role; an error where there is none or more than one."""
        found = [node for node in self.nodes if node.role == role]
        if len(found) != 1:
            raise ScenarioError(f"{self.name} has {len(found)} nodes of role {role!r}: exactly one is planned for here")
        return found[0]

    def link(self, a: str, b: str) -> LinkSpec:
        """The link that joins two nodes, in whichever order it was given."""
        for link in self.links:
            if {link.a, link.b} == {a, b}:
                return link
        known = ", ".join(link.name for link in self.links)
        raise ScenarioError(f"{self.name} has no link between {a} and {b}: links are {known}")


def _in_range(key: str, value: Any, low: float, high: float, integer: bool = False, optional: bool = False) -> None:
    if optional and value is None:
        return
    right_type = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if not right_type or not math.isfinite(value) or not low <= value <= high:
        kind, end = "whole number" if integer else "number", ", or null" if optional else ""
        raise ScenarioError(f"{key} is {value!r}: give a {kind} from {low:.10g} to {high:.10g}{end}")


def _default(spec: type, key: str) -> Any:
    return next(f.default for f in dataclasses.fields(spec) if f.name == key)


def scenario_from_dict(tree: dict[str, Any]) -> Scenario:
    """Build a scenario from plain data (a YAML or JSON document).

    Raises `ScenarioError` on an unknown key, a missing capacity, or any value out of range.
    """
    if not isinstance(tree, dict):
        raise ScenarioError(f"a scenario is a mapping with the keys nodes and links, not {type(tree).__name__}")
    _known(tree, [f.name for f in dataclasses.fields(Scenario)], "")
    for key in ("name", "nodes", "links"):
        if key not in tree:
            raise ScenarioError(f"the scenario has no {key!r}: give name, nodes and links")
    nodes = tuple(_node(name, value) for name, value in _mapping(tree["nodes"], "nodes").items())
    links = tuple(_link(name, value) for name, value in _mapping(tree["links"], "links").items())
    content = {} if tree.get("content") is None else _mapping(tree["content"], "content")
    _known(content, [f.name for f in dataclasses.fields(ContentSpec)], "content.")
    rest = {key: tree[key] for key in ("ip_version", "f_min_mbit", "generation_rate_images_per_s") if key in tree}
    return Scenario(str(tree["name"]), nodes, links, ContentSpec(**content), **rest)


def scenario_to_dict(scenario: Scenario) -> dict[str, Any]:
    """The plain data of a scenario, complete and in spec order; `scenario_from_dict` inverts it."""
    tree = dataclasses.asdict(scenario)
    tree["nodes"] = {node.name: {"role": node.role} for node in scenario.nodes}
    tree["links"] = {
        link.name: {key: value for key, value in dataclasses.asdict(link).items() if key not in ("a", "b")}
        for link in scenario.links
    }
    return tree


def _node(name: Any, value: Any) -> NodeSpec:
    value = _mapping(value, f"nodes.{name}")
    _known(value, ["role"], f"nodes.{name}.")
    if "role" not in value:
        raise ScenarioError(f"nodes.{name} has no role: give one of {', '.join(ROLES)}")
    return NodeSpec(str(name), value["role"])


def _link(name: Any, value: Any) -> LinkSpec:
    ends = str(name).split("-")
    if len(ends) != 2:
        raise ScenarioError(f"link name {name!r} is not two node names with a '-' between them: name it as in s-r")
    value = _mapping(value, f"links.{name}")
    _known(value, [f.name for f in dataclasses.fields(LinkSpec) if f.name not in ("a", "b")], f"links.{name}.")
    if value.get("bw_mbit") is None:
        raise ScenarioError(f"links.{name} has no capacity: give bw_mbit from {MIN_BW_MBIT:g} to {MAX_BW_MBIT:g}")
    return LinkSpec(*ends, **value)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ScenarioError(f"{where} is {value!r}: give a mapping")
    return value


def _known(value: dict[str, Any], accepted: list[str], prefix: str) -> None:
    for key in value:
        if key not in accepted:
            raise ScenarioError(f"unknown key {prefix}{key}: accepted here are {', '.join(accepted)}")
