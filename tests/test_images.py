"""Loading photographs: every kind of file, in order, or a clear refusal."""

import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
from gnl.experiments.images import SAMPLE_FOLDER, load_image, load_images
from gnl.topologies.errors import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms


def gradient(height=40, width=60):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, np.full_like(x, 80)], axis=-1).astype(np.uint8)


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def test_sample_holds_at_least_eight_photographs_no_two_alike():
    images, skipped = load_images("sample", size_px=64)
    assert len(images) >= 8 and skipped == []
    small = np.stack([image.astype(float).mean(axis=2)[::4, ::4].ravel() for _, image in images])
    correlation = np.corrcoef(small)
    np.fill_diagonal(correlation, 0)
    assert correlation.max() < 0.95
    # A drawing or a flat test card has few grey levels; a photograph has many.
    assert all(len(np.unique(image)) > 100 for _, image in images)


def test_every_sample_image_has_its_source_and_licence_written_down():
    table = (SAMPLE_FOLDER / "README.md").read_text()
    listed = set(re.findall(r"^\| (\S+\.jpg) \|.*(?:CC0 1\.0|CC BY 4\.0|public domain) \|$", table, re.MULTILINE))
    assert listed == {path.name for path in SAMPLE_FOLDER.glob("*.jpg")}


def test_sample_is_cropped_to_squares_of_the_size_asked_for():
    images, _ = load_images("sample", size_px=256, limit=3)
    assert [image.shape for _, image in images] == [(256, 256, 3)] * 3
    assert all(image.dtype == np.uint8 and image.flags.c_contiguous for _, image in images)


def test_order_is_that_of_the_names_and_the_limit_counts_readable_images(tmp_path):
    for name in ("c.png", "a.png", "b.jpg", "d.png"):
        save(tmp_path / name, gradient())
    (tmp_path / "b.jpg").write_bytes(b"no image")
    images, skipped = load_images(tmp_path, size_px=None, limit=2)
    assert [image.name for image in images] == ["a.png", "c.png"]
    assert skipped == [("b.jpg", "not an image that Pillow reads")]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "tga", "webp", "gif", "jpg", "jp2"])
def test_formats(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    found = load_image(save(tmp_path / f"x.{suffix}", gradient(), **options))
    worst = {"gif": 40, "jpg": 12, "jp2": 3}.get(suffix, 0)
    assert np.abs(found.astype(int) - gradient()).max() <= worst


def test_size_none_leaves_the_pixels_as_they_are(tmp_path):
    np.testing.assert_array_equal(load_image(save(tmp_path / "x.png", gradient(33, 71))), gradient(33, 71))


def test_the_middle_square_is_taken(tmp_path):
    striped = np.zeros((50, 150, 3), np.uint8)
    striped[:, 50:100] = (10, 200, 30)
    np.testing.assert_array_equal(load_image(save(tmp_path / "x.png", striped), 50), striped[:, 50:100])


def test_scaling_down_averages_rather_than_drops(tmp_path):
    checkers = np.zeros((512, 512, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 255
    found = load_image(save(tmp_path / "x.png", checkers), 64)
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
    np.testing.assert_array_equal(load_image(path), gradient())


def test_transparent_parts_lie_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (200, 0, 0, 255)
    found = load_image(save(tmp_path / "x.png", rgba))
    assert (found[:, :4] == 255).all() and (found[:, 4:] == (200, 0, 0)).all()


def test_transparent_palette_and_grey_with_alpha(tmp_path):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 0, 100, 0])
    palette.putpixel((0, 0), 1)
    found = load_image(save(tmp_path / "p.png", palette, transparency=0))
    assert tuple(found[0, 0]) == (0, 100, 0) and (found[1:] == 255).all()
    grey = Image.merge("LA", [Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 0)])
    assert (load_image(save(tmp_path / "la.png", grey)) == 255).all()


@pytest.mark.parametrize(
    "mode, value, expected",
    [("1", 1, 255), ("L", 77, 77), ("I;16", 65535, 255), ("I;16", 32896, 128), ("F", 0.5, 128), ("I", 200, 200)],
)
def test_grey_of_any_depth(tmp_path, mode, value, expected):
    found = load_image(save(tmp_path / "x.tiff", Image.new(mode, (5, 4), value)))
    assert found.shape == (4, 5, 3) and (found == expected).all()


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    found = load_image(save(tmp_path / "x.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=98))
    assert found[8, 8, 0] > 200 and found[8, 8, 1:].max() < 60


def test_embedded_colour_profile_is_applied(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    image = Image.new("LAB", (4, 4), (138, 209, 198))
    found = load_image(save(tmp_path / "x.tiff", image, icc_profile=lab.tobytes()))
    # Under D50, the white of ICC profiles, sRGB red is L*a*b* (54.3, 80.8, 69.9).
    assert np.abs(found[0, 0].astype(int) - (255, 0, 0)).max() <= 6


def test_a_profile_that_is_nonsense_is_ignored(tmp_path):
    path = save(tmp_path / "x.png", gradient(), icc_profile=b"nonsense")
    np.testing.assert_array_equal(load_image(path), gradient())


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (load_image(tmp_path / "x.gif") == (255, 0, 0)).all()


def test_damaged_files_are_listed_and_skipped(tmp_path):
    save(tmp_path / "good.png", gradient())
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:1500])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / ".hidden").write_text("passed over")
    (tmp_path / "folder.png").mkdir()
    images, skipped = load_images(tmp_path, size_px=16)
    assert [image.name for image in images] == ["good.png"]
    assert [name for name, _ in skipped] == ["cut.jpg", "empty.png", "gone.png", "notes.txt", "pipe.png"]
    assert all(reason and "\n" not in reason for _, reason in skipped)


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("size", [(60_000, 60_000), (13_000, 12_000)])
def test_a_file_that_claims_too_many_pixels_is_skipped_unread(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    save(tmp_path / "good.png", gradient())
    images, skipped = load_images(tmp_path, size_px=16)
    assert [image.name for image in images] == ["good.png"] and skipped[0][0] == "bomb.png"
    assert "pixels" in skipped[0][1]


def test_a_side_too_long_to_send_is_skipped_unless_it_is_scaled(tmp_path):
    save(tmp_path / "long.png", np.zeros((2, 9000, 3), np.uint8))
    assert load_image(tmp_path / "long.png", 8).shape == (8, 8, 3)
    with pytest.raises(UsageError, match="9000x2.*8192"):
        load_image(tmp_path / "long.png")


def test_no_readable_image_is_an_error_that_names_the_first_reason(tmp_path):
    with pytest.raises(UsageError, match="holds no files"):
        load_images(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="a.txt: not an image"):
        load_images(tmp_path)
    with pytest.raises(UsageError, match="not there"):
        load_images(tmp_path / "absent")
    with pytest.raises(UsageError, match="a file"):
        load_images(tmp_path / "a.txt")


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_any_shape_becomes_the_square_asked_for(height, width, size_px):
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), (12, 34, 56)).save(encoded, "PNG")
    encoded.seek(0)
    found = load_image(encoded, size_px)
    assert found.shape == (size_px, size_px, 3) and (found == (12, 34, 56)).all()
