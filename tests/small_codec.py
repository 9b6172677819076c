"""Generative codecs that need no training: narrow networks that start as block transforms, and their pictures."""

import json
from pathlib import Path

import numpy as np
import torch
from gnl.node_apps.codecs import export, quantiser
from gnl.node_apps.codecs.fixed_rate import FixedRateCodec
from gnl.node_apps.codecs.interface import CodecFacts
from gnl.node_apps.codecs.networks import NetworkShape
from gnl.node_apps.codecs.scalable import ScalableCodec
from gnl.node_apps.codecs.transform_coder import TransformCoder

SMALL = NetworkShape(
    y_channels=24,
    z_channels=4,
    hyper_channels=8,
    g_a_channels=(8, 8, 8),
    g_a_blocks=(1, 1, 1),
    g_s_channels=(8, 8, 8, 8),
    g_s_blocks=(1, 1, 1),
)
TINY = NetworkShape(6, 2, 4, (4, 4, 4), (1, 1, 1), (4, 4, 4, 4), (1, 1, 1))


def scene(height, width, seed=0):
    """A picture with edges, gradients and texture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([rows / 2, columns / 2, 255 - rows / 2], -1) % 255
    for _ in range(6):
        top, left, size = rng.integers(0, height), rng.integers(0, width), rng.integers(4, 60)
        image[top : top + size, left : left + size] = rng.integers(0, 256, 3)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def small_model(shape=SMALL, seed=3):
    """A working codec without training: principal components of blocks, and each channel's own scale and mean.

    The networks that correct the linear transforms are silent in g_s and small in g_a.
    """
    torch.manual_seed(seed)
    model = TransformCoder(shape)
    crops = np.stack([scene(128, 128, 100 + number) for number in range(12)]).transpose(0, 3, 1, 2)
    x = torch.from_numpy(crops.astype(np.float32) / 255)
    model.start_from_blocks(x)
    with torch.no_grad():
        model.g_s.finish[-2].weight.zero_()
        y, last, channels = model.g_a(x), model.h_s[-1], shape.y_channels
        last.weight[channels:].mul_(0.2)
        last.bias[channels:] = torch.log(y.std((0, 2, 3)) / quantiser.SCALE_MIN) / quantiser.SCALE_STEP
        last.bias[:channels] = y.mean((0, 2, 3))
    return model


def write_small(folder: Path, shape=SMALL, seed=3) -> Path:
    """The weights of `small_model` in `folder`."""
    path = folder / "small.safetensors"
    export.write_codec(small_model(shape, seed), path, {"name": "small"})
    return path


def load_small(path: Path, scalable: bool, device="cpu", threads=None):
    """The codec in `path` as one of any rate, or of one."""
    sha256 = json.loads(path.with_suffix(".json").read_text())["sha256"]
    facts = CodecFacts("small", 4 if scalable else 1, sha256, True, scalable, (), "latents: any machine")
    return (ScalableCodec if scalable else FixedRateCodec)(facts, path, device, threads)


def squared_error(shown, image):
    """Mean over all values, of 8-bit ones."""
    return float(np.mean((shown.astype(np.float64) - image) ** 2))
