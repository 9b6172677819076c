"""Cutting bodies and prompts into datagrams, laid end to end in one buffer ready for UDP_SEGMENT.

A buffer holds one slice or content body: datagrams of exactly DATAGRAM_BYTES, the last one shorter (or full). The
kernel cuts `sendmsg(buffer[start:end])` at DATAGRAM_BYTES, so a batch is any run of whole datagrams (`batches`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

from .header import (
    CHECK_LAYOUT,
    CHECKED_BYTES,
    CHECKED_LAYOUT,
    DATAGRAM_BYTES,
    FIELD_OFFSETS,
    FIELDS,
    HEADER_BYTES,
    MAGIC,
    PAYLOAD_BYTES,
    VERSION,
    Header,
    packets_of,
)

_FLOW_AT, _CONTENT_AT, _CHECK_AT = (FIELD_OFFSETS[name] for name in ("flow", "content", "check"))
_FLOW_BYTES, _CONTENT_BYTES = (next(f.size_bytes for f in FIELDS if f.name == name) for name in ("flow", "content"))
_ZEROS = bytes(PAYLOAD_BYTES)


def buffer_bytes_of(size_bytes: int) -> int:
    """Bytes of the datagrams, headers included, that carry one slice or content body of `size_bytes`."""
    return size_bytes + packets_of(size_bytes) * HEADER_BYTES


def packetise(body: bytes | bytearray | memoryview, header: Header) -> bytearray:
    """Return the datagrams of one slice or content body, end to end; see `packetise_into`."""
    buffer = bytearray(buffer_bytes_of(len(body)))
    packetise_into(buffer, 0, body, header)
    return buffer


def packetise_into(
    buffer: bytearray | memoryview, at: int, body: bytes | bytearray | memoryview, header: Header
) -> int:
    """Lay the datagrams of one slice or content body into `buffer` from `at` and return where they end.

    `header` gives all fields but length, offset and total. `buffer` is writable and has `buffer_bytes_of(len(body))`
    bytes from `at`. Takes about 1 microsecond a datagram: the payload is copied once, and checked where it lies.
    """
    out, source = memoryview(buffer), memoryview(body)
    total = len(source)
    kind, codec, made, index, slices, weights, flow, _, content, _, _ = header
    pack_checked, pack_check = CHECKED_LAYOUT.pack_into, CHECK_LAYOUT.pack_into
    for offset in range(0, total or 1, PAYLOAD_BYTES):
        payload = source[offset : offset + PAYLOAD_BYTES]
        length = len(payload)
        pack_checked(
            out, at, MAGIC, VERSION, kind, codec, made, index, slices, weights, flow, length, content, offset, total
        )
        pack_check(out, at + CHECKED_BYTES, crc32(payload, crc32(out[at : at + CHECKED_BYTES])))
        out[at + HEADER_BYTES : at + HEADER_BYTES + length] = payload
        at += HEADER_BYTES + length
    return at


def packetise_prompt(slices: Sequence[bytes], header: Header) -> list[bytearray]:
    """Return one buffer a slice, in order; each slice is a run of datagrams of its own."""
    return [
        packetise(body, header._replace(slice=index, slices=len(slices))) for index, body in enumerate(slices)
    ]


def batches(size_bytes: int, datagrams: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of runs of at most `datagrams` whole datagrams in a buffer of `size_bytes`.

    >>> list(batches(3000, 2))
    [(0, 2880), (2880, 3000)]
    """
    step = datagrams * DATAGRAM_BYTES
    for start in range(0, size_bytes, step):
        yield start, min(start + step, size_bytes)


def restamp(buffer: bytearray | memoryview, content: int, flow: int | None = None) -> None:
    """Give the datagrams of a prepared buffer another content id (and flow), in place, without reading the payload.

    CRC-32 is affine over XOR: for messages of one length, crc(a ^ d) = crc(a) ^ crc(d) ^ crc(0). The difference d of
    the headers is the same in every datagram, so one correction serves all full ones and a second one the last.
    """
    out = memoryview(buffer)
    size_bytes = len(out)
    old = bytes(out[:CHECKED_BYTES])
    flow_stamp = old[_FLOW_AT : _FLOW_AT + _FLOW_BYTES] if flow is None else flow.to_bytes(_FLOW_BYTES, "big")
    content_stamp = content.to_bytes(_CONTENT_BYTES, "big")
    new = bytearray(old)
    new[_FLOW_AT : _FLOW_AT + _FLOW_BYTES] = flow_stamp
    new[_CONTENT_AT : _CONTENT_AT + _CONTENT_BYTES] = content_stamp
    difference = bytes(a ^ b for a, b in zip(old, new))
    last_at = (size_bytes - 1) // DATAGRAM_BYTES * DATAGRAM_BYTES
    correction = _check_difference(difference, PAYLOAD_BYTES)
    for at in range(0, size_bytes, DATAGRAM_BYTES):
        if at == last_at:
            correction = _check_difference(difference, size_bytes - at - HEADER_BYTES)
        out[at + _FLOW_AT : at + _FLOW_AT + _FLOW_BYTES] = flow_stamp
        out[at + _CONTENT_AT : at + _CONTENT_AT + _CONTENT_BYTES] = content_stamp
        (check,) = CHECK_LAYOUT.unpack_from(out, at + _CHECK_AT)
        CHECK_LAYOUT.pack_into(out, at + _CHECK_AT, check ^ correction)


def _check_difference(difference: bytes, payload_bytes: int) -> int:
    zeros = _ZEROS[:payload_bytes]
    return crc32(zeros, crc32(difference)) ^ crc32(zeros, crc32(_ZEROS[:CHECKED_BYTES]))
