"""The GenAI router g: takes prompts off the wire, has them decoded, and sends the contents on in the source's name.

    intercepted prompts --> receiver --> decoder service --> answers --> bounded queue --> emitter --> d
                                \\-- what is not understood, or cannot be decoded, goes on untouched --/

The decisions are `protocol.router.RouterCore`'s; here are only the sockets, the connection to the decoder service and
the threads. All other traffic is forwarded by the kernel and never comes here. If this program dies, its transparent
socket goes with it and the kernel forwards the prompts too (see `topologies.interception`).

    python -m gnl.node_apps.genai_router SETTINGS.json      (settings as in `Settings`)
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from gnl.topologies.errors import GnlError

from .codecs.interface import Prompt
from .decoder_client import DecoderClient
from .program import announce_ready, run_program, wait_for
from .protocol.counters import Counters
from .protocol.header import PROMPT_PORT
from .protocol.packetise import batches, packetise
from .protocol.router import Action, Decode, Emit, Forward, RouterCore
from .sockets import (
    Address,
    batch_datagrams,
    original_destination,
    receive_drops,
    receiver,
    send_batch,
    sender,
)

# Contents that wait for the outgoing link; when they are as many, decoding waits too.
MAX_WAITING_CONTENTS = 32
MAX_SOCKETS = 256
TIMER_EVERY_S = 0.25
RECONNECT_EVERY_S = 0.5
ANCILLARY_BYTES = 128
LARGEST_DATAGRAM_BYTES = 65_535


@dataclass(frozen=True)
class Settings:
    """`decoder` is the service's Unix socket; `link_bps` and `send_buffer_bytes` belong to the link towards d;
    `max_age_s` is how long a prompt may take to arrive."""

    decoder: str
    content_format: str
    ip_version: int
    link_bps: float
    send_buffer_bytes: int
    max_in_flight: int = 256
    max_age_s: float = 10.0


class Router:
    """The threads of one router and what they share; `core` is used under `lock`."""

    def __init__(self, settings: Settings, stopped: threading.Event) -> None:
        self.settings, self.stopped = settings, stopped
        self.lock = threading.Lock()
        self.core = RouterCore(max_in_flight=settings.max_in_flight, max_age_s=settings.max_age_s)
        self.sent = Counters()
        self.waiting: queue.Queue[Emit] = queue.Queue(MAX_WAITING_CONTENTS)
        self.senders = Senders(settings)
        self.client = self._connect()
        self.socket = receiver(PROMPT_PORT, settings.ip_version, transparent=True)

    def threads(self) -> list[threading.Thread]:
        return [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self.receive_prompts, self.take_answers, self.emit_contents)
        ]

    def receive_prompts(self) -> None:
        """Take intercepted datagrams and carry out what the core decides about each."""
        buffer = bytearray(LARGEST_DATAGRAM_BYTES)
        view, next_timer_s = memoryview(buffer), 0.0
        while not self.stopped.is_set():
            now = time.monotonic()
            if now >= next_timer_s:
                next_timer_s = now + TIMER_EVERY_S
                with self.lock:
                    actions = self.core.handle_timer(now)
                self._carry_out(actions)
            try:
                size, ancillary, _, source = self.socket.recvmsg_into([buffer], ANCILLARY_BYTES)
            except BlockingIOError:
                continue
            destination = original_destination(ancillary)
            if destination is None:
                self.sent.count("without_destination")
                continue
            with self.lock:
                actions = self.core.receive_datagram(view[:size], source[:2], destination, time.monotonic())
            self._carry_out(actions)

    def take_answers(self) -> None:
        """Take the decoder's answers; while the service is away, prompts are forwarded."""
        while not self.stopped.is_set():
            try:
                for answer in self.client.results(timeout_s=TIMER_EVERY_S):
                    with self.lock:
                        actions = self.core.decoded(answer.request_id, answer.body, time.monotonic())
                    self._carry_out(actions)
            except (GnlError, OSError):
                if not self.stopped.is_set():
                    self._reconnect()

    def emit_contents(self) -> None:
        """Send contents one after the other; the outgoing shaper holds this thread back, and so the queue fills."""
        datagrams = batch_datagrams(self.settings.link_bps, self.settings.ip_version)
        while not self.stopped.is_set():
            try:
                emit = self.waiting.get(timeout=TIMER_EVERY_S)
            except queue.Empty:
                continue
            buffer = packetise(emit.body, emit.header)
            self._send(buffer, emit.source, emit.destination, datagrams)
            self.sent.count("contents")
            self.sent.count("content_bytes", len(emit.body))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Decode):
                self._submit(action)
            elif isinstance(action, Forward):
                self._send(action.data, action.source, action.destination, 1 if action.segment_bytes else 0)
            else:
                self._enqueue(action)

    def _submit(self, decode: Decode) -> None:
        prompt = Prompt(decode.codec, decode.weights, tuple(bytes(piece) for piece in decode.slices))
        try:
            self.client.submit(decode.request_id, prompt, self.settings.content_format)
        except (GnlError, OSError):
            with self.lock:
                actions = self.core.decoded(decode.request_id, None, time.monotonic())
            self._carry_out(actions)

    def _enqueue(self, emit: Emit) -> None:
        while not self.stopped.is_set():
            try:
                return self.waiting.put(emit, timeout=TIMER_EVERY_S)
            except queue.Full:
                continue

    def _send(self, buffer: bytes | bytearray, source: Address, destination: Address, datagrams: int) -> None:
        """Send a buffer in batches of so many of our datagrams; 0: as the one datagram of any size that it came as."""
        try:
            sock = self.senders.get(source, destination)
            if not datagrams:
                sock.send(buffer)
                return
            view = memoryview(buffer)
            for start, end in batches(len(view), datagrams):
                send_batch(sock, view[start:end])
        except OSError as error:
            self.sent.count(f"send_error_{error.errno}")

    def _connect(self) -> DecoderClient:
        client = DecoderClient(self.settings.decoder)
        self.core.decoder_ready(client.known)
        return client

    def _reconnect(self) -> None:
        with self.lock:
            actions = self.core.decoder_lost(time.monotonic())
        self._carry_out(actions)
        self.client.close()
        while not self.stopped.wait(RECONNECT_EVERY_S):
            try:
                client = DecoderClient(self.settings.decoder)
            except (GnlError, OSError):
                continue
            with self.lock:
                self.client = client
                self.core.decoder_ready(client.known)
            return


