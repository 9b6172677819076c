import numpy as np
import pytest
import torch
from gnl.node_apps.codecs.networks import SCALE_LEVELS, NetworkShape, make_h_s
from gnl.node_apps.codecs.pinned import PinnedHyperSynthesis, quantise_layers
from gnl.topologies.errors import CodecError

SHAPE = NetworkShape(y_channels=6, z_channels=5, hyper_channels=8)


@pytest.fixture(scope="module")
def h_s():
    torch.manual_seed(2)
    network = make_h_s(SHAPE)
    with torch.no_grad():
        network[-1].bias[SHAPE.y_channels :] = 9.0
    return network


@pytest.fixture(scope="module")
def z_hat():
    return torch.from_numpy(np.random.default_rng(4).integers(-9, 10, (8, 5, 3, 4))).int()


def python_integers(layers, z):
    """The same network in Python's unbounded integers, slowly; z is (C, h, w)."""
    x = [[[int(v) << 8 for v in row] for row in plane] for plane in z]
    for number, layer in enumerate(layers):
        height, width = len(x[0]), len(x[0][0])
        planes = []
        for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist()):
            plane = [[bias] * width for _ in range(height)]
            for kernel, source in zip(weights, x):
                for r in range(height):
                    for c in range(width):
                        for i in range(3):
                            for j in range(3):
                                if 0 <= r + i - 1 < height and 0 <= c + j - 1 < width:
                                    plane[r][c] += kernel[i][j] * source[r + i - 1][c + j - 1]
            planes.append(plane)
        if number == len(layers) - 1:
            return planes
        rounded = [[[min(max((v + 2048) >> 12, 0), 1 << 15) for v in row] for row in plane] for plane in planes]
        x = [
            [[four[2 * (r % 2) + c % 2][r // 2][c // 2] for c in range(2 * width)] for r in range(2 * height)]
            for four in (rounded[k : k + 4] for k in range(0, len(rounded), 4))
        ]


def test_it_equals_integer_arithmetic_exactly(h_s):
    layers = quantise_layers(h_s)
    z = np.random.default_rng(5).integers(-30, 31, (1, 5, 1, 2))
    mu, index = PinnedHyperSynthesis(layers, SCALE_LEVELS)(torch.from_numpy(z))
    wanted = np.array(python_integers(layers, z[0].tolist()), dtype=object)
    wanted_mu = np.array([(v + 2048) >> 12 for v in wanted[:6].ravel()]).reshape(wanted[:6].shape) / 256
    wanted_index = np.array([min(max((v + (1 << 19)) >> 20, 0), SCALE_LEVELS - 1) for v in wanted[6:].ravel()])
    assert np.array_equal(mu[0].numpy(), wanted_mu.astype(np.float32))
    assert np.array_equal(index[0].ravel(), wanted_index)


@torch.inference_mode()
def test_it_follows_the_floating_point_network(h_s, z_hat):
    mu, index = PinnedHyperSynthesis(quantise_layers(h_s), SCALE_LEVELS)(z_hat)
    wanted_mu, wanted_index = h_s(z_hat.float()).chunk(2, dim=1)
    assert mu.shape == (8, 6, 12, 16) and index.dtype == np.int32
    assert torch.abs(mu - wanted_mu).max() < 0.05
    assert np.abs(index - wanted_index.clamp(0, SCALE_LEVELS - 1).numpy()).max() < 0.55


def test_batch_and_threads_change_no_bit(h_s, z_hat):
    pinned = PinnedHyperSynthesis(quantise_layers(h_s), SCALE_LEVELS)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        mu, index = pinned(z_hat)
        torch.set_num_threads(2)
        for n in range(len(z_hat)):
            one_mu, one_index = pinned(z_hat[n : n + 1])
            assert torch.equal(one_mu[0], mu[n]) and np.array_equal(one_index[0], index[n])
    finally:
        torch.set_num_threads(before)


def test_extreme_symbols_stay_exact_and_bounded(h_s):
    pinned = PinnedHyperSynthesis(quantise_layers(h_s), SCALE_LEVELS)
    mu, index = pinned(torch.full((1, 5, 1, 1), 100))
    assert torch.isfinite(mu).all() and torch.equal(mu * 256, torch.round(mu * 256))
    assert index.min() >= 0 and index.max() < SCALE_LEVELS


def test_a_weight_too_large_to_stay_exact_is_refused():
    network = make_h_s(SHAPE)
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = 9.0
    with pytest.raises(CodecError, match="stays exact"):
        quantise_layers(network)
