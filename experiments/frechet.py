"""Frechet distance between photographs and their reconstructions, by the features of EfficientNet-Lite2.

It is the distance behind FID (Heusel et al. 2017) on other features, and is named after these: its values compare with
no FID. Estimated from n features of 1280 values each, it is biased upwards, the more the smaller n is, and at n <= 1280
both covariances are singular. The sets here are paired, each reconstruction with its own original, so that equal images
give 0 at any n; still, compare codecs at one n only, and prefer one above 1280.
"""

from __future__ import annotations

from typing import Mapping

import numpy as np
from gnl.topologies.errors import UsageError

FRECHET = "frechet_efficientnet_lite2"
TILE_PX = 256
FEATURES = 1280


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two sets of features, (n, d) each; squared, as FID is.

    Dowson and Landau 1982. With centred and scaled features A and B, S1 = A'A and S2 = B'B, the trace of the root is
    the sum of the singular values of AB', which no rank deficiency disturbs. UsageError for fewer than two features.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise UsageError(f"features of {first.shape} and {second.shape}: give two arrays (n, d) of one d, n at least 2")
    shift = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    a, b = _root(first), _root(second)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(0.0, shift @ shift + np.square(a).sum() + np.square(b).sum() - 2 * overlap))


def _root(features: np.ndarray) -> np.ndarray:
    """A matrix A of at most d rows with A'A the covariance of the features."""
    centred = features - features.mean(0, dtype=np.float64)
    centred /= np.sqrt(len(features) - 1)
    return np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred


class FeatureStatistics:
    """Count, mean and scatter of features, added batch by batch: no more memory for 100,000 images than for ten.

    Batches are merged as Chan, Golub and LeVeque 1979 do, in float64, so that nothing is lost over many of them.
    """

    def __init__(self, features: int = FEATURES) -> None:
        self.count = 0
        self.mean = np.zeros(features)
        self._scatter = np.zeros((features, features))

    def add(self, batch: np.ndarray) -> None:
        """Count features (n, d) in, n from 0 on; UsageError for another d, or values that are not finite."""
        if batch.ndim != 2 or batch.shape[1] != len(self.mean) or not np.isfinite(batch).all():
            raise UsageError(f"features of {batch.shape}: give finite values, (n, {len(self.mean)})")
        if not len(batch):
            return
        mean = batch.mean(0, dtype=np.float64)
        centred, shift, total = batch - mean, mean - self.mean, self.count + len(batch)
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(batch) / total)
        self.mean = self.mean + shift * (len(batch) / total)
        self.count = total

    def without(self, batch: np.ndarray) -> FeatureStatistics:
        """The statistics as if features (n, d), which were added, had not been."""
        taken, left = FeatureStatistics(len(self.mean)), FeatureStatistics(len(self.mean))
        taken.add(batch)
        left.count = self.count - taken.count
        if left.count > 0:
            left.mean = (self.count * self.mean - taken.count * taken.mean) / left.count
            shift = taken.mean - left.mean
            again = taken._scatter + np.outer(shift, shift) * (left.count * taken.count / self.count)
            left._scatter = self._scatter - again
        return left

    @property
    def covariance(self) -> np.ndarray:
        """(d, d), unbiased; UsageError for fewer than two features."""
        if self.count < 2:
            raise UsageError(f"features of {self.count} images: a covariance needs at least 2")
        return self._scatter / (self.count - 1)

    def distance(self, other: FeatureStatistics) -> float:
        """`frechet_distance` of the features that were added here and there."""
        first, second, shift = self.covariance, other.covariance, self.mean - other.mean
        values, vectors = np.linalg.eigh(first)
        root = vectors * np.sqrt(values.clip(0))
        overlap = np.sqrt(np.linalg.eigvalsh(root.T @ second @ root).clip(0)).sum()
        return float(max(0.0, shift @ shift + np.trace(first) + np.trace(second) - 2 * overlap))

    def arrays(self) -> dict[str, np.ndarray]:
        """The state, to be kept in a file and given to `of_arrays`."""
        return {"count": np.array(self.count), "mean": self.mean, "scatter": self._scatter}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FeatureStatistics:
        """The statistics that `arrays` gave."""
        found = cls(len(arrays["mean"]))
        found.count, found.mean, found._scatter = int(arrays["count"]), arrays["mean"], arrays["scatter"]
        return found


def tiles(image: np.ndarray) -> list[np.ndarray]:
    """Squares of TILE_PX that cover the image without overlap, and those between them, half a side right and down.

    As Mentzer et al. 2020 (A.7) cut images for their FID. An image with a shorter side is a tile by itself.
    """
    height, width = image.shape[:2]
    if min(height, width) < TILE_PX:
        return [image]
    return [
        image[top : top + TILE_PX, left : left + TILE_PX]
        for start in (0, TILE_PX // 2)
        for top in range(start, height - TILE_PX + 1, TILE_PX)
        for left in range(start, width - TILE_PX + 1, TILE_PX)
    ]
