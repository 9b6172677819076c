"""Strips against the whole picture, in double precision: what a margin leaves out shows."""

import numpy as np
import pytest
import torch
from gnl.node_apps.codecs import generative, networks
from gnl.node_apps.codecs.pinned import PinnedHyperSynthesis, quantise_layers
from gnl.node_apps.codecs.quantiser import LEVELS
from gnl.node_apps.codecs.strips import in_strips
from small_codec import load_small, scene, write_small

SHAPE = networks.NetworkShape()
ROWS = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def g_s():
    torch.manual_seed(0)
    return networks.Synthesis(SHAPE).double()


@pytest.fixture(scope="module")
def g_a():
    torch.manual_seed(0)
    return networks.Analysis(SHAPE).double()


@pytest.fixture(scope="module")
def h_s():
    torch.manual_seed(0)
    network = networks.make_h_s(SHAPE)
    for layer in network:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.mul_(2.0)
    network[-1].bias[SHAPE.y_channels :] = 12.0
    return PinnedHyperSynthesis(quantise_layers(network), LEVELS)


class Watched:
    """A network that notes how many rows it was given at once."""

    def __init__(self, network):
        self.network, self.heights = network, []

    def __call__(self, *inputs):
        self.heights.append(inputs[0].shape[-2])
        return self.network(*inputs)


def latents(rows, channels=SHAPE.y_channels):
    return torch.from_numpy(np.random.default_rng(1).normal(0, 2, (1, channels, rows, 4)))


def worst(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("rows", [33, 40])
def test_g_s_in_strips_is_g_s(g_s, rows):
    y_hat, precision = latents(rows), latents(rows, 1).abs()
    watched = Watched(g_s)
    found = in_strips(watched, [y_hat, precision], ROWS, generative._MARGIN, networks.Y_STRIDE)
    assert found.shape == (1, 3, 16 * rows, 64) and worst(found, g_s(y_hat, precision)) < 1e-12
    assert max(watched.heights) <= ROWS + 2 * generative._MARGIN and len(watched.heights) == -(-rows // ROWS)


def test_g_a_in_strips_is_g_a(g_a):
    x = torch.from_numpy(np.random.default_rng(2).uniform(0, 1, (1, 3, 16 * 36, 64)))
    margin = networks.Y_STRIDE * generative._MARGIN
    watched = Watched(g_a)
    found = in_strips(watched, [x], networks.Y_STRIDE * ROWS, margin, networks.Y_STRIDE, shrinks=True)
    assert found.shape == (1, SHAPE.y_channels, 36, 4) and worst(found, g_a(x)) < 1e-12
    assert max(watched.heights) <= networks.Y_STRIDE * ROWS + 2 * margin


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_hyper_synthesis_in_strips_is_the_same_to_the_bit(h_s, rows):
    """Both ends may be given other strips."""
    z = torch.from_numpy(np.random.default_rng(3).integers(-9, 10, (2, SHAPE.z_channels, 13, 3)))
    mu, index = h_s(z)
    in_parts = in_strips(h_s, [z], rows, generative._Z_MARGIN, 4)
    assert torch.equal(in_parts[0], mu) and torch.equal(in_parts[1], index)
    assert len(torch.unique(index)) > 3


def test_less_of_a_margin_would_show(g_s, g_a, h_s):
    """The tests above can fail: rows further out than this do reach the result."""
    y_hat, precision = latents(33), latents(33, 1).abs()
    found = in_strips(g_s, [y_hat, precision], ROWS, 9, networks.Y_STRIDE)
    assert worst(found, g_s(y_hat, precision)) > 1e-12
    x = torch.from_numpy(np.random.default_rng(2).uniform(0, 1, (1, 3, 16 * 36, 64)))
    found = in_strips(g_a, [x], 16 * ROWS, 16 * 7, networks.Y_STRIDE, shrinks=True)
    assert worst(found, g_a(x)) > 1e-12
    z = torch.from_numpy(np.random.default_rng(3).integers(-9, 10, (2, SHAPE.z_channels, 13, 3)))
    assert not torch.equal(in_strips(h_s, [z], 2, 1, 4)[0], h_s(z)[0])


def test_what_one_strip_covers_is_computed_at_once(g_s):
    watched = Watched(g_s)
    in_strips(watched, [latents(20), latents(20, 1)], ROWS, 12, networks.Y_STRIDE)
    assert watched.heights == [20]


def test_a_strip_holds_a_bounded_number_of_pixels():
    for width in (64, 1000, 4096, 8192):
        pixels = generative._strip_rows(width) * networks.Y_STRIDE * width
        assert pixels <= max(generative._STRIP_PIXELS, 8 * networks.Y_STRIDE * width) and pixels <= 1 << 21


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    path = write_small(tmp_path_factory.mktemp("small"))
    return load_small(path, scalable=False), load_small(path, scalable=True)


@pytest.mark.parametrize("which", [0, 1], ids=["one rate", "any rate"])
def test_a_codec_that_works_in_strips_does_the_same(codecs, which, monkeypatch):
    codec, image = codecs[which], scene(700, 150)
    prompt = codec.encode(image)
    latents, shown = codec.latents([prompt]), codec.decode(prompt)
    monkeypatch.setattr(generative, "_STRIP_PIXELS", 1 << 14)
    assert generative._strip_rows(192) == 8
    assert np.array_equal(codec.latents([prompt]), latents)
    assert np.abs(codec.decode(prompt).astype(int) - shown).max() <= 1
    in_strips = codec.encode(image)
    assert in_strips.size_bytes == pytest.approx(prompt.size_bytes, rel=0.01)
    assert np.abs(codec.decode(in_strips).astype(int) - shown).mean() < 0.01


@pytest.mark.parametrize("which", [0, 1], ids=["one rate", "any rate"])
def test_a_large_picture_goes_there_and_back(codecs, which):
    codec, image = codecs[which], np.tile(scene(512, 512), (3, 4, 1))
    prompt = codec.encode(image)
    shown = codec.decode(prompt)
    assert shown.shape == (1536, 2048, 3)
    assert np.mean((shown.astype(float) - image) ** 2) < 0.1 * image.var()
    tile = shown[512:1024, 512:1024].astype(int)
    assert np.abs(tile - shown[512:1024, 1024:1536]).mean() < 4  # alike where the picture is
