"""What a pass over photographs says at equal rates: means with their spread, ratios to baselines, and the targets.

A baseline at a codec's rate is interpolated between the two points of its curve around it, linearly in log bpp, and
never beyond the curve's ends: where even its least takes more bits, the codec is compared with that, which can show
that a target is met (fewer bits would not serve the baseline better), but not that it is missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np

from .frechet import FRECHET, frechet_distance
from .rate_quality import ORIGINAL, Measured, matched_label

TARGETS = {("lpips", "jpeg"): 0.65, ("lpips", "webp"): 0.75, (FRECHET, "jpeg"): 0.60, (FRECHET, "webp"): 0.60}
SCALABLE_TARGET = 1.12
EQUAL, LEAST, MOST = "equal bpp", "its least", "its most"
_RESAMPLES = 1000
_GROUPS = 10


class Spread(NamedTuple):
    """Mean, standard deviation, and the 95% interval of the mean (Student's t)."""

    mean: float
    sd: float
    low: float
    high: float


def spread(values: np.ndarray) -> Spread:
    """The spread of (n,) values; of a single one it is unknown (NaN)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean, math.nan, math.nan, math.nan)
    sd = float(np.std(values, ddof=1))
    half = _t(len(values) - 1) * sd / math.sqrt(len(values))
    return Spread(mean, sd, mean - half, mean + half)


def _t(freedom: int) -> float:
    """Student's t of a two-sided 95% interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def weights_at(bpp: float, curve_bpps: Sequence[float]) -> tuple[np.ndarray, str]:
    """How much each point of a curve counts at `bpp`: (points,) weights that sum to 1, and where on the curve that is.

    Linear in log bpp between the two neighbours; one end alone, and LEAST or MOST, where the curve does not reach.
    """
    bpps = np.asarray(curve_bpps, np.float64)
    weights = np.zeros(len(bpps))
    order = np.argsort(bpps, kind="stable")
    if bpp < bpps[order[0]]:
        weights[order[0]] = 1
        return weights, LEAST
    if bpp > bpps[order[-1]]:
        weights[order[-1]] = 1
        return weights, MOST
    above = min(int(np.searchsorted(bpps[order], bpp, "right")), len(bpps) - 1)
    low, high = order[above - 1], order[above]
    span = math.log(bpps[high] / bpps[low])
    share = math.log(bpp / bpps[low]) / span if span else 0.0
    weights[high] += share
    weights[low] += 1 - share
    return weights, EQUAL


@dataclass(frozen=True)
class Comparison:
    """One figure of a codec beside a baseline's at the codec's mean rate; `where` says if the baseline has that rate.

    `ratio` is codec / baseline with its 95% interval, for figures that are better when lower; `verdict` is `pass` or
    `FAIL`, or `open` where the baseline's curve does not reach.
    """

    codec: str
    bpp: float
    baseline: str
    baseline_bpp: float
    where: str
    metric: str
    value: float
    baseline_value: float
    ratio: Optional[float] = None
    ci95: Optional[tuple[float, float]] = None
    target: Optional[float] = None
    verdict: Optional[str] = None


def verdict_of(ratio: float, target: Optional[float], where: str = EQUAL) -> Optional[str]:
    """Whether a ratio meets its target; `open` against a baseline of fewer bits, or where one of more is too good."""
    if target is None:
        return None
    if where == MOST or (where == LEAST and ratio > target):
        return "open"
    return "pass" if ratio <= target else "FAIL"


def compare_means(measured: Measured, label: str, family: str, metric: str) -> Comparison:
    """A figure of each photograph, by its means; the interval of a ratio is a bootstrap over photographs."""
    labels = measured.curve_labels(family)
    own_bpp, own = measured.column(label, "bpp"), measured.column(label, metric)
    curve_bpps = np.stack([measured.column(one, "bpp") for one in labels], 1)
    curve = np.stack([measured.column(one, metric) for one in labels], 1)
    weights, where = weights_at(own_bpp.mean(), curve_bpps.mean(0))
    start = (label, own_bpp.mean(), family, weights @ curve_bpps.mean(0) if where != EQUAL else own_bpp.mean(), where)
    used = weights > 0  # a point beyond them may be perfect, with an infinite PSNR
    value, baseline = own.mean(), weights[used] @ curve[:, used].mean(0)
    if metric != "lpips":
        return Comparison(*start, metric, value, baseline)

    def ratio(share: np.ndarray) -> float:
        here, _ = weights_at(share @ own_bpp, share @ curve_bpps)
        return (share @ own) / (here @ (share @ curve))

    target = TARGETS[metric, family]
    verdict = verdict_of(value / baseline, target, where)
    return Comparison(*start, metric, value, baseline, value / baseline, bootstrap(ratio, len(own)), target, verdict)


def bootstrap(figure: Callable[[np.ndarray], float], count: int) -> tuple[float, float]:
    """95% interval of a figure of `count` photographs: percentiles over sets of as many drawn from them, with repeats.

    `figure` is given each photograph's share in the set, (count,) that sum to 1.
    """
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES) / count
    low, high = np.percentile([figure(share) for share in drawn], (2.5, 97.5))
    return float(low), float(high)


