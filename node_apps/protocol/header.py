"""The 32-byte header in front of every datagram: layout, packing, strict parsing, and what it costs on the wire.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-------------------------------+---------------+---------------+
    |             magic             |    version    |     kind      |   0
    +---------------+---------------+---------------+---------------+
    |     codec     |     made      |     slice     |    slices     |   4
    +---------------+---------------+---------------+---------------+
    |                            weights                            |   8
    +-------------------------------+-------------------------------+
    |             flow              |            length             |  12
    +-------------------------------+-------------------------------+
    |                            content                            |  16
    +---------------------------------------------------------------+
    |                            offset                             |  20
    +---------------------------------------------------------------+
    |                             total                             |  24
    +---------------------------------------------------------------+
    |                             check                             |  28
    +---------------------------------------------------------------+
    |                    payload (`length` bytes)                   |  32

Network byte order. `check` is the CRC-32 of IEEE 802.3 (as zlib's) over the 28 bytes before it and the payload.

The cut is canonical: every datagram of a slice but its last carries exactly PAYLOAD_BYTES, so `offset` is a multiple
of that, two datagrams of one slice either are the same piece or do not overlap, and a slice that was reassembled and
cut again gives the same bytes on the wire. An empty slice is one datagram without payload.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from gnl.topologies.errors import BitstreamError

PROMPT_PORT, CONTENT_PORT = 18700, 18701
MAGIC, VERSION = 0x474E, 1  # "GN"
KIND_PROMPT, KIND_CONTENT, KIND_PLAIN = 1, 2, 3
MADE_NONE, MADE_EXPLICIT, MADE_IMPLICIT, MADE_HYBRID = 0, 1, 2, 3
KIND_NAMES = {KIND_PROMPT: "prompt", KIND_CONTENT: "content", KIND_PLAIN: "plain"}
MADE_NAMES = {MADE_NONE: "none", MADE_EXPLICIT: "explicit", MADE_IMPLICIT: "implicit", MADE_HYBRID: "hybrid"}

# A UDP payload that fits an MTU of 1500 behind the headers of IPv4 as of IPv6 (1500 - 40 - 8 = 1452).
DATAGRAM_BYTES = 1440
HEADER_BYTES = 32
CHECKED_BYTES = 28
PAYLOAD_BYTES = DATAGRAM_BYTES - HEADER_BYTES
# Ethernet without FCS, IP, UDP: what the shaper and the interface counters add to a UDP payload.
LAYER2_OVERHEAD_BYTES = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
# More than a raw image of 8192 x 8192 pixels needs; a larger claim is nonsense or an attack.
MAX_TOTAL_BYTES = 1 << 28


class Field(NamedTuple):
    """One header field: `code` is its `struct` letter, `values` names its values where they have names."""

    name: str
    code: str
    meaning: str
    hexadecimal: bool = False
    values: dict[int, str] | None = None

    @property
    def size_bytes(self) -> int:
        return struct.calcsize("!" + self.code)


FIELDS = (
    Field("magic", "H", "0x474e, the letters GN", hexadecimal=True),
    Field("version", "B", "version of this layout"),
    Field("kind", "B", "what the payload belongs to", values=KIND_NAMES),
    Field("codec", "B", "codec that made the prompt"),
    Field("made", "B", "how the content was generated", values=MADE_NAMES),
    Field("slice", "B", "index of the slice, most important first"),
    Field("slices", "B", "number of slices"),
    Field("weights", "I", "first four bytes of the weights' SHA-256, 0 without weights", hexadecimal=True),
    Field("flow", "H", "one stream of the source"),
    Field("length", "H", "bytes of payload behind the header"),
    Field("content", "I", "number of the content within its flow"),
    Field("offset", "I", "where the payload begins in its slice"),
    Field("total", "I", "bytes of the whole slice"),
    Field("check", "I", "CRC-32 of all before it and the payload", hexadecimal=True),
)
LAYOUT = struct.Struct("!" + "".join(field.code for field in FIELDS))
CHECKED_LAYOUT = struct.Struct(LAYOUT.format[:-1])
CHECK_LAYOUT = struct.Struct("!I")
FIELD_OFFSETS = {f.name: sum(g.size_bytes for g in FIELDS[:i]) for i, f in enumerate(FIELDS)}


class MalformedPacket(BitstreamError):
    """A datagram that is not one of ours; `reason` is the slug that it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Header(NamedTuple):
    """The fields of one datagram, without magic, version and check, which `pack` and `parse` take care of.

    `length` and `offset` say which piece of the slice the payload is; `packetise` sets them itself.
    """

    kind: int
    codec: int = 0
    made: int = MADE_NONE
    slice: int = 0
    slices: int = 1
    weights: int = 0
    flow: int = 0
    length: int = 0
    content: int = 0
    offset: int = 0
    total: int = 0


