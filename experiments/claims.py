"""What the paper's case study claims, beside what the curves, the optima and the packets say here.

Every sentence is made from the data; `holds` is None where the data do not reach so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Optional

import numpy as np

from .optimize import FittedCurves
from .series import DISTORTION, GENERATIVE_PE, PERCEPTION, Series
from .trials import FIGURE, GRID

PAPER_CROSSING_BPP = 3.6
_SIZES = 4001
_TIE, _LOSS_TIE = 1e-9, 1e-3


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, where it is made, what is found here, and whether it holds here."""

    claim: str
    place: str
    here: str
    holds: Optional[bool]


@dataclass(frozen=True)
class _Better:
    """Where the first of two curves is no higher than the second, but for _LOSS_TIE of a normalised loss: its share of
    the sizes that both have, and their ranges."""

    share: float
    ranges: tuple[tuple[float, float], ...]
    low: float
    high: float


def claims_of(
    fitted: FittedCurves, found: Mapping[str, Any], validated: Optional[Mapping[str, Any]] = None
) -> list[Claim]:
    """All claims. `found` is the document of `gnl optimize` on `fitted` at no less than three w, `validated` what
    `validate.verdict` says of the runs, None for no runs."""
    claims = [
        _gains("PE gains more than 100% at all three weights w", "Sec. IV-C, Fig. 4b", found, _is_pe, 1.0),
        _gains("PS gains more than 50% at all three weights w", "Sec. IV-C, Fig. 4b", found, _is_ps, 0.5),
        _no_gain(found),
        _compared(
            "PE of GenAI is at least as good as PE of JPEG in perception at every prompt size",
            "Sec. IV-B, Fig. 2",
            _pairs(fitted, PERCEPTION, "PE GenAI", "PE JPEG"),
            lambda better: better.share == 1,
        ),
        _compared(
            f"PS of GenAI is better than PS of JPEG in perception below {PAPER_CROSSING_BPP:g} bpp only",
            "Sec. IV-B, Fig. 2",
            _pairs(fitted, PERCEPTION, "PS GenAI", "PS JPEG"),
            _at_small_sizes_only,
        ),
        _compared(
            "PS of JPEG has the lower distortion at most prompt sizes",
            "Sec. IV-B, Fig. 3",
            _pairs(fitted, DISTORTION, "PS JPEG", "PS GenAI"),
            lambda better: better.share > 0.5,
        ),
        _compared(
            "PE is better than PS in perception at every prompt size",
            "Sec. IV-B, Fig. 2",
            _pairs(fitted, PERCEPTION, GENERATIVE_PE, "PS GenAI"),
            lambda better: better.share == 1,
        ),
        _at_bounds(found),
    ]
    return claims + _on_packets(validated or {})


def _at_small_sizes_only(better: _Better) -> bool:
    return len(better.ranges) == 1 and better.ranges[0][0] == better.low and better.ranges[0][1] < better.high


def _is_pe(series: Mapping[str, Any]) -> bool:
    return series["name"].startswith("PE GenAI")


def _is_ps(series: Mapping[str, Any]) -> bool:
    return series["name"].startswith("PS GenAI")


def _gains(
    claim: str, place: str, found: Mapping[str, Any], chosen: Callable[[Mapping[str, Any]], bool], least: float
) -> Claim:
    series = list(filter(chosen, found["series"]))
    gains = [best["g_flow"] - 1 for one in series for best in one["optima"]]
    weights = ", ".join(f"{best['w']:g}" for best in series[0]["optima"]) if series else ""
    lines = [
        f"{one['name']}, {one['metric']}: " + ", ".join(f"{100 * (best['g_flow'] - 1):.1f}%" for best in one["optima"])
        for one in series
    ]
    holds = min(gains) >= least - _TIE if gains else None
    return Claim(claim, place, _sentence(f"at w = {weights}", lines), holds)


def _no_gain(found: Mapping[str, Any]) -> Claim:
    gains = [best["g_flow"] - 1 for one in found["series"] if not one["generates"] for best in one["optima"]]
    if not gains:
        return Claim("JPEG gains nothing", "Sec. IV-C, Fig. 4b", "no curve of JPEG", None)
    here = f"from {100 * min(gains):.3g}% to {100 * max(gains):.3g}% at {len(gains)} optima: g only forwards"
    return Claim("JPEG gains nothing", "Sec. IV-C, Fig. 4b", here, max(map(abs, gains)) < _TIE)


