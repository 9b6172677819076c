import struct

import numpy as np
import pytest
from gnl.node_apps.codecs.content import pack, parse_format, unpack
from gnl.topologies.errors import BitstreamError, CodecError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

RNG = np.random.default_rng(7)
IMAGE = RNG.integers(0, 256, (19, 31, 3), dtype=np.uint8)


@pytest.mark.parametrize("fmt", ["raw", "png"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 2), (64, 48)])
def test_lossless_formats_return_the_image(fmt, shape):
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(unpack(pack(image, fmt)), image)


def test_jpeg_keeps_a_smooth_image_within_a_few_levels():
    ramp = np.linspace(0, 255, 64)
    planes = [np.broadcast_to(ramp, (48, 64)), np.broadcast_to(ramp[::-1], (48, 64)), np.full((48, 64), 90)]
    image = np.stack(planes, -1).astype(np.uint8)
    found = unpack(pack(image, "jpeg:95"))
    assert found.shape == image.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - image).mean() < 3
    assert len(pack(image, "jpeg:95")) > len(pack(image, "jpeg:20"))


def test_raw_layout_is_the_documented_one():
    body = pack(IMAGE, "raw")
    assert struct.unpack("!BBHHH", body[:8]) == (1, 0, 31, 19, 0)
    assert body[8:] == IMAGE.tobytes()


def test_a_view_that_is_not_contiguous_packs_as_its_pixels():
    view = IMAGE[::-1, ::2]
    assert np.array_equal(unpack(pack(view, "raw")), view)


def test_unpacked_raw_is_writable():
    unpack(pack(IMAGE, "raw"))[0, 0, 0] = 1


@pytest.mark.parametrize("fmt", ["", "bmp", "jpeg", "jpeg:0", "jpeg:101", "jpeg:x", "jpeg:٣", "RAW", None, 5])
def test_unknown_formats_are_refused_with_those_accepted(fmt):
    with pytest.raises(CodecError, match="raw, png, or jpeg:Q"):
        parse_format(fmt)


@pytest.mark.parametrize(
    "image",
    [None, [[1]], IMAGE.astype(np.float32), IMAGE[..., :2], IMAGE[..., 0], IMAGE[:0], np.zeros((1, 8193, 3), np.uint8)],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(CodecError):
        pack(image, "raw")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(7),
        bytes(8),
        struct.pack("!BBHHH", 1, 0, 0, 4, 0),
        struct.pack("!BBHHH", 1, 0, 4, 0, 0),
        struct.pack("!BBHHH", 1, 0, 2, 2, 0) + bytes(11),
        struct.pack("!BBHHH", 1, 0, 2, 2, 0) + bytes(13),
        struct.pack("!BBHHH", 1, 9, 2, 2, 0) + bytes(12),
        struct.pack("!BBHHH", 1, 0, 2, 2, 9) + bytes(12),
        struct.pack("!BBHHH", 9, 0, 2, 2, 0) + bytes(12),
        struct.pack("!BBHHH", 1, 0, 65535, 65535, 0),
        struct.pack("!BBHHH", 2, 0, 2, 2, 0) + b"no png",
        struct.pack("!BBHHH", 3, 0, 2, 2, 0),
    ],
)
def test_damaged_bodies_raise_bitstream_error(body):
    with pytest.raises(BitstreamError):
        unpack(body)


def test_a_format_announced_as_another_is_refused():
    body = pack(IMAGE, "png")
    with pytest.raises(BitstreamError):
        unpack(b"\x03" + body[1:])


def test_a_size_that_the_file_does_not_have_is_refused():
    body = struct.pack("!BBHHH", 2, 0, 30, 19, 0) + pack(IMAGE, "png")[8:]
    with pytest.raises(BitstreamError, match="31x19 announced as 30x19"):
        unpack(body)


def test_a_png_of_many_pixels_in_few_bytes_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "wide.png")
    data = (tmp_path / "wide.png").read_bytes()
    with pytest.raises(BitstreamError):
        unpack(struct.pack("!BBHHH", 2, 0, 8192, 4096, 0) + data)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["raw", "png", "jpeg:60"]), st.data())
def test_any_damage_gives_an_image_or_bitstream_error(fmt, data):
    body = bytearray(pack(IMAGE, fmt))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    try:
        found = unpack(bytes(body))
    except BitstreamError:
        return
    assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
