"""The scapy layer against our own packing: neither is derived from the other's code for building bytes."""

import pytest
from gnl.node_apps.protocol import header as h
from gnl.node_apps.protocol.packetise import packetise
from gnl.node_apps.protocol.scapy_layer import GNL
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

U8, U16, U32 = st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
FIELDS = {"codec": U8, "made": U8, "weights": U32, "flow": U16, "content": U32}


@given(st.fixed_dictionaries(FIELDS), st.binary(min_size=1, max_size=300), st.integers(1, 255), st.data())
@settings(deadline=None)
def test_dissection_equals_parse(fields, payload, slices, data):
    index = data.draw(st.integers(0, slices - 1))
    header = h.Header(h.KIND_PROMPT, slice=index, slices=slices, total=len(payload), **fields)
    datagram = h.pack(header, payload)
    packet = GNL(datagram)
    parsed, body = h.parse(datagram)
    assert {name: getattr(packet, name) for name in h.Header._fields} == parsed._asdict()
    assert (packet.magic, packet.version) == (h.MAGIC, h.VERSION)
    assert packet[Raw].load == body == payload


@given(st.fixed_dictionaries(FIELDS), st.binary(max_size=300))
@settings(deadline=None)
def test_what_scapy_builds_is_parsed_check_and_length_included(fields, payload):
    packet = GNL(kind="content", total=len(payload), **fields) / payload
    header, body = h.parse(bytes(packet))
    assert header == h.Header(h.KIND_CONTENT, length=len(payload), total=len(payload), **fields)
    assert body == payload


def test_a_wrong_check_or_length_can_be_built_on_purpose():
    for field, reason in (("check", "check"), ("length", "length")):
        with pytest.raises(h.MalformedPacket) as caught:
            h.parse(bytes(GNL(total=3, **{field: 1}) / b"abc"))
        assert caught.value.reason == reason


@pytest.mark.parametrize("network", [IP(dst="10.0.0.2"), IPv6(dst="fd00::2")], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("port", [h.PROMPT_PORT, h.CONTENT_PORT])
def test_layer_is_found_behind_both_ports_and_both_ip_versions(network, port):
    datagram = bytes(packetise(b"body", h.Header(h.KIND_PLAIN, flow=7)))
    raw = bytes(network / UDP(sport=40000, dport=port) / Raw(datagram))
    packet = type(network)(raw)
    assert packet[GNL].flow == 7 and packet[Raw].load == b"body"


def test_names_are_shown_for_kinds_and_ways_of_making():
    shown = GNL(h.pack(h.Header(h.KIND_CONTENT, made=h.MADE_EXPLICIT), b"")).show(dump=True)
    assert "content" in shown and "explicit" in shown
