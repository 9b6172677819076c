"""gnl-low with the weights in the repository."""

import json
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from gnl.node_apps.codecs.generative import GenerativeCodec
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.codecs.registry import WEIGHTS_DIR, describe, load_codec
from gnl.topologies.errors import BitstreamError, CodecError, MachineError

WEIGHTS = WEIGHTS_DIR / "gnl-low.safetensors"
RNG = np.random.default_rng(11)


def scene(height, width, seed=0):
    """A picture with edges, gradients and texture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([rows / 2, columns / 2, 255 - rows / 2], -1) % 255
    for _ in range(6):
        top, left, size = rng.integers(0, height), rng.integers(0, width), rng.integers(4, 60)
        image[top : top + size, left : left + size] = rng.integers(0, 256, 3)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def codec():
    torch.set_num_threads(1)
    return load_codec("gnl-low", "cpu")


@pytest.fixture(scope="module")
def prompt(codec):
    return codec.encode(scene(96, 80))


@pytest.mark.parametrize("size", [(1, 1), (1, 130), (64, 64), (65, 63), (200, 256)])
def test_a_round_trip_keeps_the_size(codec, size):
    image = codec.decode(codec.encode(scene(*size)))
    assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous


def test_the_picture_is_recognisable_at_a_low_rate(codec):
    image = scene(256, 256)
    prompt = codec.encode(image)
    error = np.mean((codec.decode(prompt).astype(float) - image) ** 2)
    assert 8 * prompt.size_bytes / 256**2 < 0.6
    assert error < 0.1 * np.mean((image - image.mean((0, 1))) ** 2)


def test_a_flat_image_costs_little_and_stays_flat(codec):
    image = np.full((256, 256, 3), (200, 90, 40), np.uint8)
    prompt = codec.encode(image)
    assert prompt.size_bytes < 0.8 * codec.encode(scene(256, 256)).size_bytes
    assert np.abs(codec.decode(prompt).astype(int) - image).mean() < 12


def test_latents_are_the_same_for_any_threads_and_batch(codec):
    prompts = [codec.encode(scene(128, 128, seed)) for seed in range(8)]
    together = codec.latents(prompts)
    torch.set_num_threads(2)
    try:
        for prompt, wanted in zip(prompts, together):
            assert np.array_equal(codec.latents([prompt])[0], wanted)
    finally:
        torch.set_num_threads(1)


def test_another_process_with_other_threads_gets_the_same_latents(codec, prompt, tmp_path):
    (tmp_path / "slice").write_bytes(prompt.slices[0])
    code = (
        "import sys, hashlib, torch; from pathlib import Path\n"
        "from gnl.node_apps.codecs.registry import load_codec; from gnl.node_apps.codecs.interface import Prompt\n"
        "codec = load_codec('gnl-low', 'cpu', 2)\n"
        "prompt = Prompt(codec.facts.codec_id, codec.facts.weights_id, (Path(sys.argv[1]).read_bytes(),))\n"
        "print(hashlib.sha256(codec.latents([prompt]).tobytes()).hexdigest())"
    )
    import hashlib

    done = subprocess.run([sys.executable, "-c", code, tmp_path / "slice"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(codec.latents([prompt]).tobytes()).hexdigest()


def test_the_decoder_sees_the_latents_that_the_encoder_meant(codec):
    """A desynchronised entropy decoder yields noise: the picture must be closer to its own source than to any other."""
    images = [scene(128, 128, seed) for seed in range(4)]
    shown = codec.decode_batch([codec.encode(image) for image in images])
    errors = [[np.mean((a.astype(float) - b) ** 2) for b in images] for a in shown]
    assert [int(np.argmin(row)) for row in errors] == [0, 1, 2, 3]


def test_batches_of_mixed_sizes_keep_their_order(codec):
    images = [scene(64, 64), scene(130, 70), scene(64, 60), scene(10, 20)]
    shown = codec.decode_batch([codec.encode(image) for image in images])
    assert [one.shape for one in shown] == [one.shape for one in images]
    assert codec.decode_batch([]) == []
    alone = codec.decode(codec.encode(images[1]))
    assert np.abs(alone.astype(int) - shown[1]).max() <= 2


def test_encoding_repeats_itself(codec):
    assert codec.encode(scene(100, 100)) == codec.encode(scene(100, 100))


def test_facts_come_from_the_weights(codec, prompt):
    sidecar = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert codec.facts == describe("gnl-low") and codec.facts.weights_sha256 == sidecar["sha256"]
    assert prompt.weights_id == int(sidecar["sha256"][:8], 16) and codec.facts.generative
    assert WEIGHTS.stat().st_size < 10_000_000


@pytest.mark.parametrize("name", ["jpeg:30", "stub:100"])
def test_prompts_of_other_codecs_are_refused(codec, name):
    with pytest.raises(BitstreamError, match="codec id"):
        codec.decode(load_codec(name).encode(scene(16, 16)))


def test_prompts_of_other_weights_are_refused(codec, prompt):
    with pytest.raises(BitstreamError, match="install the same weights"):
        codec.decode(Prompt(prompt.codec_id, prompt.weights_id ^ 1, prompt.slices))


def _own(codec, *slices):
    return Prompt(codec.facts.codec_id, codec.facts.weights_id, slices)


def test_every_truncation_raises_or_degrades(codec, prompt):
    body = prompt.slices[0]
    outcomes = []
    for end in list(range(0, 40)) + list(range(40, len(body), 7)):
        try:
            outcomes.append(codec.decode(_own(codec, body[:end])).shape)
        except BitstreamError:
            outcomes.append(None)
    assert outcomes[0] is None and set(outcomes) <= {None, (96, 80, 3)}


def test_damaged_prompts_raise_or_degrade(codec, prompt):
    good = prompt.slices[0]
    shapes = set()
    for _ in range(200):
        bad = bytearray(good)
        for position in RNG.integers(0, len(bad), RNG.integers(1, 9)):
            bad[position] = RNG.integers(256)
        bad[0:4] = good[0:4]
        try:
            shapes.add(codec.decode(_own(codec, bytes(bad))).shape)
        except BitstreamError:
            shapes.add(None)
    assert shapes <= {None, (96, 80, 3)} and (96, 80, 3) in shapes


def test_random_bytes_raise_or_degrade(codec):
    for _ in range(100):
        body = struct.pack("!HHI", 64, 64, int(RNG.integers(0, 30)) * 4) + RNG.bytes(int(RNG.integers(0, 400)))
        try:
            assert codec.decode(_own(codec, body)).shape == (64, 64, 3)
        except BitstreamError:
            pass


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(7),
        struct.pack("!HHI", 0, 64, 8) + bytes(64),
        struct.pack("!HHI", 64, 0, 8) + bytes(64),
        struct.pack("!HHI", 8193, 1, 8) + bytes(64),
        struct.pack("!HHI", 65535, 65535, 8) + bytes(64),
        struct.pack("!HHI", 64, 64, 0xFFFFFFFF) + bytes(64),
        struct.pack("!HHI", 64, 64, 65) + bytes(64),
        struct.pack("!HHI", 64, 64, 9) + bytes(64),
        struct.pack("!HHI", 64, 64, 64) + bytes(64),
        struct.pack("!HHI", 8192, 4096, 8) + bytes(64),
    ],
)
def test_impossible_fields_raise_bitstream_error(codec, body):
    with pytest.raises(BitstreamError):
        codec.decode(_own(codec, body))


@pytest.mark.parametrize("slices", [(), (b"a", b"b"), (b"",) * 256])
def test_another_number_of_slices_is_refused(codec, slices):
    with pytest.raises(BitstreamError, match="slice"):
        codec.decode(_own(codec, *slices))


@pytest.mark.parametrize(
    "image", [None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)]
)
def test_what_is_no_image_is_refused(codec, image):
    with pytest.raises(CodecError, match="image of"):
        codec.encode(image)


def test_one_bad_prompt_fails_its_batch(codec, prompt):
    with pytest.raises(BitstreamError):
        codec.decode_batch([prompt, _own(codec, b"short")])


def test_latents_of_several_sizes_are_refused(codec, prompt):
    with pytest.raises(CodecError, match="one size"):
        codec.latents([prompt, codec.encode(scene(200, 200))])


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
        GenerativeCodec(facts, path)


def test_missing_weights_name_the_file(tmp_path):
    with pytest.raises(CodecError, match="absent.safetensors"):
        GenerativeCodec(describe("gnl-low"), tmp_path / "absent.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_the_machines_fault():
    with pytest.raises(MachineError, match="no GPU"):
        load_codec("gnl-low", "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_latents_and_nearly_the_same_picture(codec, prompt):
    other = load_codec("gnl-low", "cuda")
    assert np.array_equal(other.latents([prompt]), codec.latents([prompt]))
    assert np.abs(other.decode(prompt).astype(int) - codec.decode(prompt)).mean() < 1
