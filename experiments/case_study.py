"""`gnl figures`: the figures of the case study, and the page that says which of the paper's claims hold.

    CURVES             points of `gnl curves`                          (needed)
    validation.json    runs of `gnl validate`                          (optional)
    fig*.png, .pdf, .csv, and case-study.html, self-contained          (written)
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from gnl.topologies.errors import RunError, UsageError

from .claims import Claim, claims_of
from .curves import read_curves
from .figures import draw_figures
from .optimize import WEIGHTS, FittedCurves, OptimizeOptions, fitted_curves, optimize
from .progress import Progress
from .report import page_template
from .series import METRICS
from .validate import VALIDATION, figure_points, is_of, read_validation
from .whole_file import write_whole

PAGE = "case-study.html"
_CAPTIONS = {
    "fig2-perception": "Rate and perception (Fig. 2 of the paper): points as measured, curves with 95% bands.",
    "fig3-distortion": "Rate and distortion (Fig. 3): points as measured, curves with 95% bands.",
    "fig4a-prompt-size": "Optimal prompt size over the weight of quality (Fig. 4a).",
    "fig4b-gain": "G_flow at the optimal prompt size (Fig. 4b); with bars: as measured on packets.",
}


@dataclass(frozen=True)
class CaseStudy:
    """What was written, and what the page claims."""

    written: tuple[Path, ...]
    claims: tuple[Claim, ...]


def write_case_study(options: OptimizeOptions, out: Path, validation: Optional[Path] = None) -> CaseStudy:
    """Draw all figures and the page into `out`; without `validation` that beside the curves is taken, if it fits.

    UsageError for a file that is none of gnl's, or a `validation` of another problem or other curves; RunError if
    nothing can be written.
    """
    options = replace(options, metrics=METRICS, weights=WEIGHTS)
    fitted = fitted_curves(options)
    found = optimize(options, fitted)
    runs = _runs(options, found, validation)
    points = figure_points(runs) if runs else []
    written = draw_figures(options, fitted, out, points)
    claims = claims_of(fitted, found, runs)
    page = page_template("case_study.html.j2").render(
        version=version("gnl"),
        claims=claims,
        figures=[_picture(path) for path in written if path.suffix == ".png"],
        series=fitted.series,
        fit_note=_fit_note(fitted),
        points=points,
        runs=runs["trials"] if runs else {},
        run_note=_run_note(runs) if runs else "",
        protocol=_protocol(read_curves(options.curves), found["problem"], runs or {}),
    )
    try:
        write_whole(out / PAGE, page.encode("utf-8", "replace"))
    except OSError as error:
        raise RunError(f"{out / PAGE} cannot be written ({error.strerror}): free space there") from error
    return CaseStudy((*written, out / PAGE), tuple(claims))


def _runs(
    options: OptimizeOptions, found: Mapping[str, Any], validation: Optional[Path]
) -> Optional[Mapping[str, Any]]:
    beside = options.curves.parent / "validation" / VALIDATION
    if validation is None and not beside.exists():
        return None
    runs = read_validation(validation or beside)
    if is_of(runs, found):
        return runs
    said = "is of another problem, or of other curves"
    if validation is not None:
        raise UsageError(f"{validation} {said}: validate these")
    Progress().note(f"{beside} {said}: left out")
    return None


def _picture(path: Path) -> dict[str, str]:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"name": path.stem, "caption": _CAPTIONS[path.stem], "data": f"data:image/png;base64,{data}"}


def _fit_note(fitted: FittedCurves) -> str:
    return (
        f"Perception is the Frechet distance {fitted.features} over what the first fit of PE is at 0 bpp, distortion "
        "the MSE over that of the colour-inverted image. Every curve ends at the true images, of L = "
        f"{fitted.content_bpp:.3f} bpp. Of several families the one of the highest r² is taken."
    )


def _run_note(runs: Mapping[str, Any]) -> str:
    inputs = runs["inputs"]
    return (
        f"{inputs['images']} images of {inputs['size_px']} pixels as JPEG of nearly L, {inputs['contents_per_s']:g} "
        f"contents a second in a flow of L; points of the figure {inputs['repeat']} times {inputs['duration_s']:g} s, "
        f"those of the grid {inputs['grid_repeat']} times."
    )


def _protocol(curves: Mapping[str, Any], problem: Mapping[str, Any], runs: Mapping[str, Any]) -> Sequence[tuple]:
    """Everything that a file says of how it came to be, in its own words."""
    said = (
        ("curves", curves | curves["inputs"]),
        ("problem", problem),
        ("runs", {**runs, **runs.get("inputs", {})}),
    )
    return [
        (f"{kind}: {name}", value)
        for kind, facts in said
        for name, value in facts.items()
        if value is None or isinstance(value, (str, int, float))
    ]
