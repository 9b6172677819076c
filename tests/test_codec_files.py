"""`gnl encode` and `gnl decode`: images to prompt files within a budget and back, and nothing half-written."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from gnl.experiments import cli, codec_files
from gnl.experiments.codec_files import DEFAULT_CODEC, FORMATS, encode_within
from gnl.experiments.images import SAMPLE_FOLDER
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt
from gnl.node_apps.codecs.prompt_file import pack_file, parse_file
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError
from gnl.topologies.interrupts import ENDING
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import gradient, save
from PIL import Image

PHOTO = SAMPLE_FOLDER / "cat.jpg"


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def gnl(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="gnl")


def done(*arguments):
    found = gnl(*arguments)
    assert found.exit_code == 0, found.output
    return found.stdout


def refused(status, *arguments, says):
    """One line on stderr, nothing on stdout, and no file that was not there before."""
    before = {name: open(name, "rb").read() for name in os.listdir() if os.path.isfile(name)}
    found = gnl(*arguments)
    assert (found.exit_code, found.stdout) == (status, ""), found.output
    assert found.stderr.startswith("gnl: ") and found.stderr.count("\n") == 1, found.stderr
    assert says in found.stderr, found.stderr
    assert {name: open(name, "rb").read() for name in os.listdir() if os.path.isfile(name)} == before


class AnyRate(Codec):
    """Meets a target like a scalable codec: within 1%, in a number of slices that grows with it, with a least size."""

    facts = CodecFacts("any-rate", 4, None, True, True, (), "any")
    least = 30

    def __init__(self):
        self.calls = 0

    def encode(self, image, bpp=None):
        self.calls += 1
        room = int(bpp * image.shape[0] * image.shape[1] / 8)
        size = max(self.least, room - random.Random(room).randint(0, room // 100))
        count = min(40, 1 + size // 60)
        slices = [size // count] * (count - 1)
        return Prompt(4, 0, tuple(bytes(n) for n in [size - sum(slices), *slices]))

    def decode(self, prompt):
        return np.zeros((8, 8, 3), np.uint8)


def test_the_default_codec_there_and_back():
    said = done("encode", PHOTO, "-o", "cat.gnl")
    prompt = parse_file(open("cat.gnl", "rb").read())
    codec = load_codec(DEFAULT_CODEC)
    assert prompt == codec.encode(np.asarray(Image.open(PHOTO)))
    assert f"300x300 by {DEFAULT_CODEC}" in said and f"prompt {prompt.size_bytes} bytes" in said
    assert f"by {DEFAULT_CODEC}" in done("decode", "cat.gnl", "-o", "cat.png")
    assert np.array_equal(Image.open("cat.png"), codec.decode(prompt))


@pytest.mark.parametrize("name", ["jpeg:7", "webp:60", "ps:0.1:jpeg:9", "ps-raw:0.01:webp:30"])
def test_the_file_alone_says_what_decodes_it(name):
    done("encode", PHOTO, "-o", "x.gnl", "--codec", name)
    said = done("decode", "x.gnl", "-o", "x.png")
    codec = load_codec(name)
    expected = codec.decode(codec.encode(np.asarray(Image.open(PHOTO))))
    assert np.array_equal(Image.open("x.png"), expected)
    assert not said.partition(" in ")[0].endswith(":30")  # the quality is not known, and none is claimed


def test_json_gives_the_sizes_of_prompt_and_file():
    found = json.loads(done("encode", PHOTO, "-o", "x.gnl", "--codec", "jpeg:30", "--json"))
    data = open("x.gnl", "rb").read()
    assert found["file_bytes"] == len(data) and found["prompt_bytes"] == parse_file(data).size_bytes
    assert found["file_bpp"] == 8 * len(data) / 90000 and found["prompt_bpp"] == 8 * found["prompt_bytes"] / 90000
    assert (found["codec"], found["codec_id"], found["slices"]) == ("jpeg:30", 16, 1)
    assert (found["width"], found["height"], found["notes"]) == (300, 300, [])
    assert found["encode_s"] >= 0 and found["load_s"] >= 0


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_of_the_output(suffix):
    save("x.png", gradient())
    done("encode", "x.png", "-o", "x.gnl", "--codec", "jpeg:90")
    done("decode", "x.gnl", "-o", f"y{suffix.upper()}")
    codec = load_codec("jpeg:90")
    expected = codec.decode(codec.encode(gradient()))
    with Image.open(f"y{suffix.upper()}") as written:
        assert written.format == FORMATS[suffix][0]
        worst = np.abs(np.asarray(written, int) - expected).max()
    assert worst <= (12 if "jp" in suffix else 0)


class TestBudget:
    @settings(deadline=None, max_examples=200)
    @given(st.integers(200, 60_000))
    def test_any_rate_is_met_from_below_within_3_percent(self, budget):
        codec = AnyRate()
        size = len(pack_file(encode_within(codec, np.zeros((256, 256, 3), np.uint8), budget)))
        assert 0.97 * budget <= size <= budget and codec.calls <= 5

    @settings(deadline=None, max_examples=50)
    @given(st.integers(1, 120), st.integers(1, 4), st.integers(1, 4))
    def test_small_images_and_small_budgets_are_met_or_refused(self, budget, height, width):
        image = np.zeros((height, width, 3), np.uint8)
        try:
            assert len(pack_file(encode_within(AnyRate(), image, budget))) <= budget
        except CodecError as error:
            assert "needs 46 bytes" in str(error) and budget < 46

    def test_a_rate_in_bits_per_pixel_is_one_of_the_file(self):
        found = json.loads(done("encode", PHOTO, "-o", "x.gnl", "--codec", "ps:jpeg:5", "--bpp", 0.5, "--json"))
        assert 0.97 * 0.5 <= found["file_bpp"] <= 0.5 and os.path.getsize("x.gnl") <= 0.5 * 90000 / 8

    @pytest.mark.parametrize("budget", [2000, 5000, 12345])
    def test_bytes_are_those_of_the_file(self, budget):
        done("encode", PHOTO, "-o", "x.gnl", "--codec", "ps:jpeg:5", "--bytes", budget)
        assert 0.97 * budget <= os.path.getsize("x.gnl") <= budget

    def test_a_fixed_rate_fits_or_is_refused_with_what_it_needs(self):
        done("encode", PHOTO, "-o", "x.gnl", "--codec", "jpeg:20")
        size = os.path.getsize("x.gnl")
        done("encode", PHOTO, "-o", "y.gnl", "--codec", "jpeg:20", "--bytes", size)
        assert os.path.getsize("y.gnl") == size
        refused(
            2, "encode", PHOTO, "-o", "z.gnl", "--codec", "jpeg:20", "--bytes", size - 1, says=f"needs {size} bytes"
        )
        refused(2, "encode", PHOTO, "-o", "z.gnl", "--codec", "jpeg:20", "--bpp", 0.01, says=f"needs {size} bytes")

    @pytest.mark.parametrize(
        "option", [("--bpp", 0), ("--bpp", "nan"), ("--bpp", -1), ("--bpp", "inf"), ("--bytes", 0)]
    )
    def test_budgets_that_are_none(self, option):
        refused(2, "encode", PHOTO, "-o", "x.gnl", "--codec", "jpeg:20", *option, says=option[0].strip("-"))

    @pytest.mark.parametrize("name", ["gnl-scalable", "ps:jpeg:30"])
    def test_what_is_said_to_suffice_does(self, name):
        found = gnl("encode", PHOTO, "-o", "x.gnl", "--codec", name, "--bytes", 40)
        least, bpp = re.search(r"needs (\d+) bytes \(([\d.]+) bpp\)", found.stderr).groups()
        refused(2, "encode", PHOTO, "-o", "x.gnl", "--codec", name, "--bytes", int(least) - 1, says=f"needs {least} ")
        done("encode", PHOTO, "-o", "x.gnl", "--codec", name, "--bytes", least)
        done("encode", PHOTO, "-o", "y.gnl", "--codec", name, "--bpp", bpp)

    def test_a_tiny_image_takes_more_than_24_bits_a_pixel(self):
        save("one.png", gradient()[:1, :1])
        for budget in (60, 5000, 10**30, 10**400):
            assert done("encode", "one.png", "-o", "x.gnl", "--codec", "gnl-scalable", "--bytes", budget)
        for bpp in (4000, 1e6):
            assert done("encode", "one.png", "-o", "x.gnl", "--codec", "ps:jpeg:30", "--bpp", bpp)
        save("small.png", gradient()[:40, :40])
        said = done("encode", "small.png", "-o", "x.gnl", "--codec", "ps-raw:jpeg:30", "--bpp", 99)
        assert "100.00% of the pixels" in said
        for bpp in (1e308, "inf", "nan", 0):
            refused(2, "encode", "one.png", "-o", "y.gnl", "--bpp", bpp, says="above 0 and at most 1e+06")

    def test_two_budgets(self):
        refused(2, "encode", PHOTO, "-o", "x.gnl", "--bpp", 1, "--bytes", 100, says="give one of them")


class TestImages:
    @pytest.mark.parametrize("side", [(1, 1), (1, 40), (40, 1), (33, 17)])
    def test_small_and_odd(self, side):
        save("x.png", gradient(*side))
        done("encode", "x.png", "-o", "x.gnl", "--codec", "webp:90")
        done("decode", "x.gnl", "-o", "y.png")
        assert Image.open("y.png").size == side[::-1]

    def test_what_is_left_out_is_said(self):
        rgba = np.zeros((8, 8, 4), np.uint8)
        save("x.png", rgba)
        assert "x.png: its transparent parts lie on white" in done(
            "encode", "x.png", "-o", "x.gnl", "--codec", "jpeg:30"
        )

    def test_an_image_that_is_none(self):
        open("x.png", "wb").write(b"no image")
        refused(2, "encode", "x.png", "-o", "x.gnl", says="x.png: not an image")
        refused(2, "encode", "gone.png", "-o", "x.gnl", says="gone.png: No such file or directory; give an image")
        refused(2, "encode", ".", "-o", "x.gnl", says=".: Is a directory")

    def test_one_that_no_codec_takes(self):
        save("x.png", np.zeros((1, 9000, 3), np.uint8))
        refused(2, "encode", "x.png", "-o", "x.gnl", says="9000x1 pixels")


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _file(self):
        done("encode", PHOTO, "-o", "x.gnl", "--codec", "jpeg:20")

    def rewritten(self, **changes):
        prompt = parse_file(open("x.gnl", "rb").read())
        fields = {"codec_id": prompt.codec_id, "weights_id": prompt.weights_id, "slices": prompt.slices}
        open("y.gnl", "wb").write(pack_file(Prompt(**{**fields, **changes})))

    def test_a_damaged_file(self):
        data = open("x.gnl", "rb").read()
        for bad, says in ((data[:-9], "cut off"), (data + b"x", "follows"), (data[:-9] + bytes(9), "CRC-32")):
            open("y.gnl", "wb").write(bad)
            refused(1, "decode", "y.gnl", "-o", "y.png", says=says)

    def test_an_empty_name_is_not_the_default(self):
        refused(2, "encode", PHOTO, "-o", "x.gnl", "--codec", "", says="codec '' is unknown")
        done("encode", PHOTO, "-o", "x.gnl", "--codec", "jpeg:30")
        refused(2, "decode", "x.gnl", "-o", "x.png", "--codec", "", says="codec '' is unknown")

    def test_an_absent_file(self):
        refused(2, "encode", "nope.png", "-o", "x.gnl", says="nope.png: No such file or directory; give an image")
        refused(2, "decode", "nope.gnl", "-o", "x.png", says="nope.gnl: No such file or directory; give a prompt file")

    def test_an_unknown_codec(self):
        self.rewritten(codec_id=63)
        refused(1, "decode", "y.gnl", "-o", "y.png", says="y.gnl: codec id 63 is unknown")

    def test_other_weights(self):
        self.rewritten(weights_id=42)
        refused(1, "decode", "y.gnl", "-o", "y.png", says="0000002a")

    def test_slices_that_do_not_decode(self):
        self.rewritten(slices=(b"none",))
        refused(1, "decode", "y.gnl", "-o", "y.png", says="y.gnl: 4 bytes do not decode as JPEG")

    def test_a_codec_that_the_id_does_not_name(self):
        done("encode", PHOTO, "-o", "s.gnl", "--codec", "stub:500")
        refused(2, "decode", "s.gnl", "-o", "s.png", says="stub:<bytes> made the prompt: name it with --codec")
        assert "by stub:500" in done("decode", "s.gnl", "-o", "s.png", "--codec", "stub:500")
        refused(1, "decode", "x.gnl", "-o", "y.png", "--codec", "webp:20", says="codec id 16 given to webp:20")

    @pytest.mark.parametrize("name", ["y.gif", "y", "y.txt", ".png"])
    def test_a_suffix_that_names_no_format_is_refused_before_anything_is_read(self, name):
        refused(2, "decode", "gone.gnl", "-o", name, says="names no image format; accepted are .png")

    def test_a_photograph_is_no_prompt(self):
        refused(1, "decode", PHOTO, "-o", "y.png", says="not a prompt file of gnl")
        refused(1, "decode", "/dev/zero", "-o", "y.png", says="not a prompt file of gnl")

    def test_a_file_larger_than_any(self, monkeypatch):
        monkeypatch.setattr(codec_files, "MAX_FILE_BYTES", 100)
        refused(1, "decode", "x.gnl", "-o", "y.png", says="over 100 bytes")

    def test_the_input_is_never_overwritten(self):
        save("photo.png", gradient())
        refused(2, "encode", "photo.png", "-o", "photo.png", says="is what is read")
        os.link("x.gnl", "x.png")
        refused(2, "decode", "x.gnl", "-o", "x.png", says="is what is read")

    def test_no_place_for_the_output(self):
        refused(2, "encode", PHOTO, "-o", "no/x.gnl", says="no folder no")
        refused(2, "encode", PHOTO, "-o", ".", says="is a folder")
        refused(2, "encode", PHOTO, says="-o")

    def test_an_unknown_name(self):
        refused(2, "encode", PHOTO, "-o", "y.gnl", "--codec", "nope", says="nope")


@pytest.mark.parametrize(
    "error, status, says",
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 1, "out of memory"),
    ],
    ids=["Ctrl-C", "MemoryError", "torch"],
)
def test_what_stops_a_codec_leaves_what_was_there(monkeypatch, error, status, says):
    done("encode", PHOTO, "-o", "x.gnl", "--codec", "jpeg:20")
    done("decode", "x.gnl", "-o", "x.png")

    class Stops(AnyRate):
        def encode(self, image, bpp=None):
            raise error

        def decode(self, prompt):
            raise error

    monkeypatch.setattr(codec_files, "load_codec", lambda *_: Stops())
    refused(status, "encode", PHOTO, "-o", "x.gnl", says=says)
    refused(status, "decode", "x.gnl", "-o", "x.png", says=says)
    refused(status, "decode", "x.gnl", "-o", "new.png", says=says)


def test_dashes_and_pipes_are_standard_input_and_output(tmp_path):
    command = [sys.executable, "-P", "-m", "gnl.experiments.cli"]
    encoded = subprocess.run(
        [*command, "encode", "-", "-o", "-", "--codec", "jpeg:30"], input=PHOTO.read_bytes(), capture_output=True
    )
    codec = load_codec("jpeg:30")
    prompt = codec.encode(np.asarray(Image.open(PHOTO)))
    assert encoded.returncode == 0 and encoded.stdout == pack_file(prompt) and b"300x300 by jpeg:30" in encoded.stderr
    decoded = subprocess.run([*command, "decode", "-", "-o", "x.png"], input=encoded.stdout, capture_output=True)
    assert decoded.returncode == 0 and b"x.png: 300x300" in decoded.stdout
    assert np.array_equal(Image.open("x.png"), codec.decode(prompt))
