"""What a GenAI router decides about each datagram that it intercepts, as a pure state machine.

    receive_datagram(data, source, destination, now)  -> actions   a datagram on its way from s to d
    decoded(request_id, body, now)                    -> actions   the decoder service's answer
    decoder_ready(known), decoder_lost(now)           -> actions   which prompts can be decoded, from now on
    handle_timer(now), at the latest when get_timer() says so -> actions

Actions are `Forward` (send this on as it came), `Decode` (hand this prompt to the decoder service) and `Emit` (send
this content in the source's name). Whatever is not understood, and every prompt that cannot be decoded here, is
forwarded: d, an edge node, may decode it itself. A prompt that was reassembled is forwarded as the very datagrams that
it came in, because the cut is canonical. The calls return what to do and do nothing; time is always `now`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any

from .counters import Counters
from .header import (
    CONTENT_PORT,
    DATAGRAM_BYTES,
    KIND_CONTENT,
    KIND_PROMPT,
    MADE_EXPLICIT,
    Header,
    MalformedPacket,
    parse,
)
from .packetise import packetise_prompt
from .reassembly import Item, Reassembler

Address = tuple[Any, ...]  # (host, port), and what else the socket layer puts behind it


@dataclass(frozen=True, slots=True)
class Forward:
    """Send `data` from `source` to `destination`: one datagram, or several of `segment_bytes` (the last shorter)."""

    data: bytes | bytearray
    source: Address
    destination: Address
    segment_bytes: int = 0  # 0: one datagram


@dataclass(frozen=True, slots=True)
class Decode:
    """Ask the decoder service for the image of a prompt, and give its answer to `decoded` under `request_id`."""

    request_id: int
    codec: int
    weights: int
    slices: tuple[bytes | bytearray, ...]


@dataclass(frozen=True, slots=True)
class Emit:
    """Send `body` in the name of `source` to `destination`, as packetise(body, header) cuts it."""

    body: bytes | bytearray | memoryview
    header: Header
    source: Address
    destination: Address
    requested_s: float  # `now` when the prompt was complete


Action = Forward | Decode | Emit


@dataclass(frozen=True, slots=True)
class _Pending:
    header: Header
    slices: tuple[bytes | bytearray, ...]
    source: Address
    destination: Address
    requested_s: float
    size_bytes: int


class RouterCore:
    """The decisions of one generative router.

    `known` holds the (codec id, weights id) pairs that the decoder service decodes. At most `max_in_flight` prompts of
    together `max_in_flight_bytes` wait for the decoder, each for at most `decode_timeout_s`; beyond that a prompt is
    forwarded undecoded. The rest are bounds of the reassembly (see `Reassembler`).
    `counters`: those of the reassembly, and received, forwarded (datagrams), malformed_REASON, unknown_codec,
    not_prompt, decode (prompts handed over), emitted, overflow, decode_failed, decode_timeout, decoder_lost,
    late_answer.
    """

    def __init__(
        self,
        known: Collection[tuple[int, int]] = (),
        max_in_flight: int = 256,
        max_in_flight_bytes: int = 64 << 20,
        decode_timeout_s: float = 30.0,
        max_reassembly_bytes: int = 64 << 20,
        max_prompts: int = 4096,
        max_age_s: float = 5.0,
        content_port: int = CONTENT_PORT,
    ) -> None:
        self.known = frozenset(known)
        self.counters = Counters()
        self.content_port = content_port
        self.max_in_flight, self.max_in_flight_bytes = max_in_flight, max_in_flight_bytes
        self.decode_timeout_s = decode_timeout_s
        self._reassembler = Reassembler(max_reassembly_bytes, max_prompts, max_age_s, counters=self.counters)
        self._pending: OrderedDict[int, _Pending] = OrderedDict()  # by request id, so by time
        self._pending_bytes = 0
        self._next_request_id = 0

    @property
    def in_flight(self) -> int:
        """Number of prompts that wait for the decoder service."""
        return len(self._pending)

    def receive_datagram(
        self, data: bytes | bytearray | memoryview, source: Address, destination: Address, now: float
    ) -> list[Action]:
        """Decide about one datagram from `source` to `destination`; `data` is copied where it is kept."""
        self.counters["received"] += 1
        try:
            header, payload = parse(data)
        except MalformedPacket as error:
            return self._untouched("malformed_" + error.reason, data, source, destination)
        if header.kind != KIND_PROMPT:
            return self._untouched("not_prompt", data, source, destination)
        prefix: Hashable = (source, destination)
        # A prompt already begun goes on being collected, so that all of it takes one way.
        begun = (prefix, header.kind, header.flow, header.content) in self._reassembler
        if (header.codec, header.weights) not in self.known and not begun:
            return self._untouched("unknown_codec", data, source, destination)
        item = self._reassembler.receive(header, payload, prefix, now)
        return [] if item is None else self._prompt_complete(item, source, destination, now)

    def decoded(self, request_id: int, body: bytes | bytearray | memoryview | None, now: float) -> list[Action]:
        """Take the decoder's answer: the packed content, or None where it failed."""
        pending = self._take(request_id)
        if pending is None:
            self.counters.count("late_answer")
            return []
        if body is None:
            return self._undecoded("decode_failed", pending)
        header = Header(
            KIND_CONTENT, pending.header.codec, MADE_EXPLICIT, weights=pending.header.weights,
            flow=pending.header.flow, content=pending.header.content,
        )
        self.counters.count("emitted")
        destination = (pending.destination[0], self.content_port, *pending.destination[2:])
        return [Emit(body, header, pending.source, destination, pending.requested_s)]

    def decoder_ready(self, known: Collection[tuple[int, int]]) -> None:
        """Take prompts of these (codec id, weights id) pairs from now on."""
        self.known = frozenset(known)

    def decoder_lost(self, now: float) -> list[Action]:
        """Forward all that waits for the decoder, and every prompt from now on, until `decoder_ready`."""
        self.known = frozenset()
        lost = list(self._pending)
        return [action for request_id in lost for action in self._undecoded("decoder_lost", self._take(request_id))]

    def get_timer(self) -> float | None:
        """When `handle_timer` is next due; None while nothing is under way."""
        times = [self._reassembler.next_expiry_s()]
        if self._pending:
            times.append(next(iter(self._pending.values())).requested_s + self.decode_timeout_s)
        return min((time_s for time_s in times if time_s is not None), default=None)

    def handle_timer(self, now: float) -> list[Action]:
        """Give up prompts that never completed (dropped), and forward those that the decoder has not answered."""
        self._reassembler.expire(now)
        actions: list[Action] = []
        while self._pending:
            request_id, pending = next(iter(self._pending.items()))
            if now - pending.requested_s < self.decode_timeout_s:
                break
            self._take(request_id)
            actions += self._undecoded("decode_timeout", pending)
        return actions

    def _prompt_complete(self, item: Item, source: Address, destination: Address, now: float) -> list[Action]:
        header = item.header
        pending = _Pending(header, item.parts, source, destination, now, item.claimed_bytes)
        if (header.codec, header.weights) not in self.known:
            return self._undecoded("unknown_codec", pending)
        room_bytes = self.max_in_flight_bytes - self._pending_bytes
        if len(self._pending) >= self.max_in_flight or pending.size_bytes > room_bytes:
            return self._undecoded("overflow", pending)
        request_id = self._next_request_id
        self._next_request_id += 1
        self._pending[request_id] = pending
        self._pending_bytes += pending.size_bytes
        self.counters.count("decode")
        return [Decode(request_id, header.codec, header.weights, pending.slices)]

    def _take(self, request_id: int) -> _Pending | None:
        pending = self._pending.pop(request_id, None)
        if pending is not None:
            self._pending_bytes -= pending.size_bytes
        return pending

    def _untouched(
        self, reason: str, data: bytes | bytearray | memoryview, source: Address, destination: Address
    ) -> list[Action]:
        self.counters.count(reason)
        self.counters.count("forwarded")
        return [Forward(bytes(data), source, destination)]

    def _undecoded(self, reason: str, pending: _Pending) -> list[Action]:
        self.counters.count(reason)
        runs = packetise_prompt(pending.slices, pending.header)
        self.counters.count("forwarded", sum(-(-len(run) // DATAGRAM_BYTES) for run in runs))
        return [Forward(run, pending.source, pending.destination, DATAGRAM_BYTES) for run in runs]
