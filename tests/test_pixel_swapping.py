"""Pixel swapping: names, rates, exact pixels, prefixes, losses and damage."""

import dataclasses
import json
import types

import numpy as np
import pytest
from gnl.experiments.codec_files import encode_file
from gnl.experiments.encoding import prepare_catalogue
from gnl.experiments.result import swapping_facts
from gnl.experiments.sizing import find_sizes
from gnl.node_apps import decoder_service
from gnl.node_apps.codecs.interface import BudgetError, Codec, CodecFacts, Prompt
from gnl.node_apps.codecs.pixel_swapping import MAX_INNER_SLICES, PixelSwapping, describe_swapping, parse_name
from gnl.node_apps.codecs.registry import codec_names, describe, load_codec
from gnl.topologies.errors import BitstreamError, CodecError
from gnl.topologies.files import load_scenario
from gnl.topologies.spec import ContentSpec
from PIL import Image

RNG = np.random.default_rng(11)
FAMILIES = ("ps", "ps-raw")


def scene(height, width, seed=0):
    """A picture with edges, gradients and some noise, (height, width, 3) uint8."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(rows / (5 + seed)), 60 + 0.5 * columns, 200 * (rows + columns > height)]
    noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return (np.stack(planes, -1) + noise).clip(0, 255).astype(np.uint8)


class Negative(Codec):
    """The negative of an image, rows of it in each slice: no generated pixel ever is the true one."""

    facts = CodecFacts("negative", 7, "0123abcd" + 56 * "0", True, True, (24.0,), "any")

    def __init__(self, slices=1):
        self.count, self.batches = slices, []

    def encode(self, image, bpp=None):
        parts = [part.tobytes() for part in np.array_split(255 - image, self.count)]
        return Prompt(7, self.facts.weights_id, (bytes(image.shape[:2]) + parts[0], *parts[1:]))

    def decode(self, prompt):
        first, *others = self.require_own(prompt)
        shape = (first[0], first[1], 3)
        rows = [part.size for part in np.array_split(np.zeros(shape, np.uint8), self.count)]
        parts = [first[2:], *others, *[b""] * self.count]
        body = b"".join(part or bytes(size) for part, size in zip(parts, rows))
        return np.frombuffer(body, np.uint8).reshape(shape)

    def decode_batch(self, prompts):
        self.batches.append(len(prompts))
        return [self.decode(prompt) for prompt in prompts]


def around(inner, name="ps:negative"):
    swap = parse_name(name)
    return PixelSwapping(describe_swapping(name, swap, inner.facts), swap, inner)


def places(image, shown):
    """Numbers of the pixels that were swapped, where the others are the image's negative."""
    swapped = (shown == image).all(-1)
    assert np.array_equal(shown[~swapped], 255 - image[~swapped])
    return set(np.flatnonzero(swapped).tolist())


def without(prompt, *gone):
    slices = tuple(b"" if index in gone else piece for index, piece in enumerate(prompt.slices))
    return dataclasses.replace(prompt, slices=slices)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gamma", [0.004, 0.3, 1])
@pytest.mark.parametrize("size", [(1, 1), (7, 50), (120, 131)])
def test_that_fraction_of_the_pixels_is_true_and_the_others_are_generated(family, gamma, size):
    image = scene(*size)
    codec = around(Negative(), f"{family}:{gamma}:negative")
    prompt = codec.encode(image)
    shown = codec.decode(prompt)
    assert shown.dtype == np.uint8 and shown.shape == image.shape
    count = round(gamma * size[0] * size[1])
    assert len(places(image, shown)) == count
    assert codec.sizes(image, prompt).gamma == count / (size[0] * size[1])


def test_raw_prompts_have_the_size_of_equation_5_and_coded_ones_are_shorter():
    image, pixels = scene(128, 200), 128 * 200
    inner = load_codec("jpeg:10").encode(image)
    raw, coded = load_codec("ps-raw:0.125:jpeg:10"), load_codec("ps:0.125:jpeg:10")
    assert raw.encode(image).size_bytes == inner.size_bytes + 0.125 * 3 * pixels + 1
    found = [codec.sizes(image, codec.encode(image)) for codec in (raw, coded)]
    assert found[0] == found[1]
    assert (found[0].inner_bytes, found[0].raw_bytes) == (inner.size_bytes, raw.encode(image).size_bytes)
    assert found[0].coded_bytes == coded.encode(image).size_bytes
    assert coded.encode(image).size_bytes - inner.size_bytes < 0.75 * 0.125 * 3 * pixels


