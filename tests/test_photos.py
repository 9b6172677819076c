"""Photographs for training: found, read when needed, cut, and some kept back."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gnl.node_apps.codecs import photos
from gnl.node_apps.codecs.photos import Album, CropSampler, find_photos, hold_out, square_view
from gnl.topologies.errors import CodecError
from PIL import Image

RNG = np.random.default_rng(0)


def save(path, height, width, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "b.jpg", 90, 120)
    save(tmp_path / "deep" / "er" / "a.PNG", 100, 70)
    save(tmp_path / ".hidden.jpg", 90, 90)
    save(tmp_path / ".thumbnails" / "c.jpg", 90, 90)
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


def numbered(folder, count, side=70):
    """Photographs of one colour each, which tells them apart."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (side, side), (number, 0, 0)).save(folder / f"{number:03}.png")
    return find_photos([folder])


def test_photos_are_found_at_any_depth_without_what_is_hidden(folder):
    assert [path.name for path in find_photos([folder])] == ["b.jpg", "a.PNG"]


def test_links_are_followed_and_no_folder_is_visited_twice(folder, tmp_path_factory):
    linking = tmp_path_factory.mktemp("linking")
    (linking / "photos").symlink_to(folder)
    (linking / "loop").symlink_to(linking)
    (linking / "one.jpg").symlink_to(folder / "b.jpg")
    assert [path.name for path in find_photos([linking])] == ["one.jpg", "b.jpg", "a.PNG"]
    assert len(find_photos([folder, folder / "deep", folder])) == 2


def test_a_folder_without_photos_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CodecError, match="empty: no images"):
        find_photos([tmp_path / "empty", folder])
    with pytest.raises(CodecError, match="absent: No such file or directory; give a folder"):
        find_photos([tmp_path / "absent"])
    with pytest.raises(CodecError, match="notes.txt: Not a directory"):
        find_photos([folder / "notes.txt"])


def test_the_square_view_is_the_centre():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 200
    assert (square_view(image, 20)[4:-4, 4:-4] > 190).all()
    assert square_view(image.transpose(1, 0, 2), 64).shape == (64, 64, 3)


