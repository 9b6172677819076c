"""The figures of a result document as a page shows them: looked up by path, rounded, and never lost.

Each figure becomes `<data value="FULL VALUE" data-path="measured/wire/g_flow" data-show="ratio">1.6154</data>`: what
is read is rounded, what a program or a mouse pointer finds is the whole number and where it stands in `result.json`.
A figure that the document does not hold is shown as a dash, never as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

ABSENT = "–"
MINUS = "\u2212"
THIN_SPACE = "\u202f"
BITS_PER_MBIT = 1e6


def significant(value: float, digits: int = 5) -> str:
    """Write a number with so many significant digits, without an exponent where it has under nine digits.

    >>> significant(19.98765), significant(0.0012345678), significant(0)
    ('19.988', '0.0012346', '0')
    """
    if value == 0:
        return "0"
    exponent = int(
        f"{value:.{digits - 1}e}".partition("e")[2]
    )  # of the rounded value: 9.999996 has two digits before the point
    if not -5 <= exponent <= 8:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    return text.replace("-", MINUS)


def _count(value: float) -> str:
    if value != int(value):
        return significant(value)
    return f"{int(value):,}".replace(",", THIN_SPACE).replace("-", MINUS)


def _percent_error(value: float) -> str:
    text = f"{100 * value:+.3f}%"
    return "0.000%" if text[1:] == "0.000%" else text.replace("-", MINUS)


SHOWN = {
    "mbit": lambda value: significant(value / BITS_PER_MBIT),  # bit/s in the document, Mbit/s on the page
    "mbit_spec": lambda value: f"{value / BITS_PER_MBIT:.9g}",  # as the scenario gave it
    "plain": significant,
    "short": lambda value: significant(value, 4),
    "ratio": significant,
    "error": _percent_error,
    "share": lambda value: f"{100 * value:.1f}%",
    "count": _count,
}


def is_number(value: Any) -> bool:
    """Whether a value of a JSON document is a finite number (a boolean is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def figure(value: Any, show: str = "plain", path: str = "", svg: bool = False) -> Markup:
    """One number as a `<data>` element (in SVG: a `<tspan>`), or a dash where it is not a finite number."""
    if not is_number(value):
        return Markup(ABSENT if svg else f'<span class="absent" title="not in this result">{ABSENT}</span>')
    where = Markup(' data-path="{}"').format(path) if path else Markup("")
    if svg:
        return Markup('<tspan data-value="{0!r}" data-show="{1}"{2}>{3}</tspan>').format(
            value, show, where, SHOWN[show](value)
        )
    return Markup('<data value="{0!r}" data-show="{1}"{2} title="{0!r}">{3}</data>').format(
        value, show, where, SHOWN[show](value)
    )


class Document:
    """A JSON document whose parts may be absent: `at` finds a value by its path, `show` makes it a figure."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree = tree

    def at(self, *path: str | int) -> Any:
        """The value at a path, or None where any step of it is missing or null."""
        value: Any = self.tree
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
                value = value[step]
            else:
                return None
        return value

    def mapping(self, *path: str | int) -> dict[str, Any]:
        """The mapping at a path, empty where there is none."""
        value = self.at(*path)
        return value if isinstance(value, dict) else {}

    def items(self, *path: str | int) -> list[Any]:
        """The list at a path, empty where there is none."""
        value = self.at(*path)
        return value if isinstance(value, list) else []

    def number(self, *path: str | int) -> float | None:
        """The finite number at a path, or None."""
        value = self.at(*path)
        return value if is_number(value) else None

    def show(self, how: str, *path: str | int) -> Markup:
        """The number at a path as a figure that names the path."""
        return figure(self.at(*path), how, "/".join(str(step) for step in path))

    def interval(self, quantity: str, how: str, level: str = "wire") -> Markup | None:
        """The 95% interval of a quantity, where the run was repeated."""
        base = ("measured", "ci95") if level == "wire" else ("measured", "ci95", level)
        low, high = self.number(*base, quantity, 0), self.number(*base, quantity, 1)
        if low is None or high is None:
            return None
        return Markup("[{}, {}]").format(self.show(how, *base, quantity, 0), self.show(how, *base, quantity, 1))


@dataclass(frozen=True)
class LinkFlow:
    """A link with flow from `a` to `b`: capacity that way and back, flow predicted and measured, in bit/s."""

    name: str
    a: str
    b: str
    capacity_bps: float | None
    capacity_back_bps: float | None
    predicted_bps: float | None
    measured_bps: float | None
    replicated_bps: float | None

    @property
    def utilisation(self) -> float | None:
        """Measured flow over capacity (predicted flow where none was measured)."""
        flow = self.predicted_bps if self.measured_bps is None else self.measured_bps
        return None if flow is None or not self.capacity_bps else flow / self.capacity_bps

    @property
    def error(self) -> float | None:
        """Measured over predicted, less one."""
        return relative_error(self.measured_bps, self.predicted_bps)


def relative_error(measured: float | None, predicted: float | None) -> float | None:
    """measured / predicted - 1, or None where either is absent or nothing was predicted."""
    return None if measured is None or not predicted else measured / predicted - 1


def node_roles(document: Document) -> dict[str, str]:
    """Role of each node of a run's scenario, "" where it is not given."""
    nodes = document.mapping("run", "scenario", "nodes")
    return {name: str(document.at("run", "scenario", "nodes", name, "role") or "") for name in nodes}


def link_flows(document: Document) -> list[LinkFlow]:
    """The links of a run's scenario in spec order, with their wire-level flows; else those of the analysis."""
    specs = document.mapping("run", "scenario", "links")
    names = list(specs) or list(document.mapping("analytic", "wire", "flows_bps"))
    replicated = _replicated_bps(document)
    return [_link_flow(document, name, replicated.get(name)) for name in names if name.count("-") == 1]


def _link_flow(document: Document, name: str, replicated_bps: float | None) -> LinkFlow:
    a, b = name.split("-")
    capacity_mbit = document.number("run", "scenario", "links", name, "bw_mbit")
    back_mbit = document.number("run", "scenario", "links", name, "bw_back_mbit")
    back_mbit = capacity_mbit if back_mbit is None else back_mbit
    if any((b, a) in zip(path, path[1:]) for path in document.items("plan", "paths") if isinstance(path, list)):
        a, b, capacity_mbit, back_mbit = b, a, back_mbit, capacity_mbit  # a link may be named against the flow
    return LinkFlow(
        name,
        a,
        b,
        None if capacity_mbit is None else capacity_mbit * BITS_PER_MBIT,
        None if back_mbit is None else back_mbit * BITS_PER_MBIT,
        document.number("analytic", "wire", "flows_bps", name),
        document.number("measured", "wire", "flows_bps", name),
        replicated_bps,
    )


def _replicated_bps(document: Document) -> dict[str, float]:
    """Predicted wire flow of each link while every node replicates: the plan's, else of paths that nothing crosses.

    On such a path every link carries the least capacity of the path, less what a lossy link before it has dropped.
    Where paths share a node the split is not unique, and the page draws no prediction.
    """
    planned = document.mapping("plan", "replicate_flows_bps", "wire")
    if planned:
        return {name: rate for name, rate in planned.items() if is_number(rate)}
    flows: dict[str, float] = {}
    for path in _separate_paths(document):
        specs = [document.mapping("run", "scenario", "links", name) for name in path]
        capacities = [spec.get("bw_mbit") for spec in specs]
        if not all(is_number(capacity) for capacity in capacities):
            continue
        rate_bps = min(capacities) * BITS_PER_MBIT
        for name, spec in zip(path, specs):
            flows[name] = rate_bps
            loss = spec.get("loss_percent")
            rate_bps *= 1 - (loss / 100 if is_number(loss) else 0)
    return flows


def _separate_paths(document: Document) -> Iterator[list[str]]:
    """Paths (as link names) from source to sink whose inner nodes have one link in and one out."""
    roles = node_roles(document)
    leaving: dict[str, list[str]] = {}
    entering: dict[str, int] = {}
    for name in document.mapping("run", "scenario", "links"):
        a, _, b = name.partition("-")
        leaving.setdefault(a, []).append(name)
        entering[b] = entering.get(b, 0) + 1
    for first in [name for node, role in roles.items() if role == "source" for name in leaving.get(node, [])]:
        path = [first]
        while roles.get(end := path[-1].partition("-")[2]) != "sink":
            if entering.get(end) != 1 or len(leaving.get(end, [])) != 1 or leaving[end][0] in path:
                break
            path.append(leaving[end][0])
        else:
            yield path
