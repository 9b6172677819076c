"""Fig. 2, 3, 4a and 4b of the paper from saved points, as PNG, PDF and CSV.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; every line has a marker or a dash of its own
besides. Figures are as wide as a column.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gnl.topologies.errors import RunError

from .curve_fit import bands
from .optimize import FittedCurves, OptimizeOptions, optimize
from .series import DISTORTION, PERCEPTION, Series
from .validate import FigurePoint
from .whole_file import write_whole

FIGURE_WEIGHTS = tuple(np.round(np.linspace(0.0, 5.0, 51), 3).tolist())
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933", "#882255", "#888888",
)  # fmt: skip
# As many as share no divisor with the colours: 110 lines before one looks like another.
_MARKERS, _DASHES = "osD^vP*Xhd<", ("-", "--", "-.", ":")
_WIDTH_IN, _HEIGHT_IN, _DPI = 3.5, 3.3, 300
_FIT, _MEASURED = "fit", "measured"
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Line:
    """A line of a figure: `x` and `y`, (n,), drawn as markers or as a line, and the (2, n) band around it.

    Lines of one `series` have one colour. `kind` is what tells them apart, "" for nothing.
    """

    series: str
    kind: str
    x: np.ndarray
    y: np.ndarray
    marked: bool = False
    band: np.ndarray | None = None

    @property
    def name(self) -> str:
        return f"{self.series}, {self.kind}" if self.kind else self.series


def draw_figures(
    options: OptimizeOptions, fitted: FittedCurves, out: Path, points: Sequence[FigurePoint] = ()
) -> list[Path]:
    """Draw all figures into `out`, which is made; the files written. RunError if one cannot be.

    `fitted` has both metrics; `points`, as measured on packets, are put on Fig. 4b.
    """
    found = optimize(replace(options, weights=FIGURE_WEIGHTS), fitted)
    measured = _measured_lines(points)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be made ({error.strerror}): give another --out") from error
    written = []
    for name, metric, label in (
        ("fig2-perception", PERCEPTION, "perception loss (normalised Frechet distance)"),
        ("fig3-distortion", DISTORTION, "distortion (normalised MSE)"),
    ):
        lines = [line for one in fitted.series if one.metric == metric for line in _quality_lines(one)]
        written += _write(out / name, lines, "prompt size (bits per pixel)", label, f"features: {fitted.features}")
    for name, key, label, more in (
        ("fig4a-prompt-size", "prompt_size", "optimal prompt size (bits per pixel)", []),
        ("fig4b-gain", "g_flow", "gain $G_{flow}$", measured),
    ):
        note = "filled: measured on packets, with 95% intervals" if more else ""
        written += _write(out / name, [*_optima_lines(found, key), *more], "quality weight $w$", label, note)
    return written


def _quality_lines(series: Series) -> list[Line]:
    low, high = series.curve.domain_bpp
    x = np.linspace(low, high, _CURVE_POINTS)
    band = bands(series.curve, series.bpp, series.losses, x)
    fitted = Line(series.name, _FIT, x, series.curve(x), band=band)
    return [Line(series.name, "", np.array(series.bpp), np.array(series.losses), marked=True), fitted]


def _optima_lines(found: dict[str, Any], key: str) -> list[Line]:
    return [
        Line(
            one["name"],
            one["metric"],
            np.array([best["w"] for best in one["optima"]]),
            np.array([best[key] for best in one["optima"]]),
        )
        for one in found["series"]
    ]


def _measured_lines(points: Sequence[FigurePoint]) -> list[Line]:
    """The measured gains of each series and metric, over w."""
    lines = []
    for series, metric in dict.fromkeys((one.series, one.metric) for one in points):
        those = sorted((one for one in points if (one.series, one.metric) == (series, metric)), key=lambda one: one.w)
        w, gains = (np.array([getattr(one, name) for one in those]) for name in ("w", "measured"))
        band = np.array([one.ci95 or (math.nan, math.nan) for one in those]).T
        lines.append(Line(series, f"{metric}, {_MEASURED}", w, gains, marked=True, band=band))
    return lines


def _write(stem: Path, lines: Sequence[Line], x_label: str, y_label: str, note: str) -> list[Path]:
    files = {".csv": _csv(lines, x_label, y_label), **_drawn(lines, x_label, y_label, note)}
    for suffix, data in files.items():
        try:
            write_whole(stem.with_suffix(suffix), data)
        except OSError as error:
            path = stem.with_suffix(suffix)
            raise RunError(f"{path} cannot be written ({error.strerror}): free space there") from error
    return [stem.with_suffix(suffix) for suffix in files]


def _top(lines: Sequence[Line]) -> float:
    """The upper end of the axis: bands of few points may go far beyond what was measured."""
    return 1.08 * max(float(line.y.max()) for line in lines)


def _csv(lines: Iterable[Line], x_label: str, y_label: str) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["series", x_label, y_label, "95% low", "95% high"])
    for line in lines:
        band = np.full((2, len(line.x)), np.nan) if line.band is None else line.band
        for values in zip(line.x, line.y, *band):
            rows.writerow([line.name, *("" if math.isnan(value) else f"{value:.6g}" for value in values)])
    return text.getvalue().encode()


def _drawn(lines: Sequence[Line], x_label: str, y_label: str, note: str) -> dict[str, bytes]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"font.size": 7, "axes.linewidth": 0.6, "lines.linewidth": 1.0, "lines.markersize": 3, "pdf.fonttype": 42}
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        names, kinds = (list(dict.fromkeys(found)) for found in zip(*((line.series, line.kind) for line in lines)))
        for line in lines:
            number = names.index(line.series)
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            label = None if line.kind == _FIT else line.name
            if line.marked and line.band is not None:
                bars = np.abs(np.nan_to_num(line.band - line.y))
                style = {"color": "black", "markerfacecolor": colour, "markersize": 4, "markeredgewidth": 0.5}
                axes.errorbar(line.x, line.y, bars, fmt=marker, capsize=2, elinewidth=0.6, zorder=3, **style)
                continue
            if line.marked:
                axes.plot(line.x, line.y, marker, color=colour, label=label, markerfacecolor="none", clip_on=False)
                continue
            dash = _DASHES[(number if line.kind == _FIT else kinds.index(line.kind)) % len(_DASHES)]
            every = max(1, len(line.x) // 8)
            marks = {} if line.kind == _FIT else {"marker": marker, "markevery": (number % every, every)}
            axes.plot(line.x, line.y, dash, color=colour, label=label, markerfacecolor="none", **marks)
            if line.band is not None and np.isfinite(line.band).all():
                axes.fill_between(line.x, *line.band.clip(0), color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, _top(lines)))
        axes.grid(linewidth=0.3, alpha=0.5)
        figure.legend(loc="outside lower center", ncols=2, fontsize=5, frameon=False, handlelength=3)
        if note:
            axes.annotate(note, (1, 1.01), xycoords="axes fraction", ha="right", va="bottom", fontsize=5)
        found = {}
        for suffix in (".png", ".pdf"):
            data = io.BytesIO()
            figure.savefig(data, format=suffix[1:], dpi=_DPI)
            found[suffix] = data.getvalue()
        pyplot.close(figure)
    return found
