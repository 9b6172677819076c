"""What the generative codecs share: on a codec that needs no training, of one rate and of any, and on the weights in
the repository."""

import hashlib
import json
import shutil
import struct

import numpy as np
import pytest
import torch
from gnl.node_apps.codecs import export, generative
from gnl.node_apps.codecs.entropy import SYMBOL_LIMIT
from gnl.node_apps.codecs.fixed_rate import FixedRateCodec
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.codecs.layout import TRANSFORMS
from gnl.node_apps.codecs.registry import GENERATIVE_CODEC_IDS, WEIGHTS_DIR, describe, load_codec
from gnl.topologies.errors import BitstreamError, CodecError, MachineError
from small_codec import SMALL, load_small, scene, small_model, squared_error, write_small

WEIGHTS = WEIGHTS_DIR / "gnl-low.safetensors"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.set_num_threads(1)
    return write_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module", params=[False, True], ids=["one rate", "any rate"])
def codec(request, weights):
    return load_small(weights, request.param)


@pytest.fixture(scope="module")
def prompt(codec):
    return codec.encode(scene(96, 80))


@pytest.fixture(scope="module", params=GENERATIVE_CODEC_IDS)
def trained(request):
    torch.set_num_threads(1)
    return load_codec(request.param, "cpu")


def own(codec, *slices):
    return Prompt(codec.facts.codec_id, codec.facts.weights_id, slices)


@pytest.mark.parametrize("size", [(1, 1), (1, 130), (64, 64), (65, 63), (200, 256)])
def test_a_round_trip_keeps_the_size(codec, size):
    image = codec.decode(codec.encode(scene(*size)))
    assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous


def test_a_flat_image_stays_flat(codec):
    image = np.full((256, 256, 3), (200, 90, 40), np.uint8)
    assert np.abs(codec.decode(codec.encode(image)).astype(int) - image).mean() < 12


def test_the_decoder_sees_the_latents_that_the_encoder_meant(codec):
    """A desynchronised entropy decoder yields noise: the picture must be closer to its own source than to any other."""
    images = [scene(128, 128, seed) for seed in range(4)]
    shown = codec.decode_batch([codec.encode(image) for image in images])
    errors = [[squared_error(a, b) for b in images] for a in shown]
    assert [int(np.argmin(row)) for row in errors] == [0, 1, 2, 3]


def test_batches_of_mixed_sizes_keep_their_order(codec):
    images = [scene(64, 64), scene(130, 70), scene(64, 60), scene(10, 20)]
    shown = codec.decode_batch([codec.encode(image) for image in images])
    assert [one.shape for one in shown] == [one.shape for one in images]
    assert codec.decode_batch([]) == []
    alone = codec.decode(codec.encode(images[1]))
    assert np.abs(alone.astype(int) - shown[1]).max() <= 1


def test_a_batch_is_cut_where_it_would_be_large(codec, monkeypatch):
    monkeypatch.setattr(generative, "BATCH_PIXELS", 2 * 64 * 64)
    sizes = []

    def watch(batch, _pictures=codec._pictures):
        sizes.append(len(batch))
        return _pictures(batch)

    monkeypatch.setattr(codec, "_pictures", watch)
    images = [scene(64, 64, seed) for seed in range(5)] + [scene(200, 100)]
    shown = codec.decode_batch([codec.encode(image) for image in images])
    assert sorted(sizes) == [1, 1, 2, 2] and [one.shape for one in shown] == [one.shape for one in images]


def test_encoding_repeats_itself(codec):
    assert codec.encode(scene(100, 100)) == codec.encode(scene(100, 100))


@pytest.mark.parametrize("name", ["jpeg:30", "stub:100"])
def test_prompts_of_other_codecs_are_refused(codec, name):
    with pytest.raises(BitstreamError, match="codec id"):
        codec.decode(load_codec(name).encode(scene(16, 16)))


@pytest.mark.parametrize(
    "image", [None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)]
)
def test_what_is_no_image_is_refused(codec, image):
    with pytest.raises(CodecError, match="image of"):
        codec.encode(image)


def test_one_bad_prompt_fails_its_batch(codec, prompt):
    with pytest.raises(BitstreamError):
        codec.decode_batch([prompt, own(codec, b"short")])


