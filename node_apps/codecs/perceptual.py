"""LPIPS, the learned perceptual distance of Zhang et al. (CVPR 2018), version 0.1 on AlexNet features.

Our own statement of the published definition; the trained numbers come from two state dicts in a folder that the user
names: the ImageNet AlexNet features (`features.N.weight` or `N.weight`) and LPIPS's linear layers (`linK...weight`).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from gnl.topologies.errors import CodecError
from torch import Tensor, nn

_CHANNELS = (64, 192, 384, 256, 256)
# index in torchvision's feature stack: input and output channels, kernel, stride, padding
_CONVS = {
    0: (3, 64, 11, 4, 2),
    3: (64, 192, 5, 1, 2),
    6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
_POOL_BEFORE = (3, 6)
_SOURCES = (
    "The first is lpips/weights/v0.1/alex.pth in the PyPI wheel lpips 0.1.4, the second torchvision's AlexNet, "
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth: save them under these names"
)
LINEAR_FILE, FEATURES_FILE = "lin_v0.1_alex.pth", "alexnet_features_imagenet.pth"


class Lpips(nn.Module):
    """Distance of image batches: 0 for equal images, about 0.1 for a good and 0.7 for an unlike reconstruction."""

    def __init__(self) -> None:
        super().__init__()
        for index, (inputs, outputs, kernel, stride, padding) in _CONVS.items():
            self.add_module(f"conv{index}", nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding))
        for level, channels in enumerate(_CHANNELS):
            self.register_buffer(f"lin{level}", torch.zeros(1, channels, 1, 1))
        # LPIPS takes images in [-1, 1] and shifts and scales them so; folded here for images in [0, 1]
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        self.register_buffer("mean", ((shift + 1) / 2).view(1, 3, 1, 1))
        self.register_buffer("deviation", (scale / 2).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-normalised features after each of the five ReLUs of images (B, 3, H, W) in [0, 1], H and W >= 32."""
        x = (x - self.mean) / self.deviation
        found = []
        for index in _CONVS:
            if index in _POOL_BEFORE:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(getattr(self, f"conv{index}")(x))
            wide = x.float()
            found.append(wide / (torch.sqrt(wide.square().sum(1, keepdim=True) + 1e-20) + 1e-10))
        return found

    def compare(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Distances, (B,), of two batches by their `features`."""
        total = first[0].new_zeros(first[0].shape[0])
        for level, (a, b) in enumerate(zip(first, second)):
            total = total + F.conv2d((a - b).square(), getattr(self, f"lin{level}")).mean((1, 2, 3))
        return total

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distances, (B,), of images (B, 3, H, W) in [0, 1]."""
        return self.compare(self.features(x), self.features(x_hat))


def load_lpips(folder: str | Path) -> Lpips:
    """Lpips with the weights of `folder`; CodecError names the file that is missing or does not fit."""
    folder = Path(folder)
    features, linear = _load_state(folder / FEATURES_FILE), _load_state(folder / LINEAR_FILE)
    model = Lpips()
    with torch.no_grad():
        try:
            for index in _CONVS:
                prefix = "features." if f"features.{index}.weight" in features else ""
                conv = getattr(model, f"conv{index}")
                conv.weight.copy_(features[f"{prefix}{index}.weight"])
                conv.bias.copy_(features[f"{prefix}{index}.bias"])
            for level in range(len(_CHANNELS)):
                (name,) = [key for key in linear if key.startswith(f"lin{level}.")]
                getattr(model, f"lin{level}").copy_(linear[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CodecError(f"{folder}: not the weights of LPIPS 0.1 on AlexNet ({error})") from error
    return model.eval()


def _load_state(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        wanted = f"{LINEAR_FILE} and {FEATURES_FILE}"
        raise CodecError(f"{path} is missing: give the folder with {wanted}. {_SOURCES}") from error
    except Exception as error:  # torch reports damaged files with many kinds
        reason = " ".join(str(error).split())[:200]
        raise CodecError(f"{path} is no readable state dict ({reason}). {_SOURCES}") from error