@pytest.mark.parametrize("gamma", [0.01, 0.25])
def test_the_mean_square_error_falls_by_the_fraction_swapped(gamma):
    image, inner = scene(256, 256), load_codec("jpeg:2")
    codec = load_codec(f"ps:{gamma}:jpeg:2")
    shown = (inner.decode(inner.encode(image)), codec.decode(codec.encode(image)))
    before, after = (((one.astype(float) - image) ** 2).mean() for one in shown)
    assert after == pytest.approx((1 - gamma) * before, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(96, 96), (64, 250), (256, 256)])
def test_a_target_is_met_from_below_within_three_percent(family, size):
    image, codec = scene(*size), load_codec(f"{family}:jpeg:5")
    least = 8 * (load_codec("jpeg:5").encode(image).size_bytes + 1) / (size[0] * size[1])
    for bpp in (least, 1.2, 3, 7.77):
        found = 8 * codec.encode(image, bpp).size_bytes / (size[0] * size[1])
        assert found <= bpp + 1e-9 and found == pytest.approx(bpp, rel=0.03)


def test_above_the_size_of_all_pixels_the_image_is_exact():
    image, codec = scene(40, 60), load_codec("ps:jpeg:5")
    assert np.array_equal(codec.decode(codec.encode(image, 24)), image)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_gamma_swaps_the_same_pixels_and_more(family):
    image = scene(90, 100)
    codecs = [around(Negative(), f"{family}:{gamma}:negative") for gamma in (0.02, 0.1, 0.5)]
    found = [places(image, codec.decode(codec.encode(image))) for codec in codecs]
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_prefix_decodes_and_missing_slices_cost_their_pixels_only(family):
    image, codec = scene(100, 100), around(Negative(), f"{family}:0.4:negative")
    prompt = codec.encode(image)
    assert len(prompt.slices) > 5
    found = []
    for length in range(1, len(prompt.slices) + 1):
        cut = dataclasses.replace(prompt, slices=prompt.slices[:length])
        found.append(places(image, codec.decode(cut)))
    assert len(found[0]) == 0 and all(a < b for a, b in zip(found, found[1:]))
    holes = places(image, codec.decode(without(prompt, 2, 4)))
    assert holes == found[-1] - (found[2] - found[1]) - (found[4] - found[3])


def test_a_codec_of_many_slices_may_lose_its_own_too():
    image, codec = scene(60, 80), around(Negative(slices=6), "ps:0.4:negative")
    prompt = codec.encode(image)
    whole, holed = codec.decode(prompt), codec.decode(without(prompt, 3))
    lost = np.zeros(60, bool)
    lost[30:40] = True
    assert np.array_equal(holed[~lost], whole[~lost]) and not np.array_equal(holed[lost], whole[lost])
    cut = codec.decode(dataclasses.replace(prompt, slices=prompt.slices[:2]))
    assert np.array_equal(cut[:20], 255 - image[:20]) and not cut[20:].any()


def test_at_most_so_many_slices_of_the_inner_codec():
    image = scene(200, 100)
    for slices in (MAX_INNER_SLICES, MAX_INNER_SLICES + 1):
        codec = around(Negative(slices), "ps-raw:1:negative")
        if slices > MAX_INNER_SLICES:
            with pytest.raises(CodecError, match="96 slices.*at most 95"):
                codec.encode(image)
        else:
            assert np.array_equal(codec.decode(codec.encode(image)), image)


def test_large_images_stay_within_the_slices_of_a_prompt():
    image = np.resize(scene(64, 64), (512, 300, 3))
    for family in FAMILIES:
        prompt = load_codec(f"{family}:1:jpeg:5").encode(image)
        assert 150 < len(prompt.slices) <= 161
        assert np.array_equal(load_codec(f"{family}:jpeg:5").decode(prompt), image)


def test_a_batch_is_one_batch_of_the_inner_codec():
    inner = Negative()
    codec = around(inner)
    images = [scene(30, 40 + n, n) for n in range(3)]
    prompts = [codec.encode_sample(image) for image in images]
    inner.batches.clear()
    found = codec.decode_batch(prompts)
    assert inner.batches == [3]
    for prompt, image in zip(prompts, found):
        assert np.array_equal(codec.decode(prompt), image)


