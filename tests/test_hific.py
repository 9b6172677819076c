"""HiFiC with narrow random networks in a checkpoint of the published layout; its true shapes on the meta device."""

import hashlib
import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from gnl.experiments import cli
from gnl.node_apps.codecs import hific_networks
from gnl.node_apps.codecs.hific_checkpoint import PINNED_PARTS, convert, read_checkpoint
from gnl.node_apps.codecs.hific_networks import HificShape, parameter_shapes
from gnl.node_apps.codecs.hific_pinned import PinnedSynthesis, quantise_synthesis
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.codecs.registry import HIFIC_CODEC_IDS, codec_names, describe, load_codec
from gnl.topologies.errors import BitstreamError, CodecError, RunError
from safetensors.torch import load_file, save_file

PAPER = dict(widths=(60, 120, 240, 480, 960), y=220, z=320, blocks=9)
NARROW = dict(widths=(4, 6, 6, 8, 10), y=6, z=8, blocks=2)
RNG = np.random.default_rng(3)


def published_layout(widths, y, z, blocks):
    """Name and shape of each parameter that the port saves for coding, as its source has them."""
    layout = {}

    def conv(name, outputs, inputs, side):
        layout[f"{name}.weight"], layout[f"{name}.bias"] = (outputs, inputs, side, side), (outputs,)

    def up(name, inputs, outputs, side):
        layout[f"{name}.weight"], layout[f"{name}.bias"] = (inputs, outputs, side, side), (outputs,)

    def norm(name, channels):
        layout[f"{name}.gamma"] = layout[f"{name}.beta"] = (1, channels, 1, 1)

    inputs = 3
    for number, width in enumerate(widths, 1):
        conv(f"Encoder.conv_block{number}.1", width, inputs, 7 if number == 1 else 3)
        norm(f"Encoder.conv_block{number}.2", width)
        inputs = width
    conv("Encoder.conv_block_out.1", y, inputs, 3)
    norm("Generator.conv_block_init.0", y)
    conv("Generator.conv_block_init.2", widths[-1], y, 3)
    norm("Generator.conv_block_init.3", widths[-1])
    for number in range(blocks):
        for half in (1, 2):
            conv(f"Generator.resblock_{number}.conv{half}", widths[-1], widths[-1], 3)
            norm(f"Generator.resblock_{number}.norm{half}", widths[-1])
    for number in range(1, 5):
        up(f"Generator.upconv_block{number}.0", widths[-number], widths[-number - 1], 3)
        norm(f"Generator.upconv_block{number}.1", widths[-number - 1])
    conv("Generator.conv_block_out.1", 3, widths[0], 7)
    conv("Hyperprior.analysis_net.conv1", z, y, 3)
    conv("Hyperprior.analysis_net.conv2", z, z, 5)
    conv("Hyperprior.analysis_net.conv3", z, z, 5)
    for half in ("mu", "std"):
        up(f"Hyperprior.synthesis_{half}.conv1", z, z, 5)
        up(f"Hyperprior.synthesis_{half}.conv2", z, z, 5)
        up(f"Hyperprior.synthesis_{half}.conv3", z, y, 3)
    for number, (outputs, inputs) in enumerate(((3, 1), (3, 3), (3, 3), (1, 3))):
        layout[f"Hyperprior.hyperlatent_likelihood.H_{number}"] = (z, outputs, inputs)
        layout[f"Hyperprior.hyperlatent_likelihood.a_{number}"] = (z, outputs, 1)
        layout[f"Hyperprior.hyperlatent_likelihood.b_{number}"] = (z, outputs, 1)
    return layout


def random_state(seed=0, **shape):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, size in published_layout(**shape).items():
        value = torch.randn(size, generator=generator)
        if name.endswith("weight"):
            value *= 1.4 / math.sqrt(math.prod(size[1:]))
        elif ".H_" in name:
            value = value * 0.2 - 1.4
        else:
            value = value * 0.1 + name.endswith("gamma")
        state[name] = value
    state["Encoder.conv_block_out.1.weight"] *= 3
    state["Hyperprior.analysis_net.conv3.weight"] *= 4
    state["Hyperprior.synthesis_mu.conv3.weight"] *= 0.1
    state["Hyperprior.synthesis_std.conv3.weight"] *= 0.1
    state["Hyperprior.synthesis_std.conv3.bias"] += 4
    return state


