"""The source on the loopback: what it sends, that it says so truly, and that it finishes what it has begun."""

import json
import socket
import threading
from zlib import crc32

import pytest
from gnl.node_apps import sockets, source
from gnl.node_apps.catalogue import write_catalogue
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.protocol.header import KIND_PLAIN, KIND_PROMPT, parse
from gnl.node_apps.protocol.reassembly import Reassembler

BODIES = [bytes([index]) * size for index, size in enumerate((5000, 100, 1408, 3000))]
PROMPTS = [(b"base" * 500, b"more"), (b"x",), (b"y" * 1409,), (b"", b"z")]


@pytest.fixture
def catalogue(tmp_path):
    images = [(f"{i}.png", body, Prompt(9, 77, slices)) for i, (body, slices) in enumerate(zip(BODIES, PROMPTS))]
    return write_catalogue(tmp_path / "catalogue", {}, images)


@pytest.fixture
def receiver(monkeypatch):
    monkeypatch.setattr(sockets, "SO_SNDBUFFORCE", socket.SO_SNDBUF)
    monkeypatch.setattr(sockets, "SO_RCVBUFFORCE", socket.SO_RCVBUF)
    with sockets.receiver(0, 4, timeout_s=0.3) as made:
        port = made.getsockname()[1]
        monkeypatch.setattr(source, "PROMPT_PORT", port)
        monkeypatch.setattr(source, "CONTENT_PORT", port)
        yield made


def flow(number, kind, rate_bps=2e6, **changes):
    return {
        "flow": number,
        "kind": kind,
        "source_port": 0,
        "link_bps": 10e6,
        "send_buffer_bytes": 50_000,
        "rate_bps": rate_bps,
        **changes,
    }


def settings_of(catalogue, *flows, duration_s=0.2, delay_s=0.0):
    return {
        "catalogue": str(catalogue.folder),
        "source": "127.0.0.1",
        "destination": "127.0.0.1",
        "ip_version": 4,
        "delay_s": delay_s,
        "duration_s": duration_s,
        "flows": list(flows),
    }


def datagrams(receiver):
    received = []
    try:
        while True:
            received.append(receiver.recv(65535))
    except BlockingIOError:
        return received


def send_and_receive(receiver, settings, stopped=None):
    stopped, said = stopped or threading.Event(), {}
    thread = threading.Thread(target=lambda: said.update(source.send(settings, stopped)))
    thread.start()
    received = datagrams(receiver)
    thread.join()
    return said, received + datagrams(receiver)


def test_images_go_in_the_order_of_the_catalogue_again_and_again_under_new_ids(catalogue, receiver):
    said, received = send_and_receive(receiver, settings_of(catalogue, flow(3, "plain"), flow(4, "prompt", 0.5e6)))
    collected, items = Reassembler(1 << 24, 1000, 60.0), {KIND_PLAIN: [], KIND_PROMPT: []}
    for datagram in received:
        header, payload = parse(datagram)
        item = collected.receive(header, payload, "s", 0.0)
        if item:
            items[header.kind].append(item)
    assert not collected.remaining()  # a content that was begun is finished
    plain, prompts = items[KIND_PLAIN], items[KIND_PROMPT]
    assert len(plain) > len(BODIES) and len(prompts) > len(PROMPTS)
    for number, item in enumerate(plain):
        assert (item.header.flow, item.header.content, bytes(item.body)) == (3, number, BODIES[number % 4])
    for number, item in enumerate(prompts):
        header = item.header
        assert (header.flow, header.content, header.codec, header.weights) == (4, number, 9, 77)
        assert tuple(map(bytes, item.parts)) == PROMPTS[number % 4]
    by_flow = {flow_said["flow"]: flow_said for flow_said in said["flows"]}
    assert (by_flow[3]["contents"], by_flow[4]["contents"]) == (len(plain), len(prompts))


def test_what_it_says_that_it_sent_is_what_arrived(catalogue, receiver):
    said, received = send_and_receive(receiver, settings_of(catalogue, flow(0, "plain", 4e6)))
    (sent,) = said["flows"]
    assert sent["packets"] == len(received)
    assert sent["wire_bytes"] == sum(len(datagram) + 14 + 20 + 8 for datagram in received)
    assert sent["error"] is None and sent["lost_s"] == 0.0


def test_a_paced_flow_keeps_to_its_bits(catalogue, receiver):
    """Over the time that it was given, up to the content that was under way at the end."""
    said, _ = send_and_receive(receiver, settings_of(catalogue, flow(0, "plain", 1e6), duration_s=0.5))
    bits = 8 * said["flows"][0]["wire_bytes"]
    assert 0.5e6 - 8 * 1482 <= bits <= 0.5e6 + 8 * (5000 + 4 * 74) + 8 * 1482


def test_the_head_start_goes_on_top(catalogue, receiver):
    head = 400_000
    said, _ = send_and_receive(
        receiver, settings_of(catalogue, flow(0, "plain", 1e5, head_start_bits=head), duration_s=0.1)
    )
    bits = 8 * said["flows"][0]["wire_bytes"]
    assert head <= bits <= head + 1e4 + 8 * (5000 + 4 * 74) + 8 * 1482


def test_the_start_is_said_once_everything_is_prepared(catalogue, receiver, capsys):
    """A start that was set beforehand would lie in the past after preparing large images, and the window with it."""
    said, received = send_and_receive(receiver, settings_of(catalogue, flow(0, "plain"), delay_s=0.05))
    ready, times = capsys.readouterr().out.splitlines()
    assert ready == "ready" and received and said["flows"][0]["contents"]
    times = json.loads(times)
    assert times["stop_s"] == pytest.approx(times["start_s"] + 0.2)


def test_told_to_stop_it_finishes_the_content_and_says_what_it_sent(catalogue, receiver):
    stopped = threading.Event()
    threading.Timer(0.2, stopped.set).start()
    said, received = send_and_receive(receiver, settings_of(catalogue, flow(0, "plain", 1e6), duration_s=3600), stopped)
    assert said["flows"][0]["packets"] == len(received) > 0
    contents = said["flows"][0]["contents"]
    assert sum(parse(datagram)[0].length for datagram in received) == sum(len(BODIES[i % 4]) for i in range(contents))


def test_a_flow_that_cannot_send_says_why_and_the_others_go_on(catalogue, receiver):
    unusable = flow(1, "plain", source_port=1 << 16)
    settings = settings_of(catalogue, flow(0, "plain"), {**unusable, "source_port": receiver.getsockname()[1]})
    said, received = send_and_receive(receiver, settings)
    good, bad = said["flows"]
    assert good["error"] is None and good["contents"] and received
    assert "flow 1 (plain) could not send" in bad["error"] and bad["contents"] == 0


def test_restamped_datagrams_stay_whole(catalogue, receiver):
    """Every datagram of every round passes its check (`parse` raises otherwise), and so does the whole body."""
    _, received = send_and_receive(receiver, settings_of(catalogue, flow(0, "plain", 8e6)))
    bodies = {}
    for datagram in received:
        header, payload = parse(datagram)
        bodies.setdefault(header.content, bytearray(header.total))[header.offset : header.offset + header.length] = (
            payload
        )
    assert {crc32(body) for body in bodies.values()} == {crc32(body) for body in BODIES}