def pack(header: Header, payload: bytes | memoryview) -> bytes:
    """Return one datagram: the header with the length and the check of `payload`, and the payload.

    It packs what it is given, sound or not (tests need both); a field out of its range raises `struct.error`.
    """
    checked = CHECKED_LAYOUT.pack(MAGIC, VERSION, *header._replace(length=len(payload)))
    return b"".join((checked, CHECK_LAYOUT.pack(crc32(payload, crc32(checked))), payload))


def parse(datagram: bytes | bytearray | memoryview) -> tuple[Header, memoryview]:
    """Return the header and a view of the payload (no copy: it lives as long as the caller's buffer does).

    Raises `MalformedPacket`; `reason` is short, magic, version, length, check, kind, slice, total or offset, tested in
    that order (so that a flipped bit behind the length counts as `check`).
    """
    view = memoryview(datagram)
    size_bytes = len(view)
    if size_bytes < HEADER_BYTES:
        raise MalformedPacket("short", f"a datagram has {size_bytes} bytes: the header alone has {HEADER_BYTES}")
    fields = LAYOUT.unpack_from(view)
    magic, version, kind, _, _, index, slices, _, _, length, _, offset, total, check = fields
    if magic != MAGIC:
        raise MalformedPacket("magic", f"magic is {magic:#06x}, not {MAGIC:#06x}")
    if version != VERSION:
        raise MalformedPacket("version", f"header version is {version}: version {VERSION} is known here")
    if length != size_bytes - HEADER_BYTES:
        raise MalformedPacket("length", f"length says {length} bytes of payload, {size_bytes - HEADER_BYTES} came")
    payload = view[HEADER_BYTES:]
    if crc32(payload, crc32(view[:CHECKED_BYTES])) != check:
        raise MalformedPacket("check", f"check {check:#010x} does not match the bytes received")
    if kind not in KIND_NAMES:
        raise MalformedPacket("kind", f"kind is {kind}: known are {KIND_NAMES}")
    if index >= slices or (slices != 1 and kind != KIND_PROMPT):
        raise MalformedPacket("slice", f"slice {index} of {slices} in a {KIND_NAMES[kind]}")
    if total > MAX_TOTAL_BYTES:
        raise MalformedPacket("total", f"a slice claims {total} bytes: at most {MAX_TOTAL_BYTES} are accepted")
    if offset % PAYLOAD_BYTES or length != min(PAYLOAD_BYTES, total - offset) or (offset >= total and offset):
        raise MalformedPacket("offset", f"{length} bytes at {offset} of {total} are no piece of the canonical cut")
    return Header._make(fields[2:13]), payload


def packets_of(size_bytes: int) -> int:
    """Number of datagrams that carry one slice or content body of `size_bytes` (an empty one takes one)."""
    return max(1, -(-size_bytes // PAYLOAD_BYTES))


def wire_bytes_of(size_bytes: int, ip_version: int = 4) -> int:
    """Layer-2 bytes (as `tc` and the interface counters see them) of one slice or content body of `size_bytes`."""
    return size_bytes + packets_of(size_bytes) * (HEADER_BYTES + LAYER2_OVERHEAD_BYTES[ip_version])
