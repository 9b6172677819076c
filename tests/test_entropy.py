import numpy as np
import pytest
from gnl.node_apps.codecs.entropy import SYMBOL_LIMIT, SymbolCoder
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


@pytest.mark.parametrize("pattern", [b"\xff", b"\x00", b"\xfe\xff\xff\xff", b"\xf0"])
@pytest.mark.parametrize("table", [0, 1, 2])
def test_strings_made_of_escapes_stay_within_their_room(pattern, table):
    string = (pattern * 4000)[:4000]
    assert len(CODER.decode(string, np.full(30000, table, np.int32))) == 30000


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
