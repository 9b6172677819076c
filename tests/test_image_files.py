"""Reading image files: every kind comes out as the eye is meant to see it, or is refused with the reason."""

import io
import struct

import numpy as np
import pytest
from gnl.node_apps.codecs.image_files import read_image
from gnl.topologies.errors import CodecError
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import gradient, png, save, tiff
from PIL import Image, ImageCms


def read(file, size_px=None):
    return read_image(io.BytesIO(file) if isinstance(file, bytes) else file, size_px).pixels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "tga", "webp", "gif", "jpg", "jp2"])
def test_formats(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    found = read(save(tmp_path / f"x.{suffix}", gradient(), **options))
    worst = {"gif": 40, "jpg": 12, "jp2": 3}.get(suffix, 0)
    assert np.abs(found.astype(int) - gradient()).max() <= worst


def test_size_none_leaves_the_pixels_as_they_are(tmp_path):
    np.testing.assert_array_equal(read(save(tmp_path / "x.png", gradient(33, 71))), gradient(33, 71))


def test_the_middle_square_is_taken(tmp_path):
    striped = np.zeros((50, 150, 3), np.uint8)
    striped[:, 50:100] = (10, 200, 30)
    np.testing.assert_array_equal(read(save(tmp_path / "x.png", striped), 50), striped[:, 50:100])


def test_scaling_down_averages_rather_than_drops(tmp_path):
    checkers = np.zeros((512, 512, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 255
    found = read(save(tmp_path / "x.png", checkers), 64)
    assert np.abs(found[4:-4, 4:-4].astype(int) - 127).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    # Oracle: the definition of the EXIF tag 0x0112, as the inverse of what a camera did.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](gradient())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read(path), gradient())


def test_transparent_parts_lie_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (200, 0, 0, 255)
    found = read(save(tmp_path / "x.png", rgba))
    assert (found[:, :4] == 255).all() and (found[:, 4:] == (200, 0, 0)).all()


def test_transparent_palette_and_grey_with_alpha(tmp_path):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 0, 100, 0])
    palette.putpixel((0, 0), 1)
    found = read(save(tmp_path / "p.png", palette, transparency=0))
    assert tuple(found[0, 0]) == (0, 100, 0) and (found[1:] == 255).all()
    grey = Image.merge("LA", [Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 0)])
    assert (read(save(tmp_path / "la.png", grey)) == 255).all()


@pytest.mark.parametrize(
    "mode, value, expected",
    [("1", 1, 255), ("L", 77, 77), ("I;16", 65535, 255), ("I;16", 32896, 128), ("F", 0.5, 128), ("I", 200, 200)],
)
def test_grey_of_any_depth(tmp_path, mode, value, expected):
    found = read(save(tmp_path / "x.tiff", Image.new(mode, (5, 4), value)))
    assert found.shape == (4, 5, 3) and (found == expected).all()


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    found = read(save(tmp_path / "x.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=98))
    assert found[8, 8, 0] > 200 and found[8, 8, 1:].max() < 60


def test_embedded_colour_profile_is_applied(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    image = Image.new("LAB", (4, 4), (138, 209, 198))
    found = read(save(tmp_path / "x.tiff", image, icc_profile=lab.tobytes()))
    # Under D50, the white of ICC profiles, sRGB red is L*a*b* (54.3, 80.8, 69.9).
    assert np.abs(found[0, 0].astype(int) - (255, 0, 0)).max() <= 6


def test_a_profile_that_is_nonsense_is_ignored(tmp_path):
    path = save(tmp_path / "x.png", gradient(), icc_profile=b"nonsense")
    np.testing.assert_array_equal(read(path), gradient())


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "x.gif") == (255, 0, 0)).all()


def test_a_side_too_long_to_send_is_skipped_unless_it_is_scaled(tmp_path):
    save(tmp_path / "long.png", np.zeros((2, 9000, 3), np.uint8))
    assert read(tmp_path / "long.png", 8).shape == (8, 8, 3)
    with pytest.raises(CodecError, match="9000x2.*8192"):
        read(tmp_path / "long.png")


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_any_shape_becomes_the_square_asked_for(height, width, size_px):
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), (12, 34, 56)).save(encoded, "PNG")
    encoded.seek(0)
    found = read(encoded, size_px)
    assert found.shape == (size_px, size_px, 3) and (found == (12, 34, 56)).all()