class FrechetDistances:
    """Distances of everything in a pass from the originals; each is computed once."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._groups = np.asarray(measured.photo_of_tile) % _GROUPS
        self._found: dict[tuple[str, Optional[int]], float] = {}

    @property
    def count(self) -> int:
        """n, the tiles that the distances are of."""
        return len(self._groups)

    def __call__(self, label: str, without: Optional[int] = None) -> float:
        """The distance of `label`, of all photographs or of all but one group."""
        key = (label, without)
        if key not in self._found:
            kept = self._groups != without
            pair = (np.stack(self._measured.features[one])[kept] for one in (ORIGINAL, label))
            self._found[key] = frechet_distance(*pair)
        return self._found[key]

    def compare(self, label: str, family: str) -> Comparison:
        """The distance of a codec beside a baseline's at its mean bpp; the interval is from `jackknife`."""
        labels = self._measured.curve_labels(family)
        bpp = self._measured.column(label, "bpp").mean()
        curve_bpps = [self._measured.column(one, "bpp").mean() for one in labels]
        weights, where = weights_at(bpp, curve_bpps)

        def baseline(without: Optional[int] = None) -> float:
            return sum(weight * self(one, without) for one, weight in zip(labels, weights) if weight)

        value, target = self(label), TARGETS[FRECHET, family]
        ratio = value / baseline()
        ci95 = self.jackknife(lambda without: self(label, without) / baseline(without), ratio)
        baseline_bpp = bpp if where == EQUAL else weights @ curve_bpps
        verdict = verdict_of(ratio, target, where)
        return Comparison(
            label, bpp, family, baseline_bpp, where, FRECHET, value, baseline(), ratio, ci95, target, verdict
        )

    def spread(self, label: str) -> tuple[float, tuple[float, float]]:
        """The distance of `label` and its 95% interval."""
        return self(label), self.jackknife(lambda without: self(label, without), self(label))

    def jackknife(self, figure: Callable[[int], float], whole: float) -> tuple[float, float]:
        """95% interval of a figure, from leaving out a tenth of the photographs at a time; NaN with fewer than ten."""
        if len(np.unique(self._groups)) < _GROUPS:
            return math.nan, math.nan
        figures = np.array([figure(group) for group in range(_GROUPS)])
        half = _t(_GROUPS - 1) * math.sqrt((_GROUPS - 1) / _GROUPS * np.square(figures - figures.mean()).sum())
        return whole - half, whole + half


@dataclass(frozen=True)
class Match:
    """A codec beside a baseline that was given at most its bits on every photograph, where it can have so few.

    `more_bits` is the share of photographs on which even the baseline's lowest quality took more, `better` the share on
    which the codec's LPIPS is lower.
    """

    codec: str
    bpp: float
    baseline: str
    baseline_bpp: float
    more_bits: float
    lpips: float
    baseline_lpips: float
    ratio: float
    ci95: tuple[float, float]
    better: float


def match(measured: Measured, label: str, family: str) -> Match:
    """LPIPS of a contender and of a baseline at its bits, photograph by photograph."""
    other = matched_label(family, label)
    bpp, other_bpp = measured.column(label, "bpp"), measured.column(other, "bpp")
    own, others = measured.column(label, "lpips"), measured.column(other, "lpips")
    return Match(
        label,
        bpp.mean(),
        family,
        other_bpp.mean(),
        float((other_bpp > bpp).mean()),
        own.mean(),
        others.mean(),
        own.mean() / others.mean(),
        bootstrap(lambda share: (share @ own) / (share @ others), len(own)),
        float((own < others).mean()),
    )


@dataclass(frozen=True)
class ScalableCheck:
    """A codec of any rate beside a dedicated one, at the dedicated one's mean rate."""

    codec: str
    bpp: float
    dedicated: str
    dedicated_bpp: float
    lpips: float
    dedicated_lpips: float
    ratio: float
    ci95: tuple[float, float]
    target: float
    verdict: str


def check_scalable(measured: Measured, label: str, dedicated: str) -> ScalableCheck:
    """LPIPS of a scalable contender against that of a dedicated codec."""
    own, other = measured.column(label, "lpips"), measured.column(dedicated, "lpips")
    ratio = own.mean() / other.mean()
    return ScalableCheck(
        label,
        measured.column(label, "bpp").mean(),
        dedicated,
        measured.column(dedicated, "bpp").mean(),
        own.mean(),
        other.mean(),
        ratio,
        bootstrap(lambda share: (share @ own) / (share @ other), len(own)),
        SCALABLE_TARGET,
        verdict_of(ratio, SCALABLE_TARGET),
    )
