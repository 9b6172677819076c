"""Packetising: one buffer of whole datagrams, and re-stamping that equals packetising anew."""

import pytest
from gnl.node_apps.protocol import header as h
from gnl.node_apps.protocol import packetise as p
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.one_of(st.integers(0, 40), st.integers(0, 12_000), st.sampled_from([1407, 1408, 1409, 2816, 2817]))


def body_of(size_bytes: int, seed: int = 1) -> bytes:
    return bytes((seed * 31 + i * 7 + i // 256) % 256 for i in range(size_bytes))


def cut(buffer) -> list[bytes]:
    """What the kernel makes of a buffer that is sent with UDP_SEGMENT."""
    return [bytes(buffer[at : at + h.DATAGRAM_BYTES]) for at in range(0, len(buffer), h.DATAGRAM_BYTES)]


@given(SIZES)
@settings(deadline=None)
def test_cut_buffer_is_what_pack_makes_one_by_one(size_bytes):
    body = body_of(size_bytes)
    fields = h.Header(h.KIND_CONTENT, 7, h.MADE_EXPLICIT, weights=9, flow=3, content=11)
    expected = [
        h.pack(fields._replace(offset=offset, total=size_bytes), body[offset : offset + h.PAYLOAD_BYTES])
        for offset in range(0, size_bytes or 1, h.PAYLOAD_BYTES)
    ]
    buffer = p.packetise(body, fields)
    assert cut(buffer) == expected
    assert len(expected) == h.packets_of(size_bytes)
    assert len(buffer) == p.buffer_bytes_of(size_bytes)
    assert len(buffer) + len(expected) * h.LAYER2_OVERHEAD_BYTES[4] == h.wire_bytes_of(size_bytes, 4)


def test_packetise_into_leaves_the_rest_of_the_buffer_alone():
    buffer = bytearray(b"\xee" * 5000)
    end = p.packetise_into(buffer, 100, body_of(2000), h.Header(h.KIND_PLAIN))
    assert buffer[100:end] == p.packetise(body_of(2000), h.Header(h.KIND_PLAIN))
    assert set(buffer[:100]) == set(buffer[end:]) == {0xEE}


@given(SIZES, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.none() | st.integers(0, 65535))
@settings(deadline=None)
def test_restamp_equals_packetising_anew(size_bytes, before, after, flow):
    fields = h.Header(h.KIND_PLAIN, flow=77, content=before)
    buffer = p.packetise(body_of(size_bytes), fields)
    p.restamp(buffer, after, flow)
    assert buffer == p.packetise(body_of(size_bytes), fields._replace(content=after, flow=77 if flow is None else flow))


def test_restamp_refuses_an_id_out_of_range():
    buffer = p.packetise(b"abc", h.Header(h.KIND_PLAIN))
    with pytest.raises(OverflowError):
        p.restamp(buffer, 2**32)
    assert buffer == p.packetise(b"abc", h.Header(h.KIND_PLAIN))


def test_every_slice_of_a_prompt_is_its_own_run():
    slices = [body_of(3000), b"", body_of(5, 2)]
    runs = p.packetise_prompt(slices, h.Header(h.KIND_PROMPT, 1, content=4))
    parsed = [[h.parse(d) for d in cut(run)] for run in runs]
    assert [[(f.slice, f.slices, f.total) for f, _ in run] for run in parsed] == [
        [(0, 3, 3000)] * 3, [(1, 3, 0)], [(2, 3, 5)],
    ]
    assert [b"".join(payload for _, payload in run) for run in parsed] == slices


@given(SIZES, st.integers(1, 50))
@settings(deadline=None)
def test_batches_are_whole_datagrams_and_cover_the_buffer(size_bytes, datagrams):
    buffer = p.packetise(body_of(size_bytes), h.Header(h.KIND_PLAIN))
    spans = list(p.batches(len(buffer), datagrams))
    assert b"".join(buffer[start:end] for start, end in spans) == buffer
    for start, end in spans:
        assert start % h.DATAGRAM_BYTES == 0
        assert 0 < end - start <= datagrams * h.DATAGRAM_BYTES
    assert [d for start, end in spans for d in cut(buffer[start:end])] == cut(buffer)
