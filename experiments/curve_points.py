"""Points of rate and loss of quality: codecs on patches, with pixels swapped (PS) and without (PE).

One pass over the patches measures a codec at one rate and with all fractions gamma of swapped pixels, its networks
running once. Sums and feature statistics are kept, never images: more patches take no more memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Optional

import numpy as np
from gnl.node_apps.codecs.interface import Codec
from gnl.node_apps.codecs.pixel_swapping import PixelSwapping
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError, GnlError

from .features import Features
from .frechet import FeatureStatistics
from .patches import Patches
from .quality import ms_ssim, mse, mse_normalised, psnr_db

BATCH = 16
Watched = Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]]


class Group(NamedTuple):
    """A codec at one rate, and the fractions of swapped pixels that it is measured with: (0,) for none."""

    codec: str
    bpp: Optional[float] = None
    gammas: tuple[float, ...] = (0.0,)

    @property
    def label(self) -> str:
        """`gnl-low`, or `gnl-scalable@0.15`."""
        return self.codec if self.bpp is None else f"{self.codec}@{self.bpp:.4g}"


class _Coded(NamedTuple):
    """What became of a patch: bits per pixel as coded, and with swapped pixels counted raw as in the paper."""

    bpp: float
    bpp_raw: float
    image: np.ndarray


class Quality:
    """Losses of quality of single images, by name: MSE, its normalised form (Sec. IV-A2), PSNR, MS-SSIM, and LPIPS
    where it is given."""

    def __init__(self, lpips=None) -> None:
        self._lpips = lpips

    def __call__(self, image: np.ndarray, shown: np.ndarray) -> dict[str, Optional[float]]:
        psnr = psnr_db(image, shown)
        figures = {
            "mse": mse(image, shown),
            "mse_normalised": mse_normalised(image, shown),
            "psnr_db": psnr if np.isfinite(psnr) else None,
            "ms_ssim": ms_ssim(image, shown),
        }
        return figures | ({"lpips": self._lpips(image, shown)} if self._lpips else {})


@dataclass
class _Sums:
    """A point while it is measured. Values that are None, as the PSNR of equal images, are left out of their mean."""

    features: FeatureStatistics
    values: dict[str, list[float]] = field(default_factory=dict)

    def count(self, figures: dict[str, Optional[float]]) -> None:
        for name, value in figures.items():
            count, total, squares = self.values.setdefault(name, [0, 0.0, 0.0])
            if value is not None:
                self.values[name] = [count + 1, total + value, squares + value * value]

    def means(self) -> dict[str, Optional[dict[str, float]]]:
        return {name: _mean_and_sd(*sums) for name, sums in self.values.items()}


def _mean_and_sd(count: int, total: float, squares: float) -> Optional[dict[str, float]]:
    if not count:
        return None
    mean = total / count
    variance = max(0.0, squares / count - mean * mean) * count / max(1, count - 1)
    return {"mean": mean, "sd": variance**0.5, "n": count}


def statistics_of(patches: Iterable[np.ndarray], features: Features) -> FeatureStatistics:
    """Feature statistics of images as they are."""
    found = FeatureStatistics(features.size)
    for batch in _batches(patches):
        found.add(features(batch))
    return found


def measure_group(
    group: Group,
    patches: Patches,
    originals: FeatureStatistics,
    features: Features,
    quality: Quality,
    device: str = "auto",
    watched: Watched = iter,
) -> list[dict[str, Any]]:
    """A point for each gamma of `group`, as JSON has it.

    A patch that the codec refuses is left out, named, and its original taken out of what the Frechet distance compares
    with; CodecError if none is left.
    """
    codec = load_codec(f"ps:{group.codec}" if any(group.gammas) else group.codec, device)
    sums = [_Sums(FeatureStatistics(features.size)) for _ in group.gammas]
    skipped: list[dict[str, str]] = []
    number = 0
    for batch in _batches(watched(patches)):
        shown: list[list[np.ndarray]] = [[] for _ in group.gammas]
        refused: list[np.ndarray] = []
        for image in batch:
            try:
                coded = list(_coded(codec, group, image))
            except GnlError as error:
                skipped.append({"patch": patches.name(number), "reason": str(error)})
                refused.append(image)
                coded = []
            number += 1
            for place, one in enumerate(coded):
                sums[place].count({"bpp": one.bpp, "bpp_raw": one.bpp_raw} | quality(image, one.image))
                shown[place].append(one.image)
        for one, images in zip(sums, shown):
            if images:
                one.features.add(features(images))
        if refused:
            originals = originals.without(features(refused))
    if not sums[0].features.count:
        raise CodecError(f"{group.label} codes none of {number} patches (first: {skipped[0]['reason']})")
    points = []
    for gamma, one in zip(group.gammas, sums):
        frechet = one.features.distance(originals) if one.features.count > 1 else None
        points.append(
            {"codec": group.codec, "asked_bpp": group.bpp, "gamma": gamma, "patches": one.features.count}
            | one.means()
            | {"frechet": frechet, "skipped": skipped}
        )
    return points


def _coded(codec: Codec, group: Group, image: np.ndarray) -> Iterator[_Coded]:
    pixels = image.shape[0] * image.shape[1]
    if isinstance(codec, PixelSwapping):
        for sizes, shown in codec.variants(image, group.gammas):
            if sizes.gamma:
                yield _Coded(8 * sizes.coded_bytes / pixels, 8 * sizes.raw_bytes / pixels, shown)
            else:  # nobody would wrap a prompt to swap nothing
                yield _Coded(8 * sizes.inner_bytes / pixels, 8 * sizes.inner_bytes / pixels, shown)
        return
    prompt = codec.encode(image, group.bpp)
    bpp = 8 * prompt.size_bytes / pixels
    yield _Coded(bpp, bpp, codec.decode(prompt))


def _batches(items: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    left = iter(items)
    while batch := list(islice(left, BATCH)):
        yield batch
