"""A small network drawn as SVG: source left, sink right, plain routers above, generative ones below, as in Fig. 1.

Nodes stand in columns by their distance from the source. A link is as wide and as dark as it is used; its label says
capacity, predicted and measured flow. Colours are classes of the page's style sheet, so that they follow its theme.
"""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from .report_values import Document, LinkFlow, figure, node_roles

WIDTH, ROW, MARGIN_X, MARGIN_Y, RADIUS = 1120, 210, 80, 70, 30
Point = tuple[float, float]
Size = tuple[int, int]
LABEL, COMPACT_LABEL = (222, 64), (146, 46)
MANY_LINKS, MANY_LINKS_ROW = 6, 300
# A link that passes a foreign node closer than this is bent away from it by BEND.
CLEARANCE, BEND = RADIUS + 14, 110
LABEL_PLACES = (0.5, 0.4, 0.6, 0.32, 0.68, 0.25, 0.75)
# Upper ends of the classes of utilisation u0..u4 of the style sheet.
USE_CLASSES = (0.25, 0.5, 0.75, 0.95)
ROLE_WORDS = {"source": "source", "router": "router, replicates", "genai": "generative router", "sink": "destination"}
ROLE_ROWS = {"router": 0, "source": 1, "sink": 1, "genai": 2}


def draw_topology(document: Document, links: list[LinkFlow]) -> Markup:
    """The network of a run with each link's capacity, predicted and measured wire flow."""
    roles = node_roles(document)
    for link in links:  # where the scenario itself is absent
        roles.setdefault(link.a, "")
        roles.setdefault(link.b, "")
    if not roles:
        return Markup("")
    places, height = layout(roles, links)
    parts = [
        Markup('<svg class="topology" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, height, "Network: " + ", ".join(f"link {link.name}" for link in links)
        )
    ]
    labels: list[Markup] = []
    size = label_size(links)
    taken = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS + 22) for x, y in places.values()]
    for link in links:
        bend = _control(places[link.a], places[link.b], [p for n, p in places.items() if n not in (link.a, link.b)])
        parts.append(_arrow(link, places[link.a], bend, places[link.b]))
        centre = _label_place((places[link.a], bend, places[link.b]), size, taken, height)
        taken.append(_box(centre, size))
        labels.append(_label(link, centre, size))
    parts += [_node(name, role, places[name]) for name, role in roles.items()]
    return Markup("\n").join([*parts, *labels, Markup("</svg>")])


def layout(roles: dict[str, str], links: list[LinkFlow]) -> tuple[dict[str, Point], int]:
    """Centre of each node, and the height of the drawing."""
    columns: dict[int, list[str]] = {}
    for name, column in _columns(roles, links).items():
        columns.setdefault(column, []).append(name)
    rows = max(len(names) for names in columns.values())
    height = 2 * MARGIN_Y + (MANY_LINKS_ROW if len(links) > MANY_LINKS else ROW) * max(1, rows - 1) + 24
    last = max(columns) or 1
    places: dict[str, Point] = {}
    for column, names in columns.items():
        names.sort(key=lambda name: ROLE_ROWS.get(roles[name], 1))
        pitch = (height - 24 - 2 * MARGIN_Y) / max(1, len(names) - 1)
        top = MARGIN_Y if len(names) > 1 else (height - 24) / 2
        for row, name in enumerate(names):
            places[name] = (MARGIN_X + column * (WIDTH - 2 * MARGIN_X) / last, top + row * pitch)
    return places, round(height)


def _columns(roles: dict[str, str], links: list[LinkFlow]) -> dict[str, int]:
    """Hops from the nearest source, in either direction of a link; sinks stand last, alone."""
    starts = [name for name, role in roles.items() if role == "source"] or list(roles)[:1]
    columns = {name: 0 for name in starts}
    frontier = list(starts)
    while frontier:
        name = frontier.pop(0)
        for link in links:
            for here, there in ((link.a, link.b), (link.b, link.a)):
                if here == name and there not in columns:
                    columns[there] = columns[name] + 1
                    frontier.append(there)
    inner = max([column for name, column in columns.items() if roles[name] != "sink"], default=0)
    return {name: inner + 1 if role == "sink" else columns.get(name, inner) for name, role in roles.items()}


