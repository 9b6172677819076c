"""Max-flow and min-cut of a directed graph with integer capacities, exact at any size.

Small graphs are solved by Dinic's algorithm (Soviet Math. Dokl. 11, 1970) in plain Python: scipy takes longer to
import than such a graph to solve. From `SCIPY_ARCS` arcs on, `scipy.sparse.csgraph.maximum_flow` does the work. Its
integers have 32 bits, less than one link of 2.2 Gbit/s needs, so the capacities are solved in two passes: their high
bits, then what is left in the residual graph. Both ways give the same exact value; the flows may differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from operator import index

from gnl.topologies.errors import ScenarioError

Node = Hashable
Arc = tuple[Node, Node]
Numbered = dict[tuple[int, int], int]  # bit/s by arc, the nodes being numbers

SCIPY_ARCS = 10_000  # about where scipy earns back its import (0.35 s of CPU) in one call
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class MaxFlow:
    """A maximum flow. `flows_bps` holds every arc (net: at most one of two opposite arcs carries flow), `min_cut` the
    arcs from `source_side` to the rest, whose capacities sum to `value_bps`."""

    value_bps: int
    flows_bps: dict[Arc, int]
    min_cut: tuple[Arc, ...]
    source_side: frozenset[Node]


def max_flow(capacities_bps: Mapping[Arc, int], source: Node, sink: Node, solver: str = "auto") -> MaxFlow:
    """Return a maximum flow from `source` to `sink` and the min-cut nearest to the source.

    `capacities_bps` maps arcs (from, to) to whole bit/s, 0 allowed; a pair that is absent is no arc. `solver` is
    `auto`, `dinic` or `scipy`. Raises `ScenarioError` on a capacity that is negative or not whole, an arc from a node
    to itself, source = sink, and a source or sink that no arc touches.

    >>> max_flow({("s", "r"): 10, ("r", "d"): 10, ("s", "g"): 2, ("g", "d"): 20}, "s", "d").min_cut
    (('s', 'r'), ('s', 'g'))
    """
    capacities = _checked(capacities_bps, source, sink)
    numbers: dict[Node, int] = {}
    for arc in capacities:
        for node in arc:
            numbers.setdefault(node, len(numbers))
    numbered = {(numbers[a], numbers[b]): bps for (a, b), bps in capacities.items()}
    ends = numbers[source], numbers[sink]
    if solver == "auto":
        solver = "scipy" if len(capacities) >= SCIPY_ARCS else "dinic"
    net = _by_scipy(numbered, len(numbers), *ends) if solver == "scipy" else _by_dinic(numbered, len(numbers), *ends)

    side = _reachable(numbered, net, len(numbers), ends[0])
    cut = tuple(arc for arc in capacities if numbers[arc[0]] in side and numbers[arc[1]] not in side)
    flows = {arc: max(0, net.get((numbers[arc[0]], numbers[arc[1]]), 0)) for arc in capacities}
    value = sum(capacities[arc] for arc in cut)
    return MaxFlow(value, flows, cut, frozenset(node for node, number in numbers.items() if number in side))


def _checked(capacities_bps: Mapping[Arc, int], source: Node, sink: Node) -> dict[Arc, int]:
    if source == sink:
        raise ScenarioError(f"source and sink are both {source!r}: give two different nodes")
    checked: dict[Arc, int] = {}
    for (a, b), capacity in capacities_bps.items():
        try:
            checked[a, b] = index(capacity)
        except TypeError:
            raise ScenarioError(f"capacity of {a}->{b} is {capacity!r}: give a whole number of bit/s") from None
        if checked[a, b] < 0:
            raise ScenarioError(f"capacity of {a}->{b} is {capacity!r}: give 0 or more bit/s")
        if a == b:
            raise ScenarioError(f"arc {a}->{b} joins a node to itself: give two different nodes")
    known = {node for arc in checked for node in arc}
    for role, node in (("source", source), ("sink", sink)):
        if node not in known:
            raise ScenarioError(f"no arc touches the {role} {node!r}: give it a link")
    return checked


def _reachable(capacities: Numbered, net: Numbered, nodes: int, start: int) -> set[int]:
    """Nodes that the residual graph still reaches from `start`: the source side of a min-cut."""
    residual: list[list[int]] = [[] for _ in range(nodes)]
    for (a, b), capacity in capacities.items():
        if capacity > net.get((a, b), 0):
            residual[a].append(b)
        if net.get((a, b), 0) > 0 and (b, a) not in capacities:
            residual[b].append(a)
    found, waiting = {start}, deque([start])
    while waiting:
        for node in residual[waiting.popleft()]:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def _by_dinic(capacities: Numbered, nodes: int, source: int, sink: int) -> Numbered:
    """Net flow of each pair by blocking flows in level graphs; opposite arcs share one residual pair."""
    residual: list[dict[int, int]] = [{} for _ in range(nodes)]
    for (a, b), capacity in capacities.items():
        residual[a][b] = capacity
        residual[b].setdefault(a, 0)
    while levels := _levels(residual, source, sink):
        # An arc that led nowhere is not tried again in this level graph: that is what bounds the search.
        untried = [[b for b in residual[a] if levels[b] == levels[a] + 1 and residual[a][b]] for a in range(nodes)]
        while path := _path(residual, untried, source, sink):
            steps = list(zip(path, path[1:]))
            amount = min(residual[a][b] for a, b in steps)
            for a, b in steps:
                residual[a][b] -= amount
                residual[b][a] += amount
    return {(a, b): capacity - residual[a][b] for (a, b), capacity in capacities.items()}


def _levels(residual: list[dict[int, int]], source: int, sink: int) -> list[int] | None:
    """Hops from the source in the residual graph (-1: not reached), or None once the sink is cut off."""
    levels = [-1] * len(residual)
    levels[source] = 0
    waiting = deque([source])
    while waiting:
        a = waiting.popleft()
        for b, capacity in residual[a].items():
            if capacity and levels[b] < 0:
                levels[b] = levels[a] + 1
                waiting.append(b)
    return levels if levels[sink] >= 0 else None


def _path(residual: list[dict[int, int]], untried: list[list[int]], source: int, sink: int) -> list[int]:
    """An augmenting path along untried arcs, by depth-first search without recursion; empty when there is none."""
    path = [source]
    while path and path[-1] != sink:
        a = path[-1]
        while untried[a] and not residual[a][untried[a][-1]]:
            untried[a].pop()
        if untried[a]:
            path.append(untried[a][-1])
        else:
            path.pop()
            if path:
                untried[path[-1]].pop()
    return path


def _by_scipy(capacities: Numbered, nodes: int, source: int, sink: int) -> Numbered:
    """Net flow of each pair by scipy in two passes, so that no number it handles needs more than 31 bits.

    Once the capacities without their last `shift` bits are solved, each arc of that solution's min-cut has less than
    2**shift left, so the remainder is below arcs * 2**shift: residual capacities may be clipped there without loss.
    """
    leaving = sum(capacity for (a, _), capacity in capacities.items() if a == source)
    # A residual arc holds up to the capacities of both directions.
    most = max(leaving, 2 * max(capacities.values()))
    shift = max(0, most.bit_length() - 30)
    if (len(capacities) << shift) * 2 > INT32_MAX:
        return _by_dinic(capacities, nodes, source, sink)
    high = _scipy_net({arc: capacity >> shift for arc, capacity in capacities.items()}, nodes, source, sink)
    net = {arc: flow << shift for arc, flow in high.items()}
    if not shift:
        return net
    bound = len(capacities) << shift
    rest = {}
    for a, b in {*capacities, *((b, a) for a, b in capacities)}:
        left = capacities.get((a, b), 0) - net.get((a, b), 0)
        rest[a, b] = min(left, bound)
    for arc, flow in _scipy_net(rest, nodes, source, sink).items():
        net[arc] = net.get(arc, 0) + flow
    return net


def _scipy_net(capacities: Numbered, nodes: int, source: int, sink: int) -> Numbered:
    """Net flow of each pair, negative against the flow (antisymmetric, as scipy gives it)."""
    import numpy
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    arcs = [arc for arc, capacity in capacities.items() if capacity]
    rows, columns = [a for a, _ in arcs], [b for _, b in arcs]
    data = numpy.array([capacities[arc] for arc in arcs], dtype=numpy.int32)
    flow = maximum_flow(csr_array((data, (rows, columns)), shape=(nodes, nodes)), source, sink).flow.tocoo()
    return {(a, b): f for a, b, f in zip(flow.row.tolist(), flow.col.tolist(), flow.data.tolist()) if f}
