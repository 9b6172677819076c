"""`trained:FILE`: codecs that a user trained, by the path of their weights."""

import hashlib
import json
import subprocess
import sys

import pytest
from gnl.node_apps.codecs.registry import WEIGHTS_DIR, codec_names, describe, load_codec, name_for_id
from gnl.topologies.errors import CodecError


def record(path, **changes):
    """A record as `gnl train` writes it, without weights; the codec's name."""
    sidecar = {"sha256": "deadbeef" + 56 * "0", "scalable": False, "operating_points_bpp": [0.25], **changes}
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    return f"trained:{path}"


@pytest.mark.parametrize("scalable, codec_id", [(False, 5), (True, 6)])
def test_its_record_says_what_it_is(tmp_path, scalable, codec_id):
    name = record(tmp_path / "mine.safetensors", scalable=scalable)
    facts = describe(name)
    assert (facts.name, facts.codec_id, facts.scalable, facts.generative) == (name, codec_id, scalable, True)
    assert facts.weights_id == 0xDEADBEEF and facts.operating_points_bpp == (0.25,)
    assert describe(f"ps:0.1:{name}").codec_id == 64 + codec_id


def test_a_colon_in_the_path_is_part_of_it(tmp_path):
    (tmp_path / "a:b").mkdir()
    assert describe(record(tmp_path / "a:b" / "mine.safetensors")).codec_id == 5


@pytest.mark.parametrize("path", ["", "mine", "mine.pt", "OUT/checkpoint.pt"])
def test_what_is_no_file_of_weights_is_refused(path):
    with pytest.raises(CodecError, match="names no .safetensors file: name what gnl train wrote"):
        describe(f"trained:{path}")


def test_a_missing_record_or_missing_weights_say_which(tmp_path):
    with pytest.raises(CodecError, match="mine.json: No such file .*gnl train wrote"):
        describe(f"trained:{tmp_path}/mine.safetensors")
    with pytest.raises(CodecError, match="mine.safetensors: No such file"):
        load_codec(record(tmp_path / "mine.safetensors"), "cpu")


def test_weights_that_are_not_those_of_the_record_are_refused(tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"other")
    with pytest.raises(CodecError, match="sha256 .* expected deadbeef"):
        load_codec(record(tmp_path / "mine.safetensors"), "cpu")


@pytest.mark.parametrize("points", ["null", '["a"]', "3"])
def test_a_damaged_record_is_named(tmp_path, points):
    (tmp_path / "mine.json").write_text(f'{{"sha256": "deadbeef", "operating_points_bpp": {points}}}')
    with pytest.raises(CodecError, match="operating_points_bpp of its .json is"):
        describe(f"trained:{tmp_path}/mine.safetensors")


def test_weights_cut_short_are_named_even_if_the_record_agrees(tmp_path):
    data = (WEIGHTS_DIR / "gnl-low.safetensors").read_bytes()[:-1000]
    (tmp_path / "mine.safetensors").write_bytes(data)
    (tmp_path / "mine.json").write_text(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(CodecError, match="mine.safetensors: no codec weights"):
        load_codec(f"trained:{tmp_path}/mine.safetensors", "cpu")


@pytest.mark.parametrize("codec_id", [5, 6])
def test_an_id_alone_does_not_say_which(codec_id):
    with pytest.raises(CodecError, match="does not say which trained:<.*name it with --codec"):
        name_for_id(codec_id)
    for family, first in (("ps", 64), ("ps-raw", 128)):
        with pytest.raises(CodecError, match=f"codec id {first + codec_id} is {family} .*as --codec {family}:NAME"):
            name_for_id(first + codec_id)


def test_weights_that_come_with_gnl_may_be_named_by_their_path():
    path = WEIGHTS_DIR / "gnl-low.safetensors"
    own, other = describe("gnl-low"), describe(f"trained:{path}")
    assert own.weights_sha256 == other.weights_sha256 and own.codec_id != other.codec_id


def test_describing_loads_no_tensor_library(tmp_path):
    name = record(tmp_path / "mine.safetensors")
    code = "import sys, gnl.node_apps.codecs.registry as r; r.describe(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_it_is_listed():
    assert {"trained:<weights>", "trained:<scalable weights>"} <= set(codec_names())
