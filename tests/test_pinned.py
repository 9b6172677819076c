import itertools

import numpy as np
import pytest
import torch
from gnl.node_apps.codecs.networks import NetworkShape, make_h_s
from gnl.node_apps.codecs.pinned import PinnedHyperSynthesis, quantise_layers
from gnl.node_apps.codecs.quantiser import LEVELS
from gnl.topologies.errors import CodecError

SHAPE = NetworkShape(y_channels=6, z_channels=5, hyper_channels=8)


@pytest.fixture(scope="module")
def h_s():
    torch.manual_seed(2)
    network = make_h_s(SHAPE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
        network[-1].bias[SHAPE.y_channels :] = 9.0
    return network


@pytest.fixture(scope="module")
def z_hat():
    return torch.from_numpy(np.random.default_rng(4).integers(-9, 10, (8, 5, 3, 4))).int()


def python_integers(layers, z):
    """The same network in Python's unbounded integers, slowly; z is (C, h, w)."""
    x = [[[int(v) << 8 for v in row] for row in plane] for plane in z]
    for number, layer in enumerate(layers):
        planes = [python_convolution(x, *one) for one in zip(layer.weight.tolist(), layer.bias.tolist())]
        if number == len(layers) - 1:
            return planes
        x = [[[min(max((v + 2048) >> 12, 0), 1 << 15) for v in row] for row in plane] for plane in planes]
        if number < 2:
            height, width = len(x[0]), len(x[0][0])
            x = [
                [[four[2 * (r % 2) + c % 2][r // 2][c // 2] for c in range(2 * width)] for r in range(2 * height)]
                for four in (x[k : k + 4] for k in range(0, len(x), 4))
            ]


def python_convolution(x, weights, bias):
    height, width, side = len(x[0]), len(x[0][0]), len(weights[0])
    plane = [[bias] * width for _ in range(height)]
    for kernel, source in zip(weights, x):
        for r, c, i, j in itertools.product(range(height), range(width), range(side), range(side)):
            row, column = r + i - side // 2, c + j - side // 2
            if 0 <= row < height and 0 <= column < width:
                plane[r][c] += kernel[i][j] * source[row][column]
    return plane


def test_it_equals_integer_arithmetic_exactly(h_s):
    layers = quantise_layers(h_s)
    assert [layer.weight.shape[2:] for layer in layers] == [(3, 3), (3, 3), (3, 3), (1, 1)]
    z = np.random.default_rng(5).integers(-30, 31, (1, 5, 1, 2))
    mu, index = PinnedHyperSynthesis(layers, LEVELS)(torch.from_numpy(z))
    wanted = np.array(python_integers(layers, z[0].tolist()), dtype=object)
    wanted_mu = np.array([(v + 2048) >> 12 for v in wanted[:6].ravel()]).reshape(wanted[:6].shape) / 256
    wanted_index = np.array([min(max((v + (1 << 19)) >> 20, 0), LEVELS - 1) for v in wanted[6:].ravel()])
    assert np.array_equal(mu[0].numpy(), wanted_mu.astype(np.float32))
    assert np.array_equal(index[0].numpy().ravel(), wanted_index) and len(set(wanted_index)) > 3


@torch.inference_mode()
def test_it_follows_the_floating_point_network(h_s, z_hat):
    mu, index = PinnedHyperSynthesis(quantise_layers(h_s), LEVELS)(z_hat)
    wanted_mu, wanted_index = h_s(z_hat.float()).chunk(2, dim=1)
    assert mu.shape == (8, 6, 12, 16) and index.dtype == torch.int32
    assert torch.abs(mu - wanted_mu).max() < 0.05
    assert torch.abs(index - wanted_index.clamp(0, LEVELS - 1)).max() < 0.55


def test_batch_and_threads_change_no_bit(h_s, z_hat):
    pinned = PinnedHyperSynthesis(quantise_layers(h_s), LEVELS)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        mu, index = pinned(z_hat)
        torch.set_num_threads(2)
        for n in range(len(z_hat)):
            one_mu, one_index = pinned(z_hat[n : n + 1])
            assert torch.equal(one_mu[0], mu[n]) and torch.equal(one_index[0], index[n])
    finally:
        torch.set_num_threads(before)


def test_extreme_weights_and_symbols_stay_exact_and_bounded():
    """Every weight as large as it may be, at the width of the committed codecs: sums stay far below 2^53."""
    shape = NetworkShape(y_channels=8, z_channels=64, hyper_channels=96)
    network = make_h_s(shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randint(-32767, 32768, parameter.shape, generator=generator) / 4096)
    layers = quantise_layers(network)
    assert max(np.abs(layer.weight.astype(int)).max() for layer in layers) > 32000
    most = max(np.abs(layer.weight.astype(np.int64)).sum((1, 2, 3)).max() for layer in layers) * (1 << 15)
    assert most + (1 << 31) < 1 << 53
    z = torch.from_numpy(np.random.default_rng(0).choice([-100, 100], (1, 64, 2, 2)))
    mu, index = PinnedHyperSynthesis(layers, LEVELS)(z)
    assert torch.equal(mu * 256, torch.round(mu * 256)) and mu.abs().max() <= 128
    assert index.min() >= 0 and index.max() < LEVELS


def test_a_weight_too_large_to_stay_exact_is_refused():
    network = make_h_s(SHAPE)
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = 9.0
    with pytest.raises(CodecError, match="stays exact"):
        quantise_layers(network)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_changes_no_bit(h_s, z_hat):
    layers = quantise_layers(h_s)
    mu, index = PinnedHyperSynthesis(layers, LEVELS)(z_hat)
    other_mu, other_index = PinnedHyperSynthesis(layers, LEVELS, "cuda")(z_hat.cuda())
    assert torch.equal(other_mu.cpu(), mu) and torch.equal(other_index.cpu(), index)
