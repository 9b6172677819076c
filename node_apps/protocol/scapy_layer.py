"""The header as a scapy layer, made from the same table of fields, bound to both ports. For tests, pcaps and scripts.

    from gnl.node_apps.protocol.scapy_layer import GNL
    IP(dst="10.0.0.2") / UDP(sport=40000, dport=18700) / GNL(kind="prompt", total=3) / b"abc"
"""

from __future__ import annotations

import struct
from zlib import crc32

from scapy.fields import ByteEnumField, ByteField, Field, IntField, ShortField, XByteField, XIntField, XShortField
from scapy.layers.inet import UDP
from scapy.packet import Packet, bind_bottom_up, bind_layers

from . import header

_DECIMAL = {"B": ByteField, "H": ShortField, "I": IntField}
_HEXADECIMAL = {"B": XByteField, "H": XShortField, "I": XIntField}
# What a packet says when it is not told; None is worked out when the packet is built.
_DEFAULTS = {
    "magic": header.MAGIC, "version": header.VERSION, "kind": header.KIND_PROMPT, "slices": 1, "length": None,
    "check": None,
}


def _scapy_field(field: header.Field) -> Field:
    default = _DEFAULTS.get(field.name, 0)
    if field.values:
        return ByteEnumField(field.name, default, field.values)
    return (_HEXADECIMAL if field.hexadecimal else _DECIMAL)[field.code](field.name, default)


class GNL(Packet):
    """One datagram's header; `length` and `check` are filled in from the payload unless given."""

    name = "GNL"
    fields_desc = [_scapy_field(field) for field in header.FIELDS]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        if self.length is None:
            at = header.FIELD_OFFSETS["length"]
            pkt = pkt[:at] + struct.pack("!H", len(pay)) + pkt[at + 2 :]
        if self.check is None:
            checked = pkt[: header.CHECKED_BYTES]
            pkt = checked + struct.pack("!I", crc32(pay, crc32(checked)))
        return pkt + pay


for _port in (header.PROMPT_PORT, header.CONTENT_PORT):
    bind_bottom_up(UDP, GNL, sport=_port)
    bind_bottom_up(UDP, GNL, dport=_port)
bind_layers(UDP, GNL, dport=header.PROMPT_PORT)