class Senders:
    """Transparent sockets by (source, destination), the least recently used closed when there are too many."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._lock = settings, threading.Lock()
        self._sockets: OrderedDict = OrderedDict()

    def get(self, source: Address, destination: Address):
        key = (source, destination)
        with self._lock:
            if key not in self._sockets:
                if len(self._sockets) >= MAX_SOCKETS:
                    self._sockets.popitem(last=False)[1].close()
                self._sockets[key] = sender(source, destination, self._settings.send_buffer_bytes, transparent=True)
            self._sockets.move_to_end(key)
            return self._sockets[key]


def route(settings_tree: dict, stopped: threading.Event) -> dict:
    """Generate until told to stop, and return the counters."""
    settings = Settings(**settings_tree)
    router = Router(settings, stopped)
    threads = router.threads()
    for thread in threads:
        thread.start()
    announce_ready()
    wait_for(threads)
    counters = Counters(router.core.counters)
    counters["receive_buffer_drops"] = receive_drops({PROMPT_PORT}, settings.ip_version)
    return {
        "counters": counters,
        "sent": router.sent,
        "in_flight_at_stop": router.core.in_flight,
        "waiting_at_stop": router.waiting.qsize(),
        "cpu_s": time.process_time(),
    }


if __name__ == "__main__":
    sys.exit(run_program(route))
