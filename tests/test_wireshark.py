"""The Wireshark dissector: its Lua is sound, and tshark reads with it what we packed."""

import shutil
import subprocess
import sys

import pytest
from gnl.node_apps.protocol import header as h
from gnl.node_apps.protocol.wireshark import dissector_lua
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

LUAC = next(filter(None, map(shutil.which, ("luac5.4", "luac5.3", "luac5.2", "luac"))), None)
TSHARK = shutil.which("tshark")


def test_every_field_is_declared_and_added_at_its_place():
    lua = dissector_lua()
    for field in h.FIELDS:
        assert f'ProtoField.uint{8 * field.size_bytes}("gnl.{field.name}"' in lua
        assert f"branch:add(f.{field.name}, buffer({h.FIELD_OFFSETS[field.name]}, {field.size_bytes}))" in lua
    for port in (18700, 18701):
        assert f"ports:add({port}, gnl)" in lua


def test_module_prints_the_dissector():
    command = [sys.executable, "-m", "gnl.node_apps.protocol.wireshark"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == dissector_lua()


@pytest.mark.skipif(LUAC is None, reason="no Lua compiler here (Debian package lua5.4)")
def test_lua_compiles(tmp_path):
    source = tmp_path / "gnl.lua"
    source.write_text(dissector_lua())
    done = subprocess.run([LUAC, "-p", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(TSHARK is None, reason="no tshark here (Debian package tshark)")
def test_tshark_reads_the_fields_that_we_packed(tmp_path):
    lua, pcap = tmp_path / "gnl.lua", tmp_path / "gnl.pcap"
    lua.write_text(dissector_lua())
    headers = [
        h.Header(1, 2, 0, 3, 9, 0xDEADBEEF, 65535, 5, 2**32 - 1, 1408, 1413),
        h.Header(2, 240, 1, 0, 1, 0, 1, 5, 0, 0, 5),
    ]
    datagrams = [h.pack(header, b"hello") for header in headers]
    wrpcap(str(pcap), [
        Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=40000, dport=h.PROMPT_PORT) / Raw(datagrams[0]),
        Ether() / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=40000, dport=h.CONTENT_PORT) / Raw(datagrams[1]),
        Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=40000, dport=h.PROMPT_PORT) / Raw(datagrams[0][:-1]),
    ])
    names = [*h.Header._fields, "magic", "version", "check", "malformed"]
    command = [TSHARK, "-r", str(pcap), "-X", f"lua_script:{lua}", "-T", "fields", "-E", "separator=;"]
    command += [part for name in names for part in ("-e", f"gnl.{name}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [dict(zip(names, line.split(";"))) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    for row, header, datagram in zip(rows, headers, datagrams):
        assert {name: int(row[name], 0) for name in h.Header._fields} == header._asdict()
        assert (int(row["magic"], 0), int(row["version"])) == (h.MAGIC, h.VERSION)
        assert int(row["check"], 0) == int.from_bytes(datagram[28:32], "big")
        assert not row["malformed"]
    assert rows[2]["malformed"], "a cut datagram is marked"