DEEP = np.random.default_rng(5).integers(0, 65536, (7, 9, 4)).astype(np.uint16)
# What 16 bits are in 8, to the nearest; keeping the upper 8 is within one level of it.
NEAREST = np.rint(DEEP / 257.0).astype(int)


@pytest.mark.parametrize("write", [lambda a: png(a, 2), lambda a: tiff(a, 2), lambda a: tiff(a, 2, order=">")])
def test_colour_of_16_bits(write):
    assert np.abs(read(write(DEEP[..., :3])) - NEAREST[..., :3]).max() <= 1


@pytest.mark.parametrize("write", [lambda a: png(a, 6), lambda a: tiff(a, 2, extra=2)])
def test_colour_and_alpha_of_16_bits(write):
    alpha = NEAREST[..., 3:] / 255.0
    on_white = NEAREST[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read(write(DEEP)) - on_white).max() <= 3


@pytest.mark.parametrize("write", [lambda a: png(a, 0), lambda a: tiff(a, 1), lambda a: tiff(a, 1, order=">")])
def test_grey_of_16_bits_is_the_nearest_level(write):
    assert np.array_equal(read(write(DEEP[..., 0])), np.repeat(NEAREST[..., :1], 3, -1))


def test_grey_and_alpha_of_16_bits():
    alpha = NEAREST[..., 1:2] / 255.0
    assert np.abs(read(png(DEEP[..., :2], 4)) - (NEAREST[..., :1] * alpha + 255 * (1 - alpha))).max() <= 3


def test_cmyk_of_16_bits():
    ink = np.full((4, 4, 4), (0, 65535, 65535, 0), np.uint16)
    assert (read(tiff(ink, 5)) == (255, 0, 0)).all()


def test_grey_whose_white_is_zero():
    inverted = 255 - NEAREST[..., :1]
    assert np.abs(read(tiff(DEEP[..., 0], 0)) - inverted).max() <= 1


def test_grey_of_12_bits_fills_the_range():
    packed = bytes([0x80, 0x0F, 0xFF]) * 8  # 0x800 and 0xfff in turn
    found = read(tiff(np.zeros((4, 4), np.uint16), 1, bits=12, data=packed))
    assert np.array_equal(found[0, :, 0], [128, 255, 128, 255])


@pytest.mark.parametrize(
    "image, level",
    [
        (tiff(np.array([[3_000_000_000, 1_600_000_000]], np.uint32), 1), 136),
        (tiff(np.array([[-70_000, 0]], np.int32), 1, 2), 0),
        (tiff(np.array([[0, 0.25]], np.float32), 1, 3), 64),
        (tiff(np.array([[255, 100]], np.float32), 1, 3), 100),
        (tiff(np.array([[np.nan, np.inf]], np.float32), 1, 3), 0),
        (b"P5 2 1 65535\n" + struct.pack(">HH", 0, 255), 1),
        (b"P5 2 1 1023\n" + struct.pack(">HH", 0, 512), 128),
        (b"Pf\n2 1\n-1.0\n" + struct.pack("<ff", 0, 0.5), 128),
    ],
    ids=["u32", "i32", "unit float", "float of 255", "nan", "dark pgm", "10-bit pgm", "pfm"],
)
def test_scales_of_grey(image, level):
    assert read(image)[0, 1].tolist() == [level] * 3


def test_what_pillow_cannot_read_is_refused_rather_than_wrong():
    for image in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.float64)):
        with pytest.raises(CodecError, match="not an image that Pillow reads"):
            read(tiff(image, 2 if image.ndim == 3 else 1, 3))