def checkpoint_of(state, path, **arguments):
    """A file as the port's train.py saves it, with what else lies in there."""
    extra = {"Discriminator.conv1.weight_orig": torch.zeros(2, 2), "Hyperprior.unused": torch.zeros(1)}
    document = {
        "model_state_dict": {**state, **extra},
        "compression_optimizer_state_dict": {"state": {0: {"step": 3, "exp_avg": torch.zeros(5)}}, "param_groups": []},
        "epoch": 1,
        "steps": 200000,
        "args": {
            "normalize_input_image": True,
            "likelihood_type": "gaussian",
            "image_dims": (3, 256, 256),
            "lambda_schedule": {"vals": [2.0, 1.0], "steps": [50000]},
            "dataset_path": "data/openimages",
            **arguments,
        },
    }
    torch.save(document, path)
    return path


def scene(height, width, seed=0):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows * 2, columns * 2, 255 - rows], -1) % 256
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def state():
    torch.set_num_threads(1)
    return random_state(**NARROW)


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hific")
    convert(checkpoint_of(state, folder / "port.pt"), "hific-low", folder / "low.safetensors")
    return folder / "low.safetensors"


@pytest.fixture(scope="module")
def codec(weights):
    return load_codec(f"hific-low:{weights}", "cpu")


@pytest.fixture(scope="module")
def prompt(codec):
    return codec.encode(scene(130, 70))


def own(codec, *slices):
    return Prompt(codec.facts.codec_id, codec.facts.weights_id, slices)


# The architecture


def test_names_and_shapes_are_the_published_ones():
    assert parameter_shapes(HificShape()) == published_layout(**PAPER)


def test_the_parameters_are_as_many_as_the_port_reports():
    """It gives 737 MB in 32-bit numbers, discriminator included, whose convolutions are 4x4 from 3 + 12 channels."""
    counts = {name: math.prod(size) for name, size in parameter_shapes(HificShape()).items()}
    parts = {part: sum(n for name, n in counts.items() if name.startswith(part)) for part in ("Enc", "Gen", "Hyp")}
    assert parts == {"Enc": 7_423_420, "Gen": 156_774_683, "Hyp": 17_277_560}
    widths = (3 + 12, 64, 128, 256, 512)
    discriminator = 220 * 12 * 9 + 12 + 512 + 1
    discriminator += sum(a * b * 16 + b for a, b in zip(widths, widths[1:]))
    assert round((sum(counts.values()) + discriminator) * 4 / 1e6) == 737


def test_strides_and_channels_at_full_size():
    with torch.device("meta"):
        parts = {name: make(HificShape()) for name, make in hific_networks.PARTS.items()}
        y = parts["Encoder"](torch.zeros(1, 3, 256, 384))
        z = parts["Hyperprior.analysis_net"](y)
        mu = parts["Hyperprior.synthesis_mu"](z)
        x_hat = parts["Generator"](y)
    assert y.shape == mu.shape == (1, 220, 16, 24) and z.shape == (1, 320, 4, 6) and x_hat.shape == (1, 3, 256, 384)


# The computation, against the formulas of the paper and the port, written out


def normed(x, state, name):
    deviation = (x.var(1, keepdim=True, unbiased=True) + 1e-3).sqrt()
    return (x - x.mean(1, keepdim=True)) / deviation * state[f"{name}.gamma"] + state[f"{name}.beta"]


def convolved(x, state, name, pad, stride=1):
    return F.conv2d(F.pad(x, pad, mode="reflect"), state[f"{name}.weight"], state[f"{name}.bias"], stride=stride)


def written_out_encoder(x, state):
    for number in range(1, 6):
        pad, stride = ((3, 3, 3, 3), 1) if number == 1 else ((0, 1, 1, 0), 2)
        x = convolved(x, state, f"Encoder.conv_block{number}.1", pad, stride)
        x = normed(x, state, f"Encoder.conv_block{number}.2").relu()
    return convolved(x, state, "Encoder.conv_block_out.1", (1, 1, 1, 1))


