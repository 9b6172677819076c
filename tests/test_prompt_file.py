"""The prompt file: its bytes as drawn, what it refuses, and ten thousands of damaged files."""

import random
import struct
import zlib

import pytest
from gnl.node_apps.codecs.interface import MAX_SLICES, Prompt
from gnl.node_apps.codecs.prompt_file import LEAST_OVERHEAD_BYTES, MAX_FILE_BYTES, VERSION, pack_file, parse_file
from gnl.topologies.errors import BitstreamError, CodecError
from hypothesis import given
from hypothesis import strategies as st

PROMPT = Prompt(4, 0xB8C92828, (b"first", b"", bytes(range(200))))
PROMPTS = st.builds(
    Prompt,
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.lists(st.binary(max_size=300), min_size=1, max_size=20).map(tuple),
)


def checked(body: bytes) -> bytes:
    """`body` with the check that fits it: what a file would be that was written so on purpose."""
    return body + struct.pack("!I", zlib.crc32(body))


def header(version=VERSION, codec_id=4, slices=1, weights_id=7, magic=b"\x89GNL"):
    return magic + bytes([version, codec_id, slices]) + struct.pack("!I", weights_id)


def test_the_bytes_are_those_that_the_module_draws():
    lengths = bytes([5, 0, 0x80 | 200 % 128, 200 // 128])
    drawn = checked(header(1, 4, 3, 0xB8C92828) + lengths + b"first" + bytes(range(200)))
    assert pack_file(PROMPT) == drawn and parse_file(drawn) == PROMPT


@given(PROMPTS)
def test_a_prompt_comes_back_as_it_went(prompt):
    data = pack_file(prompt)
    assert parse_file(data) == prompt
    overhead = 15 + sum(1 if len(piece) < 128 else 2 for piece in prompt.slices)
    assert len(data) == prompt.size_bytes + overhead


@pytest.mark.parametrize("size, varint", [(127, 1), (128, 2), (16383, 2), (16384, 3), (1 << 21, 4)])
def test_lengths_of_every_form(size, varint):
    prompt = Prompt(1, 0, (bytes(size), b"x"))
    assert len(pack_file(prompt)) == 15 + varint + 1 + size + 1 and parse_file(pack_file(prompt)) == prompt


def test_an_empty_slice_alone_is_the_smallest_file():
    assert len(pack_file(Prompt(1, 0, (b"",)))) == LEAST_OVERHEAD_BYTES == 16


def test_as_many_slices_as_there_may_be_and_no_more():
    prompt = Prompt(1, 0, (b"x",) * MAX_SLICES)
    assert parse_file(pack_file(prompt)) == prompt
    for slices in ((), (b"x",) * (MAX_SLICES + 1)):
        with pytest.raises(CodecError, match="1 to 255 slices"):
            pack_file(Prompt(1, 0, slices))


def test_a_prompt_that_no_file_may_hold_is_not_written():
    class Large(bytes):
        def __len__(self):
            return MAX_FILE_BYTES

    with pytest.raises(CodecError, match="holds 1 to 255 slices of"):
        pack_file(Prompt(1, 0, (Large(),)))


REFUSED = {
    "empty": (b"", "not a prompt file"),
    "a photograph": (b"\xff\xd8\xff\xe0" + bytes(100), "not a prompt file"),
    "text": (b"GNL, a text", "not a prompt file"),
    "other magic": (checked(header(magic=b"\x89PNG") + b"\1x"), "not a prompt file"),
    "cut within the header": (pack_file(PROMPT)[:9], "cut off"),
    "cut within the lengths": (checked(header(slices=9) + b"\1\1"), "cut off"),
    "cut within the slices": (pack_file(PROMPT)[:60], "it is cut off"),
    "cut within the check": (pack_file(PROMPT)[:-1], "it is cut off"),
    "a byte behind": (pack_file(PROMPT) + b"\0", "something follows"),
    "two files": (pack_file(PROMPT) * 2, "something follows"),
    "a newer version": (checked(header(version=2) + b"\1x"), "version 2 .*reads 1"),
    "no version": (checked(header(version=0) + b"\1x"), "version 0"),
    "no slice": (checked(header(slices=0) + b"\1x"), "without slices"),
    "a flipped bit": (pack_file(PROMPT)[:30] + b"\xff" + pack_file(PROMPT)[31:], "CRC-32"),
    "a longer varint": (checked(header() + b"\x81\x00x"), "shortest varint"),
    "a varint of five": (checked(header() + b"\x81\x80\x80\x80\x00x"), "shortest varint"),
    "an endless varint": (checked(header() + b"\xff" * 20), "shortest varint"),
    "256 MB announced": (checked(header() + b"\xff\xff\xff\x7fx"), "it is cut off"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_none_is_refused_with_the_reason(what):
    data, says = REFUSED[what]
    with pytest.raises(BitstreamError, match=says) as caught:
        parse_file(data)
    assert "\n" not in str(caught.value)


def damaged(draw: random.Random, good: bytes) -> bytes:
    """`good` cut, with bits flipped, bytes lost, doubled or put in, or something else altogether."""
    kind, at = draw.randrange(6), draw.randrange(len(good))
    if kind == 0:
        return good[:at]
    if kind == 1:
        bad = bytearray(good)
        for _ in range(draw.randint(1, 8)):
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        return bytes(bad)
    if kind == 2:
        return good[:at] + good[at + draw.randint(1, 9) :]
    if kind == 3:
        return good[:at] + draw.randbytes(draw.randint(1, 9)) + good[at:]
    if kind == 4:
        return good[:4] + draw.randbytes(draw.randrange(60))
    return draw.randbytes(draw.randrange(60))


def test_twenty_thousand_damaged_files_are_all_refused():
    draw = random.Random(1)
    good = pack_file(PROMPT)
    for _ in range(20_000):
        bad = damaged(draw, good)
        if bad != good:
            with pytest.raises(BitstreamError):
                parse_file(bad)


def test_twenty_thousand_files_with_the_check_that_fits_are_refused_or_have_one_reading():
    """The check guards against accidents only: whoever writes a file on purpose computes it."""
    draw = random.Random(2)
    good, read = pack_file(PROMPT)[:-4], 0
    for _ in range(20_000):
        data = checked(damaged(draw, good))
        try:
            prompt = parse_file(data)
        except BitstreamError:
            continue
        read += 1
        assert pack_file(prompt) == data
    assert read > 1000
