"""Each link's utilisation over a run as SVG panels on one time axis: measured line, predicted dashes, windows shaded.

Every vertical axis is utilisation (rate over capacity) and starts at zero. Where a link has no known capacity its axis
is the rate over the largest rate seen. Colours are classes of the page's style sheet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from .report_series import Phase, Series
from .report_values import LinkFlow, figure

WIDTH, LEFT, RIGHT = 1120, 46, 12
PLOT_H, PHASES_H, AXIS_H, PAD_TOP = 84, 24, 34, 8
STOLEN_H = 44
HIGHEST_USE = 1.5
CHARACTER_PX = 7.2
MAX_STOLEN_STEPS = 1200


@dataclass(frozen=True)
class Panel:
    """One link's drawing, with what its heading says."""

    link: LinkFlow
    svg: Markup
    bin_s: float


def draw_timeline(series: Series, links: list[LinkFlow]) -> tuple[list[Panel], Markup]:
    """A panel for each link that was sampled, and the panel of stolen CPU (empty where it was not sampled)."""
    shown = [link for link in links if link.name in series.link_bytes]
    span = series.span_s
    panels = []
    for index, link in enumerate(shown):
        last = index == len(shown) - 1 and not series.stolen_cpu
        bin_s, points = series.binned_bps(link.name, link.capacity_bps)
        panels.append(Panel(link, _panel(series, link, bin_s, points, span, index == 0, last), bin_s))
    return panels, _stolen_panel(series, span) if series.stolen_cpu else Markup("")


