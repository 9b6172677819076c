"""LPIPS with random weights of the right shapes: its structure, not its numbers."""

import numpy as np
import pytest
import torch
from gnl.experiments.quality import PerceptualDistance
from gnl.node_apps.codecs.perceptual import FEATURES_FILE, LINEAR_FILE, load_lpips
from gnl.topologies.errors import CodecError, UsageError

CONVS = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    features = {f"features.{n}.weight": 0.05 * torch.randn(s, generator=generator) for n, s in CONVS.items()}
    features |= {f"features.{n}.bias": 0.1 * torch.randn(s[0], generator=generator) for n, s in CONVS.items()}
    widths = [shape[0] for shape in CONVS.values()]
    linear = {f"lin{k}.model.1.weight": torch.rand(1, n, 1, 1, generator=generator) for k, n in enumerate(widths)}
    path = tmp_path_factory.mktemp("lpips")
    torch.save(features, path / FEATURES_FILE)
    torch.save(linear, path / LINEAR_FILE)
    return path


def reference(folder, x, y):
    """The definition in float64 with torch's functional convolutions and its own preprocessing, in [-1, 1]."""
    features = {k: v.double() for k, v in torch.load(folder / FEATURES_FILE, weights_only=True).items()}
    linear = {k: v.double() for k, v in torch.load(folder / LINEAR_FILE, weights_only=True).items()}
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(1, 3, 1, 1)
    total = 0.0
    maps = [((2 * one.double() - 1) - shift) / scale for one in (x, y)]
    for level, n in enumerate(CONVS):
        stride, padding = {0: (4, 2), 3: (1, 2)}.get(n, (1, 1))
        if level in (1, 2):
            maps = [torch.nn.functional.max_pool2d(one, 3, 2) for one in maps]
        weight, bias = features[f"features.{n}.weight"], features[f"features.{n}.bias"]
        maps = [torch.nn.functional.conv2d(one, weight, bias, stride, padding).clamp_min(0) for one in maps]
        unit = [one / (one.norm(dim=1, keepdim=True) + 1e-10) for one in maps]
        total += (linear[f"lin{level}.model.1.weight"] * (unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    return total


@torch.inference_mode()
def test_it_follows_the_definition(folder):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 2, 3, 96, 80, generator=generator)
    found = load_lpips(folder)(x, y)
    assert found.numpy() == pytest.approx(reference(folder, x, y).numpy(), rel=1e-4)


def test_distances_behave_as_distances(folder):
    lpips = PerceptualDistance(folder)
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    near = np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)
    far = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert lpips(image, image) == 0.0
    assert 0 < lpips(image, near) < lpips(image, far)
    assert lpips(image, far) == pytest.approx(lpips(far, image), rel=1e-5)


def test_one_image_to_many_is_each_pair_by_itself(folder):
    lpips = PerceptualDistance(folder)
    images = np.random.default_rng(4).integers(0, 256, (4, 640, 704, 3), dtype=np.uint8)  # more than one batch
    assert lpips.to_each(images[0], images[1:]) == pytest.approx([lpips(images[0], one) for one in images[1:]])
    assert lpips.to_each(images[0], []) == []


@pytest.mark.parametrize("shape", [(64, 64), (16, 64, 3), (64, 64, 4)])
def test_images_that_it_cannot_take_are_refused(folder, shape):
    image = np.zeros(shape, np.uint8)
    with pytest.raises(UsageError):
        PerceptualDistance(folder)(image, image)


def test_weights_of_something_else_are_refused(folder, tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / FEATURES_FILE)
    (tmp_path / LINEAR_FILE).write_bytes((folder / LINEAR_FILE).read_bytes())
    with pytest.raises(CodecError, match="not the weights"):
        load_lpips(tmp_path)
    (tmp_path / FEATURES_FILE).write_bytes(b"garbage")
    with pytest.raises(CodecError, match="no readable state dict"):
        load_lpips(tmp_path)