def test_a_transparent_colour_of_16_bits():
    grey = np.array([[30000, 1000]], np.uint16)
    assert read(png(grey, 0, [(b"tRNS", struct.pack(">H", 30000))]))[0].tolist() == [[255] * 3, [4] * 3]
    colour = np.repeat(grey[..., None], 3, -1)
    assert read(png(colour, 2, [(b"tRNS", struct.pack(">HHH", *[30000] * 3))]))[0].tolist() == [[255] * 3, [3] * 3]


@pytest.mark.parametrize("block", [b"garbage", b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 4])
def test_exif_that_is_nonsense_is_ignored(block):
    assert np.array_equal(read(png(gradient(), 2, [(b"eXIf", block)])), gradient())


def test_deep_grey_turns_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = io.BytesIO()
    Image.new("I;16", (6, 4), 30000).save(encoded, "PNG", exif=exif)
    assert read(encoded.getvalue()).shape == (6, 4, 3)


def test_notes_say_what_is_not_in_the_pixels(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    assert "first" in read_image(tmp_path / "moves.gif").notes[0]
    solid = np.full((4, 4, 4), 255, np.uint8)
    assert read_image(save(tmp_path / "solid.png", solid)).notes == ()
    solid[0, 0, 3] = 0
    assert "white" in read_image(save(tmp_path / "holed.png", solid)).notes[0]
    assert "0 to 1" in read_image(save(tmp_path / "float.tiff", Image.new("F", (4, 4), 0.5))).notes[0]
    assert read_image(save(tmp_path / "plain.jpg", gradient())).notes == ()


@pytest.mark.parametrize("side", [1, 2, 3, 7, 65])
def test_sizes_that_are_odd(side):
    for height, width in ((side, 1), (1, side), (side, side)):
        image = np.random.default_rng(side).integers(0, 256, (height, width, 3)).astype(np.uint8)
        assert np.array_equal(read(png(image, 2)), image)


WRITABLE = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "AVIF", "QOI", "ICO")


def written(name, **options):
    encoded = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    Image.fromarray(noise).save(encoded, name, **options)
    return encoded.getvalue()


@pytest.mark.parametrize("name", WRITABLE)
def test_a_file_cut_off_is_refused(name):
    whole = written(name)
    for share in (0.05, 0.3, 0.6, 0.95):
        with pytest.raises(CodecError) as caught:
            read(whole[: int(share * len(whole))])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRITABLE)
def test_a_damaged_file_is_read_or_refused_and_raises_nothing_else(name):
    draw, whole = np.random.default_rng(3), written(name)
    for _ in range(40):
        bad = bytearray(whole)
        for at in draw.integers(0, min(len(bad), 400), 4):
            bad[at] = draw.integers(256)
        try:
            found = read(bytes(bad))
        except CodecError:
            continue
        assert found.dtype == np.uint8 and found.shape[2] == 3


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"no image at all", bytes(5000)])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(CodecError, match="not an image that Pillow reads"):
        read(data)


@pytest.mark.parametrize("size", [(60_000, 60_000), (13_000, 12_000), (8192, 4097), (8193, 1), (1, 8193)])
def test_a_claim_of_too_many_pixels_is_refused_before_any_is_decoded(size):
    with pytest.raises(CodecError, match="pixels"):
        read(png(np.zeros((1, 9, 3), np.uint8), 2, size=size))


@pytest.mark.parametrize("size", [(8192, 4096), (4096, 8192)])
def test_the_largest_sizes_get_as_far_as_their_pixels(size):
    with pytest.raises(CodecError, match="truncated"):
        read(png(np.zeros((1, 9, 3), np.uint8), 2, size=size))


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(OSError):
            read_image(path)


def test_an_open_file_stays_open():
    stream = io.BytesIO(png(gradient(), 2))
    read_image(stream)
    assert not stream.closed
