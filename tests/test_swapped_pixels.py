"""Which pixels are swapped, and their two codings."""

import struct

import numpy as np
import pytest
from gnl.node_apps.codecs.swapped_pixels import CodedPixels, RawPixels, pixel_numbers
from gnl.topologies.errors import BitstreamError

RNG = np.random.default_rng(5)
WORD = (1 << 64) - 1


def splitmix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def number_in_plain_python(place, pixels, seed):
    side = next(side for side in range(1, 10_000) if side * side >= pixels)
    while True:
        row, column = divmod(place, side)
        for turn in range(6):
            row, column = column, (row + (splitmix((seed << 32) + (turn << 16) + column) >> 32)) % side
        place = row * side + column
        if place < pixels:
            return place


@pytest.mark.parametrize("pixels", [1, 2, 3, 5, 16, 17, 1000, 65536])
@pytest.mark.parametrize("seed", [0, 0xFFFFFFFF])
def test_every_pixel_has_one_place(pixels, seed):
    found = pixel_numbers(np.arange(pixels), pixels, seed)
    assert np.array_equal(np.sort(found), np.arange(pixels))


def test_the_places_are_those_of_the_definition_whatever_numpy_does():
    for pixels, seed in [(1000, 7), (123_456, 0xDEADBEEF), (1 << 25, 1)]:
        wanted = [number_in_plain_python(place, pixels, seed) for place in range(200)]
        assert pixel_numbers(np.arange(200), pixels, seed).tolist() == wanted
    assert pixel_numbers(np.arange(5), 65536, 42).tolist() == [3410, 42262, 16196, 30902, 62833]


def test_swapped_pixels_lie_everywhere_alike():
    taken = np.zeros(65536, bool)
    taken[pixel_numbers(np.arange(6554), 65536, 99)] = True
    tiles = taken.reshape(16, 16, 16, 16).sum(axis=(1, 3)).ravel()  # of 256 pixels, a tenth taken
    chi_square = ((tiles - 25.6) ** 2 / (25.6 * 0.9)).sum()
    assert 180 < chi_square < 345  # 255 degrees of freedom, 1 in 1000 on either side


def test_another_seed_takes_other_pixels():
    first, second = (set(pixel_numbers(np.arange(6554), 65536, seed).tolist()) for seed in (1, 2))
    assert 500 < len(first & second) < 820  # 655 by chance


def noisy(count, spread):
    """True pixels (n, 3) uint8, and generated ones from which they differ by so much."""
    generated = RNG.integers(0, 256, (count, 3))
    true = (generated + RNG.normal(0, spread, (count, 3)).round()).clip(0, 255)
    return true.astype(np.uint8), generated.astype(np.uint8)


@pytest.mark.parametrize("coding", [RawPixels, CodedPixels])
@pytest.mark.parametrize("count", [1, 2, 447, 5000])
@pytest.mark.parametrize("spread", [0, 1, 12, 60, 500])
def test_pixels_come_back_exactly(coding, count, spread):
    true, generated = noisy(count, spread)
    body = coding.encode(true, generated)
    assert coding.count(body) == count
    found = coding.decode(body, generated)
    assert found.dtype == np.uint8 and np.array_equal(found, true)


def test_the_largest_differences_come_back_exactly():
    corners = np.array(np.meshgrid(*[[0, 255]] * 3)).reshape(3, -1).T.astype(np.uint8)
    true, generated = np.repeat(corners, 8, axis=0), np.tile(corners, (8, 1))
    padding = np.full((4000, 3), 128, np.uint8)  # so that coding them beats the raw form
    true, generated = np.concatenate([true, padding]), np.concatenate([generated, padding])
    body = CodedPixels.encode(true, generated)
    assert len(body) < 3 * len(true) / 2
    assert np.array_equal(CodedPixels.decode(body, generated), true)


@pytest.mark.parametrize("spread, most_bits", [(0, 2.2), (3, 12.5), (12, 18.5), (500, 24.2)])
def test_coded_pixels_take_about_the_entropy_and_never_more_than_raw(spread, most_bits):
    true, generated = noisy(5000, spread)
    assert 8 * len(CodedPixels.encode(true, generated)) / 5000 < most_bits


def test_a_generated_pixel_that_is_off_shifts_the_swapped_one_by_no_more():
    true, generated = noisy(5000, 12)
    body = CodedPixels.encode(true, generated)
    other = (generated + RNG.integers(-2, 3, generated.shape)).clip(0, 255).astype(np.uint8)
    found = CodedPixels.decode(body, other)
    assert np.abs(found.astype(int) - true).max() == 2
    raw = RawPixels.encode(true, generated)
    assert np.array_equal(RawPixels.decode(raw, other), true)


def head(count=10, outliers=0, scales=(3, 3, 3)):
    return struct.pack("!IHBBB", count, outliers, *scales)


@pytest.mark.parametrize(
    "coding, body",
    [
        (RawPixels, b"1234"),
        (CodedPixels, b"1"),
        (CodedPixels, head()),
        (CodedPixels, head(count=0) + bytes(40)),
        (CodedPixels, head(count=1 << 31) + bytes(40)),
        (CodedPixels, head(count=8 * 49 + 1) + bytes(40)),
        (CodedPixels, head(scales=(3, 15, 3)) + bytes(40)),
        (CodedPixels, head(scales=(255, 255, 3)) + bytes(40)),
        (CodedPixels, head(scales=(255, 255, 255)) + bytes(29)),
    ],
)
def test_slices_that_are_none_are_refused_before_anything_of_their_size_is_made(coding, body):
    with pytest.raises(BitstreamError):
        coding.count(body)


@pytest.mark.parametrize("tail", [b"1234567", b"", b"123456789"])
def test_a_string_that_is_none_is_refused(tail):
    with pytest.raises(BitstreamError):
        CodedPixels.decode(head() + tail, np.zeros((10, 3), np.uint8))


@pytest.mark.parametrize("more", [-2, 1, 2, 60_000])
def test_outliers_that_are_not_those_of_the_string_are_refused(more):
    true, generated = noisy(500, 5)
    true[:4], generated[:4] = 0, 255
    body = CodedPixels.encode(true, generated)
    count, outliers, *scales = struct.unpack_from("!IHBBB", body)
    assert outliers >= 4 and max(scales) < 255
    with pytest.raises(BitstreamError):
        CodedPixels.decode(head(count, outliers + more, scales) + body[9:], generated)