def written_out_generator(y, state, blocks):
    ones = (1, 1, 1, 1)
    x = convolved(normed(y, state, "Generator.conv_block_init.0"), state, "Generator.conv_block_init.2", ones)
    head = x = normed(x, state, "Generator.conv_block_init.3")
    for number in range(blocks):
        name = f"Generator.resblock_{number}"
        inner = normed(convolved(x, state, f"{name}.conv1", ones), state, f"{name}.norm1").relu()
        x = x + normed(convolved(inner, state, f"{name}.conv2", ones), state, f"{name}.norm2")
    x = x + head
    for number in range(1, 5):
        name = f"Generator.upconv_block{number}"
        weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)
        x = normed(x, state, f"{name}.1").relu()
    return convolved(x, state, "Generator.conv_block_out.1", (3, 3, 3, 3))


def written_out_h_s(z, state, half):
    for number in (1, 2):
        weight, bias = (state[f"Hyperprior.synthesis_{half}.conv{number}.{kind}"] for kind in ("weight", "bias"))
        z = F.conv_transpose2d(z, weight, bias, stride=2, padding=2, output_padding=1).relu()
    weight, bias = (state[f"Hyperprior.synthesis_{half}.conv3.{kind}"] for kind in ("weight", "bias"))
    return F.conv_transpose2d(z, weight, bias, padding=1)


