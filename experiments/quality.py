"""Image quality: MSE, PSNR and the paper's normalised MSE on uint8 arrays; LPIPS where its weights are at hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from gnl.topologies.errors import UsageError

_TOP = 255.0


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


class PerceptualDistance:
    """LPIPS on AlexNet features; loads the tensor library, and the weights from a folder that the user has."""

    def __init__(self, folder: str | Path) -> None:
        """CodecError if a weights file is missing in `folder`."""
        from gnl.node_apps.codecs.perceptual import load_lpips

        self._model = load_lpips(folder)

    def __call__(self, image: np.ndarray, other: np.ndarray) -> float:
        """Distance of two (H, W, 3) uint8 images with sides of at least 32 pixels."""
        import torch

        _require_alike(image, other)
        if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 32:
            raise UsageError(f"image shape {image.shape}: LPIPS takes (H, W, 3) with sides of at least 32 pixels")
        with torch.inference_mode():
            first, second = (
                torch.from_numpy(np.ascontiguousarray(one.transpose(2, 0, 1))[None]).float() / _TOP
                for one in (image, other)
            )
            return float(self._model(first, second)[0])


def _require_alike(image: np.ndarray, other: np.ndarray) -> None:
    if image.dtype != np.uint8 or other.dtype != np.uint8 or image.shape != other.shape or image.size == 0:
        raise UsageError(
            f"images of {image.dtype} {image.shape} and {other.dtype} {other.shape}: "
            "give two uint8 arrays of one shape that are not empty"
        )
