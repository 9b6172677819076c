"""From images to a catalogue: encoded once, never mistaken for another, within a bound."""

import json
import os

import numpy as np
import pytest
from gnl.experiments import encoding
from gnl.experiments.encoding import MAX_CACHED, cache_folder, prepare_catalogue
from gnl.node_apps.codecs.content import unpack
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError, RunError, UsageError
from gnl.topologies.spec import ContentSpec
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gnl" / "catalogues"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number, shape in enumerate([(40, 60), (33, 21), (64, 64)]):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def encoded(monkeypatch):
    """How many images were encoded."""
    count = []

    def counting(name, device):
        codec = load_codec(name, device)
        encode = codec.encode
        codec.encode = lambda *arguments: count.append(1) or encode(*arguments)
        return codec

    monkeypatch.setattr(encoding, "load_codec", counting)
    return count


def content(folder, **changes):
    return ContentSpec(**{"images": str(folder), "size_px": None, "codec": "jpeg:30", **changes})


def test_other_code_encodes_again(photos, encoded, monkeypatch, tmp_path):
    prepare_catalogue(content(photos))
    prepare_catalogue(content(photos))
    assert len(encoded) == 3
    other = tmp_path / "codecs"
    other.mkdir()
    (other / "registry.py").write_text("# another release")
    monkeypatch.setattr(encoding.registry, "__file__", str(other / "registry.py"))
    prepare_catalogue(content(photos))
    assert len(encoded) == 6


def test_catalogue_images_and_names_lie_in_one_order(photos):
    catalogue, images, skipped = prepare_catalogue(content(photos))
    assert skipped == [] and sorted(image.name for image in images) == ["0.png", "1.png", "2.png"]
    for index, (name, image) in enumerate(images):
        assert catalogue.entries[index].name == name
        assert np.array_equal(unpack(catalogue.content(index)), image)
        assert load_codec("jpeg:30").decode(catalogue.prompt(index)).shape == image.shape


def test_the_seed_alone_gives_the_order(photos):
    for number in range(3, 12):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(photos / f"{number:02d}.png")
    orders = [[image.name for image in prepare_catalogue(content(photos), seed=seed)[1]] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])


def test_the_second_time_nothing_is_encoded(photos, encoded, cache):
    first, _, _ = prepare_catalogue(content(photos))
    assert len(encoded) == 3
    second, images, _ = prepare_catalogue(content(photos))
    assert len(encoded) == 3 and second.folder == first.folder and len(images) == 3
    assert len(list(cache.iterdir())) == 1


def change_pixel(folder):
    image = np.asarray(Image.open(folder / "1.png")).copy()
    image[0, 0, 0] ^= 1
    Image.fromarray(image).save(folder / "1.png")


CHANGES = {
    "a pixel": (change_pixel, {}),
    "a name": (lambda folder: os.rename(folder / "1.png", folder / "11.png"), {}),
    "one image fewer": (lambda folder: os.remove(folder / "2.png"), {}),
    "the codec": (lambda _: None, {"codec": "jpeg:31"}),
    "the format": (lambda _: None, {"format": "png"}),
    "the size": (lambda _: None, {"size_px": 16}),
    "how many": (lambda _: None, {"max_images": 2}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_what_is_sent_makes_another_catalogue(photos, what):
    first, _, _ = prepare_catalogue(content(photos))
    act, changes = CHANGES[what]
    act(photos)
    second, images, _ = prepare_catalogue(content(photos, **changes))
    assert second.folder != first.folder
    assert [entry.name for entry in second.entries] == [image.name for image in images]
    for index, (_, image) in enumerate(images):
        assert np.array_equal(unpack(second.content(index)), image) or changes.get("format", "raw") != "raw"


def test_a_spoilt_catalogue_in_the_cache_is_made_again(photos, encoded):
    first, _, _ = prepare_catalogue(content(photos))
    (first.folder / "contents.bin").write_bytes(b"cut")
    again, _, _ = prepare_catalogue(content(photos))
    assert len(encoded) == 6 and len(again) == 3


def test_an_image_that_the_codec_refuses_is_skipped_by_name_now_and_from_the_cache(photos, monkeypatch):
    real = load_codec("jpeg:30")

    class Picky:
        def encode(self, image, bpp):
            if image.shape[:2] == (33, 21):
                raise CodecError("too odd for me")
            return real.encode(image, bpp)

        def for_datagrams(self, prompt, payload_bytes):
            return prompt

    monkeypatch.setattr(encoding, "load_codec", lambda *_, **__: Picky())
    for _ in range(2):
        catalogue, images, skipped = prepare_catalogue(content(photos))
        assert {image.name for image in images} == {"0.png", "2.png"} and len(catalogue) == 2
        assert [name for name, _ in skipped] == ["1.png"]


def test_a_codec_that_takes_none_is_an_error_that_says_why(photos):
    with pytest.raises(CodecError, match=r"jpeg:30 encodes none of 3 images \(first: .*bpp"):
        prepare_catalogue(content(photos, bpp=0.5))


@pytest.mark.parametrize("codec", ["nope", "jpeg:0", "jpeg:101", "stub:0", "stub:x"])
def test_an_unknown_codec_is_refused_before_images_are_read(codec):
    with pytest.raises(CodecError):
        prepare_catalogue(content("/there/is/no/such/folder", codec=codec))


def test_no_readable_image_is_an_error(tmp_path):
    folder = tmp_path / "none"
    folder.mkdir()
    with pytest.raises(UsageError, match="holds no files"):
        prepare_catalogue(content(folder))
    (folder / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"no readable image.*x\.jpg"):
        prepare_catalogue(content(folder))


def test_the_cache_keeps_the_newest_within_its_bound(photos, cache):
    cache.mkdir(parents=True)
    for number in range(MAX_CACHED + 3):
        (cache / f"old{number}").mkdir()
        os.utime(cache / f"old{number}", (number, number))
    catalogue, _, _ = prepare_catalogue(content(photos))
    kept = {path.name for path in cache.iterdir()}
    assert (
        len(kept) == MAX_CACHED
        and catalogue.folder.name in kept
        and f"old{MAX_CACHED + 2}" in kept
        and "old0" not in kept
    )


def test_a_full_disk_is_one_clear_line(photos, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoding, "write_catalogue", full)
    with pytest.raises(RunError, match=r"cannot be written to .*No space left on device.*free space") as caught:
        prepare_catalogue(content(photos))
    assert "\n" not in str(caught.value)


def test_progress_is_reported_for_long_encodings(photos, monkeypatch):
    monkeypatch.setattr(encoding, "REPORT_EVERY", 2)
    said = []
    prepare_catalogue(content(photos), report=said.append)
    assert said == ["encoded 2 of 3 images"]


def test_names_that_are_no_text_survive_the_cache(photos):
    odd = os.fsencode(photos) + b"/\xff\nodd.png"
    os.rename(os.fsencode(photos / "0.png"), odd)
    for _ in range(2):
        catalogue, _, _ = prepare_catalogue(content(photos))
        assert "\udcff\nodd.png" in [entry.name for entry in catalogue.entries]
    assert json.loads((catalogue.folder / "catalogue.json").read_text())["images"]


def test_the_cache_lies_where_the_user_says_else_at_home(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache" / "gnl" / "catalogues"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "gnl" / "catalogues"
