import itertools

import numpy as np
import pytest
from gnl.node_apps.codecs import entropy
from gnl.node_apps.codecs.entropy import FREQUENCY_TOTAL, SYMBOL_LIMIT, SymbolCoder, read_ahead_bytes
from gnl.topologies.errors import BitstreamError
from hypothesis import given, settings
from hypothesis import strategies as st

# three tables: nearly always 0; five symbols alike; a steep one that starts at 3
CDF = np.array(
    [
        [0, 65534, 65535, 65536, 0, 0, 0],
        [0, 13000, 26000, 39000, 52000, 65000, 65536],
        [0, 60000, 65000, 65536, 0, 0, 0],
    ],
    np.int32,
)
LENGTHS = np.array([4, 7, 4], np.int32)
OFFSETS = np.array([0, -2, 3], np.int32)
CODER = SymbolCoder(CDF, LENGTHS, OFFSETS)

PAIRS = st.lists(st.tuples(st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT), st.integers(0, 2)), max_size=300)


@given(PAIRS)
@settings(deadline=None)
def test_symbols_return_also_those_outside_the_tables(pairs):
    symbols, indexes = (np.array([pair[k] for pair in pairs], np.int32) for k in (0, 1))
    assert np.array_equal(CODER.decode(CODER.encode(symbols, indexes), indexes), symbols)


def test_symbols_beyond_the_limit_are_clipped():
    indexes = np.zeros(2, np.int32)
    found = CODER.decode(CODER.encode(np.array([10**6, -(10**6)]), indexes), indexes)
    assert found.tolist() == [SYMBOL_LIMIT, -SYMBOL_LIMIT]


def test_the_length_is_near_the_entropy():
    rng = np.random.default_rng(1)
    symbols = rng.integers(-2, 3, 20000).astype(np.int32)
    bits = 8 * len(CODER.encode(symbols, np.ones(20000, np.int32)))
    assert bits == pytest.approx(20000 * np.log2(65536 / 13000), rel=0.01)


def test_symbols_that_are_almost_certain_are_almost_free():
    assert len(CODER.encode(np.zeros(50000, np.int32), np.zeros(50000, np.int32))) <= 16


@given(st.binary(max_size=400), st.integers(0, 5000), st.integers(0, 2))
@settings(deadline=None, max_examples=300)
def test_any_bytes_decode_to_bounded_symbols_or_bitstream_error(string, count, table):
    indexes = np.full(count, table, np.int32)
    try:
        found = CODER.decode(string, indexes)
    except BitstreamError:
        assert len(string) % 4 or len(string) < 8
        return
    assert found.shape == (count,) and np.abs(found).max(initial=0) <= SYMBOL_LIMIT


def bytes_read(string, indexes):
    """How far CompressAI's decoder reads, zeros behind the string: its arithmetic (Giesen's rANS64 with words of 32
    bits, 4-bit escapes), written out."""
    words = itertools.chain(np.frombuffer(string, "<u4").tolist(), itertools.repeat(0))
    read, state = 2, next(words) | next(words) << 32

    def refilled(state):
        nonlocal read
        if state >= 1 << 31:
            return state
        read += 1
        return state << 32 | next(words)

    def nibble():
        nonlocal state
        value = state & 15
        state = refilled(state >> 4)
        return value

    for table in indexes:
        row = CDF[table, : LENGTHS[table]].tolist()
        column = max(n for n in range(len(row) - 1) if row[n] <= state & 0xFFFF)
        state = refilled((row[column + 1] - row[column]) * (state >> 16) + (state & 0xFFFF) - row[column])
        if column == len(row) - 2:
            length = last = nibble()
            while last == 15:
                last = nibble()
                length += last
            for _ in range(length):
                nibble()
    return 4 * read


