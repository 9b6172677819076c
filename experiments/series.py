"""The curves of the case study from measured points: prompt extension (PE), pixel swapping (PS), generative and JPEG.

Losses of quality are normalised as in Sec. IV-A of the paper: distortion is the MSE over that of the colour-inverted
image; perception is the Frechet distance over what a first fit of the generative PE gives for a prompt of 0 bpp. Every
curve ends at the true images, L bpp with a loss of 0. Prompts with swapped pixels are counted as in Eq. 5,
L_c = L_p + gamma L.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gnl.topologies.errors import UsageError

from .curve_fit import Curve, fit_curve

PERCEPTION, DISTORTION = "perception", "distortion"
METRICS = (PERCEPTION, DISTORTION)
GENERATIVE_PE = "PE GenAI"
SCALABLE, MODELS = "gnl-scalable", ("gnl-low", "gnl-medium", "gnl-high")
_Point = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """Points of one line of a figure, each with the codec that made it; the last is the true images, "" for no codec.

    `generates` is False where g only forwards (JPEG), and its flow is not raised.
    """

    name: str
    metric: str
    bpp: tuple[float, ...]
    losses: tuple[float, ...]
    codecs: tuple[str, ...]
    generates: bool
    curve: Curve


def series_of(document: Mapping[str, Any], metric: str, content: float) -> list[Series]:
    """All series of a curves document of which it has points enough; `content` is L in bits per pixel.

    UsageError for another metric, a document without the three models or an L below their prompts.
    """
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r}: give {' or '.join(METRICS)}")
    points = document["points"]
    models = _where(points, lambda point: point["codec"] in MODELS and not point["gamma"])
    if len(models) < 2:
        raise UsageError(
            f"curves of {', '.join(sorted({point['codec'] for point in points})) or 'nothing'}: the case study needs "
            f"at least two of {', '.join(MODELS)}; measure them with gnl curves"
        )
    if not content > max(_bpp(point) for point in models):
        raise UsageError(f"L = {content:g} bpp is no larger than the prompts: give a content's size, --content-size")
    scale = _scale(models, metric, content)

    def series(name: str, chosen: Sequence[_Point], generates: bool, sizes: Callable[[_Point], float] = _bpp):
        bpp = [*map(sizes, chosen), content]
        losses = [*(_loss(point, metric) / scale for point in chosen), 0.0]
        domain = (min(bpp), content)
        codecs = (*(point["codec"] for point in chosen), "")
        return Series(name, metric, tuple(bpp), tuple(losses), codecs, generates, fit_curve(bpp, losses, domain))

    found = [series(GENERATIVE_PE, models, True)]
    for name, generates, chosen in (
        ("PE GenAI, scalable", True, _where(points, lambda point: point["codec"] == SCALABLE)),
        ("PE JPEG", False, _where(points, lambda point: point["codec"].startswith("jpeg:") and not point["gamma"])),
    ):
        if len(chosen) > 2:
            found.append(series(name, chosen, generates))
    for codec in _swapped(points):
        chosen = _where(points, lambda point: point["codec"] == codec and point["gamma"] < 1)
        least = min(_bpp(point) for point in chosen if not point["gamma"])

        def eq5(point: _Point, least: float = least) -> float:
            return least + point["gamma"] * content

        kept = [point for point in chosen if eq5(point) < content]
        if len(kept) > 2:
            kind = "JPEG" if codec.startswith("jpeg:") else "GenAI"
            found.append(series(f"PS {kind}, {codec}", kept, kind == "GenAI", eq5))
    return found


def bits_of_swapped_pixels(document: Mapping[str, Any]) -> dict[str, float]:
    """Bits that a swapped pixel takes as coded, by codec, at the least gamma that was measured; Eq. 5 counts L bits."""
    found = {}
    for codec in _swapped(document["points"]):
        points = _where(document["points"], lambda point: point["codec"] == codec)
        plain = [point for point in points if not point["gamma"]]
        first = min((point for point in points if point["gamma"]), key=lambda point: point["gamma"])
        if plain:
            found[codec] = (_bpp(first) - _bpp(plain[0])) / first["gamma"]
    return found


def _where(points: Sequence[_Point], wanted: Callable[[_Point], bool]) -> list[_Point]:
    return sorted(filter(wanted, points), key=_bpp)


def _swapped(points: Sequence[_Point]) -> list[str]:
    """Codecs that were measured with swapped pixels, in the order of the document."""
    return list(dict.fromkeys(point["codec"] for point in points if point["gamma"]))


def _bpp(point: _Point) -> float:
    return point["bpp"]["mean"]


def _loss(point: _Point, metric: str) -> float:
    if metric == DISTORTION:
        return point["mse_normalised"]["mean"]
    if point["frechet"] is None:
        raise UsageError(f"{point['codec']} was measured on one patch, which has no Frechet distance: measure on more")
    return point["frechet"]


def _scale(models: Sequence[_Point], metric: str, content_bpp: float) -> float:
    """What losses are divided by: for perception the first fit of the generative PE at 0 bpp, taken for the most."""
    if metric == DISTORTION:
        return 1.0
    bpp = [*map(_bpp, models), content_bpp]
    first = fit_curve(bpp, [*(_loss(point, metric) for point in models), 0.0], highest=None)
    most = float(first.raw(np.zeros(1))[0])
    if not most > 0:
        raise UsageError(f"the fit of {GENERATIVE_PE} ({first.family}) is {most:g} at 0 bpp: measure more points")
    return most
