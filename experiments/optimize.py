"""`gnl optimize`: the best prompt size and its G_flow on fitted curves, over the weight w of quality (Fig. 4)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from gnl.controller.optimal_prompt import OptimalPrompt, PromptProblem, optimal_prompt

from .curves import read_curves
from .series import METRICS, Series, bits_of_swapped_pixels, series_of
from .text_table import aligned

# Fig. 4 of the paper: c_sg in bits per pixel of a content a second.
PAPER_C_SG = 3.184
WEIGHTS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class OptimizeOptions:
    """What `gnl optimize` was asked for, sizes and flows in bits per pixel: a flow of x carries a content of x bpp a
    second. None stands for the paper's (`c_sg`), for L (`c_gd`) and for c_sg (`max_flow`).

    With `pixels` sizes and flows are in bits, and bit/s, of contents of so many pixels.
    """

    curves: Path
    metrics: Sequence[str] = METRICS
    weights: Sequence[float] = WEIGHTS
    c_sg: Optional[float] = None
    c_gd: Optional[float] = None
    max_flow: Optional[float] = None
    f_min: float = 0.0
    generation_rate: float = math.inf
    content_size: Optional[float] = None
    pixels: Optional[int] = None


@dataclass(frozen=True)
class FittedCurves:
    """What a curves file says: L, the features of its Frechet distance, the series with their fits, bits that a swapped
    pixel takes as coded, by codec, and a digest of the points."""

    content_bpp: float
    features: str
    series: tuple[Series, ...]
    pixel_bits: Mapping[str, float]
    sha256: str


def fitted_curves(options: OptimizeOptions) -> FittedCurves:
    """Read the curves file and fit every series; UsageError for a file that is none, or has too few points."""
    document = read_curves(options.curves)
    content = document["content_bpp"] if options.content_size is None else options.content_size / (options.pixels or 1)
    series = tuple(one for metric in options.metrics for one in series_of(document, metric, content))
    digest = hashlib.sha256(json.dumps(document["points"], sort_keys=True).encode()).hexdigest()
    return FittedCurves(content, document["features"], series, bits_of_swapped_pixels(document), digest)


def optimize(options: OptimizeOptions, fitted: Optional[FittedCurves] = None) -> dict[str, Any]:
    """The optima of every series of the curves file, and the curves that were fitted, as JSON has them; `fitted` saves
    fitting them again."""
    fitted = fitted or fitted_curves(options)
    scale = options.pixels or 1
    problem = _problem(options, fitted.content_bpp * scale)
    found = []
    for series in fitted.series:
        optima = [{"w": w, **_rounded(_optimum(series, problem, scale, w))} for w in options.weights]
        found.append({**asdict(series), "optima": optima})
    curves = {"curves": str(options.curves), "curves_sha256": fitted.sha256, "features": fitted.features}
    return {**curves, "unit": "bits" if options.pixels else "bpp", "problem": problem, "series": found}


def _problem(options: OptimizeOptions, content: float) -> dict[str, Optional[float]]:
    c_sg = _given(options.c_sg, PAPER_C_SG * (options.pixels or 1))
    return {
        "content_size": content,
        "c_sg": c_sg,
        "c_gd": _given(options.c_gd, content),
        "max_flow": _given(options.max_flow, c_sg),
        "f_min": options.f_min,
        "generation_rate": None if math.isinf(options.generation_rate) else options.generation_rate,
    }


def _given(value: Optional[float], otherwise: float) -> float:
    return otherwise if value is None else value


def _optimum(series: Series, problem: Mapping[str, Optional[float]], scale: float, weight: float) -> OptimalPrompt:
    low, high = series.curve.domain_bpp
    asked = PromptProblem(
        quality_loss=lambda sizes: series.curve(sizes / scale),
        prompt_size_low=low * scale,
        prompt_size_high=high * scale,
        quality_weight=weight,
        **{**problem, "generation_rate": _given(problem["generation_rate"], math.inf)},
    )
    return optimal_prompt(asked, series.generates)


def _rounded(optimum: OptimalPrompt) -> dict[str, Any]:
    return {key: round(value, 9) if isinstance(value, float) else value for key, value in asdict(optimum).items()}


def render(found: dict[str, Any]) -> str:
    """A line a series and w, the curves, and what speaks against them."""
    problem, bits = found["problem"], found["unit"] == "bits"
    size = "{:.0f}".format if bits else "{:.4g}".format
    unit = "bits; flows in bit/s" if bits else "bits per pixel; flows of such a second"
    rate = "" if problem["generation_rate"] is None else f", R_g = {size(problem['generation_rate'])}"
    head = (
        f"L = {size(problem['content_size'])}, c_sg = {size(problem['c_sg'])}, c_gd = {size(problem['c_gd'])}, "
        f"f'_sd = {size(problem['max_flow'])}, f_min = {size(problem['f_min'])}{rate} ({unit})"
    )
    rows = [["series", "metric", "w", "L_p*", "delta", "lambda*", "G_flow", "at"]]
    fits = [["series", "metric", "family", "r2", "domain"]]
    cautions = []
    for one in found["series"]:
        curve = one["curve"]
        name = (one["name"], one["metric"])
        for best in one["optima"]:
            prompt = f"{best['prompt_size']:.0f}" if bits else f"{best['prompt_size']:.4f}"
            rows.append(
                [*name, f"{best['w']:g}", prompt, f"{best['quality_loss']:.4f}"]
                + [f"{best['rate_per_s']:.4f}", f"{best['g_flow']:.4f}", best["at"]]
            )
        low, high = curve["domain_bpp"]
        fits.append([*name, curve["family"], f"{curve['r2']:.5f}", f"{low:.3f} to {high:.3f} bpp"])
        cautions += [f"{', '.join(name)}: {caution}" for caution in curve["cautions"]]
    lines = [head, "", aligned(rows), "", f"Fitted curves (perception: {found['features']}):", aligned(fits)]
    return "\n".join([*lines, *(["", *cautions] if cautions else [])])
