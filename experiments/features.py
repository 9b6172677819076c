"""Networks whose features a Frechet distance is of; each names the distance that it makes.

    EfficientNetLite2   1280 features; its weights come with a package, so that it works offline
    InceptionV3         2048 features, by torch-fidelity: the distance is FID. Its weights are the user's own file
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Sequence

import numpy as np
from gnl.topologies.errors import UsageError

from .frechet import FEATURES, FRECHET

FID = "fid"
FID_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth, of torch-fidelity's release v0.2.0"
_INPUT_PX = 260  # of EfficientNet-Lite2
_BATCH = 4  # larger ones ask the system for memory anew: twice the time an image on a CPU


class Features(Protocol):
    """`name` of the distance, `size` of a feature vector; called with (H, W, 3) uint8 images, it gives (n, size)."""

    name: str
    size: int

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray: ...


class EfficientNetLite2:
    """Pooled features of the ImageNet classifier EfficientNet-Lite2."""

    name, size = FRECHET, FEATURES

    def __init__(self, device: str = "cpu") -> None:
        import torch
        from gnl.node_apps.codecs.classifier import JUDGING_NUMBER, EfficientNetLite

        self._device = device
        self._model = EfficientNetLite(JUDGING_NUMBER).to(device, memory_format=torch.channels_last)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Features (B, 1280) float32 of (H, W, 3) uint8 images, each resized to the network's input."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                x = torch.cat([self.resized(tensor_of(image)) for image in images[start : start + _BATCH]])
                found.append(self._network(x))
        return torch.cat(found).cpu().numpy()

    def of_tensor(self, images):
        """Features (B, 1280) float32, a tensor, of images (B, 3, H, W) uint8 of one size."""
        import torch

        with torch.inference_mode():
            return self._network(self.resized(images))

    def _network(self, x):
        import torch

        return self._model(x.contiguous(memory_format=torch.channels_last))[-1]

    def resized(self, images):
        """Images (B, 3, H, W) uint8 as the network takes them, (B, 3, 260, 260) float32 in 0..255."""
        import torch

        x, size = images.to(self._device).float(), (_INPUT_PX, _INPUT_PX)
        x = torch.nn.functional.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        return x.clamp(0, 255)


def tensor_of(image: np.ndarray):
    """(1, 3, H, W) uint8 of an (H, W, 3) uint8 image."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None])


class InceptionV3:
    """Pooled features of the Inception network of FID (Heusel et al. 2017), as torch-fidelity computes them."""

    name, size = FID, 2048

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        """`weights` is a file of FID_WEIGHTS; UsageError if it is not."""
        from gnl.node_apps.codecs.checkpoints import load_plain, reason_of
        from gnl.node_apps.codecs.entropy import define_vision_operators

        define_vision_operators()  # the library imports torchvision
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self._device = device
        try:
            load_plain(weights)  # the library runs what is in a file: one of tensors alone is safe
            model = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))
        except Exception as error:  # torch reports what is wrong with a file with many kinds
            raise UsageError(f"{weights}: no weights of Inception ({reason_of(error)}); give {FID_WEIGHTS}") from error
        self._model = model.to(device)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Features (n, 2048) float32 of (H, W, 3) uint8 images of one size."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                batch = np.stack(images[start : start + _BATCH]).transpose(0, 3, 1, 2)
                found.append(self._model(torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))[0].cpu().numpy())
        return np.concatenate(found)