@torch.inference_mode()
def test_the_networks_compute_what_the_formulas_say(state, codec):
    x = torch.rand(2, 3, 128, 192) * 2 - 1
    y = written_out_encoder(x, state)
    assert torch.allclose(codec._network("Encoder")(x), y, atol=1e-4)
    assert torch.allclose(codec._network("Generator")(y), written_out_generator(y, state, NARROW["blocks"]), atol=1e-4)
    ones = F.conv2d(y, *(state[f"Hyperprior.analysis_net.conv1.{kind}"] for kind in ("weight", "bias")), padding=1)
    z = convolved(ones.relu(), state, "Hyperprior.analysis_net.conv2", (2, 2, 2, 2), 2).relu()
    z = convolved(z, state, "Hyperprior.analysis_net.conv3", (2, 2, 2, 2), 2)
    assert torch.allclose(codec._network("Hyperprior.analysis_net")(y), z, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("normalised", [True, False])
def test_a_round_trip_is_what_the_formulas_say(state, tmp_path, normalised):
    path = checkpoint_of(state, tmp_path / "port.pt", normalize_input_image=normalised)
    convert(path, "hific-high", tmp_path / "high.safetensors")
    codec = load_codec(f"hific-high:{tmp_path / 'high.safetensors'}", "cpu")
    image = scene(128, 192)
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() / 255
    y = written_out_encoder(x * 2 - 1 if normalised else x, state)
    prompt = codec.encode(image)
    y_hat = torch.from_numpy(codec.latents([prompt]))
    # y_hat is a whole number away from mu, and the nearest such to y
    assert (y_hat - y).abs().max() < 0.501 and (y_hat - y).abs().mean() > 0.1
    x_hat = written_out_generator(y_hat, state, NARROW["blocks"])[0]
    x_hat = (torch.tanh(x_hat) + 1) / 2 if normalised else x_hat
    wanted = (x_hat * 255).round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.abs(codec.decode(prompt) - wanted).max() <= 1


def cost_bits(tensors, prefix, index, symbol):
    """What the frequency table asks for, from the file's own tensors."""
    place = symbol - int(tensors[f"{prefix}.offsets"][index])
    row = tensors[f"{prefix}.cdf"][index]
    return 16 - math.log2(int(row[place + 1]) - int(row[place]))


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic"])
def test_tables_of_y_are_of_the_likelihood_and_nearest_scale_above(state, tmp_path, likelihood):
    path = checkpoint_of(state, tmp_path / "p.pt", likelihood_type=likelihood)
    convert(path, "hific-medium", tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    scales = [0.11 * (256 / 0.11) ** (n / 63) for n in range(64)]
    assert tensors["y.thresholds"].tolist() == [math.floor(scale * 1024 + 1e-9) for scale in scales[:-1]]
    distribution = {
        "gaussian": lambda x: 0.5 * math.erfc(-x / math.sqrt(2)),
        "logistic": lambda x: 1 / (1 + math.exp(-x)),
    }[likelihood]
    for index in (0, 20, 40):
        for symbol in (0, 1, -1):
            mass = distribution((symbol + 0.5) / scales[index]) - distribution((symbol - 0.5) / scales[index])
            if mass > 1e-3:
                assert abs(cost_bits(tensors, "y", index, symbol) + math.log2(mass)) < 0.02


def test_tables_of_z_are_of_the_learned_density(state, weights):
    tensors = load_file(weights)

    def below(point):
        x = torch.tensor([[point]], dtype=torch.float64)
        for number in range(4):
            name = "Hyperprior.hyperlatent_likelihood"
            matrix, factor, bias = (state[f"{name}.{kind}_{number}"][channel].double() for kind in "Hab")
            x = F.softplus(matrix) @ x + bias
            x = x + factor.tanh() * x.tanh()
        return torch.sigmoid(x).item()

    for channel in range(NARROW["z"]):
        for symbol in (-3, 0, 2):
            mass = below(symbol + 0.5) - below(symbol - 0.5)
            assert mass > 1e-3 and abs(cost_bits(tensors, "z", channel, symbol) + math.log2(mass)) < 0.02


@torch.inference_mode()
def test_the_bytes_are_near_the_entropy(state, weights, codec):
    image = scene(256, 256)
    prompt = codec.encode(image)
    tensors = load_file(weights)
    y = written_out_encoder(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() / 127.5 - 1, state)
    z = codec._network("Hyperprior.analysis_net")(y)
    z_hat = z.round().clamp(-100, 100)
    mu, sigma = (written_out_h_s(z_hat, state, half) for half in ("mu", "std"))
    sigma = sigma.clamp_min(0.11)
    symbols = (y - mu).round()
    normal = torch.distributions.Normal(0, 1)
    masses = normal.cdf((symbols + 0.5) / sigma) - normal.cdf((symbols - 0.5) / sigma)
    assert masses.min() > 2**-14  # none is so rare that it would be escaped
    bits = -torch.log2(masses).sum().item()
    for channel, plane in enumerate(z_hat[0]):
        bits += sum(cost_bits(tensors, "z", channel, int(symbol)) for symbol in plane.flatten())
    assert bits / 8 < prompt.size_bytes < 1.02 * bits / 8 + 40


@torch.inference_mode()
def test_strips_change_nothing(codec, monkeypatch):
    pixels = torch.from_numpy(scene(320, 192).transpose(2, 0, 1)[None].copy())
    z_hat = torch.from_numpy(RNG.integers(-9, 10, (1, NARROW["z"], 5, 3)))

    def everything():
        y = codec._analysed(pixels)
        return y, codec._network("Generator")(y), *(codec._network(part)(z_hat) for part in PINNED_PARTS)

    whole = everything()
    monkeypatch.setattr(hific_networks, "STRIP_PIXELS", 1)
    strips = everything()
    assert torch.allclose(whole[0], strips[0], atol=1e-4) and torch.allclose(whole[1], strips[1], atol=1e-4)
    assert torch.equal(whole[2], strips[2]) and torch.equal(whole[3], strips[3])


# Determinism


@pytest.fixture(scope="module")
def pinned_pair(state):
    network = hific_networks.make_hyper_synthesis(HificShape(NARROW["widths"], NARROW["y"], NARROW["z"]))
    prefix = "Hyperprior.synthesis_mu."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return quantise_synthesis(network), written_out_h_s


def python_integers(layers, z):
    """The same in Python's unbounded integers; z is nested lists (C, h, w)."""
    x = [[[value << 10 for value in row] for row in plane] for plane in z]
    for number, (weight, bias) in enumerate(layers):
        stride, pad, side = (1, 1, 3) if number == 2 else (2, 2, 5)
        height, width = len(x[0]) * stride, len(x[0][0]) * stride
        planes = [[[int(b)] * width for _ in range(height)] for b in bias]
        for source, kernels in zip(x, weight.tolist()):
            for plane, kernel in zip(planes, kernels):
                for r, row in enumerate(source):
                    for c, value in enumerate(row):
                        for i in range(side):
                            for j in range(side):
                                to_r, to_c = r * stride + i - pad, c * stride + j - pad
                                if 0 <= to_r < height and 0 <= to_c < width:
                                    plane[to_r][to_c] += value * kernel[i][j]
        x = [[[(v + (1 << 15)) >> 16 for v in row] for row in plane] for plane in planes]
        if number < 2:
            x = [[[max(v, 0) for v in row] for row in plane] for plane in x]
    return x


def test_pinned_synthesis_equals_integer_arithmetic(pinned_pair):
    layers, _ = pinned_pair
    z = RNG.integers(-100, 101, (1, NARROW["z"], 1, 2))
    assert PinnedSynthesis(layers)(torch.from_numpy(z))[0].tolist() == python_integers(layers, z[0].tolist())


def test_pinned_synthesis_follows_the_floating_point_one(pinned_pair, state):
    layers, floating = pinned_pair
    z = torch.from_numpy(RNG.integers(-20, 21, (2, NARROW["z"], 3, 2)))
    assert torch.allclose(PinnedSynthesis(layers)(z) / 1024, floating(z.float(), state, "mu").double(), atol=0.01)


def test_pinned_synthesis_refuses_what_would_not_stay_exact(pinned_pair):
    layers, _ = pinned_pair
    with pytest.raises(CodecError, match="below 2.53"):
        PinnedSynthesis([(layers[0][0].double() * 2**16, layers[0][1]), *layers[1:]])


def test_latents_are_the_same_for_any_threads_and_batch(codec):
    prompts = [codec.encode(scene(128, 128, seed)) for seed in range(8)]
    together = codec.latents(prompts)
    torch.set_num_threads(2)
    try:
        for prompt, wanted in zip(prompts, together):
            assert np.array_equal(codec.latents([prompt])[0], wanted)
    finally:
        torch.set_num_threads(1)


def test_another_process_with_other_threads_gets_the_same_latents(codec, weights, prompt, tmp_path):
    (tmp_path / "slice").write_bytes(prompt.slices[0])
    code = (
        "import sys, hashlib; from pathlib import Path\n"
        "from gnl.node_apps.codecs.registry import load_codec; from gnl.node_apps.codecs.interface import Prompt\n"
        "codec = load_codec(f'hific-low:{sys.argv[1]}', 'cpu', 2)\n"
        "prompt = Prompt(codec.facts.codec_id, codec.facts.weights_id, (Path(sys.argv[2]).read_bytes(),))\n"
        "print(hashlib.sha256(codec.latents([prompt]).tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", code, weights, tmp_path / "slice"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(codec.latents([prompt]).tobytes()).hexdigest()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_latents_and_nearly_the_same_picture(codec, weights, prompt):
    other = load_codec(f"hific-low:{weights}", "cuda")
    assert np.array_equal(other.latents([prompt]), codec.latents([prompt]))
    assert np.abs(other.decode(prompt).astype(int) - codec.decode(prompt)).mean() < 1
    again = other.encode(scene(130, 70))
    assert np.array_equal(codec.latents([again]), other.latents([again]))


# The codec


@pytest.mark.parametrize("size", [(1, 1), (1, 130), (64, 64), (65, 200), (257, 129)])
def test_a_round_trip_keeps_the_size(codec, size):
    image = codec.decode(codec.encode(scene(*size)))
    assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous


def test_batches_of_mixed_sizes_keep_their_order(codec):
    images = [scene(64, 64), scene(130, 200, 1), scene(128, 100, 2), scene(10, 20, 3)]
    prompts = [codec.encode(image) for image in images]
    for alone, shown in zip((codec.decode(prompt) for prompt in prompts), codec.decode_batch(prompts)):
        assert alone.shape == shown.shape and np.abs(alone.astype(int) - shown).max() <= 1
    assert codec.decode_batch([]) == []


def test_facts_come_from_the_converted_file(codec, weights, prompt):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    record = json.loads(weights.with_suffix(".json").read_text())
    assert codec.facts.weights_sha256 == record["sha256"] == digest
    assert prompt.codec_id == HIFIC_CODEC_IDS["hific-low"] == 8 and prompt.weights_id == int(digest[:8], 16)
    assert codec.facts.operating_points_bpp == (0.14,) and codec.facts.generative
    assert record["checkpoint"]["name"] == "port.pt" and record["normalised"] is True
    assert "hific-high:<weights>" in codec_names()


def test_prompts_of_other_weights_are_refused(codec, prompt):
    with pytest.raises(BitstreamError, match="install the same weights"):
        codec.decode(Prompt(prompt.codec_id, prompt.weights_id ^ 1, prompt.slices))


# Bad input


def test_ten_thousand_damaged_prompts_raise_or_give_bounded_latents(codec, prompt):
    """All but the generator, which takes any numbers; those decoded as a whole are below."""
    good, outcomes = prompt.slices[0], {"decoded": 0, "refused": 0}
    for number in range(10_000):
        bad = bytearray(good)
        for position in RNG.integers(8 if number % 2 else 0, len(bad), RNG.integers(1, 9)):
            bad[position] = RNG.integers(256)
        if number % 4 == 0:
            del bad[RNG.integers(0, len(bad)) :]
        height, width = struct.unpack_from("!HH", bytes(bad) + bytes(4))
        if height * width > 1 << 16:
            bad[0:4] = good[0:4]
        try:
            latents = codec.latents([own(codec, bytes(bad))])
            assert np.isfinite(latents).all() and np.abs(latents).max() < 5000
            outcomes["decoded"] += 1
        except BitstreamError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 1000


def test_damaged_prompts_raise_or_degrade(codec, prompt):
    shapes = set()
    for _ in range(100):
        bad = bytearray(prompt.slices[0])
        for position in RNG.integers(8, len(bad), RNG.integers(1, 9)):
            bad[position] = RNG.integers(256)
        try:
            shapes.add(codec.decode(own(codec, bytes(bad))).shape)
        except BitstreamError:
            shapes.add(None)
    assert (130, 70, 3) in shapes and shapes <= {None, (130, 70, 3)}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(7),
        struct.pack("!HHI", 0, 64, 8) + bytes(64),
        struct.pack("!HHI", 8193, 1, 8) + bytes(64),
        struct.pack("!HHI", 65535, 65535, 8) + bytes(64),
        struct.pack("!HHI", 64, 64, 0xFFFFFFFF) + bytes(64),
        struct.pack("!HHI", 64, 64, 9) + bytes(64),
        struct.pack("!HHI", 64, 64, 64) + bytes(64),
        struct.pack("!HHI", 8192, 4096, 8) + bytes(64),
    ],
)
def test_impossible_fields_raise_bitstream_error(codec, body):
    with pytest.raises(BitstreamError):
        codec.decode(own(codec, body))


@pytest.mark.parametrize("slices", [(), (b"a", b"b"), (b"",) * 256])
def test_another_number_of_slices_is_refused(codec, slices):
    with pytest.raises(BitstreamError, match="slice"):
        codec.decode(own(codec, *slices))


@pytest.mark.parametrize("image", [None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3))])
def test_what_is_no_image_is_refused(codec, image):
    with pytest.raises(CodecError, match="image of"):
        codec.encode(image)