def test_latents_of_several_sizes_are_refused(codec, prompt):
    with pytest.raises(CodecError, match="one size"):
        codec.latents([prompt, codec.encode(scene(200, 200))])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(3),
        struct.pack("!HH", 0, 64) + bytes(64),
        struct.pack("!HH", 64, 0) + bytes(64),
        struct.pack("!HH", 8193, 1) + bytes(64),
        struct.pack("!HH", 65535, 65535) + bytes(64),
        struct.pack("!HH", 8192, 4096) + bytes(64),
        struct.pack("!HH", 8192, 4097) + bytes(1 << 15),
        struct.pack("!HH", 64, 64),
    ],
)
def test_impossible_fields_raise_bitstream_error(codec, body):
    with pytest.raises(BitstreamError):
        codec.decode(own(codec, body))


def test_a_few_bytes_do_not_ask_for_a_large_picture(codec, prompt):
    """Before anything of its size is computed."""
    large = struct.pack("!HH", 4096, 8192) + prompt.slices[0][4:]
    with pytest.raises(BitstreamError, match="8192x4096: too few"):
        codec.decode(own(codec, large, *prompt.slices[1:]))


def test_what_costs_next_to_nothing_is_filled_up_to_the_least_that_decodes(codec, monkeypatch):
    image = np.full((64, 64, 3), 120, np.uint8)
    plain = codec.encode(image)
    monkeypatch.setattr(generative, "LEAST_BITS_PER_PIXEL", 4)
    filled = codec.encode(image)
    assert len(filled.slices[0]) >= 4 * 64 * 64 / 8 > len(plain.slices[0])
    first = own(codec, plain.slices[0])
    assert np.array_equal(codec.latents([own(codec, filled.slices[0])]).shape, (1, SMALL.y_channels, 4, 4))
    with pytest.raises(BitstreamError, match="too few"):
        codec.decode(first)


@pytest.mark.parametrize("slices", [(), (b"",) * 256])
def test_another_number_of_slices_is_refused(codec, slices):
    with pytest.raises(BitstreamError, match="slice"):
        codec.decode(own(codec, *slices))


def test_a_codec_of_one_rate_has_one_slice(weights):
    codec = load_small(weights, scalable=False)
    with pytest.raises(BitstreamError, match="exactly one"):
        codec.decode(own(codec, b"a", b"b"))


# What was trained is what is decoded


@pytest.fixture(scope="module")
def model():
    """Gains already in the weights, and these already as the file has them: nothing but h_s is rounded once more."""
    model = small_model().folded().eval().requires_grad_(False)
    for part in TRANSFORMS:
        for parameter in getattr(model, part).parameters():
            parameter.copy_(parameter.half())
    return model


@pytest.fixture(scope="module")
def model_weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    export.write_codec(model, path, {})
    return path


@pytest.mark.parametrize("seed", range(3))
def test_the_codec_of_one_rate_shows_what_its_training_saw(model, model_weights, seed):
    """Pictures, and bits: those of the stored tables against the likelihoods of CompressAI's models, which are of
    latents with noise and so somewhat too high."""
    codec, image = load_small(model_weights, scalable=False), scene(256, 256, seed)
    estimate = model(torch.from_numpy(image.transpose(2, 0, 1)[None] / 255).float())
    prompt = codec.encode(image)
    differs = np.abs(codec.latents([prompt]) - estimate.y_hat.numpy()) > 0.1
    assert differs.mean() < 0.02  # a mean or a scale of h_s at the verge of the next step
    wanted = 255 * estimate.x_hat[0].permute(1, 2, 0).clamp(0, 1).numpy()
    shown = codec.decode(prompt)
    assert squared_error(shown, wanted) < 0.2 * squared_error(shown, image)
    assert squared_error(shown, image) == pytest.approx(squared_error(wanted, image), rel=0.05)
    assert 0.7 * float(estimate.y_bpp + estimate.z_bpp) < 8 * prompt.size_bytes / 65536
    assert 8 * prompt.size_bytes / 65536 < 1.05 * float(estimate.y_bpp + estimate.z_bpp)