def _control(start: Point, end: Point, others: list[Point]) -> Point:
    """Control point of a quadratic curve: the middle (a straight line) unless a foreign node is in the way."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    for x, y in others:
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length
        aside = ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length
        if 0 < along < length and abs(aside) < CLEARANCE:
            away = -BEND if aside >= 0 else BEND
            return middle[0] + away * (y1 - y0) / length, middle[1] - away * (x1 - x0) / length
    return middle


def _on_curve(start: Point, bend: Point, end: Point, at: float) -> Point:
    weights = ((1 - at) ** 2, 2 * at * (1 - at), at**2)
    return tuple(sum(w * p[axis] for w, p in zip(weights, (start, bend, end))) for axis in (0, 1))  # type: ignore


def _arrow(link: LinkFlow, start: Point, bend: Point, end: Point) -> Markup:
    """The link from rim to rim with a head in the direction a to b, classed by its utilisation."""
    x0, y0 = _towards(start, bend, RADIUS + 3)
    tip_x, tip_y = _towards(end, bend, RADIUS + 4)
    x1, y1 = _towards(end, bend, RADIUS + 16)
    use = link.utilisation
    width = 3 + 6 * min(1.0, use or 0.0)
    half = width / 2 + 5
    angle = math.atan2(tip_y - y1, tip_x - x1)
    wings = [(x1 + half * math.sin(angle) * s, y1 - half * math.cos(angle) * s) for s in (1, -1)]
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(tip_x, tip_y), *wings])
    return Markup(
        '<g class="link {}"><title>{}</title><path d="M{:.1f},{:.1f} Q{:.1f},{:.1f} {:.1f},{:.1f}" '
        'stroke-width="{:.1f}"/><polygon points="{}"/></g>'
    ).format(use_class(use), link.name, x0, y0, *bend, x1, y1, width, head)


def _towards(point: Point, target: Point, distance: float) -> Point:
    length = math.hypot(target[0] - point[0], target[1] - point[1]) or 1.0
    return tuple(p + distance * (t - p) / length for p, t in zip(point, target))  # type: ignore


def use_class(use: float | None) -> str:
    """Style class of a utilisation: u0 (idle) to u4 (full), or `unknown`."""
    return "unknown" if use is None else f"u{sum(use >= limit for limit in USE_CLASSES)}"


def label_size(links: list[LinkFlow]) -> Size:
    """Width and height of every label of a drawing."""
    return COMPACT_LABEL if len(links) > MANY_LINKS else LABEL


def _box(centre: Point, size: Size) -> tuple[float, float, float, float]:
    (x, y), (width, height) = centre, size
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _label_place(curve: tuple[Point, Point, Point], size: Size, taken: list[Any], height: float) -> Point:
    """The place along a link whose label covers least of the nodes and labels already there, inside the drawing."""

    def covered(centre: Point) -> float:
        left, top, right, bottom = _box(centre, size)
        area = 0.0
        for x0, y0, x1, y1 in taken:
            area += max(0, min(right, x1) - max(left, x0)) * max(0, min(bottom, y1) - max(top, y0))
        return area

    def inside(centre: Point) -> Point:
        x = min(max(centre[0], size[0] / 2 + 2), WIDTH - size[0] / 2 - 2)
        return x, min(max(centre[1], size[1] / 2 + 2), height - size[1] / 2 - 2)

    return min((inside(_on_curve(*curve, at)) for at in LABEL_PLACES), key=covered)


def _label(link: LinkFlow, centre: Point, size: Size) -> Markup:
    """Three lines (name and capacity, predicted, measured with its error); two where many links share the drawing."""
    left, top, _, _ = _box(centre, size)
    back = link.capacity_back_bps
    both = "" if back == link.capacity_bps else Markup(" / {} back").format(figure(back, "mbit_spec", svg=True))
    name = Markup('<tspan class="name">{}</tspan> {}{}{}').format(
        link.name, figure(link.capacity_bps, "mbit_spec", svg=True), both, "" if size == COMPACT_LABEL else " Mbit/s"
    )
    predicted = figure(link.predicted_bps, "mbit", f"analytic/wire/flows_bps/{link.name}", svg=True)
    measured = figure(link.measured_bps, "mbit", f"measured/wire/flows_bps/{link.name}", svg=True)
    error = "" if link.error is None else Markup(" ({})").format(figure(link.error, "error", svg=True))
    lines = [
        name,
        Markup('<tspan class="key">predicted</tspan> {}').format(predicted),
        Markup('<tspan class="key">measured</tspan> {}{}').format(measured, error),
    ]
    if size == COMPACT_LABEL:
        lines = [name, Markup('{} <tspan class="key">/</tspan> {}').format(predicted, measured)]
    texts = Markup("").join(
        Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(left + 10, top + 18 + 17.5 * index, line)
        for index, line in enumerate(lines)
    )
    return Markup('<g class="label"><rect x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="6"/>{}</g>').format(
        left, top, *size, texts
    )


def _node(name: str, role: str, place: Point) -> Markup:
    x, y = place
    ring = Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, RADIUS + 5)
    return Markup(
        '<g class="node {}">{}<circle cx="{:.1f}" cy="{:.1f}" r="{}"/>'
        '<text class="node-name" x="{:.1f}" y="{:.1f}" font-size="{:.0f}">{}</text>'
        '<text class="role" x="{:.1f}" y="{:.1f}">{}</text></g>'
    ).format(
        role if role in ROLE_WORDS else "other", ring if role == "genai" else "", x, y, RADIUS,
        x, y + 6, min(18, 86 / max(1, len(name))), name,  # a name of seven letters fits the circle
        x, y + RADIUS + 20, ROLE_WORDS.get(role, role),
    )  # fmt: skip