def hostile_strings():
    """Strings that announce long escapes; the words 0xF keep the decoder at a word for each 4 bits."""
    rng = np.random.default_rng(6)
    yield from (pattern * 100 for pattern in (b"\xff\xff\xff\xff", bytes(4), b"\xfe\xff\xff\xff", b"\xf0\xf0\xf0\xf0"))
    escape = b"\xff\xff\x00\x00" + bytes(4)
    yield from (escape + pattern * 100 for pattern in (b"\x0f\x00\x00\x00", b"\xff\xff\xff\xff", bytes(4)))
    yield escape + b"\x0f\x00\x00\x00" * 100 + b"\xff\xff\xff\xff"
    for _ in range(60):
        pool = [b"\xff\xff\xff\xff", b"\x0f\x00\x00\x00", bytes(4), rng.bytes(4), b"\xff\xff\x00\x00"]
        yield b"".join(pool[n] for n in rng.integers(0, len(pool), 40))


@pytest.mark.parametrize("count", [1, 5, 300])
def test_the_decoder_never_reads_beyond_what_lies_behind_a_string(count):
    rng, most = np.random.default_rng(count), 0.0
    for string in hostile_strings():
        for indexes in (*(np.full(count, table) for table in range(3)), rng.integers(0, 3, count)):
            reached = bytes_read(string, indexes)
            assert reached <= len(string) + read_ahead_bytes(len(string), count)
            most = max(most, reached / len(string))
            CODER.decode(string, indexes)
    assert most > 10  # such strings do make it read on


def test_what_was_encoded_is_read_to_its_end_and_no_further():
    rng = np.random.default_rng(7)
    symbols, indexes = rng.integers(-60, 60, 500), rng.integers(0, 3, 500)
    string = CODER.encode(symbols, indexes)
    assert len(string) - 4 <= bytes_read(string, indexes) <= len(string)


def test_strings_of_nothing_but_escapes_return():
    """The longest that there are."""
    symbols = np.resize([SYMBOL_LIMIT, -SYMBOL_LIMIT], 5000)
    indexes = np.zeros(5000, np.int32)
    string = CODER.encode(symbols, indexes)
    assert len(string) > 3 * 5000 and np.array_equal(CODER.decode(string, indexes), symbols)


def test_bytes_behind_what_the_symbols_take_are_not_even_copied(monkeypatch):
    """A megabyte for a few symbols would otherwise make the decoder reserve many."""
    reserved = []

    def watch(string_bytes, symbols):
        reserved.append(read_ahead_bytes(string_bytes, symbols))
        return reserved[-1]

    monkeypatch.setattr(entropy, "read_ahead_bytes", watch)
    symbols, indexes = np.array([0, 1, -1]), np.array([1, 1, 1])
    string = CODER.encode(symbols, indexes) + b"\xff" * (1 << 20)
    assert CODER.decode(string, indexes).tolist() == [0, 1, -1] and reserved[0] < 10_000


def test_bits_are_what_the_string_takes():
    rng = np.random.default_rng(9)
    symbols, indexes = rng.integers(-2, 3, 4000), rng.integers(1, 3, 4000)
    symbols[indexes == 2] = 3 + (rng.random((indexes == 2).sum()) < 0.05)
    bits = CODER.bits(symbols, indexes)
    assert bits.sum() == pytest.approx(8 * len(CODER.encode(symbols, indexes)), rel=0.01)
    assert bits[indexes == 1] == pytest.approx(np.log2(FREQUENCY_TOTAL / 13000))
    escape = np.log2(FREQUENCY_TOTAL / (65536 - 65000))
    assert CODER.bits(np.array([-3, 50, 3]), np.array([1, 1, 1])) == pytest.approx([escape] * 3)


@pytest.mark.parametrize(
    "cdf, lengths, offsets",
    [
        (CDF + 1, LENGTHS, OFFSETS),
        (CDF[:, :5], LENGTHS, OFFSETS),
        (CDF[:2], LENGTHS, OFFSETS),
        (CDF, LENGTHS[:2], OFFSETS),
        (CDF, np.array([2, 7, 4], np.int32), OFFSETS),
        (CDF[0], LENGTHS, OFFSETS),
        (np.array([[0, 5, 5, 65536]], np.int32), np.array([4], np.int32), np.array([0], np.int32)),
        (np.array([[0, 5, 9, 65535]], np.int32), np.array([4], np.int32), np.array([0], np.int32)),
    ],
)
def test_tables_that_the_coder_cannot_use_are_refused(cdf, lengths, offsets):
    with pytest.raises(BitstreamError, match="frequency tables"):
        SymbolCoder(cdf, lengths, offsets)