@pytest.mark.parametrize("bpp", [0.1, 0.2, 0.4])
def test_the_codec_of_any_rate_shows_what_its_training_saw(model, model_weights, bpp):
    """A prompt cut where the training would have cut it is as good as the training thought."""
    codec, image = load_small(model_weights, scalable=True), scene(256, 256)
    torch.manual_seed(0)
    estimate = model(torch.from_numpy(image.transpose(2, 0, 1)[None] / 255).float(), False, torch.tensor([bpp]))
    wanted = squared_error(255 * estimate.x_hat[0].permute(1, 2, 0).clamp(0, 1).numpy(), image)
    assert squared_error(codec.decode(codec.encode(image, bpp)), image) == pytest.approx(wanted, rel=0.15)


def test_symbols_beyond_the_limit_are_clipped_and_decode(tmp_path):
    """A latent far outside what its scale allows: the codec saturates instead of failing."""
    model = small_model()
    with torch.no_grad():
        model.g_a.linear[1].weight[0] *= 40
        model.g_s.linear[0].weight[:, 0] /= 40
    export.write_codec(model, tmp_path / "small.safetensors", {})
    for scalable in (False, True):
        codec = load_small(tmp_path / "small.safetensors", scalable)
        image = scene(128, 128)
        prompt = codec.encode(image, 2.0)
        assert np.abs(np.rint(codec._analyse(image).residual)).max() > SYMBOL_LIMIT
        assert codec.decode(prompt).shape == image.shape


# Weights


def test_foreign_weights_are_refused_with_both_hashes_and_a_remedy(tmp_path):
    path = tmp_path / "gnl-low.safetensors"
    shutil.copy(WEIGHTS, path)
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    facts = describe("gnl-low")
    with pytest.raises(CodecError, match=f"gnl-low.safetensors: sha256 .*expected {facts.weights_sha256}.*restore"):
        FixedRateCodec(facts, path)


def test_missing_weights_name_the_file(tmp_path):
    with pytest.raises(CodecError, match="absent.safetensors"):
        FixedRateCodec(describe("gnl-low"), tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda data: b"", "no codec weights"),
        (lambda data: b"{}" * 100, "no codec weights"),
        (lambda data: data.replace(b"hyperprior-2", b"hyperprior-9"), "layout .*hyperprior-9.*this release reads"),
        (lambda data: data.replace(b"h_s.0.weight", b"h_s.0.wrong!"), "h_s.0.weight.*missing"),
        (lambda data: data.replace(b"quantiser.order", b"quantiser.other"), "quantiser.order.*missing"),
        (lambda data: data.replace(b"y_channels", b"y_chunnels"), "no codec weights"),
    ],
)
def test_files_that_are_no_weights_are_refused(weights, tmp_path, change, says):
    data = change(weights.read_bytes())
    path = tmp_path / "small.safetensors"
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(CodecError) as error:
        load_small(path, scalable=False)
    words = says.split(".*")
    assert all(word in str(error.value) for word in words)


def test_loading_computes_nothing_and_starts_no_thread(weights):
    """So that a service may fork after it."""
    assert load_small(weights, scalable=True)._built == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_the_machines_fault():
    with pytest.raises(MachineError, match="no GPU"):
        load_codec("gnl-low", "cuda")


# The weights in the repository


def test_facts_come_from_the_weights(trained):
    name = trained.facts.name
    sidecar = json.loads((WEIGHTS_DIR / f"{name}.json").read_text())
    assert trained.facts == describe(name) and trained.facts.weights_sha256 == sidecar["sha256"]
    assert trained.facts.generative and trained.facts.scalable == (name == "gnl-scalable")
    assert sidecar["layout"] == generative.LAYOUT


def test_all_weights_together_are_small():
    assert sum((WEIGHTS_DIR / f"{name}.safetensors").stat().st_size for name in GENERATIVE_CODEC_IDS) < 60_000_000


def test_trained_weights_make_a_recognisable_picture(trained):
    image = scene(256, 256)
    prompt = trained.encode(image)
    assert prompt.weights_id == trained.facts.weights_id and 8 * prompt.size_bytes / 65536 < 1
    assert squared_error(trained.decode(prompt), image) < 0.3 * image.var()


def test_a_decoder_has_at_most_six_million_parameters(trained):
    """Hyper-synthesis and generator: what a router holds."""
    sizes = {name: value.numel() for name, value in trained._tensors.items() if name.startswith(("h_s.", "g_s."))}
    assert 1_000_000 < sum(sizes.values()) <= 6_000_000
