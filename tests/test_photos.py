import numpy as np
import pytest
from gnl.node_apps.codecs.photos import CropSampler, find_photos, read_photo, square_view
from gnl.topologies.errors import CodecError
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "deep").mkdir()
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "b.jpg")
    Image.fromarray(rng.integers(0, 256, (100, 70), dtype=np.uint8)).save(tmp_path / "deep" / "a.PNG")
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


def test_photos_are_found_in_order_and_read_as_rgb(folder):
    paths = find_photos([folder])
    assert [path.name for path in paths] == ["b.jpg", "a.PNG"]
    assert [read_photo(path).shape for path in paths] == [(90, 120, 3), (100, 70, 3)]


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(CodecError, match="no images"):
        find_photos([tmp_path])
    with pytest.raises(CodecError, match="no images"):
        find_photos([tmp_path / "absent"])


def test_an_unreadable_photo_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(CodecError, match="broken.jpg"):
        read_photo(tmp_path / "broken.jpg")


def test_the_square_view_is_the_centre():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 200
    assert (square_view(image, 20)[4:-4, 4:-4] > 190).all()
    assert square_view(image.transpose(1, 0, 2), 64).shape == (64, 64, 3)


def test_crops_repeat_with_their_seed_and_stay_in_range(folder):
    paths = find_photos([folder])
    first, again, other = (CropSampler(paths, seed, 64).draw(5, 64) for seed in (1, 1, 2))
    assert first.shape == (5, 3, 64, 64) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_photos_smaller_than_the_crops_are_left_out(folder):
    paths = find_photos([folder])
    assert len(CropSampler(paths, 0, 80)) == 1
    with pytest.raises(CodecError, match="shorter side of 300"):
        CropSampler(paths, 0, 300)
