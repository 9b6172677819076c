"""What the paper's case study claims, beside what the curves, the optima and the packets say here.

Every sentence is made from the data; `holds` is None where the data do not reach so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Optional

import numpy as np

from .optimize import FittedCurves
from .series import DISTORTION, GENERATIVE_PE, PERCEPTION, Series
from .trials import FIGURE, GRID
from .validate import FigurePoint, figure_points, in_words, verdict

PAPER_CROSSING_BPP = 3.6
LEAST_WEIGHTS = 3
_PE_JPEG, _PS_GENAI, _PS_JPEG = "PE JPEG", "PS GenAI", "PS JPEG"
_CURVES, _FLOWS = "Sec. V-A", "Sec. V-B"
_SIZES = 4001
# Curves that differ by less than this share of their largest loss, or by no more than they miss their own points, are
# called equal there.
_EQUAL = 0.01
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, where it is made, what is found here, and whether it holds here."""

    claim: str
    place: str
    here: tuple[str, ...]
    holds: Optional[bool]


@dataclass(frozen=True)
class Comparison:
    """Two curves at the sizes that both have: `lower` and `higher`, ranges in bits per pixel where the first is below
    and above the second by more than they are called equal at, and the shares of the sizes that these are."""

    first: str
    second: str
    low: float
    high: float
    lower: tuple[tuple[float, float], ...]
    higher: tuple[tuple[float, float], ...]
    lower_share: float
    higher_share: float

    def __str__(self) -> str:
        ranges = " and ".join(f"{low:.2f} to {high:.2f} bpp" for low, high in self.lower) or "no size"
        share = f"{100 * self.lower_share:.0f}% of {self.low:.2f} to {self.high:.2f} bpp"
        equal = 100 * (1 - self.lower_share - self.higher_share)
        return f"{self.first} against {self.second}: better at {ranges} ({share}), equal at {equal:.0f}%"


def claims_of(
    fitted: FittedCurves, found: Mapping[str, Any], validated: Optional[Mapping[str, Any]] = None
) -> list[Claim]:
    """All claims. `found` is the document of `gnl optimize` on `fitted`, `validated` that of `gnl validate`."""
    points = figure_points(validated) if validated else []
    return [
        _pe_gain(found),
        _ps_gain(found),
        _jpeg_gain(points),
        _compared(
            "PE of GenAI is at least as good as PE of JPEG in perception at every prompt size",
            f"{_CURVES}, Fig. 2",
            _pairs(fitted, PERCEPTION, GENERATIVE_PE, _PE_JPEG),
            lambda one: not one.higher,
        ),
        _compared(
            f"PS of GenAI beats PS of JPEG in perception at small prompts only, below {PAPER_CROSSING_BPP} bpp",
            f"{_CURVES}, Fig. 2",
            _pairs(fitted, PERCEPTION, _PS_GENAI, _PS_JPEG),
            lambda one: _up_to(one) is not None,
            lambda one: "" if _up_to(one) is None else f", that is below {_up_to(one):.2f} bpp",
        ),
        _compared(
            "PE is better than PS in perception at every prompt size, for GenAI and for JPEG",
            f"{_CURVES}, Fig. 2",
            _pairs(fitted, PERCEPTION, GENERATIVE_PE, _PS_GENAI) + _pairs(fitted, PERCEPTION, _PE_JPEG, _PS_JPEG),
            lambda one: not one.higher,
        ),
        _compared(
            "PS of JPEG has the lower distortion at most prompt sizes",
            f"{_CURVES}, Fig. 3",
            _pairs(fitted, DISTORTION, _PS_JPEG, _PS_GENAI),
            lambda one: one.lower_share > 0.5,
        ),
        _compared(
            "PS of GenAI has the lower distortion at the smallest prompts",
            f"{_CURVES}, Fig. 3",
            _pairs(fitted, DISTORTION, _PS_GENAI, _PS_JPEG),
            lambda one: bool(one.lower) and one.lower[0][0] == one.low,
        ),
        _smaller_optimum(found),
        _at_bounds(found),
        _cost_of_swapping(fitted),
        *_on_packets(verdict(validated) if validated else {}),
    ]


def _is(name: str, wanted: str) -> bool:
    """Whether a series is of a kind: there is one of pixel swapping for each codec, and one of each other kind."""
    return name.startswith(f"{wanted},") if wanted.startswith("PS") else name == wanted


