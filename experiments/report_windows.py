"""Every measured window against its prediction: a dot a window, a row a link and phase, zero error in the middle.

On an axis of utilisation an error of a tenth of a percent cannot be seen; here it can. Used windows are filled dots,
discarded ones crosses; one that lies outside the axis is drawn as an arrow at its edge.
"""

from __future__ import annotations

from markupsafe import Markup

from .report_series import Series, Window
from .report_values import MINUS, LinkFlow, relative_error

WIDTH, LEFT, RIGHT, ROW_H, TOP, AXIS_H = 1120, 150, 24, 24, 10, 34
HALF_WIDTHS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Row = tuple[str, list[tuple[Window, int, float]]]


def window_errors(series: Series, links: list[LinkFlow]) -> list[Row]:
    """For each phase and link with a prediction: its windows with their repeat and relative error."""
    rows: list[Row] = []
    for name in ("replicate", "generate"):
        for link in links:
            predicted = link.replicated_bps if name == "replicate" else link.predicted_bps
            found = []
            for phase in series.phases:
                for window in phase.windows if phase.name == name else ():
                    error = relative_error(series.window_bps(link.name, window), predicted)
                    if error is not None:
                        found.append((window, phase.repeat, error))
            if found:
                rows.append((f"{name}, {link.name}", found))
    return rows


def draw_window_errors(rows: list[Row]) -> Markup:
    """The rows as SVG; empty where there are none."""
    if not rows:
        return Markup("")
    largest = max((abs(error) for _, found in rows for window, _, error in found if not window.discarded), default=0.0)
    half = next((width for width in HALF_WIDTHS if width >= largest), HALF_WIDTHS[-1])
    bottom = TOP + ROW_H * len(rows)

    def x(error: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (error / half + 1) / 2

    parts = [
        Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="Error of each window">').format(
            WIDTH, bottom + AXIS_H
        )
    ]
    for share in (-1, -0.5, 0, 0.5, 1):
        label = f"{100 * share * half:+.3g}%".replace("-", MINUS) if share else "as predicted"
        parts.append(
            Markup(
                '<line class="{0}" x1="{1:.1f}" x2="{1:.1f}" y1="{2}" y2="{3}"/>'
                '<text class="moment" x="{1:.1f}" y="{4}">{5}</text>'
            ).format("grid" if share else "zero", x(share * half), TOP, bottom, bottom + 18, label)
        )
    for index, (label, found) in enumerate(rows):
        y = TOP + ROW_H * (index + 0.5)
        parts.append(Markup('<text class="tick" x="{}" y="{:.1f}">{}</text>').format(LEFT - 12, y + 4, label))
        parts += [_mark(window, repeat, error, x, half, y) for window, repeat, error in found]
    return Markup("").join([*parts, Markup("</svg>")])


def _mark(window: Window, repeat: int, error: float, x: object, half: float, y: float) -> Markup:
    at = x(max(-half, min(half, error)))  # type: ignore[operator]
    says = f"repeat {repeat + 1}, {window.t0_s:.1f} to {window.t1_s:.1f} s: {100 * error:+.3f}%"
    if window.discarded:
        says += f", discarded: {window.discarded}"
    if abs(error) > half:
        shape = f"M{at:.1f},{y - 5} l{8 if error > 0 else -8},5 l{-8 if error > 0 else 8},5 z"
    elif window.discarded:
        shape = f"M{at - 4:.1f},{y - 4} l8,8 m0,-8 l-8,8"
    else:
        shape = f"M{at - 4:.1f},{y} a4,4 0 1,0 8,0 a4,4 0 1,0 -8,0 z"
    kind = "mark discarded" if window.discarded else "mark"
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(kind, shape, says)