def test_whatever_gamma_made_a_prompt_any_of_the_family_decodes_it():
    image = scene(50, 50)
    prompt = load_codec("ps:0.3:jpeg:10").encode(image)
    shown = [load_codec(name).decode(prompt) for name in ("ps:jpeg:10", "ps:0.9:jpeg:80")]
    assert np.array_equal(*shown)
    with pytest.raises(BitstreamError, match="codec id 80 given to ps-raw:jpeg:10"):
        load_codec("ps-raw:jpeg:10").decode(prompt)


def test_exactly_one_of_fraction_and_target_is_given():
    image = scene(32, 32)
    with pytest.raises(CodecError, match=r"--bpp 1\.2.*ps-raw:0\.05:jpeg:5"):
        load_codec("ps-raw:jpeg:5").encode(image)
    with pytest.raises(CodecError, match="give one of them"):
        load_codec("ps:0.1:jpeg:5").encode(image, 1.2)


def test_a_target_below_the_inner_prompt_says_what_is_needed():
    image = scene(64, 64)
    least = load_codec("jpeg:50").encode(image).size_bytes + 1
    with pytest.raises(BudgetError, match="jpeg:50 alone takes [0-9.]+ bpp") as caught:
        load_codec("ps:jpeg:50").encode(image, 0.1)
    said = float(str(caught.value).split("alone takes ")[1].split()[0])
    assert 0 <= said - 8 * least / 64**2 < 1e-4 and caught.value.least.size_bytes == least
    assert load_codec("ps:jpeg:50").encode(image, said).size_bytes == least


@pytest.mark.parametrize("bpp", [0, -1, 25, float("nan")])
def test_an_impossible_target_is_refused(bpp):
    with pytest.raises(CodecError, match="bpp"):
        load_codec("ps:jpeg:5").encode(scene(8, 8), bpp)


@pytest.mark.parametrize(
    "name, says",
    [
        ("ps", "accepted are"),
        ("ps:", "accepted are"),
        ("ps:0.1", "name the codec"),
        ("ps:0.1:", "name the codec"),
        ("ps:0:jpeg:5", "at most 1"),
        ("ps-raw:1.01:jpeg:5", "at most 1"),
        ("ps:-0.1:jpeg:5", "at most 1"),
        ("ps:nan:jpeg:5", "at most 1"),
        ("ps:jpeg:500", "1 to 100"),
        ("ps:0.1:gnl-nothing", "accepted are"),
        ("ps:ps:jpeg:5", "only once"),
        ("ps:0.1:ps-raw:jpeg:5", "only once"),
        ("ps:stub:100", "around stub:100"),
    ],
)
def test_a_name_that_is_none_says_why(name, says):
    for ask in (describe, load_codec):
        with pytest.raises(CodecError, match=says):
            ask(name)


def test_facts_are_those_of_the_inner_codec_under_another_id():
    inner = describe("gnl-low")
    for family, first in (("ps", 64), ("ps-raw", 128)):
        facts = describe(f"{family}:gnl-low")
        assert facts.codec_id == first + inner.codec_id and facts.weights_id == inner.weights_id
        assert facts.generative and facts.scalable and facts.operating_points_bpp == ()
        assert not describe(f"{family}:0.05:gnl-low").scalable
    assert not describe("ps:jpeg:5").generative and describe("ps:jpeg:5").codec_id == 80
    points = describe("ps-raw:0.05:gnl-low").operating_points_bpp
    assert points == pytest.approx([1.2 + point for point in inner.operating_points_bpp])
    assert {"ps:[<gamma>:]<codec>", "ps-raw:[<gamma>:]<codec>"} <= set(codec_names())


