"""Image quality on uint8 arrays: MSE, PSNR, the paper's normalised MSE, MS-SSIM; LPIPS where its weights are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
from gnl.topologies.errors import UsageError

_TOP = 255.0
# Five scales of a window of 11 pixels need so many.
MS_SSIM_LEAST_SIDE = 161
_BATCH_PIXELS = 1 << 20


def mse(image: np.ndarray, other: np.ndarray) -> float:
    """Mean squared error of two uint8 arrays of one shape, in squared 8-bit levels; UsageError otherwise."""
    _require_alike(image, other)
    difference = image.astype(np.int32) - other.astype(np.int32)
    return float(np.mean(np.square(difference), dtype=np.float64))


def psnr_db(image: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB for 8-bit images; infinite for equal ones."""
    error = mse(image, other)
    return math.inf if error == 0 else 10.0 * math.log10(_TOP**2 / error)


def mse_normalised(image: np.ndarray, other: np.ndarray) -> float:
    """MSE divided by the MSE between `image`, the true one, and its colour inversion (paper, Section IV-A2).

    0 for equal images and 1 for the inversion. The divisor is at least 1, since no 8-bit level is its own inversion.
    """
    return mse(image, other) / mse(image, 255 - image)


def ms_ssim(image: np.ndarray, other: np.ndarray) -> Optional[float]:
    """Multi-scale structural similarity (Wang et al. 2003) of two (H, W, 3) uint8 images, the mean over RGB.

    1 for equal images; None where a side is shorter than MS_SSIM_LEAST_SIDE.
    """
    from pytorch_msssim import ms_ssim as similarity

    _require_alike(image, other)
    if min(image.shape[:2]) < MS_SSIM_LEAST_SIDE:
        return None
    first, second = (_tensor([one], "cpu") for one in (image, other))
    return float(similarity(first, second, data_range=1.0))


class PerceptualDistance:
    """LPIPS on AlexNet features; loads the tensor library, and the weights from a folder that the user has."""

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        """CodecError if a weights file is missing in `folder`."""
        from gnl.node_apps.codecs.perceptual import load_lpips

        self._device = device
        self._model = load_lpips(folder).to(device)

    def __call__(self, image: np.ndarray, other: np.ndarray) -> float:
        """Distance of two (H, W, 3) uint8 images with sides of at least 32 pixels."""
        return self.to_each(image, [other])[0]

    def to_each(self, image: np.ndarray, others: Sequence[np.ndarray]) -> list[float]:
        """Distances of one image to several of its size; cheaper than one by one."""
        import torch

        for other in others:
            _require_alike(image, other)
        if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 32:
            raise UsageError(f"image shape {image.shape}: LPIPS takes (H, W, 3) with sides of at least 32 pixels")
        step = max(1, _BATCH_PIXELS // (image.shape[0] * image.shape[1]))
        distances: list[float] = []
        with torch.inference_mode():
            reference = self._model.features(_tensor([image], self._device))
            for start in range(0, len(others), step):
                features = self._model.features(_tensor(others[start : start + step], self._device))
                distances += self._model.compare(features, reference).tolist()
        return distances


def _tensor(images: Sequence[np.ndarray], device: str):
    """(B, 3, H, W) float32 in [0, 1] of (H, W, 3) uint8 images of one size."""
    import torch

    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()).to(device).float() / _TOP


def _require_alike(image: np.ndarray, other: np.ndarray) -> None:
    if image.dtype != np.uint8 or other.dtype != np.uint8 or image.shape != other.shape or image.size == 0:
        raise UsageError(
            f"images of {image.dtype} {image.shape} and {other.dtype} {other.shape}: "
            "give two uint8 arrays of one shape that are not empty"
        )