def _enough(optima: Sequence[Mapping[str, Any]]) -> bool:
    return len({best["w"] for best in optima}) >= LEAST_WEIGHTS


def _phrases(found: Mapping[str, Any], name: str, value: Callable[[Mapping[str, Any]], str]) -> tuple[str, ...]:
    """For each series whose name begins with `name` what `value` says of its optima, over w."""
    return tuple(
        f"{one['name']}, {one['metric']}: {', '.join(map(value, one['optima']))} at w = "
        + ", ".join(f"{best['w']:g}" for best in one["optima"])
        for one in found["series"]
        if one["name"].startswith(name)
    )


def _gain(best: Mapping[str, Any]) -> str:
    return f"{100 * (best['g_flow'] - 1):.1f}%"


def _optima(found: Mapping[str, Any], name: str, metric: str) -> list[Mapping[str, Any]]:
    """Optima of all series of a kind."""
    series = (one for one in found["series"] if one["metric"] == metric and _is(one["name"], name))
    return [best for one in series for best in one["optima"]]


def _pe_gain(found: Mapping[str, Any]) -> Claim:
    """Judged as in the paper: three models, and perception; what else there is of PE is listed."""
    judged = _optima(found, GENERATIVE_PE, PERCEPTION)
    holds = min(best["g_flow"] for best in judged) > 2 if _enough(judged) else None
    return Claim(
        "PE gains more than 100% at three weights w", f"{_FLOWS}, Fig. 4b", _phrases(found, GENERATIVE_PE, _gain), holds
    )


def _ps_gain(found: Mapping[str, Any]) -> Claim:
    judged = [best for metric in (PERCEPTION, DISTORTION) for best in _optima(found, _PS_GENAI, metric)]
    holds = min(best["g_flow"] for best in judged) >= 1.5 - _TOLERANCE if _enough(judged) else None
    claim = "PS gains 50% and more at three weights w"
    return Claim(claim, f"{_FLOWS}, Fig. 4b", _phrases(found, _PS_GENAI, _gain), holds)


def _jpeg_gain(points: Sequence[FigurePoint]) -> Claim:
    claim, place = "JPEG gains nothing", f"{_FLOWS}, Fig. 4b"
    gains = [point.measured - 1 for point in points if not point.generates]
    if not gains:
        return Claim(claim, place, ("nothing by Eq. 1, since g only forwards; not run on packets",), None)
    here = f"on packets {100 * min(gains):+.3f}% to {100 * max(gains):+.3f}% at {len(gains)} optima: g only forwards"
    return Claim(claim, place, (here,), max(map(abs, gains)) < 0.01)


def _smaller_optimum(found: Mapping[str, Any]) -> Claim:
    """The paper says it of the middle and the largest of its three weights."""
    names = (GENERATIVE_PE, _PE_JPEG)
    ours, others = ({best["w"]: best["prompt_size"] for best in _optima(found, one, PERCEPTION)} for one in names)
    weights = sorted(ours.keys() & others.keys())[1:]
    here = tuple(f"at w = {w:g}: {ours[w]:.3f} bpp, JPEG {others[w]:.3f} bpp" for w in weights)
    claim = "The best prompts of PE are smaller with GenAI than with JPEG at all but the smallest weight w"
    return Claim(claim, f"{_FLOWS}, Fig. 4a", here, all(ours[w] < others[w] for w in weights) if weights else None)


def _at_bounds(found: Mapping[str, Any]) -> Claim:
    claim = "The optimum of PS is at a bound: no pixels swapped, or as many as c_sg allows"
    optima = [(one, best) for one in found["series"] if one["name"].startswith(_PS_GENAI) for best in one["optima"]]
    elsewhere = [
        f"{one['name']}, {one['metric']}, w = {best['w']:g}: {best['prompt_size']:.3f} bpp"
        for one, best in optima
        if best["at"] != "kink" and best["prompt_size"] > min(one["bpp"]) * (1 + _EQUAL)
    ]
    here = f"{len(optima) - len(elsewhere)} of {len(optima)} optima are at one of these"
    return Claim(claim, f"{_FLOWS}, Fig. 4a", (here, *elsewhere), not elsewhere if optima else None)


