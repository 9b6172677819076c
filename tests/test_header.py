"""The header: the drawn layout byte by byte, strict parsing of hostile bytes, and the cost on the wire."""

import struct

import pytest
from gnl.node_apps.protocol import header as h
from gnl.topologies.errors import BitstreamError
from hypothesis import given, settings
from hypothesis import strategies as st

FULL = h.PAYLOAD_BYTES


def crc32_bit_by_bit(data: bytes) -> int:
    """CRC-32 of IEEE 802.3 straight from its polynomial, as an oracle that shares no code with zlib."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@st.composite
def datagrams(draw):
    """A header and payload that are one piece of the canonical cut."""
    total = draw(st.one_of(st.integers(0, 3 * FULL), st.integers(0, h.MAX_TOTAL_BYTES)))
    piece = draw(st.integers(0, max(0, (total - 1) // FULL)))
    length = min(FULL, total - piece * FULL)
    kind = draw(st.sampled_from(sorted(h.KIND_NAMES)))
    slices = draw(st.integers(1, 255)) if kind == h.KIND_PROMPT else 1
    header = h.Header(
        kind=kind,
        codec=draw(st.integers(0, 255)),
        made=draw(st.integers(0, 255)),
        slice=draw(st.integers(0, slices - 1)),
        slices=slices,
        weights=draw(st.integers(0, 2**32 - 1)),
        flow=draw(st.integers(0, 65535)),
        length=length,
        content=draw(st.integers(0, 2**32 - 1)),
        offset=piece * FULL,
        total=total,
    )
    return header, draw(st.randoms(use_true_random=False)).randbytes(length)


def repacked(datagram: bytes, **fields: int) -> bytes:
    """The datagram with other field values and a check that fits them."""
    changed = bytearray(datagram)
    for name, value in fields.items():
        field = next(f for f in h.FIELDS if f.name == name)
        at = h.FIELD_OFFSETS[name]
        changed[at : at + field.size_bytes] = value.to_bytes(field.size_bytes, "big")
    changed[28:32] = crc32_bit_by_bit(bytes(changed[:28] + changed[32:])).to_bytes(4, "big")
    return bytes(changed)


def test_layout_is_the_drawn_one():
    header = h.Header(1, 0x22, 3, 4, 5, 0x66778899, 0xAABB, 6, 0xCCDDEEFF, FULL, FULL + 6)
    datagram = h.pack(header, b"prompt")
    expected = bytes.fromhex("474e 01 01 22 03 04 05 66778899 aabb 0006 ccddeeff") + struct.pack("!II", FULL, FULL + 6)
    assert datagram[:28] == expected
    assert datagram[32:] == b"prompt"
    assert int.from_bytes(datagram[28:32], "big") == crc32_bit_by_bit(expected + b"prompt")


def test_fields_table_covers_the_header_without_gaps():
    assert h.HEADER_BYTES == sum(field.size_bytes for field in h.FIELDS) == h.LAYOUT.size == 32
    assert [f.name for f in h.FIELDS[2:-1]] == ["kind", *h.Header._fields[1:]][: len(h.FIELDS) - 3]
    assert h.FIELD_OFFSETS["check"] == h.CHECKED_BYTES == 28


@given(datagrams())
@settings(deadline=None)
def test_parse_inverts_pack(datagram):
    header, payload = datagram
    assert h.parse(h.pack(header, payload)) == (header, payload)


@given(datagrams(), st.data())
@settings(deadline=None)
def test_any_single_bit_flip_is_found(datagram, data):
    packed = bytearray(h.pack(*datagram))
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(h.MalformedPacket):
        h.parse(packed)


@given(datagrams(), st.data())
@settings(deadline=None)
def test_truncated_or_padded_is_malformed(datagram, data):
    packed = h.pack(*datagram)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(h.MalformedPacket) as caught:
        h.parse(packed[:cut])
    assert caught.value.reason == ("short" if cut < 32 else "length")
    with pytest.raises(h.MalformedPacket) as caught:
        h.parse(packed + b"\0")
    assert caught.value.reason == "length"


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_noise_raises_nothing_else(noise):
    for data in (noise, b"GN\x01" + noise):
        with pytest.raises(h.MalformedPacket) as caught:
            h.parse(data)
        assert isinstance(caught.value, BitstreamError)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"magic": 0x4E47}, "magic"),
        ({"version": 2}, "version"),
        ({"length": 99}, "length"),
        ({"kind": 0}, "kind"),
        ({"kind": 4}, "kind"),
        ({"slice": 5}, "slice"),
        ({"slice": 255}, "slice"),
        ({"slices": 0}, "slice"),
        ({"kind": h.KIND_CONTENT}, "slice"),
        ({"total": h.MAX_TOTAL_BYTES + 1}, "total"),
        ({"total": 0xFFFFFFFF, "offset": 0xFFFFFFFF - 99}, "total"),
        ({"offset": 1}, "offset"),
        ({"offset": FULL}, "offset"),
        ({"offset": 200 * FULL}, "offset"),
        ({"total": 101}, "offset"),
        ({"total": 0}, "offset"),
    ],
)
def test_sound_check_with_unsound_fields_is_named(fields, reason):
    good = h.pack(h.Header(h.KIND_PROMPT, slices=5, slice=2, total=100), bytes(100))
    assert h.parse(repacked(good)) == h.parse(good)
    with pytest.raises(h.MalformedPacket) as caught:
        h.parse(repacked(good, **fields))
    assert caught.value.reason == reason


def test_an_empty_piece_behind_a_slice_is_none_of_its_pieces():
    datagram = h.pack(h.Header(h.KIND_PLAIN, offset=FULL, total=FULL), b"")
    with pytest.raises(h.MalformedPacket) as caught:
        h.parse(datagram)
    assert caught.value.reason == "offset"


def test_wrong_check_is_named():
    datagram = bytearray(h.pack(h.Header(h.KIND_PLAIN, total=3), b"abc"))
    datagram[-1] ^= 1
    with pytest.raises(h.MalformedPacket) as caught:
        h.parse(datagram)
    assert caught.value.reason == "check"


def test_empty_slice_is_one_datagram():
    header, payload = h.parse(h.pack(h.Header(h.KIND_PROMPT), b""))
    assert (header.total, header.length, bytes(payload)) == (0, 0, b"")


@pytest.mark.parametrize(("size_bytes", "packets"), [(0, 1), (1, 1), (1408, 1), (1409, 2), (196616, 140)])
def test_wire_cost(size_bytes, packets):
    assert h.packets_of(size_bytes) == packets
    # Ethernet 14, UDP 8, our header 32, and IPv4's 20 or IPv6's 40.
    assert h.wire_bytes_of(size_bytes, 4) == size_bytes + packets * (14 + 20 + 8 + 32)
    assert h.wire_bytes_of(size_bytes, 6) == size_bytes + packets * (14 + 40 + 8 + 32)


def test_a_full_datagram_fits_the_ethernet_mtu_under_both_ip_versions():
    assert h.DATAGRAM_BYTES + 40 + 8 <= 1500