# Names, weights and checkpoints that are wrong


@pytest.mark.parametrize("name", ["hific-low", "hific-low:", "hific-low:hific_low.pt", "hific-low:absent.safetensors"])
def test_without_weights_the_error_says_how_to_make_some(name):
    with pytest.raises(CodecError, match="gnl convert CHECKPOINT --codec hific-low"):
        describe(name)


def test_weights_under_another_name_are_refused(weights):
    with pytest.raises(CodecError, match=f"name them hific-low:{weights}"):
        describe(f"hific-high:{weights}")


def test_changed_weights_are_refused(weights, tmp_path):
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(data)
    (tmp_path / "w.json").write_text(weights.with_suffix(".json").read_text())
    with pytest.raises(CodecError, match="w.safetensors: sha256 .*convert the checkpoint again"):
        load_codec(f"hific-low:{tmp_path / 'w.safetensors'}", "cpu")


@pytest.mark.parametrize("missing", ["Generator.resblock_1.conv2.weight", "y.cdf", "z.lengths"])
def test_weights_that_lack_a_tensor_are_refused(weights, tmp_path, missing):
    from safetensors import safe_open

    tensors = load_file(weights)
    del tensors[missing]
    with safe_open(weights, "pt") as file:
        save_file(tensors, tmp_path / "w.safetensors", file.metadata())
    record = json.loads(weights.with_suffix(".json").read_text())
    record["sha256"] = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    (tmp_path / "w.json").write_text(json.dumps(record))
    with pytest.raises(CodecError, match=missing):
        load_codec(f"hific-low:{tmp_path / 'w.safetensors'}", "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("Generator.upconv_block3.0.bias"), "upconv_block3.0.bias is missing"),
        (lambda s: s.update({"Generator.latent_noise_map.weight": torch.zeros(3)}), "latent_noise_map"),
        (lambda s: s.pop("Hyperprior.synthesis_mu.conv1.weight"), "synthesis_mu.conv1.weight is missing"),
        (lambda s: s.pop("Encoder.conv_block1.1.weight"), "no usable 'Encoder.conv_block1.1.weight'"),
        (lambda s: s.update({"Generator.conv_block_out.1.bias": torch.zeros(4)}), r"is \(4,\), wanted is \(3,\)"),
        (lambda s: s["Hyperprior.hyperlatent_likelihood.H_1"].fill_(math.nan), "H_1 has values that are not finite"),
        (lambda s: s["Hyperprior.synthesis_std.conv2.weight"].fill_(2.0**15), "weights of 2.15 or more"),
    ],
)
def test_another_architecture_is_refused_by_name(tmp_path, change, message):
    state = random_state(**NARROW)
    change(state)
    with pytest.raises(CodecError, match=message):
        convert(checkpoint_of(state, tmp_path / "p.pt"), "hific-low", tmp_path / "w.safetensors")
    assert not list(tmp_path.glob("w.*"))


