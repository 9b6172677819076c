"""The interface, the registry and the codecs without weights."""

import subprocess
import sys

import numpy as np
import pytest
from gnl.node_apps.codecs.interface import MAX_PIXELS, Codec, CodecFacts, Prompt, size_allowed
from gnl.node_apps.codecs.registry import codec_names, describe, load_codec, read_sidecar
from gnl.topologies.errors import BitstreamError, CodecError

RNG = np.random.default_rng(3)


def smooth_image(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 11)]
    return np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)


@pytest.mark.parametrize("name", ["jpeg:1", "jpeg:75", "jpeg:100", "webp:1", "webp:75", "stub:4", "stub:4000"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (64, 64), (65, 130)])
def test_a_round_trip_keeps_the_size(name, size):
    codec = load_codec(name)
    prompt = codec.encode(smooth_image(*size))
    image = codec.decode(prompt)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert prompt.codec_id == codec.facts.codec_id and prompt.weights_id == 0
    assert prompt.size_bytes == len(prompt.slices[0])


@pytest.mark.parametrize("family", ["jpeg", "webp"])
def test_a_higher_quality_costs_more_and_errs_less(family):
    image = smooth_image(96, 128)
    sizes, errors = [], []
    for quality in (2, 30, 95):
        codec = load_codec(f"{family}:{quality}")
        prompt = codec.encode(image)
        sizes.append(prompt.size_bytes)
        errors.append(np.abs(codec.decode(prompt).astype(int) - image).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True) and errors[-1] < 4


def test_the_stub_has_exactly_its_size_and_repeats_itself():
    codec = load_codec("stub:777")
    first, second = codec.encode(smooth_image(20, 30)), codec.encode(smooth_image(20, 30))
    assert first.size_bytes == 777 and first == second
    assert np.array_equal(codec.decode(first), codec.decode(second))
    assert codec.facts.generative and not load_codec("jpeg:30").facts.generative


def test_batches_equal_single_decodes():
    codec = load_codec("jpeg:40")
    prompts = [codec.encode(smooth_image(20 + n, 30)) for n in range(3)]
    for one, prompt in zip(codec.decode_batch(prompts), prompts):
        assert np.array_equal(one, codec.decode(prompt))


@pytest.mark.parametrize("name", ["jpeg:30", "webp:30", "stub:100"])
@pytest.mark.parametrize("slices", [(), (b"",), (b"x", b"y"), (bytes(50),), (b"\xff\xd8\xff" + bytes(97),)])
def test_prompts_that_are_none_raise_bitstream_error(name, slices):
    codec = load_codec(name)
    with pytest.raises(BitstreamError):
        codec.decode(Prompt(codec.facts.codec_id, 0, slices))


def test_the_prompt_of_another_codec_or_of_other_weights_is_refused():
    jpeg, webp = load_codec("jpeg:30"), load_codec("webp:30")
    prompt = jpeg.encode(smooth_image(16, 16))
    with pytest.raises(BitstreamError, match="codec id 16 given to webp:30"):
        webp.decode(prompt)
    with pytest.raises(BitstreamError, match="0000002a"):
        jpeg.decode(Prompt(prompt.codec_id, 42, prompt.slices))


@pytest.mark.parametrize("name", ["jpeg:30", "webp:30"])
def test_damaged_files_give_an_image_or_bitstream_error(name):
    codec = load_codec(name)
    good = bytearray(codec.encode(smooth_image(48, 48)).slices[0])
    outcomes = set()
    for _ in range(300):
        bad = bytearray(good)
        for position in RNG.integers(0, len(bad), RNG.integers(1, 6)):
            bad[position] = RNG.integers(256)
        if RNG.random() < 0.3:
            del bad[RNG.integers(0, len(bad)) :]
        try:
            image = codec.decode(Prompt(codec.facts.codec_id, 0, (bytes(bad),)))
            assert image.dtype == np.uint8 and image.shape[2] == 3
            outcomes.add("image")
        except BitstreamError:
            outcomes.add("error")
    assert "error" in outcomes