def _x(moment_s: float, span: tuple[float, float]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (moment_s - span[0]) / ((span[1] - span[0]) or 1.0)


def _panel(
    series: Series,
    link: LinkFlow,
    bin_s: float,
    points: list[tuple[float, float | None]],
    span: tuple[float, float],
    first: bool,
    last: bool,
) -> Markup:
    rates = [rate for _, rate in points if rate is not None]
    full_bps = link.capacity_bps or max(rates, default=0.0) or 1.0
    highest = min(HIGHEST_USE, max(1.0, max(rates, default=0.0) / full_bps)) * 1.06
    top = PAD_TOP + (PHASES_H if first else 0)

    def y(rate_bps: float) -> float:
        return top + PLOT_H * (1 - min(rate_bps / full_bps, highest) / highest)

    height = top + PLOT_H + (AXIS_H if last else 8)
    parts = [_open(height, f"Utilisation of link {link.name} over time")]
    parts += [_windows(phase, span, top, PLOT_H) for phase in series.phases]
    parts += [_grid(y(use * full_bps), f"{use:.0%}") for use in (0.0, 0.5, 1.0)]
    parts += [_phase_edge(phase, span, top, PLOT_H) for phase in series.phases]
    if first:
        parts += [_phase_name(phase, series.phases, span) for phase in series.phases]
    parts.append(Markup('<path class="measured" d="{}"/>').format(_line(points, bin_s, span, y)))
    for phase in series.phases:  # dashes over the line, or a good run would hide its prediction
        predicted = {"replicate": link.replicated_bps, "generate": link.predicted_bps}.get(phase.name)
        if predicted is not None:
            parts.append(_predicted(_x(phase.t0_s, span), _x(phase.t1_s, span), y(predicted)))
    if last:
        parts.append(_time_axis(span, top + PLOT_H))
    return Markup("").join([*parts, Markup("</svg>")])


def _open(height: float, label: str) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(WIDTH, height, label)


def _windows(phase: Phase, span: tuple[float, float], top: float, height: float) -> Markup:
    parts = []
    for window in phase.windows:
        x0, x1 = _x(window.t0_s, span), _x(window.t1_s, span)
        says = f"{phase.name}: {window.t0_s:.1f} to {window.t1_s:.1f} s, {window.discarded or 'used'}"
        parts.append(
            Markup(
                '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
            ).format(
                "window discarded" if window.discarded else "window",
                x0 + 0.75,
                top,
                max(0.5, x1 - x0 - 1.5),
                height,
                says,
            )
        )
    return Markup("").join(parts)


def _grid(y: float, label: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
        '<text class="tick" x="{3}" y="{4:.1f}">{5}</text>'
    ).format(LEFT, WIDTH - RIGHT, y, LEFT - 6, y + 4, label)


def _phase_edge(phase: Phase, span: tuple[float, float], top: float, height: float) -> Markup:
    return Markup("").join(
        Markup('<line class="edge" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>').format(
            _x(at, span), top, top + height
        )
        for at in (phase.t0_s, phase.t1_s)
    )


def _phase_name(phase: Phase, phases: tuple[Phase, ...], span: tuple[float, float]) -> Markup:
    """The phase's name above its part of the axis, with the repeat where there are several; none where too narrow."""
    x0, x1 = _x(phase.t0_s, span), _x(phase.t1_s, span)
    names = [f"{phase.name} {phase.repeat + 1}", phase.name] if any(p.repeat for p in phases) else [phase.name]
    fits = next(
        (name for name in [*names, *(name[:3] for name in names[-1:])] if len(name) * CHARACTER_PX < x1 - x0), ""
    )
    return Markup(
        '<g class="phase {}"><title>{}</title><rect x="{:.1f}" y="2" width="{:.1f}" height="{}" rx="3"/>'
        '<text x="{:.1f}" y="16">{}</text></g>'
    ).format(
        phase.name if phase.name in ("calibrate", "replicate", "generate") else "other",
        f"{names[0]}: {phase.t0_s:.1f} to {phase.t1_s:.1f} s",
        x0 + 0.75, max(0.5, x1 - x0 - 1.5), PHASES_H - 4, (x0 + x1) / 2, fits,
    )  # fmt: skip


def _predicted(x0: float, x1: float, y: float) -> Markup:
    return Markup('<line class="predicted" x1="{0:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{2:.1f}"/>').format(x0, x1, y)


def _line(points: list[tuple[float, float | None]], bin_s: float, span: tuple[float, float], y: object) -> str:
    """Path of the measured rate, a level step for each bin, broken where a bin has none."""
    commands, joined = [], False
    for moment, rate in points:
        if rate is not None:
            start, end = _x(moment - bin_s / 2, span), _x(moment + bin_s / 2, span)
            height = f"{y(rate):.1f}"  # type: ignore[operator]
            commands.append((f"V{height}" if joined else f"M{start:.1f},{height}") + f"H{end:.1f}")
        joined = rate is not None
    return "".join(commands)


def time_ticks(span: tuple[float, float], wanted: int = 10) -> list[float]:
    """Round moments (1, 2 or 5 times a power of ten apart), about as many as wanted.

    >>> time_ticks((0.0, 42.0))
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0]
    """
    length = max(span[1] - span[0], 1e-3)
    power = 10.0 ** math.floor(math.log10(length / wanted))
    step = next(power * factor for factor in (1, 2, 5, 10) if length / (power * factor) <= wanted)
    return [index * step for index in range(math.ceil(span[0] / step - 1e-9), math.floor(span[1] / step + 1e-9) + 1)]


def _time_axis(span: tuple[float, float], bottom: float) -> Markup:
    parts = []
    for moment in time_ticks(span):
        x = _x(moment, span)
        parts.append(
            Markup(
                '<line class="edge" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
                '<text class="moment" x="{0:.1f}" y="{3:.1f}">{4:g}{5}</text>'
            ).format(x, bottom, bottom + 4, bottom + 17, moment, " s" if moment == 0 else "")
        )
    return Markup("").join(parts)


def _stolen_panel(series: Series, span: tuple[float, float]) -> Markup:
    """Stolen CPU as an area from 0 to 100%; of neighbouring samples that share a step the largest is drawn."""
    bottom = PAD_TOP + STOLEN_H
    offset = len(series.t_s) - len(series.stolen_cpu)  # one value a sample, or one an interval
    samples = [
        (series.t_s[index + offset], min(max(fraction, 0.0), 1.0))
        for index, fraction in enumerate(series.stolen_cpu)
        if 0 <= index + offset < len(series.t_s)
    ]
    together = math.ceil(len(samples) / MAX_STOLEN_STEPS) or 1
    path, previous = f"M{LEFT},{bottom}", span[0]
    for start in range(0, len(samples), together):
        step = samples[start : start + together]
        moment, y = step[-1][0], bottom - STOLEN_H * max(fraction for _, fraction in step)
        path += f" L{_x(previous, span):.1f},{y:.1f} L{_x(moment, span):.1f},{y:.1f}"
        previous = moment
    path += f" L{_x(previous, span):.1f},{bottom} Z"
    parts = [_open(bottom + AXIS_H, "CPU time stolen from this machine over time")]
    parts += [_windows(phase, span, PAD_TOP, STOLEN_H) for phase in series.phases]
    parts += [_grid(bottom - STOLEN_H * share, f"{share:.0%}") for share in (0.0, 1.0)]
    parts.append(Markup('<path class="stolen" d="{}"/>').format(path))
    parts.append(_time_axis(span, bottom))
    return Markup("").join([*parts, Markup("</svg>")])


def heading(link: LinkFlow) -> Markup:
    """What stands above a link's panel: its predicted and measured flow while g generates."""
    return Markup("predicted {}, measured {} Mbit/s ({})").format(
        figure(link.predicted_bps, "mbit", f"analytic/wire/flows_bps/{link.name}"),
        figure(link.measured_bps, "mbit", f"measured/wire/flows_bps/{link.name}"),
        figure(link.error, "error"),
    )