class TestAlbum:
    def test_photographs_are_upright_and_at_most_so_large(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # lying on its side
        save(tmp_path / "a.jpg", 1200, 2000, exif=exif)
        album = Album(find_photos([tmp_path]), 64)
        assert album.photo(0).size == (540, 900) and album.complaint() == ""

    def test_what_is_no_use_is_left_out_with_a_count_and_the_first_reason(self, tmp_path):
        save(tmp_path / "0-small.png", 63, 500)
        (tmp_path / "1-broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
        (tmp_path / "2-leads-nowhere.jpg").symlink_to(tmp_path / "absent.jpg")
        save(tmp_path / "3-good.png", 64, 64)
        album = Album(find_photos([tmp_path]), 64)
        found = [album.photo(number) for number in range(4)]
        assert [photo is not None for photo in found] == [False, False, False, True]
        assert album.complaint() == (
            "3 of 4 photographs left out (first: 0-small.png: 500x63, its shorter side is under 64)"
        )
        assert "2-leads-nowhere.jpg: No such file" in album.useless[2]

    def test_no_more_photographs_are_in_memory_than_the_window(self, tmp_path, monkeypatch):
        monkeypatch.setattr(photos, "WINDOW", 3)
        album, reads = Album(numbered(tmp_path, 6), 64), []
        monkeypatch.setattr(album, "_read", lambda path, read=album._read: reads.append(path.name) or read(path))
        for number in (0, 1, 2, 0, 3, 0, 1):
            assert album.photo(number).getpixel((5, 5))[0] == number
            assert len(album._kept) <= 3
        assert reads == ["000.png", "001.png", "002.png", "003.png", "001.png"]


class TestCrops:
    def test_they_repeat_with_their_seed_and_number(self, folder):
        album = Album(find_photos([folder]), 64)
        crops = CropSampler(album, 1).draw(5, 64, 40)
        assert crops.shape == (5, 64, 64, 3) and crops.dtype == np.uint8
        assert np.array_equal(crops, CropSampler(Album(find_photos([folder]), 64), 1).draw(5, 64, 40))
        assert not np.array_equal(crops, CropSampler(album, 1).draw(5, 64, 45))
        assert not np.array_equal(crops, CropSampler(album, 2).draw(5, 64, 40))

    def test_threads_get_the_same_ones(self, folder):
        crops = CropSampler(Album(find_photos([folder]), 64), 1)
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda number: crops.draw(3, 64, number), range(40)))
        alone = CropSampler(Album(find_photos([folder]), 64), 1)
        assert all(np.array_equal(one, alone.draw(3, 64, number)) for number, one in enumerate(together))

    def test_every_photograph_comes_by_and_only_a_window_of_them_at_a_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(photos, "WINDOW", 4)
        monkeypatch.setattr(photos, "CROPS_EACH", 2)
        crops = CropSampler(Album(numbered(tmp_path, 20), 64), 3)
        seen = [set(crops.draw(8, 64, first)[:, 5, 5, 0]) for first in range(0, 80, 8)]
        assert set.union(*seen) == set(range(20))
        assert all(len(one) <= 4 + 8 / 2 for one in seen)

    def test_those_that_are_no_use_are_passed_over(self, tmp_path):
        numbered(tmp_path, 3)
        (tmp_path / "broken.png").write_bytes(b"nothing")
        save(tmp_path / "small.png", 10, 10)
        crops = CropSampler(Album(find_photos([tmp_path]), 64), 0)
        assert set(crops.draw(60, 64, 0)[:, 5, 5, 0]) == {0, 1, 2}

    def test_a_file_that_vanishes_costs_no_training(self, tmp_path):
        paths = numbered(tmp_path, 3)
        crops = CropSampler(Album(paths, 64), 0)
        os.remove(paths[1])
        assert set(crops.draw(60, 64, 0)[:, 5, 5, 0]) == {0, 2}

    def test_no_photograph_of_any_use_is_an_error_that_says_why(self, folder):
        crops = CropSampler(Album(find_photos([folder]), 300), 0)
        with pytest.raises(CodecError, match="2 of 2 photographs left out .*under 300.*give folders"):
            crops.draw(1, 64, 0)

    def test_the_scale_stays_between_its_bounds(self, tmp_path):
        """Of a photograph of 200 pixels at least 64 / 200 of it is in a crop of 64, and never all of it twice."""
        ramp = np.tile(np.linspace(0, 200, 200).astype(np.uint8)[None, :, None], (200, 1, 3))
        Image.fromarray(ramp).save(tmp_path / "ramp.png")
        crops = CropSampler(Album(find_photos([tmp_path]), 64), 0).draw(100, 64, 0)
        spans = np.abs(crops[:, 32, -1, 0].astype(int) - crops[:, 32, 0, 0])
        assert spans.min() >= 60 and spans.max() <= 200 and spans.max() > 150 > 110 > spans.min()


class TestHeldOut:
    def test_evenly_spaced_ones_are_kept_from_training(self, tmp_path):
        paths = numbered(tmp_path, 80)
        chosen, held = hold_out(paths, 64, 32)
        assert [photo.path.name for photo in held] == [f"{number:03}.png" for number in range(0, 80, 10)]
        assert len(chosen) == 72 and not {photo.path for photo in held} & set(chosen)
        assert [photo.pixels.shape for photo in held] == [(32, 32, 3)] * 8 and held[3].pixels[9, 9, 0] == 30

    def test_of_a_few_none_is_spared(self, tmp_path):
        paths = numbered(tmp_path, 3)
        chosen, held = hold_out(paths, 64, 32)
        assert chosen == paths and [photo.path for photo in held] == paths

    def test_what_is_no_use_is_not_shown(self, tmp_path):
        paths = numbered(tmp_path, 50)
        paths[0].write_bytes(b"broken")
        _, held = hold_out(paths, 64, 32)
        assert held[0].path == paths[1] and len(held) == 8

    def test_none_of_any_use_is_an_error(self, tmp_path):
        with pytest.raises(CodecError, match="50 of 50 photographs left out"):
            hold_out(numbered(tmp_path, 50), 300, 32)


def test_an_album_may_be_shared_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "WINDOW", 4)
    album = Album(numbered(tmp_path, 12), 64)
    errors = []

    def look(offset):
        for number in range(200):
            wanted = (number * 7 + offset) % 12
            if album.photo(wanted).getpixel((1, 1))[0] != wanted:
                errors.append(wanted)

    threads = [threading.Thread(target=look, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(album._kept) <= 4