@pytest.mark.parametrize(
    "slices",
    [
        (b"",),
        (b"\x00",),
        (b"\x01",),
        (b"\x60" + bytes(50),),
        (b"\x01\x02\x02" + bytes(12), b"12345"),  # no whole pixel
        (b"\x01\x02\x02" + bytes(12), bytes(15)),  # five pixels of four
        (b"\x01\x02\x02" + bytes(12), b"", bytes(3)),  # from the 449th on
        (b"\x01\x02\x02" + bytes(12), *[b""] * 161),
    ],
)
def test_prompts_that_are_none_raise_bitstream_error(slices):
    codec = around(Negative() if len(slices[0]) > 10 else load_codec("jpeg:5"), "ps-raw:x")
    with pytest.raises(BitstreamError):
        codec.decode(Prompt(codec.facts.codec_id, codec.facts.weights_id, slices))


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_prompts_give_an_image_or_bitstream_error(family):
    codec = load_codec(f"{family}:jpeg:20")
    good = load_codec(f"{family}:0.9:jpeg:20").encode(scene(40, 40))
    outcomes = set()
    for _ in range(600):
        slices = [bytearray(piece) for piece in good.slices]
        for _ in range(RNG.integers(1, 4)):
            piece = slices[RNG.integers(len(slices))]
            match RNG.integers(4):
                case 0:
                    del piece[RNG.integers(0, len(piece) + 1) :]
                case 1:
                    piece[: RNG.integers(0, 12)] = RNG.bytes(RNG.integers(0, 12))
                case 2:
                    slices.insert(RNG.integers(len(slices) + 1), piece)
                case _:
                    for position in RNG.integers(0, max(1, len(piece)), 3)[: len(piece)]:
                        piece[position] ^= 1 << RNG.integers(8)
        try:
            image = codec.decode(dataclasses.replace(good, slices=tuple(map(bytes, slices))))
            assert image.dtype == np.uint8 and image.shape[2] == 3
            outcomes.add("image")
        except BitstreamError:
            outcomes.add("error")
    assert outcomes == {"image", "error"}


def test_the_decoder_service_warms_up_without_being_told_a_rate():
    options = types.SimpleNamespace(codec=["ps:jpeg:30", "ps-raw:jpeg:30"], codec_factory=[])
    loaded = decoder_service._load_all(options)
    assert [item.key for item in loaded] == [(80, 0), (144, 0)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(scene(64, 64, number)).save(folder / f"{number}.png")
    return folder


def test_a_run_sends_prompts_of_the_target_and_reports_both_sizes(photos):
    for name in ("ps:jpeg:10", "ps-raw:jpeg:10"):
        content = ContentSpec(images=str(photos), size_px=64, codec=name, bpp=4.0)
        catalogue, images, skipped = prepare_catalogue(content)
        assert len(catalogue) == 3 and not skipped and catalogue.codec_id == describe(name).codec_id
        assert all(0.97 * 2048 < entry.prompt_bytes <= 2048 for entry in catalogue.entries)
        assert prepare_catalogue(dataclasses.replace(content, bpp=5.0))[0].folder != catalogue.folder
        facts = swapping_facts(content.codec, catalogue, images)
        assert json.loads(json.dumps(facts)) == facts
        sent = "raw" if name.startswith("ps-raw") else "coded"
        mean = sum(entry.prompt_bytes for entry in catalogue.entries) / 3
        assert facts[f"prompt_bytes_{sent}_mean"] == mean
        assert facts["prompt_bytes_coded_mean"] < facts["prompt_bytes_raw_mean"]
        inner = [load_codec("jpeg:10").encode(image.image).size_bytes for image in images]
        assert facts["inner_bpp_mean"] == pytest.approx(8 * sum(inner) / 3 / 64**2)
        swapped = facts["gamma_mean"] * 3 * 64**2
        assert facts["prompt_bytes_raw_mean"] == pytest.approx(1 + sum(inner) / 3 + swapped)
        assert swapping_facts("jpeg:10", catalogue, images) is None


def test_an_analysis_takes_the_target_as_the_size(photos):
    keys = {"images": photos, "codec": "ps:gnl-low", "bpp": 1.2}
    sizes = find_sizes(load_scenario("diamond", [f"content.{key}={value}" for key, value in keys.items()]))
    assert sizes.prompt_slices == ((round(1.2 * 256**2 / 8),),)


def test_encoding_a_file_says_both_sizes(photos, tmp_path):
    encoded = encode_file(photos / "0.png", tmp_path / "out.gnl", "ps:jpeg:10", bpp=4.0)
    sizes = encoded.as_json()["pixel_swapping"]
    assert sizes["coded_bytes"] == encoded.prompt_bytes < sizes["raw_bytes"]
    assert f"{sizes['raw_bytes']} raw" in str(encoded)
    plain = encode_file(photos / "0.png", tmp_path / "out.gnl", "jpeg:10")
    assert plain.as_json()["pixel_swapping"] is None