def _at_bounds(found: Mapping[str, Any]) -> Claim:
    optima = [(one, best) for one in found["series"] if _is_ps(one) for best in one["optima"]]
    inside = [
        f"{one['name']}, {one['metric']}, w = {best['w']:g}: {best['prompt_size']:.3f} bpp"
        for one, best in optima
        if best["at"] == "between"
    ]
    here = f"{len(optima) - len(inside)} of {len(optima)} optima are at a bound (no pixel swapped, or all that fit)"
    claim = "The optimum of PS is at a bound: no pixels swapped, or as many as c_sg allows"
    return Claim(claim, "Sec. IV-C, Fig. 4a", _sentence(here, inside), not inside if optima else None)


def _pairs(fitted: FittedCurves, metric: str, first: str, second: str) -> list[tuple[Series, Series]]:
    """Series whose names begin with `first`, each with one of those that begin with `second`: in the order of their
    smallest prompts, the last one again and again where there are fewer."""
    series = sorted((one for one in fitted.series if one.metric == metric), key=lambda one: min(one.bpp))
    ours, others = ([one for one in series if one.name.startswith(name)] for name in (first, second))
    if first == GENERATIVE_PE:
        ours = [one for one in ours if one.name == GENERATIVE_PE] * len(others)
    return [(one, others[min(number, len(others) - 1)]) for number, one in enumerate(ours)] if others else []


def _better(first: Series, second: Series) -> _Better:
    """Compared at sizes that both curves have, but for the true images, where both are 0."""
    low = max(first.curve.domain_bpp[0], second.curve.domain_bpp[0])
    high = min(first.curve.domain_bpp[1], second.curve.domain_bpp[1])
    sizes = np.linspace(low, high, _SIZES)[:-1]
    below = first.curve(sizes) <= second.curve(sizes) + _LOSS_TIE
    ranges = []
    for is_below, places in groupby(range(len(sizes)), key=lambda place: bool(below[place])):
        if is_below:
            held = list(places)
            ranges.append((float(sizes[held[0]]), high if held[-1] == len(sizes) - 1 else float(sizes[held[-1]])))
    return _Better(float(below.mean()), tuple(ranges), low, high)


def _compared(
    claim: str, place: str, pairs: Sequence[tuple[Series, Series]], holds: Callable[[_Better], bool]
) -> Claim:
    lines, verdicts = [], []
    for first, second in pairs:
        better = _better(first, second)
        where = " and ".join(f"{low:.2f} to {high:.2f} bpp" for low, high in better.ranges) or "no size"
        lines.append(
            f"{first.name} against {second.name}: better at {where}, {100 * better.share:.0f}% of "
            f"{better.low:.2f} to {better.high:.2f} bpp"
        )
        verdicts.append(holds(better))
    return Claim(claim, place, _sentence("", lines), all(verdicts) if verdicts else None)


def _on_packets(validated: Mapping[str, Any]) -> list[Claim]:
    texts = {
        FIGURE: "G_flow of Fig. 4b on real packets is within 1% of the analysis at every point",
        GRID: "On a grid of capacities G_flow is within 1% of the analysis at 95% of the points, and within 2% at all",
    }
    claims = []
    for kind, one in validated.items():
        here = f"{one['runs']} runs, {one['invalid']} of which do not count"
        if one["median"] is not None:
            here += (
                f"; |error| median {100 * one['median']:.3f}%, 95th percentile {100 * one['p95']:.3f}%, largest "
                f"{100 * one['largest']:.3f}%; {100 * one['share_within_1_percent']:.0f}% below 1%"
            )
        claims.append(Claim(texts[kind], "Eq. 3, not measured in the paper", here, one["met"]))
    return claims


def _sentence(first: str, lines: Sequence[str]) -> str:
    return "; ".join(filter(None, [first, *lines])) or "no such curve"


def render(claims: Sequence[Claim]) -> str:
    """A paragraph a claim."""
    words = {True: "holds", False: "DOES NOT HOLD", None: "cannot be said"}
    return "\n".join(f"{words[one.holds]}: {one.claim} ({one.place})\n    {one.here}" for one in claims)
