"""Curves through measured points of prompt size and loss of quality, as Sec. IV of the paper fits them.

Of several families of functions the one of the highest r2 is taken. A family of many parameters can always bend to few
points; so those that rise where they should fall, leave [0, 1], or have as many parameters as there are points, are
taken only where nothing else is left, and then say so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np
from gnl.topologies.errors import UsageError

_CHECKED_POINTS = 512
_TOLERANCE = 1e-3
_MOST_ASTRAY = 0.25  # of all that the curve falls: the most that it may leave the straight line between two points
_BANDS, _REFITS = (2.5, 97.5), 200
_EVALUATIONS, _PRECISION = 2000, 1e-6


class _Family(NamedTuple):
    """A family of functions of x >= 0, and parameters to start a fit from, given the points."""

    function: Callable[..., np.ndarray]
    starts: Callable[[np.ndarray, np.ndarray], list[tuple[float, ...]]]
    lowest: tuple[float, ...]


def _exponential(x, a, b, c):
    return a * np.exp(-b * x) + c


def _power(x, a, b, c):
    return a * (1 + x / b) ** -c


def _rational(x, a, b, c):
    return (a + b * x) / (1 + c * x)


def _logistic(x, a, b, c):
    return a / (1 + np.exp(np.clip(b * (x - c), -500, 500)))


def _polynomial(degree: int) -> _Family:
    def function(x, *parameters):
        return np.polyval(parameters, x)

    return _Family(function, lambda x, y: [tuple(np.polyfit(x, y, degree))], (-math.inf,) * (degree + 1))


def _slopes(x: np.ndarray) -> tuple[float, ...]:
    return tuple(share / max(float(np.ptp(x)), 1e-9) for share in (0.5, 2.0, 6.0, 20.0))


FAMILIES: dict[str, _Family] = {
    "polynomial of degree 2": _polynomial(2),
    "polynomial of degree 3": _polynomial(3),
    "exponential": _Family(
        _exponential, lambda x, y: [(np.ptp(y), b, float(y.min())) for b in _slopes(x)], (0, 0, -math.inf)
    ),
    "power": _Family(
        _power, lambda x, y: [(float(y.max()), 1 / b, c) for b in _slopes(x) for c in (0.5, 2)], (0, 1e-9, 0)
    ),
    "rational": _Family(
        _rational, lambda x, y: [(float(y.max()), float(y.min()) * b, b) for b in _slopes(x)], (-math.inf,) * 2 + (0,)
    ),
    "logistic": _Family(
        _logistic, lambda x, y: [(2 * float(y.max()), b, float(x.min())) for b in _slopes(x)], (0, 0, -math.inf)
    ),
}


@dataclass(frozen=True)
class Curve:
    """A fitted function delta(L_p) of the prompt size in bits per pixel, and where it may be used.

    `others` has the r2 of the families that were not taken; `cautions` what speaks against it, one sentence each.
    """

    family: str
    parameters: tuple[float, ...]
    domain_bpp: tuple[float, float]
    r2: float
    points: int
    others: dict[str, float]
    cautions: tuple[str, ...] = ()

    def raw(self, bpp: np.ndarray) -> np.ndarray:
        """Values of the function as fitted, (n,), anywhere."""
        return FAMILIES[self.family].function(np.asarray(bpp, np.float64), *self.parameters)

    def __call__(self, bpp: np.ndarray) -> np.ndarray:
        """Losses of quality, (n,) >= 0: the fitted values, 0 where they are below it."""
        return np.maximum(self.raw(bpp), 0.0)


def r_squared(values: np.ndarray, fitted: np.ndarray) -> float:
    """1 - residual sum of squares / total sum of squares; 1 for an exact fit of equal values."""
    residual, total = np.square(values - fitted).sum(), np.square(values - values.mean()).sum()
    return 1.0 - float(residual / total) if total else float(not residual)


def fit_curve(
    bpp: Sequence[float],
    losses: Sequence[float],
    domain_bpp: Optional[tuple[float, float]] = None,
    families: Sequence[str] = tuple(FAMILIES),
    highest: Optional[float] = 1.0,
) -> Curve:
    """The curve through points (n,) of `bpp` and `losses` that has the highest r2, and no caution if one has none.

    `domain_bpp` is where it may be used, without it from the first point to the last. `highest` is the most that a loss
    should be, None before losses are normalised. UsageError for points that cannot be fitted.
    """
    x, y = _points(bpp, losses)
    above = highest is not None and float(y.max()) > highest
    said = (f"losses up to {y.max():.3g}, above {highest:g}, which is assumed to be the most",) if above else ()
    highest = float(y.max()) if above else highest
    domain = domain_bpp or (float(x.min()), float(x.max()))
    found = []
    for family in families:
        parameters = _fitted(FAMILIES[family], x, y)
        if parameters is not None:
            r2 = r_squared(y, FAMILIES[family].function(x, *parameters))
            curve = Curve(family, parameters, domain, r2, len(x), {})
            found.append((not _cautions(curve, highest), r2, curve))
    if not found:
        raise UsageError(f"none of {', '.join(families)} fits the {len(x)} points: measure more, or look at them")
    _, _, best = max(found, key=lambda one: one[:2])
    others = {curve.family: r2 for _, r2, curve in found if curve is not best}
    said += _cautions(best, highest) + _turns(best, x)
    return Curve(best.family, best.parameters, domain, best.r2, len(x), others, said)


def bands(curve: Curve, bpp: Sequence[float], losses: Sequence[float], at_bpp: np.ndarray) -> np.ndarray:
    """The 95% band of a curve, (2, n) at sizes (n,): the same family fitted again and again to the fitted values with
    residuals drawn from those of the points, scaled up by what the fit has taken of them."""
    x, y = _points(bpp, losses)
    family, fitted = FAMILIES[curve.family], curve.raw(x)
    free = len(x) - len(curve.parameters)
    if free < 1:
        return np.full((2, len(at_bpp)), np.nan)
    residuals = (y - fitted) * math.sqrt(len(x) / free)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(_REFITS):
        parameters = _fitted(family, x, fitted + rng.choice(residuals, len(x)), curve.parameters)
        if parameters is not None:
            drawn.append(family.function(at_bpp, *parameters))
    return np.percentile(drawn, _BANDS, axis=0)


def _points(bpp: Sequence[float], losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(bpp, np.float64), np.asarray(losses, np.float64)
    if x.shape != y.shape or x.ndim != 1 or not np.isfinite(np.concatenate((x, y))).all() or (x < 0).any():
        raise UsageError(f"points of {x.tolist()} bpp and losses {y.tolist()}: give as many finite numbers of both")
    if len(np.unique(x)) < 3:
        raise UsageError(f"{len(np.unique(x))} different prompt sizes: a curve needs at least 3")
    return x, y


def _fitted(
    family: _Family, x: np.ndarray, y: np.ndarray, start: Optional[tuple[float, ...]] = None
) -> Optional[tuple[float, ...]]:
    """The parameters of the least squares, from several starts; None where there are fewer points than parameters."""
    from scipy.optimize import OptimizeWarning, curve_fit

    if len(x) < len(family.lowest):
        return None
    best, least = None, math.inf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)
        warnings.simplefilter("ignore", np.RankWarning)
        for guess in [start] if start else family.starts(x, y):
            lowest = np.asarray(family.lowest)
            if np.isinf(lowest).all():  # linear: the guess is the solution
                parameters = guess if not start else tuple(np.polyfit(x, y, len(lowest) - 1))
            else:
                try:
                    guess = np.maximum(guess, lowest)
                    parameters, _ = curve_fit(
                        family.function, x, y, guess, bounds=(lowest, np.inf), ftol=_PRECISION, max_nfev=_EVALUATIONS
                    )
                except RuntimeError:  # no convergence from this start
                    continue
            error = np.square(family.function(x, *parameters) - y).sum()
            if error < least:
                best, least = tuple(float(value) for value in parameters), error
    return best


def _cautions(curve: Curve, highest: Optional[float]) -> tuple[str, ...]:
    x = np.linspace(*curve.domain_bpp, _CHECKED_POINTS)
    values, found = curve.raw(x), []
    span = max(float(np.ptp(values)), 1e-12)
    rises = np.diff(values) > _TOLERANCE * span / _CHECKED_POINTS
    if rises.any():
        found.append(f"not monotone: the loss rises with the prompt from {x[:-1][rises][0]:.3g} bpp on")
    outside = values < -_TOLERANCE * span
    if highest is not None:
        outside |= values > highest * (1 + _TOLERANCE)
    if outside.any():
        accepted = "at least 0" if highest is None else f"within [0, {highest:g}]"
        found.append(f"not {accepted}: {values[outside][0]:.3g} at {x[outside][0]:.3g} bpp")
    if curve.points <= len(curve.parameters):
        parameters = len(curve.parameters)
        found.append(f"{curve.points} points for {parameters} parameters: it goes through them whatever they are")
    return tuple(found)


def _turns(curve: Curve, measured: np.ndarray) -> tuple[str, ...]:
    """Said of any family: between points that lie far apart the family makes the curve, not the measurement."""
    sizes = np.unique(measured)
    x = np.linspace(sizes[0], sizes[-1], _CHECKED_POINTS)
    values = curve.raw(x)
    astray = np.abs(values - np.interp(x, sizes, curve.raw(sizes)))
    most = float(astray.max())
    if most <= _MOST_ASTRAY * float(np.ptp(values)):
        return ()
    at = x[astray.argmax()]
    low, high = sizes[sizes <= at][-1], sizes[sizes >= at][0]
    return (
        f"turns where nothing was measured: at {at:.3g} bpp it is {most:.3g} off the straight line from {low:.3g} to "
        f"{high:.3g} bpp; measure between them",
    )
