"""The catalogue: what was written comes back, and what is not whole is never taken for one."""

import json
import shutil
from zlib import crc32

import pytest
from gnl.node_apps.catalogue import INDEX, Catalogue, write_catalogue
from gnl.node_apps.codecs.interface import Prompt
from gnl.topologies.errors import BitstreamError, RunError
from hypothesis import given, settings
from hypothesis import strategies as st

slices = st.lists(st.binary(max_size=30), min_size=1, max_size=4).map(tuple)
images = st.lists(st.tuples(st.text(max_size=12), st.binary(min_size=1, max_size=50), slices), min_size=1, max_size=6)


def entries(given_images, codec_id=7, weights_id=0xDEADBEEF):
    return [(name, body, Prompt(codec_id, weights_id, pieces)) for name, body, pieces in given_images]


@given(images)
@settings(deadline=None, max_examples=50)
def test_what_was_written_is_read(tmp_path_factory, given_images):
    folder = tmp_path_factory.mktemp("catalogues") / "one"
    written = entries(given_images)
    for catalogue in (write_catalogue(folder, {"what": "test"}, written), Catalogue.open(folder)):
        assert len(catalogue) == len(written) and catalogue.key == {"what": "test"}
        for index, (name, body, prompt) in enumerate(written):
            entry = catalogue.entries[index]
            assert (entry.name, entry.content_bytes, entry.content_crc) == (name, len(body), crc32(body))
            assert catalogue.content(index) == body and catalogue.prompt(index) == prompt
            assert entry.prompt_bytes == prompt.size_bytes


def test_a_name_of_undecodable_bytes_survives(tmp_path):
    name = b"holiday-\xff\n.png".decode("utf-8", "surrogateescape")
    catalogue = write_catalogue(tmp_path / "c", {}, entries([(name, b"x", (b"y",))]))
    assert catalogue.entries[0].name == name


def test_an_error_half_way_leaves_nothing_behind(tmp_path):
    def failing():
        yield from entries([("a", b"x", (b"y",))])
        raise BitstreamError("boom")

    with pytest.raises(BitstreamError):
        write_catalogue(tmp_path / "c", {}, failing())
    assert list(tmp_path.iterdir()) == []


def test_an_older_catalogue_gives_way_as_a_whole(tmp_path):
    write_catalogue(tmp_path / "c", {}, entries([("a", b"old" * 10, (b"y",)), ("b", b"old", (b"y",))]))
    (tmp_path / "c" / "stray").write_text("left over")
    catalogue = write_catalogue(tmp_path / "c", {}, entries([("a", b"new", (b"z",))]))
    assert [catalogue.content(i) for i in range(len(catalogue))] == [b"new"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["catalogue.json", "contents.bin", "prompts.bin"]


def spoil_version(folder):
    tree = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**tree, "version": 99}))


def spoil_images(folder):
    tree = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**tree, "images": [{"name": "a"}]}))


SPOILED = {
    "unfinished": lambda folder: (folder / INDEX).unlink(),
    "gone": shutil.rmtree,
    "cut contents": lambda folder: (folder / "contents.bin").write_bytes(b"x"),
    "prompts too long": lambda folder: (folder / "prompts.bin").write_bytes(bytes(1000)),
    "no prompts": lambda folder: (folder / "prompts.bin").unlink(),
    "no JSON": lambda folder: (folder / INDEX).write_text("{"),
    "a list": lambda folder: (folder / INDEX).write_text("[]"),
    "another version": spoil_version,
    "entries without sizes": spoil_images,
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_no_whole_catalogue_is_refused_with_the_remedy(tmp_path, how):
    folder = tmp_path / "c"
    write_catalogue(folder, {}, entries([("a", b"content", (b"one", b"two"))]))
    SPOILED[how](folder)
    with pytest.raises(RunError, match="remove that folder and run again") as caught:
        Catalogue.open(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
