"""The built-in scenarios, by name."""

from __future__ import annotations

from .spec import LinkSpec, NodeSpec, Scenario


def _fig_1(name: str, scale: float = 1) -> Scenario:
    """The network of the paper's Fig. 1: s reaches d by a relay r, and by a GenAI node g behind a narrow s-g link."""
    nodes = (NodeSpec("s", "source"), NodeSpec("r", "router"), NodeSpec("g", "genai"), NodeSpec("d", "sink"))
    links = (
        LinkSpec("s", "r", 10.0 * scale),
        LinkSpec("r", "d", 10.0 * scale),
        LinkSpec("s", "g", 2.0 * scale),
        LinkSpec("g", "d", 20.0 * scale),
    )
    return Scenario(name, nodes, links)


NAMED = {
    "diamond": _fig_1("diamond"),
    "diamond-x10": _fig_1("diamond-x10", scale=10),
}
