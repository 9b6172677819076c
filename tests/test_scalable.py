"""gnl-scalable's prompts: budgets, prefixes, lost and joined slices, and segments that lie. A codec without training
shows all of it; what only trained weights have is shown by those in the repository."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from gnl import experiments
from gnl.node_apps.codecs import quantiser
from gnl.node_apps.codecs.generative import SIZE_PREFIX
from gnl.node_apps.codecs.interface import MAX_SLICES, Prompt
from gnl.node_apps.codecs.registry import load_codec
from gnl.node_apps.codecs.scalable import SymbolOrder, _read_varint, _segments, _varint
from gnl.topologies.errors import BitstreamError, CodecError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_codec import load_small, scene, squared_error, write_small

SAMPLES = Path(experiments.__file__).with_name("sample_images")
NOISE = np.random.default_rng(8).integers(0, 256, (256, 256, 3), np.uint8)
PICTURES = {"scene": scene(256, 256), "flat": np.full((256, 256, 3), (200, 90, 40), np.uint8), "noise": NOISE}


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    torch.set_num_threads(1)
    return load_small(write_small(tmp_path_factory.mktemp("small")), scalable=True)


@pytest.fixture(scope="module")
def prompt(codec):
    return codec.encode(PICTURES["scene"], 0.6)


def own(codec, *slices):
    return Prompt(codec.facts.codec_id, codec.facts.weights_id, slices)


def segment(number, string, count=0):
    return bytes([number]) + _varint(len(string) // 4) + _varint(count) + string


# Budgets


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("bpp", [0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.8])
def test_a_budget_is_met_from_below_within_three_percent(codec, picture, bpp):
    image = PICTURES[picture]
    used = codec.encode(image, bpp).size_bytes
    assert 0.97 * bpp * 65536 / 8 <= used <= bpp * 65536 / 8


@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.02, 1.5))
@settings(deadline=None, max_examples=40)
def test_any_size_and_budget_is_met_within_a_word_or_refused_with_the_least(codec, height, width, bpp):
    """Strings are whole words of 4 bytes, which is more than 3% of a prompt of under 134 bytes."""
    image = PICTURES["scene"][:height, :width]
    budget = int(bpp * height * width / 8 + 1e-6)
    try:
        used = codec.encode(image, bpp).size_bytes
    except CodecError as error:
        least = codec.encode(image, None).size_bytes
        assert f"{width}x{height}" in str(error) and "needs at least" in str(error) and least > budget
        return
    everything = codec.encode(image, 24).size_bytes
    assert min(everything, max(0.97 * budget, budget - 3)) <= used <= budget or used >= budget - 3


def test_a_finer_step_in_bytes_is_a_longer_prompt(codec):
    sizes = [codec.encode(PICTURES["scene"], 8 * count / 65536).size_bytes for count in range(400, 480, 8)]
    assert all(earlier < later for earlier, later in pairwise(sizes))


def test_a_picture_too_small_for_its_budget_is_refused_with_what_it_needs(codec):
    with pytest.raises(CodecError, match=r"0 bytes for this image of 1x1.*needs at least \d+ bytes"):
        codec.encode(np.zeros((1, 1, 3), np.uint8), 0.3)


def test_without_a_budget_even_one_pixel_is_coded(codec):
    for size in ((1, 1), (1, 40), (5, 5)):
        image = scene(*size)
        prompt = codec.encode(image)
        assert codec.decode(prompt).shape == image.shape and prompt.size_bytes < 100


def test_the_rate_without_a_budget_is_the_default_one(codec):
    assert codec.encode(PICTURES["scene"]) == codec.encode(PICTURES["scene"], 0.3)


def test_a_budget_above_what_there_is_to_say_sends_it_all(codec):
    everything = codec.encode(PICTURES["scene"], 24)
    latents = 24 * 16 * 16
    received = codec._read(everything.slices)
    index = codec._hyper(torch.from_numpy(received.z[None]))[1]
    _, planes = codec._symbols(received, index[0])
    assert np.all(planes == quantiser.PLANES) and planes.size == latents
    assert everything.size_bytes < 1.2 * 65536 / 8 and len(everything.slices) <= MAX_SLICES


@pytest.mark.parametrize("bpp", [0, -1, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(codec, bpp):
    with pytest.raises(CodecError, match="bpp"):
        codec.encode(PICTURES["scene"], bpp)


# Prefixes


def test_every_prefix_decodes_and_each_slice_helps(codec, prompt):
    image = PICTURES["scene"]
    errors = [
        squared_error(codec.decode(own(codec, *prompt.slices[:count])), image)
        for count in range(1, len(prompt.slices) + 1)
    ]
    assert all(later < 1.01 * earlier for earlier, later in pairwise(errors))
    assert errors[0] < image.var() and errors[-1] < 0.03 * errors[0]


def test_there_are_many_useful_lengths(codec):
    """Between 0.03 and 0.8 bpp, where this small codec has said nearly everything."""
    require_useful_lengths(codec, PICTURES["scene"], 0.03, 0.8)


def require_useful_lengths(codec, image, low, high):
    slices = codec.encode(image, high).slices
    lengths = np.cumsum([len(piece) for piece in slices]) * 8 / (image.shape[0] * image.shape[1])
    counts = [count for count, bpp in enumerate(lengths, 1) if low <= bpp <= high]
    errors = [squared_error(codec.decode(own(codec, *slices[:count])), image) for count in counts]
    best, useful = float("inf"), 0
    for error in errors:
        useful += error < best
        best = min(best, error)
    assert useful >= 16, list(zip(lengths, errors))


def test_a_prefix_is_as_good_as_a_prompt_made_to_its_length(codec, prompt):
    image = PICTURES["scene"]
    for count in (3, 8, 14):
        cut = own(codec, *prompt.slices[:count])
        made = codec.encode(image, 8 * cut.size_bytes / 65536)
        assert squared_error(codec.decode(cut), image) < 1.1 * squared_error(codec.decode(made), image)


# Slices lost, joined, repeated, out of order


@pytest.mark.parametrize("lost", [(1,), (5,), (2, 3), (1, 4, 9), tuple(range(1, 12))])
def test_lost_slices_cost_quality_only(codec, prompt, lost):
    image = PICTURES["scene"]
    slices = [b"" if number in lost else piece for number, piece in enumerate(prompt.slices)]
    error = squared_error(codec.decode(own(codec, *slices)), image)
    assert squared_error(codec.decode(prompt), image) < error
    assert error < 1.05 * squared_error(codec.decode(own(codec, *prompt.slices[: lost[0]])), image)


def test_any_slices_with_the_first_decode_in_any_order(codec, prompt):
    rng = np.random.default_rng(4)
    alone = squared_error(codec.decode(own(codec, prompt.slices[0])), PICTURES["scene"])
    for _ in range(12):
        some = [piece for piece in prompt.slices[1:] if rng.random() < 0.6]
        in_order = codec.decode(own(codec, prompt.slices[0], *some))
        rng.shuffle(some)
        assert np.array_equal(codec.decode(own(codec, prompt.slices[0], *some)), in_order)
        assert squared_error(in_order, PICTURES["scene"]) < 1.05 * alone


@pytest.mark.parametrize("payload_bytes", [1, 200, 1408, 10**6])
def test_joining_slices_for_datagrams_changes_no_pixel(codec, prompt, payload_bytes):
    joined = codec.for_datagrams(prompt, payload_bytes)
    assert joined.size_bytes == prompt.size_bytes
    assert all(len(piece) <= max(payload_bytes, *map(len, prompt.slices)) for piece in joined.slices)
    assert all(len(a) + len(b) > payload_bytes for a, b in pairwise(joined.slices))
    assert np.array_equal(codec.decode(joined), codec.decode(prompt))


def test_joined_slices_may_be_lost_as_well(codec, prompt):
    joined = codec.for_datagrams(prompt, 400).slices
    assert len(joined) > 4
    for lost in range(1, len(joined)):
        shown = codec.decode(own(codec, *joined[:lost], b"", *joined[lost + 1 :]))
        assert squared_error(shown, PICTURES["scene"]) < PICTURES["scene"].var()


def test_a_repeated_slice_changes_nothing(codec, prompt):
    again = own(codec, *prompt.slices, prompt.slices[0][SIZE_PREFIX.size :], prompt.slices[3])
    assert np.array_equal(codec.decode(again), codec.decode(prompt))


def order_of(codec, prompt):
    """The order of symbols that a decoder derives, and the index it derives it from."""
    received = codec._read(prompt.slices)
    _, index = codec._hyper(torch.from_numpy(received.z[None]))
    return SymbolOrder(index[0], codec._order, codec._cost, received.height * received.width)


def test_what_a_slice_decodes_to_does_not_depend_on_others(codec, prompt, monkeypatch):
    """The symbols of each string, alone beside slice 0, and among all others."""
    found = {}

    def watch(string, tables, _decode=codec._coder.decode):
        symbols = _decode(string, tables)
        found.setdefault((bytes(string), len(tables)), []).append(symbols)
        return symbols

    monkeypatch.setattr(codec._coder, "decode", watch)
    codec.latents([prompt])
    for piece in prompt.slices[1:]:
        codec.latents([own(codec, prompt.slices[0], piece)])
    assert len(found) == len(prompt.slices) + 1  # z is read on its own, too
    for several in found.values():
        assert len(several) > 1 and all(np.array_equal(one, several[0]) for one in several)


# The order


@pytest.mark.parametrize("seed", range(4))
def test_segments_cover_every_symbol_once_in_the_order_of_classes(codec, seed):
    rng = np.random.default_rng(seed)
    index = np.clip(rng.normal(seed * 6, 6, (24, 8, 12)), 0, quantiser.LEVELS - 1).astype(np.int32)
    order = SymbolOrder(index, codec._order, codec._cost, 128 * 192)
    wanted = []
    for level, plane in quantiser.class_order().tolist():
        wanted += [(plane, place) for place in np.flatnonzero(index.ravel() == level)]
    found = []
    for start, stop in pairwise(order.cuts):
        assert start < stop
        for run in order.runs(start, stop):
            found += [(run.plane, place) for place in run.places]
            assert set(index.ravel()[run.places]) == {run.level}
    assert found == wanted and len(order.cuts) - 1 <= MAX_SLICES
    bits = np.cumsum([quantiser.class_bits()[index.ravel()[place], plane] for plane, place in wanted])
    ends = [bits[cut - 1] for cut in order.cuts[1:-1]]
    assert all(later >= 0.98 * max(1.2 * earlier, earlier + 512) for earlier, later in pairwise(ends))


def test_the_order_is_derived_in_whole_numbers(codec):
    """What a sum in floating point may round differently elsewhere must not decide where a segment ends."""
    assert codec._cost.dtype == np.int32 and codec._order.dtype == np.int32 and codec._cost.min() >= 1


# Segments that lie


@pytest.mark.parametrize(
    "segments, says",
    [
        ([segment(1, bytes(8))], "without segment 0"),
        ([segment(0, b"")], "multiple of 4, at least 8"),
        ([segment(0, bytes(4))], "at least 8"),
        ([segment(0, bytes(64)), segment(254, bytes(8))], "segment 254 of an image that has"),
        ([segment(0, bytes(64)), segment(255, bytes(8))], "segment 255 of an image that has"),
        ([segment(0, bytes(64), 1 << 34)], "at most"),
        ([segment(0, bytes(64), 30000)], "at most"),
        ([segment(0, bytes(64)), b"\x01"], "cut short"),
        ([segment(0, bytes(64)), b"\x01\x80\x80"], "cut short"),
        ([segment(0, bytes(64)), b"\x01" + b"\xff" * 9], "longer than five"),
        ([segment(0, bytes(64)), b"\x01\x03\x00" + bytes(11)], "segment 1 of 12 bytes, 11 are there"),
        ([segment(0, bytes(64)), b"\x01\xff\xff\xff\xff\x7f\x00"], "bytes, 0 are there"),
        ([segment(7, b"") * 256, segment(0, bytes(64))], "more than 256 segments"),
        ([], "without segment 0"),
    ],
)
def test_impossible_segments_are_refused(codec, segments, says):
    body = SIZE_PREFIX.pack(16, 16) + b"".join(segments)  # of so small a picture few bytes are asked
    with pytest.raises(BitstreamError, match=says):
        codec.decode(own(codec, body))


def test_a_segment_may_say_more_than_foreseen_up_to_the_end_of_the_next(codec, prompt):
    order = order_of(codec, prompt)
    start, stop, furthest = order.bounds(2)
    assert start < stop < furthest == order.bounds(3)[1]
    head = own(codec, *prompt.slices[:2])
    for count, fits in ((furthest - start, True), (furthest - start + 1, False)):
        longer = own(codec, *head.slices, segment(2, bytes(4000), count + 1))
        if fits:
            assert codec.decode(longer).shape == (256, 256, 3)
        else:
            with pytest.raises(BitstreamError, match=f"at most {furthest - start}"):
                codec.decode(longer)


def test_no_prompt_asks_for_more_than_twice_the_planes(codec, prompt, monkeypatch):
    """Every segment there is, each as long as it may be, in a few bytes: the most that a decoder can be made to do."""
    order, decoded = order_of(codec, prompt), []
    greedy = [prompt.slices[0]]
    for number in range(1, len(order.cuts) - 1):
        start, _, furthest = order.bounds(number)
        greedy.append(segment(number, b"\xff" * 8, furthest - start + 1))

    def watch(string, tables, _decode=codec._coder.decode):
        decoded.append(len(tables))
        return _decode(string, tables)

    monkeypatch.setattr(codec._coder, "decode", watch)
    assert codec.decode(own(codec, *greedy)).shape == (256, 256, 3)
    latents, z = 24 * 16 * 16, 4 * 4 * 4
    assert latents < sum(decoded) <= 2 * quantiser.PLANES * latents + 2 * z
    again = own(codec, *(greedy[:1] + greedy[1:] * 3)[:MAX_SLICES])
    decoded.clear()
    codec.decode(again)
    assert sum(decoded) <= 2 * quantiser.PLANES * latents + 2 * z


def test_many_tiny_segments_are_read_in_one_pass():
    """Without copying what is left at each of them."""

    class Counted(bytes):
        copied = 0

        def __getitem__(self, item):
            found = super().__getitem__(item)
            Counted.copied += len(found) if isinstance(item, slice) else 0
            return found

    piece = Counted(segment(7, b"") * 5000)
    assert sum(1 for _ in _segments(piece)) == 5000 and Counted.copied < 20 * len(piece)


@given(st.integers(0, (1 << 35) - 1), st.binary(max_size=4))
def test_numbers_return(value, behind):
    assert _read_varint(b"x" + _varint(value) + behind, 1) == (value, 1 + len(_varint(value)))


# The weights in the repository


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return load_codec("gnl-scalable", "cpu")


@pytest.fixture(scope="module")
def cat():
    with Image.open(SAMPLES / "cat.jpg") as photo:
        return np.asarray(photo.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("bpp", [0.03, 0.05, 0.1, 0.15, 0.3, 0.45, 1.0, 2.0])
def test_trained_weights_meet_budgets(trained, cat, bpp):
    used = trained.encode(cat, bpp).size_bytes
    assert 0.97 * bpp * 65536 / 8 <= used <= bpp * 65536 / 8


def test_trained_weights_have_sixteen_useful_lengths(trained, cat):
    require_useful_lengths(trained, cat, 0.03, 1.0)
