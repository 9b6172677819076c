"""What `gnl validate` runs: optima of the case study, and a grid of capacities, each on the diamond.

Capacities of a trial are in L a second, L being what one content takes on the wire: an x of 1 carries one content a
second, times the number of them that the user asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Optional

from gnl.topologies.errors import UsageError
from gnl.topologies.named import NAMED
from gnl.topologies.spec import ContentSpec, LinkSpec, Scenario

from .series import MODELS, SCALABLE

FIGURE, GRID = "figure", "grid"
MOST_SCALABLE_BPP = 1.2  # gnl-scalable was trained for prompts of up to so many
_SAME_SIZE, _ROUNDING = 0.01, 1e-6
_BY_ROUTER = 0.5
# c_sg, c_gd, and what r carries with the prompts that go by g: prompts bind, contents bind, s-g is wider than g-d.
_GRID_BPP, _LARGE_BPP = 0.15, 0.9
_GRID = ((0.05, 0.2, 2 / 3, 1.5), (0.5, 1.0, 2.0), ((0.25, _LARGE_BPP), (1.0, _GRID_BPP)))
_SMALL_BPP = 0.06  # 492 bytes of 256 x 256 pixels, a third of a packet
_PLANNED_RATES, _TOO_FAST = (0.4, 0.8), 12.0


@dataclass(frozen=True)
class Trial:
    """One run. `codec`, `bpp`: its prompts; with `bpp` None the codec has one rate only. `by_router`: the capacity of
    the path by r. `generation_rate`: R_g that is planned for, None for what is measured.

    `through_g`: G_flow is that of g's path alone, f'_sd being what that path replicates, as the paper's Fig. 4 has it.
    """

    kind: str
    codec: str
    bpp: Optional[float]
    c_sg: float
    c_gd: float
    by_router: float = _BY_ROUTER
    generation_rate: Optional[float] = None
    through_g: bool = False

    @property
    def name(self) -> str:
        """Names its folder: all that makes it."""
        size = "" if self.bpp is None else f"-{self.bpp:.4f}bpp"
        rate = "" if self.generation_rate is None else f"-rg{self.generation_rate:.6g}"
        capacities = f"sg{self.c_sg:.6g}-gd{self.c_gd:.6g}" + ("" if self.through_g else f"-r{self.by_router:.6g}")
        return f"{self.kind}-{self.codec.replace(':', '_')}{size}-{capacities}{rate}"

    def scenario(self, content: ContentSpec, content_wire_bits: float, contents_per_s: float) -> Scenario:
        """The diamond of this trial, an x of 1 being `contents_per_s` contents of `content_wire_bits`."""
        mbit = content_wire_bits * contents_per_s / 1e6
        capacities = {"s-r": self.by_router, "r-d": self.by_router, "s-g": self.c_sg, "g-d": self.c_gd}
        links = tuple(LinkSpec(*name.split("-"), round(x * mbit, 6)) for name, x in capacities.items())
        rate = None if self.generation_rate is None else self.generation_rate * contents_per_s
        diamond = NAMED["diamond"]
        return replace(diamond, name=self.name, links=links, content=content, generation_rate_images_per_s=rate)


def trials_of_figure(found: Mapping[str, Any]) -> dict[Trial, list[dict[str, Any]]]:
    """The trials that `found`, the document of `gnl optimize`, needs; each with the optima that it stands for.

    UsageError if f'_sd is less than what the path by g replicates.
    """
    problem, trials = found["problem"], {}
    content, c_sg, c_gd = (problem[key] for key in ("content_size", "c_sg", "c_gd"))
    by_router = problem["max_flow"] - min(c_sg, c_gd)
    through_g = abs(by_router) <= _ROUNDING * c_sg
    if by_router < 0 and not through_g:
        raise UsageError(
            f"f'_sd = {problem['max_flow']:g} is below the {min(c_sg, c_gd):g} that the path by g replicates: give "
            "--max-flow of at least that"
        )
    path = _BY_ROUTER if through_g else by_router / content
    rate = None if problem["generation_rate"] is None else problem["generation_rate"] / content
    for series in found["series"]:
        for best in series["optima"]:
            codec, bpp = codec_at(series, best["prompt_size"])
            most = min(c_sg / best["prompt_size"], c_gd / content, math.inf if rate is None else rate)
            # Where f_min alone keeps g generating, the optimum is below Eq. 4: R_g holds it there.
            held = best["rate_per_s"] if series["generates"] and best["rate_per_s"] < most * (1 - _ROUNDING) else rate
            trial = Trial(FIGURE, codec, bpp, c_sg / content, c_gd / content, path, held, through_g)
            trials.setdefault(trial, []).append({"series": series["name"], "metric": series["metric"], **best})
    return trials


def codec_at(series: Mapping[str, Any], size_bpp: float) -> tuple[str, Optional[float]]:
    """What makes prompts of `size_bpp` for a series: a codec, and its target unless it has one rate only.

    Between the points of a series the scalable codec follows it if it generates; where that ends, and for JPEG, pixels
    are swapped behind the next smaller point.
    """
    points = [(size, codec) for size, codec in zip(series["bpp"], series["codecs"]) if codec]
    swapped = series["name"].startswith("PS ")
    if swapped:
        points = points[:1]  # the others are this one with pixels swapped
    fixed = [codec for size, codec in points if codec != SCALABLE and abs(size - size_bpp) <= _SAME_SIZE * size_bpp]
    if fixed:
        return fixed[0], None
    if series["generates"] and not swapped and size_bpp <= MOST_SCALABLE_BPP:
        return SCALABLE, round(size_bpp, 4)
    _, codec = max((point for point in points if point[0] <= size_bpp), default=points[0])
    return f"ps:{codec}", round(size_bpp, 4)


def grid() -> Iterator[Trial]:
    """Capacities in all combinations; R_g as the bottleneck, planned and as measured; a prompt smaller than a packet;
    the models of one rate."""
    for c_sg, c_gd, (by_router, bpp) in product(*_GRID):
        yield Trial(GRID, SCALABLE, bpp, c_sg, c_gd, by_router)
    for rate in _PLANNED_RATES:
        yield Trial(GRID, SCALABLE, _GRID_BPP, 2 / 3, 1.0, generation_rate=rate)
    yield Trial(GRID, SCALABLE, _GRID_BPP, 2 / 3, _TOO_FAST)
    yield Trial(GRID, SCALABLE, _SMALL_BPP, 0.05, 2.0)
    for model in MODELS:
        yield Trial(GRID, model, None, 2 / 3, 1.0)