def _cost_of_swapping(fitted: FittedCurves) -> Claim:
    """The curves of PS count Eq. 5; what a codec of pixels that lie apart really takes is said beside them."""
    claim = f"A swapped pixel costs L = {fitted.content_bpp:.2f} bits"
    here = tuple(f"{codec}: {bits:.1f} bits as coded here" for codec, bits in fitted.pixel_bits.items())
    holds = all(bits <= fitted.content_bpp * 1.1 for bits in fitted.pixel_bits.values())
    return Claim(claim, "Eq. 5, by which sizes of PS are counted in all figures", here, holds if here else None)


def _pairs(fitted: FittedCurves, metric: str, first: str, second: str) -> list[Comparison]:
    """Series whose names begin with `first` beside those that begin with `second`: of pixel swapping in the order of
    their smallest prompts, the last one again and again where there are fewer."""
    series = sorted((one for one in fitted.series if one.metric == metric), key=lambda one: min(one.bpp))
    ours, others = ([one for one in series if _is(one.name, name)] for name in (first, second))
    if not ours or not others:
        return []
    count = max(len(ours), len(others))
    return [compare(*(each[min(number, len(each) - 1)] for each in (ours, others))) for number in range(count)]


def compare(first: Series, second: Series) -> Comparison:
    """Compare two fitted curves at all sizes that both have."""
    low = max(first.curve.domain_bpp[0], second.curve.domain_bpp[0])
    high = min(first.curve.domain_bpp[1], second.curve.domain_bpp[1])
    sizes = np.linspace(low, high, _SIZES)
    values = np.stack([first.curve(sizes), second.curve(sizes)])
    margin = max(_EQUAL * float(values.max()), math.hypot(_miss(first), _miss(second)), _TOLERANCE)
    lower, higher = values[0] < values[1] - margin, values[0] > values[1] + margin
    ranges = (_ranges(sizes, lower), _ranges(sizes, higher))
    return Comparison(first.name, second.name, low, high, *ranges, float(lower.mean()), float(higher.mean()))


def _miss(series: Series) -> float:
    """By how much a fitted curve misses its points, as a root mean square."""
    return float(np.sqrt(np.mean(np.square(series.curve(np.array(series.bpp)) - np.array(series.losses)))))


def _ranges(sizes: np.ndarray, chosen: np.ndarray) -> tuple[tuple[float, float], ...]:
    groups = ((is_chosen, list(places)) for is_chosen, places in groupby(range(len(sizes)), lambda n: bool(chosen[n])))
    return tuple((float(sizes[held[0]]), float(sizes[held[-1]])) for is_chosen, held in groups if is_chosen)


def _up_to(one: Comparison) -> Optional[float]:
    """Where the first curve, better from the smallest size on, ends to be; None where it is not, or is never worse."""
    first_lower = bool(one.lower) and one.lower[0][0] == one.low
    if not first_lower or not one.higher or one.higher[0][0] < one.lower[-1][1]:
        return None
    return (one.lower[-1][1] + one.higher[0][0]) / 2


def _compared(
    claim: str,
    place: str,
    pairs: Sequence[Comparison],
    holds: Callable[[Comparison], bool],
    more: Callable[[Comparison], str] = lambda one: "",
) -> Claim:
    here = tuple(f"{one}{more(one)}" for one in pairs)
    return Claim(claim, place, here or ("no such curves",), all(map(holds, pairs)) if pairs else None)


def _on_packets(validated: Mapping[str, Any]) -> list[Claim]:
    texts = {
        FIGURE: "On real packets G_flow is within 1% of the analysis, and of the curves of Fig. 4b, at every point",
        GRID: "On a grid of capacities G_flow is within 1% of the analysis at 95% of the points, and within 2% at all",
    }
    return [
        Claim(text, "not in the paper", tuple(in_words(validated[kind])), validated[kind]["met"])
        if kind in validated
        else Claim(text, "not in the paper", ("not run",), None)
        for kind, text in texts.items()
    ]


def render(claims: Sequence[Claim]) -> str:
    """A paragraph a claim."""
    words = {True: "holds", False: "DOES NOT HOLD", None: "cannot be said"}
    return "\n".join(f"{words[one.holds]}: {one.claim} ({one.place})\n    " + "\n    ".join(one.here) for one in claims)
