"""A client of the decoder service: prompts in, contents out, and the measurement of the generation rate R_g.

    client = DecoderClient(path)
    client.submit(7, prompt, "raw")                one thread may submit
    answer = client.receive(timeout_s=1.0)         while another receives
"""

from __future__ import annotations

import select
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnl.topologies.errors import MachineError, RunError, UsageError

from .codecs.interface import Prompt
from .decoder_frames import (
    FAILED,
    HELLO,
    MAX_CONTENT_BYTES,
    MAX_PROMPT_BYTES,
    RESULT,
    STATS,
    Frame,
    FrameReader,
    Submission,
    frame_parts,
    json_body,
    send_all,
    submit_frame,
    widen_buffers,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a submitted prompt: `body` is its content, or None and `reason` (a slug) and `message` say why.

    Reasons: overflow, unknown_codec, bitstream, codec, memory, killed, timeout.
    """

    request_id: int
    body: bytearray | None
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class GenerationRate:
    """The decoder's rate in a closed loop, in bins of `bin_s` seconds. Contents are bodies, without packet headers.

    `completed_s`: when each image was done, from the start.
    """

    bin_s: float
    images_per_bin: tuple[int, ...]
    content_bytes_per_bin: tuple[int, ...]
    failed: int
    completed_s: tuple[float, ...] = ()

    @property
    def images_per_s(self) -> float:
        """Slope of images done against time: a count would be off by up to a batch, some percent of a few seconds."""
        if len(set(self.completed_s)) > 2:
            return statistics.linear_regression(self.completed_s, range(len(self.completed_s))).slope
        return sum(self.images_per_bin) / (self.bin_s * len(self.images_per_bin))

    @property
    def images_per_s_median(self) -> float:
        return statistics.median(self.images_per_bin) / self.bin_s

    @property
    def images_per_s_min(self) -> float:
        return min(self.images_per_bin) / self.bin_s

    @property
    def content_bps(self) -> float:
        """R_g in bit/s: the images' rate times their mean size."""
        return 8 * self.images_per_s * sum(self.content_bytes_per_bin) / sum(self.images_per_bin)


class DecoderClient:
    """One connection to the decoder service. Raises `MachineError` where none answers, `RunError` once it is gone."""

    def __init__(self, path: str | Path, connect_timeout_s: float = 5.0) -> None:
        self._path = str(path)
        self._sock = socket.socket(socket.AF_UNIX)
        self._submitting = threading.Lock()
        try:
            self._sock.settimeout(connect_timeout_s)
            self._sock.connect(self._path)
            self._sock.settimeout(None)
        except OSError as error:
            self._sock.close()
            raise MachineError(f"no decoder service on {self._path} ({error}): start one there first") from None
        widen_buffers(self._sock)
        self._reader = FrameReader(self._sock, MAX_CONTENT_BYTES)
        hello = self._receive_frame(connect_timeout_s)
        if hello is None or hello.type != HELLO:
            self._sock.close()
            raise MachineError(f"what listens on {self._path} is no decoder service that is ready: check the path")
        self.facts: dict[str, Any] = json_body(hello)
        self.known = frozenset((codec["codec_id"], codec["weights_id"]) for codec in self.facts["codecs"])

    def fileno(self) -> int:
        """For `select`: readable when `receive(0)` may have an answer (after it returned None)."""
        return self._sock.fileno()

    def submit(self, request_id: int, prompt: Prompt, fmt: str) -> None:
        """Ask for the content of `prompt` in `fmt` (raw, png, jpeg:Q). Blocks while the service does not read."""
        if prompt.size_bytes > MAX_PROMPT_BYTES or not 1 <= len(prompt.slices) <= 255:
            raise UsageError(
                f"prompt of {len(prompt.slices)} slices, {prompt.size_bytes} bytes: the decoder service takes 1 to 255 "
                f"slices of together at most {MAX_PROMPT_BYTES} bytes"
            )
        parts = submit_frame(Submission(request_id, prompt.codec_id, prompt.weights_id, fmt, prompt.slices))
        try:
            with self._submitting:
                send_all(self._sock, parts)
        except OSError as error:
            raise self._gone(str(error)) from None

    def receive(self, timeout_s: float | None = None) -> Answer | None:
        """The next answer, in the order of completion; None after `timeout_s` without one (None: wait for ever)."""
        frame = self._receive_frame(timeout_s)
        if frame is None:
            return None
        if frame.type == RESULT:
            return Answer(frame.request_id, frame.body)
        if frame.type == FAILED:
            content = json_body(frame)
            return Answer(frame.request_id, None, content.get("reason"), content.get("message"))
        raise RunError(f"the decoder service sent a frame of type {frame.type} unasked: restart it")

    def results(self, timeout_s: float | None = None) -> Iterator[Answer]:
        """Answers as they come, until none came for `timeout_s` (None: until the service is gone, then `RunError`)."""
        while (answer := self.receive(timeout_s)) is not None:
            yield answer

    def stats(self) -> dict[str, Any]:
        """The service's own counts (see `Supervisor.stats`), over a connection of its own."""
        with DecoderClient(self._path) as other:
            send_all(other._sock, frame_parts(STATS))
            frame = other._receive_frame(10.0)
        if frame is None or frame.type != STATS:
            raise RunError(f"the decoder service on {self._path} gave no statistics within 10 s: restart it")
        return json_body(frame)

    def measure_generation_rate(
        self, prompts: Sequence[Prompt], fmt: str, duration_s: float, in_flight: int = 32, bin_s: float = 1.0
    ) -> GenerationRate:
        """Measure R_g: keep `in_flight` prompts in the service for `duration_s`, over and over the same ones.

        The connection must have nothing else under way. Raises `RunError` where no prompt at all is decoded.
        """
        if not prompts or in_flight < 1 or not 0 < bin_s <= duration_s:
            raise UsageError(
                f"{len(prompts)} prompts, {in_flight} in flight, bins of {bin_s} s in {duration_s} s: give at least "
                "one prompt and one in flight, and a duration of at least one bin"
            )
        bins = int(duration_s / bin_s + 1e-9)
        images, content_bytes, failed, sent, last = [0] * bins, [0] * bins, 0, 0, None
        completed_s: list[float] = []
        start_s = time.monotonic()
        end_s = start_s + bins * bin_s
        for sent in range(in_flight):
            self.submit(sent, prompts[sent % len(prompts)], fmt)
        pending = in_flight
        while pending:
            answer = self.receive()
            now_s = time.monotonic()
            pending -= 1
            if now_s < end_s:
                sent += 1
                self.submit(sent, prompts[sent % len(prompts)], fmt)
                pending += 1
                if answer.body is not None:
                    index = int((now_s - start_s) / bin_s)
                    images[index] += 1
                    completed_s.append(now_s - start_s)
                    content_bytes[index] += len(answer.body)
            if answer.body is None:
                failed, last = failed + 1, answer
        if not any(images):
            why = f"the last one: {last.reason}, {last.message}" if last else f"none came within {bins * bin_s:g} s"
            raise RunError(f"no prompt was decoded in the measurement of the generation rate ({why})")
        return GenerationRate(bin_s, tuple(images), tuple(content_bytes), failed, tuple(completed_s))

    def close(self) -> None:
        """End the connection; prompts still in the service are dropped there."""
        self._sock.close()

    def __enter__(self) -> DecoderClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive_frame(self, timeout_s: float | None) -> Frame | None:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (frame := self._reader.next()) is None:
            if deadline_s is not None and not self._readable(max(0.0, deadline_s - time.monotonic())):
                return None
            try:
                alive = self._reader.receive()
            except OSError as error:
                alive, why = False, str(error)
            else:
                why = "it closed the connection"
            if not alive:
                raise self._gone(why)
        return frame

    def _gone(self, why: str) -> RunError:
        return RunError(f"the decoder service on {self._path} is gone ({why}): see its last line on stderr")

    def _readable(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