@pytest.mark.parametrize("key", ["normalize_input_image", "likelihood_type"])
def test_settings_that_are_not_known_are_refused(state, tmp_path, key):
    with pytest.raises(CodecError, match=f"args.{key} is 'unheard of'"):
        read_checkpoint(checkpoint_of(state, tmp_path / "p.pt", **{key: "unheard of"}))


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_pickle_that_needs_more_is_not_run_and_the_remedy_works(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint_of(state, tmp_path / "p.pt", scale=np.float64(1.0))
    with pytest.raises(CodecError, match="which could run code") as caught:
        read_checkpoint(tmp_path / "p.pt")
    code = str(caught.value).split('python -c "')[1].split('"')[0]
    subprocess.run([sys.executable, "-c", code], check=True)
    assert read_checkpoint(tmp_path / "plain.pt").normalised is True
    checkpoint_of(state, tmp_path / "evil.pt", other=Evil())
    with pytest.raises(CodecError, match="which could run code"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(99), b"<html>404</html>", b"\x1f\x8b" + bytes(50)])
def test_a_file_that_is_no_checkpoint_is_not_to_be_trusted(tmp_path, content):
    (tmp_path / "odd.pt").write_bytes(content)
    with pytest.raises(CodecError, match="does not load") as caught:
        read_checkpoint(tmp_path / "odd.pt")
    assert "weights_only" not in str(caught.value) and "trust" not in str(caught.value)