@pytest.mark.parametrize("bpp", [0, -1, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(bpp):
    with pytest.raises(CodecError, match="bpp"):
        load_codec("stub:100").encode(smooth_image(8, 8), bpp)


def test_a_rate_asked_of_a_format_with_a_quality_points_to_the_quality():
    with pytest.raises(CodecError, match="choose a quality"):
        load_codec("jpeg:30").encode(smooth_image(8, 8), 0.2)


@pytest.mark.parametrize(
    "image", [None, "photo.jpg", np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
@pytest.mark.parametrize("name", ["jpeg:30", "stub:100"])
def test_what_is_no_image_is_refused(name, image):
    with pytest.raises(CodecError, match="image of"):
        load_codec(name).encode(image)


@pytest.mark.parametrize(
    "name, says",
    [
        ("jpg:30", "accepted are gnl-low, gnl-medium, gnl-high, gnl-scalable, jpeg:<quality>"),
        ("", "accepted are"),
        ("gnl-low:3", "accepted are"),
        ("jpeg", "accepted are"),
        ("jpeg:", "accepted are"),
        ("jpeg:0", "1 to 100"),
        ("jpeg:101", "1 to 100"),
        ("webp:3.5", "0 to 100"),
        ("webp:²", "0 to 100"),
        ("stub:3", "4 to"),
        ("stub:-1", "4 to"),
        ("stub:99999999999", "4 to"),
        ("compressai:vgg:1:x.pth", "mbt2018-mean"),
        ("compressai:mbt2018-mean:9:x.pth", "1 to 8"),
        ("compressai:mbt2018-mean", "no quality ''"),
        ("compressai:mbt2018-mean:1:/no/such/file.pth", "/no/such/file.pth"),
        (None, "give a name"),
        (7, "give a name"),
    ],
)
def test_a_name_that_is_none_says_what_is_accepted(name, says):
    with pytest.raises(CodecError, match=says):
        describe(name)
    with pytest.raises(CodecError, match=says):
        load_codec(name)


@pytest.mark.parametrize("device", ["gpu", "", None])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(CodecError, match="auto, cpu, cuda"):
        load_codec("stub:10", device)


@pytest.mark.parametrize("threads", [0, -2, 1.5, "2", True])
def test_a_thread_count_that_is_none_is_refused(threads):
    with pytest.raises(CodecError, match="threads"):
        load_codec("stub:10", "cpu", threads)


def test_facts_agree_with_the_loaded_codec():
    for name in ("jpeg:30", "webp:30", "stub:100"):
        assert load_codec(name).facts == describe(name)
    assert {"gnl-low", "gnl-scalable", "stub:<bytes>"} <= set(codec_names())


def test_codec_ids_differ():
    names = ("gnl-low", "gnl-medium", "gnl-high", "gnl-scalable", "jpeg:1", "webp:1", "stub:10")
    ids = [describe(name).codec_id for name in names]
    assert len(set(ids)) == len(ids) and all(0 < number < 256 for number in ids)


def test_describing_loads_no_tensor_library():
    code = (
        "import sys, gnl.node_apps.codecs.registry as r; r.describe('gnl-low'); r.load_codec('jpeg:3');"
        "print([m for m in ('torch', 'torchvision', 'compressai', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_id_is_the_first_four_bytes_of_the_hash():
    facts = CodecFacts("x", 9, "deadbeef" + 56 * "0", True, False, (), "any")
    assert facts.weights_id == 0xDEADBEEF
    assert CodecFacts("x", 9, None, True, False, (), "any").weights_id == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 5}', '{"sha256": "xyz"}', "not json"])
def test_a_sidecar_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "codec.json"
    path.write_text(text)
    with pytest.raises(CodecError, match="codec.json"):
        read_sidecar(path)


def test_a_missing_sidecar_names_the_file(tmp_path):
    with pytest.raises(CodecError, match="codec.json.*reinstall"):
        read_sidecar(tmp_path / "codec.json")


def test_size_limits():
    assert size_allowed(1, 1) and size_allowed(8192, 4096) and size_allowed(4096, 8192)
    assert not any(size_allowed(*size) for size in [(0, 1), (1, 0), (8193, 1), (1, 8193), (8192, 8192)])
    assert 8192 * 4096 <= MAX_PIXELS


def test_a_codec_must_say_both_directions():
    with pytest.raises(TypeError):
        type("Half", (Codec,), {"encode": lambda self, image, bpp=None: None})()
