"""The sink on the loopback: every content gets its fact sheet, and the first of each flow become images."""

import json
import socket
import threading
import time
from zlib import crc32

import numpy as np
import pytest
from gnl.node_apps import sink, sockets
from gnl.node_apps.codecs.content import pack
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.codecs.prompt_file import parse_file
from gnl.node_apps.protocol.header import (
    CONTENT_PORT,
    DATAGRAM_BYTES,
    KIND_CONTENT,
    KIND_PLAIN,
    KIND_PROMPT,
    MADE_EXPLICIT,
    PROMPT_PORT,
    Header,
)
from gnl.node_apps.protocol.packetise import packetise, packetise_prompt
from PIL import Image

PICTURE = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


@pytest.fixture
def sent_to_sink(tmp_path, monkeypatch):
    """A function that has a sink receive {port: [datagram, ...]}, and returns its statistics, facts and folder."""
    monkeypatch.setattr(sockets, "SO_RCVBUFFORCE", socket.SO_RCVBUF)
    ready, stopped, opened, said = threading.Event(), threading.Event(), {}, {}

    def anywhere(port, ip_version):
        opened[port] = sockets.receiver(0, ip_version, timeout_s=0.05)
        return opened[port]

    monkeypatch.setattr(sink, "receiver", anywhere)
    monkeypatch.setattr(sink, "announce_ready", ready.set)

    def run(by_port, **changes):
        out = tmp_path / "out"
        options = {"out": str(out), "ip_version": 4, "keep_per_flow": 2, **changes}
        thread = threading.Thread(target=lambda: said.update(sink.collect(options, stopped)))
        thread.start()
        assert ready.wait(10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for port, datagrams in by_port.items():
                for datagram in datagrams:
                    sender.sendto(datagram, ("127.0.0.1", opened[port].getsockname()[1]))
                    time.sleep(0.0005)  # no faster than a receiver with a small buffer takes them
            time.sleep(0.2)
        stopped.set()
        thread.join()
        for sock in opened.values():
            sock.close()
        return said, [json.loads(line) for line in (out / "contents.jsonl").read_text().splitlines()], out

    return run


def cut(buffer):
    return [bytes(buffer[at : at + DATAGRAM_BYTES]) for at in range(0, len(buffer), DATAGRAM_BYTES)]


def plain(body, content=0, flow=0):
    return cut(packetise(body, Header(KIND_PLAIN, flow=flow, content=content)))


def made(body, content=0, flow=1):
    return cut(packetise(body, Header(KIND_CONTENT, codec=9, made=MADE_EXPLICIT, flow=flow, content=content)))


def test_every_content_has_a_fact_sheet_and_the_first_of_each_flow_an_image(sent_to_sink):
    body = pack(PICTURE, "raw")
    datagrams = [d for content in range(3) for d in plain(body, content)] + [d for c in range(3) for d in made(body, c)]
    said, facts, out = sent_to_sink({CONTENT_PORT: datagrams})
    assert [(f["flow"], f["content"], f["kind"], f["made"]) for f in facts] == [
        *((0, content, "plain", "none") for content in range(3)),
        *((1, content, "content", "explicit") for content in range(3)),
    ]
    assert all(f["complete"] and f["bytes"] == len(body) and f["crc"] == crc32(body) for f in facts)
    assert all(f["source"] == "127.0.0.1" and f["packets"] == 2 and f["t_first_s"] <= f["t_last_s"] for f in facts)
    assert sorted(path.name for path in out.glob("*.png")) == [
        "0-000000.png",
        "0-000001.png",
        "1-000000.png",
        "1-000001.png",
    ]
    with Image.open(out / "1-000001.png") as image:
        assert np.array_equal(np.asarray(image), PICTURE)
    assert said["counters"]["items"] == 6 and said["counters"]["receive_buffer_drops"] == 0


def test_what_arrived_in_part_is_said_and_is_no_image(sent_to_sink):
    body = pack(PICTURE, "raw")
    said, facts, out = sent_to_sink({CONTENT_PORT: plain(body, 0)[:-1] + plain(body, 1)})
    assert sorted((f["content"], f["complete"], f["crc"]) for f in facts) == [(0, False, None), (1, True, crc32(body))]
    assert [path.name for path in out.glob("*.png")] == ["0-000001.png"]


def test_a_prompt_that_no_router_decoded_is_kept_for_decoding_here(sent_to_sink):
    prompt = Prompt(7, 0xABCD, (b"base" * 700, b"", b"more"))
    header = Header(KIND_PROMPT, codec=7, weights=0xABCD, flow=1, content=1)
    datagrams = [d for run in packetise_prompt(prompt.slices, header) for d in cut(run)]
    _, facts, out = sent_to_sink({PROMPT_PORT: datagrams})
    assert [(f["kind"], f["made"], f["bytes"]) for f in facts] == [("prompt", "none", prompt.size_bytes)]
    assert parse_file((out / "1-000001.gnl").read_bytes()) == prompt


def test_nonsense_is_counted_by_reason_and_changes_nothing(sent_to_sink):
    body = pack(PICTURE, "raw")
    good = plain(body)
    flipped = bytes([*good[0][:100], good[0][100] ^ 1, *good[0][101:]])
    said, facts, _ = sent_to_sink({CONTENT_PORT: [b"", b"x" * 10, bytes(100), flipped, good[0], good[0], *good]})
    assert len(facts) == 1 and facts[0]["complete"] and facts[0]["crc"] == crc32(body)
    counters = said["counters"]
    assert counters["malformed_short"] == 2 and counters["malformed_magic"] == 1 and counters["malformed_check"] == 1
    assert counters["duplicate"] == 2


def test_a_content_that_is_no_image_is_counted_and_the_others_are_written(sent_to_sink):
    said, facts, out = sent_to_sink({CONTENT_PORT: [*plain(b"not an image", 0), *plain(pack(PICTURE, "png"), 1)]})
    assert said["counters"]["unreadable_contents"] == 1 and len(facts) == 2
    assert [path.name for path in out.glob("*.png")] == ["0-000001.png"]


def test_how_long_a_content_may_take_is_the_runs_to_say(sent_to_sink, monkeypatch):
    """At 0.1 Mbit/s an image of 200 kB takes 16 seconds: given up before, it would count as lost on a good link."""
    monkeypatch.setattr(sink, "EXPIRE_EVERY_S", 0.0)
    first, second = plain(pack(PICTURE, "raw"))
    _, facts, _ = sent_to_sink({CONTENT_PORT: [first, *made(b"other" * 10), second]}, max_age_s=1e-5)
    assert not any(fact["complete"] for fact in facts if fact["flow"] == 0) and any(fact["complete"] for fact in facts)