def test_a_setting_of_another_kind_is_refused(state, tmp_path):
    with pytest.raises(CodecError, match="args.likelihood_type is tensor"):
        read_checkpoint(checkpoint_of(state, tmp_path / "p.pt", likelihood_type=torch.ones(400)))


def test_what_cannot_be_written_leaves_nothing(state, tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(RunError, match="w.safetensors cannot be written"):
        convert(checkpoint_of(state, tmp_path / "p.pt"), "hific-low", tmp_path / "w.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.pt", "w.safetensors"]


def test_equal_checkpoints_make_equal_weights(state, tmp_path):
    checkpoint_of(state, tmp_path / "p.pt")
    for number in range(5):
        convert(tmp_path / "p.pt", "hific-low", tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None])
def test_an_unreadable_checkpoint_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(CodecError, match="checkpoint .*broken.pt"):
        read_checkpoint(tmp_path / "broken.pt")


@pytest.mark.parametrize("document", [{"state_dict": {}}, [1, 2], {"model_state_dict": {}, "args": 3}])
def test_another_layout_is_named(tmp_path, document):
    torch.save(document, tmp_path / "other.pt")
    with pytest.raises(CodecError, match="other.pt h"):
        read_checkpoint(tmp_path / "other.pt")


def test_gnl_convert_says_how_to_use_what_it_wrote(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint_of(state, "p.pt")
    done = CliRunner().invoke(cli.main, ["convert", "p.pt", "--codec", "hific-high"])
    assert done.exit_code == 0 and describe(done.output.split("--codec ")[1].strip()).codec_id == 10
    done = CliRunner().invoke(cli.main, ["convert", "absent.pt", "--codec", "hific-high"])
    assert done.exit_code == 2 and done.stderr.startswith("gnl: checkpoint absent.pt: No such file")


def test_convert_refuses_other_names_and_files(tmp_path):
    with pytest.raises(CodecError, match="give one of hific-low, hific-medium, hific-high"):
        convert(tmp_path / "p.pt", "gnl-low", tmp_path / "w.safetensors")
    with pytest.raises(CodecError, match="ends in .safetensors"):
        convert(tmp_path / "p.pt", "hific-low", tmp_path / "w.pt")
