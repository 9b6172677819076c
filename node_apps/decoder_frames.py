"""Frames between the decoder service, its clients and its worker, over Unix stream sockets.

    0        2        3        4            8            12                  20
    +--------+--------+--------+------------+------------+-------------------+--------+--------+
    | magic  |  type  |   0    | meta bytes | body bytes |    request id     |  meta  |  body  |
    +--------+--------+--------+------------+------------+-------------------+--------+--------+

    HELLO   service -> client      body: JSON, what it decodes; worker -> service: JSON, what it runs on
    SUBMIT  client -> service      meta: codec, weights, content format, slice sizes; body: the slices, end to end
    RESULT  service -> client      body: the content
    FAILED  service -> client      body: JSON {"reason", "message"}
    STATS   client -> service      empty; answered by STATS with a JSON body
    BATCH   service -> worker      request id: how many SUBMIT follow as one batch
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from gnl.topologies.errors import BitstreamError

HELLO, SUBMIT, RESULT, FAILED, STATS, BATCH = range(1, 7)
HEAD = struct.Struct("!HBBIIQ")
MAGIC = 0x4744
MAX_META_BYTES = 4096
MAX_PROMPT_BYTES = 1 << 25
MAX_CONTENT_BYTES = 1 << 28
_SUBMIT_META = struct.Struct("!BIBB")
_READ_BYTES = 1 << 16
_SOCKET_BUFFER_BYTES = 1 << 22


class FrameError(BitstreamError):
    """A peer sent bytes that are no frame: its connection cannot go on."""


@dataclass(slots=True)
class Frame:
    """One frame as received."""

    type: int
    request_id: int
    meta: bytes
    body: bytearray


@dataclass(frozen=True, slots=True)
class Submission:
    """What a SUBMIT frame asks for: the content, in format `fmt`, of one prompt."""

    request_id: int
    codec: int
    weights: int
    fmt: str
    slices: tuple[bytes | bytearray | memoryview, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.slices))


def frame_parts(kind: int, request_id: int = 0, meta: bytes = b"", *body: bytes | bytearray | memoryview) -> list:
    """The buffers of one frame, for `sendmsg`; the body's parts are not copied."""
    return [HEAD.pack(MAGIC, kind, 0, len(meta), sum(map(len, body)), request_id) + meta, *body]


def json_frame(kind: int, content: dict[str, Any], request_id: int = 0) -> list:
    """The buffers of a frame whose body is JSON."""
    return frame_parts(kind, request_id, b"", json.dumps(content).encode())


def json_body(frame: Frame) -> dict[str, Any]:
    """The JSON object in a frame's body; `FrameError` if it is none."""
    try:
        content = json.loads(bytes(frame.body))
    except ValueError as error:
        raise FrameError(f"frame of type {frame.type} without JSON in its body: {error}") from None
    if not isinstance(content, dict):
        raise FrameError(f"frame of type {frame.type} with {type(content).__name__} for a JSON object")
    return content


def submit_frame(submission: Submission) -> list:
    """The buffers of a SUBMIT frame."""
    fmt = submission.fmt.encode("ascii")
    slices = submission.slices
    meta = _SUBMIT_META.pack(submission.codec, submission.weights, len(fmt), len(slices))
    meta += fmt + struct.pack(f"!{len(slices)}I", *map(len, slices))
    return frame_parts(SUBMIT, submission.request_id, meta, *slices)


def read_submission(frame: Frame) -> Submission:
    """What a SUBMIT frame asks for, its slices as views of the frame's body; `FrameError` if it does not add up."""
    try:
        codec, weights, fmt_bytes, count = _SUBMIT_META.unpack_from(frame.meta)
        fmt = frame.meta[_SUBMIT_META.size : _SUBMIT_META.size + fmt_bytes].decode("ascii")
        sizes = struct.unpack(f"!{count}I", frame.meta[_SUBMIT_META.size + fmt_bytes :])
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"SUBMIT with {len(frame.meta)} bytes of meta that do not parse: {error}") from None
    if sum(sizes) != len(frame.body) or not sizes:
        raise FrameError(f"SUBMIT of {count} slices, {sum(sizes)} bytes together, with a body of {len(frame.body)}")
    view, at, slices = memoryview(frame.body), 0, []
    for size in sizes:
        slices.append(view[at : at + size])
        at += size
    return Submission(frame.request_id, codec, weights, fmt, tuple(slices))


class FrameReader:
    """Frames out of a stream socket; a body is received where it stays, so large ones are not copied twice."""

    def __init__(self, sock: socket.socket, max_body_bytes: int) -> None:
        self._sock, self._max_body_bytes = sock, max_body_bytes
        self._buffer = bytearray(_READ_BYTES)
        self._start = self._end = 0
        self._frame: Frame | None = None
        self._filled = 0

    def receive(self, flags: int = 0) -> bool:
        """Receive once, what is there; False at the end of the stream. Raises what `recv_into` raises."""
        if self._frame is not None:
            received = self._sock.recv_into(memoryview(self._frame.body)[self._filled :], 0, flags)
            self._filled += received
            return received > 0
        if self._start:
            self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        received = self._sock.recv_into(memoryview(self._buffer)[self._end :], 0, flags)
        self._end += received
        return received > 0

    def next(self) -> Frame | None:
        """The next whole frame that was received, or None; `FrameError` if what was received is no frame."""
        if self._frame is None and not self._begin():
            return None
        if self._filled < len(self._frame.body):
            return None
        frame, self._frame = self._frame, None
        return frame

    def _begin(self) -> bool:
        if self._end - self._start < HEAD.size:
            return False
        magic, kind, zero, meta_bytes, body_bytes, request_id = HEAD.unpack_from(self._buffer, self._start)
        if magic != MAGIC or zero or not HELLO <= kind <= BATCH:
            head = bytes(self._buffer[self._start : self._start + 4])
            raise FrameError(f"frame head {head.hex()} is not one of ours")
        if meta_bytes > MAX_META_BYTES or body_bytes > self._max_body_bytes:
            raise FrameError(
                f"frame of {meta_bytes} + {body_bytes} bytes: {MAX_META_BYTES} + {self._max_body_bytes} are the most"
            )
        meta_at = self._start + HEAD.size
        body_at = meta_at + meta_bytes
        if self._end < body_at:
            return False
        self._frame = Frame(kind, request_id, bytes(self._buffer[meta_at:body_at]), bytearray(body_bytes))
        self._filled = min(body_bytes, self._end - body_at)
        self._frame.body[: self._filled] = self._buffer[body_at : body_at + self._filled]
        self._start = body_at + self._filled
        return True


def send_all(sock: socket.socket, parts: list) -> None:
    """Send all of `parts` on a blocking socket, without joining them."""
    views = [memoryview(part) for part in parts if len(part)]
    while views:
        sent = sock.sendmsg(views[:64])
        while views and sent >= len(views[0]):
            sent -= len(views.pop(0))
        if sent:
            views[0] = views[0][sent:]


def widen_buffers(sock: socket.socket) -> None:
    """Ask for buffers that hold several contents (the kernel grants what its limits allow)."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
