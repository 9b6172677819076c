"""The images of a run: every readable file of a folder, in order, and why the others were skipped."""

import io
import os
import re

import numpy as np
import pytest
from gnl.experiments.images import SAMPLE_FOLDER, load_images
from gnl.topologies.errors import UsageError
from picture_files import gradient, png, save
from PIL import Image


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


@pytest.mark.parametrize("size", [(60_000, 60_000), (13_000, 12_000)])
def test_a_file_that_claims_too_many_pixels_is_skipped_unread(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png(np.zeros((1, 9, 3), np.uint8), 2, size=size))
    save(tmp_path / "good.png", gradient())
    images, skipped = load_images(tmp_path, size_px=16)
    assert [image.name for image in images] == ["good.png"] and skipped[0][0] == "bomb.png"
    assert "pixels" in skipped[0][1]


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
