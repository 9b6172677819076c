"""What a training needs, small enough for tests: photographs, weights of LPIPS, configurations, and networks."""

import numpy as np
import torch
from gnl.node_apps.codecs.networks import NetworkShape
from gnl.node_apps.codecs.perceptual import FEATURES_FILE, LINEAR_FILE, Lpips
from gnl.node_apps.codecs.training_config import TrainingConfig, read_config
from PIL import Image

SHAPE = NetworkShape(8, 4, 8, (8, 8, 8), (1, 1, 1), (8, 8, 8, 8), (1, 1, 1))
CONFIG = """
based_on: gnl-scalable
name: tiny
minutes: 60
threads: 1
hyper_steps: 2
batches: [[2, 64]]
least_side: 64
bfloat16: false
classifier_weight: 0.0
budget_bpp: null
target_bpp: 0.3
"""
ANY_RATE = "budget_bpp: [0.03, 1.0]\n"


def small_config(**changes) -> TrainingConfig:
    values = {**vars(read_config("gnl-scalable")), "name": "tiny", "steps": 6, "threads": 1, "hyper_steps": 2}
    values |= {"batches": [[2, 64]], "least_side": 64, "bfloat16": False, "minutes": 60, "rate_weight": 0.4}
    values |= {"learning_rate": 6e-4, "warmup_steps": 200, "lpips_from": 0.01, "adversarial_from": 0.0}
    values["classifier_weight"] = 0.0
    return TrainingConfig(**{**values, **changes})


def make_photos(folder, count=4, side=96):
    """Blurred noise, as PNG; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side + number), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


def make_lpips(folder):
    """Random weights in the two files that `load_lpips` reads; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    features, linear = {}, {}
    for name, value in Lpips().state_dict().items():
        part, _, kind = name.partition(".")
        if part.startswith("conv"):
            scale = 0.05 if kind == "weight" else 0.1
            features[f"features.{part[4:]}.{kind}"] = scale * torch.randn(value.shape, generator=generator)
        elif part.startswith("lin"):
            linear[f"{part}.model.1.weight"] = torch.rand(value.shape, generator=generator)
    torch.save(features, folder / FEATURES_FILE)
    torch.save(linear, folder / LINEAR_FILE)
    return folder
