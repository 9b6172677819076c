import dataclasses
import io
import json

import numpy
import pytest
from gnl.experiments.encoding import prepare_catalogue
from gnl.experiments.sizing import find_sizes
from gnl.node_apps.codecs import registry
from gnl.node_apps.codecs.interface import CodecFacts
from gnl.topologies.errors import CodecError, UsageError
from gnl.topologies.files import load_scenario
from PIL import Image


def scenario(**content):
    return load_scenario("diamond", [f"content.{key}={value}" for key, value in content.items()])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, so that no earlier run on this machine is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gnl" / "catalogues"


@pytest.fixture
def photos(tmp_path):
    rng = numpy.random.default_rng(1)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, (height, width) in enumerate(((40, 60), (33, 33), (64, 20))):
        pixels = numpy.kron(rng.integers(0, 255, (height // 2 + 1, width // 2 + 1, 3)), numpy.ones((2, 2, 1)))
        Image.fromarray(pixels[:height, :width].astype(numpy.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def recorded(monkeypatch):
    """Make `describe` tell of a codec with the given operating points."""

    def record(points, scalable=False):
        facts = CodecFacts("recorded", 9, "00" * 32, True, scalable, points, "any")
        monkeypatch.setattr(registry, "describe", lambda name: facts)

    return record


def test_raw_contents_need_no_images(recorded):
    recorded((0.15,))
    sizes = find_sizes(scenario(images="/nowhere", size_px=100))
    assert sizes.plain_bytes == sizes.content_bytes == (8 + 30_000,)
    assert sizes.prompt_slices == ((188,),)  # 0.15 bpp of 10,000 pixels, in bytes
    assert sizes.generative and "0.15 bpp" in sizes.origin


def test_contents_and_prompts_of_light_codecs_are_measured(photos):
    sizes = find_sizes(scenario(images=photos, size_px="null", codec="jpeg:40", format="png"))
    for path, plain, slices in zip(sorted(photos.iterdir()), sizes.plain_bytes, sizes.prompt_slices, strict=True):
        image = Image.open(path).convert("RGB")
        png, jpeg = io.BytesIO(), io.BytesIO()
        image.save(png, "PNG", compress_level=1)
        image.save(jpeg, "JPEG", quality=40, optimize=True, subsampling="4:2:0")
        assert (plain, slices) == (8 + len(png.getvalue()), (len(jpeg.getvalue()),))
    assert not sizes.generative


def test_one_size_goes_with_every_prompt(photos):
    sizes = find_sizes(scenario(images=photos, size_px=32, codec="webp:20"))
    assert sizes.plain_bytes == (8 + 3 * 32 * 32,) * 3
    assert len(set(sizes.prompt_slices)) > 1


def test_images_of_many_sizes_make_raw_contents_of_many_sizes(photos, recorded):
    recorded((2.0,))
    sizes = find_sizes(scenario(images=photos, size_px="null"))
    assert sizes.plain_bytes == (8 + 3 * 40 * 60, 8 + 3 * 33 * 33, 8 + 3 * 64 * 20)
    assert sizes.prompt_slices == ((600,), (272,), (320,))


def test_a_stub_says_its_size_itself():
    sizes = find_sizes(scenario(images="/nowhere", codec="stub:4000"))
    assert (sizes.prompt_slices, sizes.generative) == (((4000,),), True)


def test_at_most_max_images_are_measured(photos):
    assert len(find_sizes(scenario(images=photos, codec="jpeg:40", max_images=2)).prompt_slices) == 2


def test_the_operating_point_nearest_the_target(recorded):
    recorded((0.1, 0.5, 1.0))
    pixels = 256 * 256
    assert find_sizes(scenario()).prompt_slices == ((round(0.1 * pixels / 8),),)
    assert find_sizes(scenario(bpp=0.6)).prompt_slices == ((round(0.5 * pixels / 8),),)
    recorded((0.1, 0.5, 1.0), scalable=True)
    assert find_sizes(scenario(bpp=0.6)).prompt_slices == ((round(0.6 * pixels / 8),),)


def test_a_codec_of_unknown_rate_asks_for_the_size(recorded):
    recorded(())
    with pytest.raises(CodecError, match="unknown before a run: give --prompt-bytes"):
        find_sizes(scenario())
    assert find_sizes(scenario(), prompt_bytes=700.4).prompt_slices == ((700,),)


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_catalogue_goes_before_estimates_and_after_the_user(tmp_path, recorded, as_folder):
    recorded((0.15,))
    images = [
        {"name": "a", "content_bytes": 5, "prompt_slices": [3, 4]},
        {"name": "b", "content_bytes": 6, "prompt_slices": [1]},
    ]
    index = tmp_path / "catalogue.json"
    index.write_text(json.dumps({"key": {}, "images": images}))
    catalogue = tmp_path if as_folder else index
    sizes = find_sizes(scenario(), catalogue)
    assert (sizes.plain_bytes, sizes.prompt_slices) == ((5, 6), ((3, 4), (1,)))
    assert sizes.origin == f"contents and prompts as encoded for an earlier run ({tmp_path})"
    given = find_sizes(scenario(), catalogue, content_bytes=1000)
    assert (given.content_bytes, given.prompt_slices) == ((1000, 1000), ((3, 4), (1,)))
    assert given.origin.startswith("contents as given by --content-bytes; contents and prompts as encoded")
    both = find_sizes(scenario(), catalogue, content_bytes=1000, prompt_bytes=10)
    assert (both.content_bytes, both.prompt_slices) == ((1000,), ((10,),))


def test_the_cache_of_earlier_runs_is_looked_into(cache, photos):
    wanted = scenario(images=photos, size_px=32, codec="jpeg:40")
    _, images, _ = prepare_catalogue(wanted.content)
    assert len(images) == 3
    sizes = find_sizes(wanted)
    assert sizes.origin.startswith(f"contents and prompts as encoded for an earlier run ({cache}")
    assert len(sizes.plain_bytes) == 3
    for other in (
        {"codec": "jpeg:41"},
        {"format": "png"},
        {"size_px": 33},
        {"images": str(photos) + "/"},
        {"max_images": 2},
    ):
        changed = dataclasses.replace(wanted, content=dataclasses.replace(wanted.content, **other))
        assert "earlier run" not in find_sizes(changed).origin


def test_the_catalogue_of_most_images_is_taken_and_broken_ones_are_passed_over(cache, photos):
    wanted = scenario(images=photos, size_px=32, codec="jpeg:40")
    for limit in (3, 2):
        prepare_catalogue(dataclasses.replace(wanted.content, max_images=limit))
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"key": {}}'), ("d", '{"key": 3}')):
        (cache / name).mkdir()
        (cache / name / "catalogue.json").write_text(text)
    assert len(find_sizes(wanted).plain_bytes) == 3


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"images": 3}', '{"images": [{}]}', '{"images": []}'])
def test_catalogues_that_are_none(tmp_path, recorded, text):
    recorded((0.15,))
    (tmp_path / "catalogue.json").write_text(text)
    with pytest.raises(UsageError):
        find_sizes(scenario(), tmp_path)


@pytest.mark.parametrize("value", [0, -5, 2**29, float("nan")])
def test_sizes_given_by_the_user_are_checked(value):
    with pytest.raises(UsageError, match="--prompt-bytes is"):
        find_sizes(scenario(codec="stub:100"), prompt_bytes=value)
    with pytest.raises(UsageError, match="--content-bytes is"):
        find_sizes(scenario(codec="stub:100"), content_bytes=value)


def test_unknown_codec_and_missing_images():
    with pytest.raises(CodecError, match="'nonsense' is unknown"):
        find_sizes(scenario(codec="nonsense"))
    missing = dataclasses.replace(scenario(codec="jpeg:30").content, images="/nowhere/at/all")
    with pytest.raises(UsageError, match="/nowhere/at/all"):
        find_sizes(dataclasses.replace(scenario(), content=missing))
