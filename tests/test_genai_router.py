"""The GenAI router's threads on the loopback, with a decoder of a few lines: what comes in, and what goes out."""

import queue
import socket
import threading
import time

import pytest
from gnl.node_apps import genai_router, sockets
from gnl.node_apps.decoder_client import Answer
from gnl.node_apps.genai_router import Router, Senders, Settings
from gnl.node_apps.protocol.header import (
    CONTENT_PORT,
    DATAGRAM_BYTES,
    KIND_CONTENT,
    KIND_PROMPT,
    MADE_EXPLICIT,
    Header,
    parse,
)
from gnl.node_apps.protocol.packetise import packetise_prompt
from gnl.topologies.errors import MachineError, RunError

S = ("127.0.0.1", 40000)


class Decoder:
    """Answers every prompt with its own bytes, ten times over; `gone` is a service that has died."""

    known = frozenset({(9, 77)})

    def __init__(self, *_):
        if Decoder.gone.is_set():
            raise MachineError("no decoder service")
        self.answers = queue.Queue()

    def submit(self, request_id, prompt, fmt):
        if Decoder.gone.is_set():
            raise RunError("the decoder service is gone")
        assert fmt == "png"
        whole = b"".join(prompt.slices)
        self.answers.put(Answer(request_id, None if whole.startswith(b"bad") else bytearray(whole * 10)))

    def results(self, timeout_s):
        while True:
            if Decoder.gone.is_set():
                raise RunError("the decoder service is gone")
            try:
                yield self.answers.get(timeout=0.02)
            except queue.Empty:
                return

    def close(self):
        pass


class World:
    """A router between a socket to send prompts to, and one in place of every destination."""

    def __init__(self, monkeypatch):
        self.stopped, self.sent_to = threading.Event(), []
        Decoder.gone = threading.Event()
        self.d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.d.bind(("127.0.0.1", 0))
        self.d.settimeout(3)
        monkeypatch.setattr(sockets, "SO_SNDBUFFORCE", socket.SO_SNDBUF)
        monkeypatch.setattr(sockets, "SO_RCVBUFFORCE", socket.SO_RCVBUF)
        monkeypatch.setattr(genai_router, "DecoderClient", Decoder)
        monkeypatch.setattr(genai_router, "RECONNECT_EVERY_S", 0.05)
        monkeypatch.setattr(
            genai_router, "receiver", lambda port, version, transparent: sockets.receiver(0, version, timeout_s=0.02)
        )
        monkeypatch.setattr(genai_router, "original_destination", lambda ancillary: ("10.0.0.9", 18700))
        monkeypatch.setattr(genai_router, "sender", self.sender)
        self.router = Router(Settings("unused", "png", 4, 10e6, 100_000), self.stopped)
        self.threads = self.router.threads()
        for thread in self.threads:
            thread.start()

    def sender(self, source, destination, send_buffer_bytes, transparent):
        """Where g would bind a foreign address; here everything goes to the one socket, and what was asked is noted."""
        assert transparent
        self.sent_to.append((source, destination))
        return sockets.sender(("127.0.0.1", 0), self.d.getsockname(), send_buffer_bytes)

    def send(self, *datagrams):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for datagram in datagrams:
                sock.sendto(datagram, ("127.0.0.1", self.router.socket.getsockname()[1]))

    def arrived(self):
        return self.d.recv(65535)

    def close(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        for sock in (self.d, self.router.socket, *self.router.senders._sockets.values()):
            sock.close()


@pytest.fixture
def world(monkeypatch):
    made = World(monkeypatch)
    yield made
    made.close()


def prompt(slices=(b"base" * 500, b"more"), content=5, codec=9):
    runs = packetise_prompt(slices, Header(KIND_PROMPT, codec=codec, weights=77, flow=1, content=content))
    return [bytes(run[at : at + DATAGRAM_BYTES]) for run in runs for at in range(0, len(run), DATAGRAM_BYTES)]


def test_a_prompt_becomes_a_content_in_the_sources_name_on_the_content_port(world):
    body = (b"base" * 500 + b"more") * 10
    world.send(*prompt())
    received = bytearray(len(body))
    for _ in range(-(-len(body) // (DATAGRAM_BYTES - 32))):
        header, payload = parse(world.arrived())
        assert (header.kind, header.made, header.flow, header.content) == (KIND_CONTENT, MADE_EXPLICIT, 1, 5)
        received[header.offset : header.offset + header.length] = payload
    assert received == body
    ((source, destination),) = world.sent_to
    assert source[0] == "127.0.0.1" and destination == ("10.0.0.9", CONTENT_PORT)


@pytest.mark.parametrize("size", [0, 1, 33, DATAGRAM_BYTES, DATAGRAM_BYTES + 1, 1472, 5000])
def test_what_is_not_ours_goes_on_as_the_one_datagram_that_it_was(world, size):
    """A foreign datagram on our port may be larger than ours ever are: cut at our size it would arrive as two."""
    world.send(bytes([7]) * size)
    assert world.arrived() == bytes([7]) * size
    assert world.sent_to[0][1] == ("10.0.0.9", 18700)


@pytest.mark.parametrize(
    "datagrams", [prompt(codec=3), prompt((b"bad" * 1000,))], ids=["unknown codec", "does not decode"]
)
def test_a_prompt_that_cannot_be_decoded_here_goes_on_in_the_very_datagrams_that_it_came_in(world, datagrams):
    world.send(*datagrams)
    assert [world.arrived() for _ in datagrams] == datagrams


def test_without_a_decoder_prompts_go_on_and_with_a_new_one_they_are_generated_again(world):
    Decoder.gone.set()
    world.send(*prompt(content=1))
    assert [world.arrived() for _ in prompt()] == prompt(content=1)
    Decoder.gone.clear()
    deadline = time.monotonic() + 10
    while not world.router.core.known and time.monotonic() < deadline:
        time.sleep(0.02)
    world.send(*prompt(content=2))
    assert parse(world.arrived())[0].kind == KIND_CONTENT


def test_a_destination_that_cannot_be_reached_is_counted_and_the_router_goes_on(world):
    def unreachable(*_, **__):
        raise OSError(101, "Network is unreachable")

    good, genai_router.sender = genai_router.sender, unreachable
    world.send(b"foreign")
    deadline = time.monotonic() + 10
    while not world.router.sent["send_error_101"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert world.router.sent["send_error_101"] == 1
    genai_router.sender = good
    world.send(b"another")
    assert world.arrived() == b"another"


def test_sockets_of_many_sources_stay_within_their_bound(monkeypatch):
    made = []

    class Socket:
        closed = False

        def close(self):
            self.closed = True

    monkeypatch.setattr(genai_router, "sender", lambda *_, **__: made.append(Socket()) or made[-1])
    monkeypatch.setattr(genai_router, "MAX_SOCKETS", 3)
    senders = Senders(Settings("unused", "raw", 4, 1e6, 1000))
    first = senders.get(("10.0.0.1", 1), S)
    for port in range(2, 5):
        assert senders.get(("10.0.0.1", 1), S) is first  # in use: kept
        senders.get(("10.0.0.1", port), S)
    assert [sock.closed for sock in made] == [False, True, False, False]
