"""The decoder service's event loop: clients on one side, the worker on the other, one thread, no decoding.

It starts the worker, gives it batches, kills it when it hangs, starts it anew when it dies, and answers every prompt of
every client exactly once: with the content, or with the reason why not.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gnl.topologies.errors import RunError

from .decoder_frames import (
    BATCH,
    FAILED,
    HELLO,
    MAX_CONTENT_BYTES,
    MAX_PROMPT_BYTES,
    RESULT,
    STATS,
    SUBMIT,
    Frame,
    FrameError,
    FrameReader,
    Submission,
    frame_parts,
    json_body,
    json_frame,
    read_submission,
    submit_frame,
    widen_buffers,
)
from .decoder_queue import DecodeQueue, Job
from .protocol.counters import Counters

MAX_CLIENTS = 64
MAX_BARREN_STARTS = 5
# Batches in the worker: one decodes while the next already waits in its socket.
PIPELINE = 2
START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class SupervisorOptions:
    """Bounds: `batch_timeout_s` for one batch in the worker, `max_unread_bytes` of answers that a client leaves unread
    before its prompts wait (twice that, and it is no longer read)."""

    max_items: int
    max_bytes: int
    max_batch: int
    batch_timeout_s: float
    max_unread_bytes: int = 64 << 20


class Peer:
    """A non-blocking stream socket with whole frames in and a queue of buffers out."""

    def __init__(self, sock: socket.socket, max_body_bytes: int) -> None:
        sock.setblocking(False)
        self.sock, self.reader = sock, FrameReader(sock, max_body_bytes)
        self._out: deque[memoryview] = deque()
        self.unread_bytes = 0

    @property
    def unread_buffers(self) -> int:
        return len(self._out)

    def send(self, parts: list) -> None:
        """Queue a frame and send what the socket takes now; a broken connection shows when it is read."""
        for part in parts:
            if len(part):
                self._out.append(memoryview(part))
                self.unread_bytes += len(part)
        self.flush()

    def flush(self) -> None:
        try:
            while self._out:
                sent = self.sock.sendmsg([self._out[i] for i in range(min(len(self._out), 64))])
                self.unread_bytes -= sent
                while self._out and sent >= len(self._out[0]):
                    sent -= len(self._out.popleft())
                if sent:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()
            self.unread_bytes = 0


class Supervisor:
    """Serves `listener` with workers from `fork_worker(warm_up)`, until `stop` is called or SIGTERM comes.

    `on_ready` is called with the first worker's facts, before any client is accepted. `facts` is what clients are told.
    """

    def __init__(
        self,
        listener: socket.socket,
        fork_worker: Callable[[bool], tuple[int, socket.socket]],
        facts: dict[str, Any],
        options: SupervisorOptions,
        on_ready: Callable[[dict[str, Any]], None],
    ) -> None:
        self._listener, self._fork_worker, self._facts, self._options = listener, fork_worker, facts, options
        self._on_ready = on_ready
        self._known = {(codec["codec_id"], codec["weights_id"]) for codec in facts["codecs"]}
        self._queue = DecodeQueue(options.max_items, options.max_bytes, options.max_batch)
        self._selector = selectors.DefaultSelector()
        self._clients: set[Peer] = set()
        self.counters = Counters()
        self._failed = Counters()
        self._restarts = Counters()
        self._started_s = time.monotonic()
        self._busy_s = 0.0
        self._worker: Peer | None = None
        self._worker_pid = 0
        self._worker_ready = False
        self._deadline_s = self._head_since_s = 0.0
        self._barren_starts = 0
        self._stopping = False

    def run(self) -> None:
        """Serve until told to stop; raises `RunError` where no worker can be started."""
        wake_read, wake_write = socket.socketpair()
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        self._selector.register(wake_read, selectors.EVENT_READ, None)
        self._listener.setblocking(False)
        self._start_worker(warm_up=True)
        try:
            while not self._stopping:
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
            self._end_worker()

    def stop(self) -> None:
        self._stopping = True

    def stats(self) -> dict[str, Any]:
        """What the service has done so far; `busy_s` is the time in which the worker had a batch."""
        batches, restarts = self.counters["batches"], self._restarts
        return {
            **self._facts,
            "pid": os.getpid(),
            "worker_pid": self._worker_pid,
            "uptime_s": time.monotonic() - self._started_s,
            "busy_s": self._busy_s,
            "clients": len(self._clients),
            "queue_items": self._queue.waiting_items,
            "queue_bytes": self._queue.waiting_bytes,
            "running_items": self._queue.running_items,
            "batch_mean": self.counters["batch_items"] / batches if batches else 0.0,
            "failed": dict(self._failed),
            "restarts": sum(restarts.values()),
            "restarts_by_cause": dict(restarts),
            "counters": dict(self.counters),
        }

    def _turn(self) -> None:
        timeout_s = None
        if self._queue.running_batches or not self._worker_ready:
            timeout_s = max(0.0, self._deadline_s - time.monotonic())
        for key, events in self._selector.select(timeout_s):
            peer = key.data
            if key.fileobj is self._listener:
                self._accept()
            elif peer is None:
                key.fileobj.recv(64)
            elif peer is self._worker:
                self._serve_worker(events)
            elif peer in self._clients:
                self._serve_client(peer, events)
        if (self._queue.running_batches or not self._worker_ready) and time.monotonic() >= self._deadline_s:
            self._worker_lost("timeout" if self._worker_ready else "start")
        self._dispatch()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= MAX_CLIENTS:
            self.counters.count("clients_refused")
            sock.close()
            return
        widen_buffers(sock)
        peer = Peer(sock, MAX_PROMPT_BYTES)
        self._clients.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)
        self.counters.count("clients")
        self._send(peer, json_frame(HELLO, self._facts))

    def _serve_client(self, peer: Peer, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            peer.flush()
        if events & selectors.EVENT_READ:
            try:
                alive = peer.reader.receive()
                while (frame := peer.reader.next()) is not None:
                    self._request(peer, frame)
            except BlockingIOError:
                alive = True
            except FrameError:
                self.counters.count("malformed_frames")
                alive = False
            except OSError:
                alive = False
            if not alive:
                self._drop_client(peer)
                return
        self._watch(peer)

    def _request(self, peer: Peer, frame: Frame) -> None:
        if frame.type == STATS:
            self._send(peer, json_frame(STATS, self.stats(), frame.request_id))
            return
        if frame.type != SUBMIT:
            raise FrameError(f"frame of type {frame.type} from a client: SUBMIT and STATS are accepted")
        submission = read_submission(frame)
        self.counters.count("submitted")
        if (submission.codec, submission.weights) not in self._known:
            message = f"codec {submission.codec} with weights {submission.weights:08x} is not loaded here"
            self._fail(peer, submission.request_id, "unknown_codec", message)
        elif not self._queue.submit(peer, submission):
            message = f"the queue is full at {self._queue.waiting_items} prompts, {self._queue.waiting_bytes} bytes"
            self._fail(peer, submission.request_id, "overflow", message)

    def _serve_worker(self, events: int) -> None:
        worker = self._worker
        try:
            if events & selectors.EVENT_READ:
                alive = worker.reader.receive()
                while (frame := worker.reader.next()) is not None:
                    self._worker_says(frame)
                if not alive:
                    self._worker_lost("crash")
                    return
            if events & selectors.EVENT_WRITE:
                worker.flush()
        except BlockingIOError:
            pass
        except (OSError, FrameError):
            self._worker_lost("crash")
            return
        self._watch(worker)

    def _worker_says(self, frame: Frame) -> None:
        if frame.type == HELLO:
            self._worker_began(json_body(frame))
            return
        if frame.type == FAILED and self._on_ready:
            raise RunError(f"the decoder's worker does not start: {json_body(frame).get('message')}")
        batches = self._queue.running_batches
        job = self._queue.answered(frame.request_id)
        if job is None or frame.type not in (RESULT, FAILED):
            raise FrameError(f"the worker answers {frame.request_id}, which it was not asked")
        self._barren_starts = 0
        if frame.type == RESULT:
            self.counters.count("decoded")
            self.counters.count("content_bytes", len(frame.body))
        else:
            self._failed.count(str(json_body(frame).get("reason")))
        if not job.cancelled:
            self._send(job.client, frame_parts(frame.type, job.submission.request_id, b"", frame.body))
        if self._queue.running_batches < batches:
            self._batch_done()

    def _worker_began(self, facts: dict[str, Any]) -> None:
        self._worker_ready = True
        if not self._on_ready:
            return
        self._facts.update(facts, pid=os.getpid(), worker_pid=self._worker_pid)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._on_ready(self._facts)
        self._on_ready = None

    def _dispatch(self) -> None:
        """Keep the worker's pipeline full. Prompts of a client that leaves its answers unread wait."""
        if not self._worker_ready:
            return
        limit = self._options.max_unread_bytes
        while self._queue.running_batches < PIPELINE:
            batch = self._queue.next_batch(lambda client: client.unread_bytes < limit)
            if not batch:
                return
            self.counters.count("batches")
            self.counters.count("batch_items", len(batch))
            if self._queue.running_batches == 1:
                self._head_begins()
            self._send(self._worker, _batch_parts(batch))

    def _head_begins(self) -> None:
        self._head_since_s = time.monotonic()
        self._deadline_s = self._head_since_s + self._options.batch_timeout_s

    def _batch_done(self) -> None:
        self._busy_s += time.monotonic() - self._head_since_s
        self._head_begins()

    def _start_worker(self, warm_up: bool) -> None:
        pid, sock = self._fork_worker(warm_up)
        self._worker, self._worker_pid, self._worker_ready = Peer(sock, MAX_CONTENT_BYTES), pid, False
        self._deadline_s = time.monotonic() + START_TIMEOUT_S
        self._selector.register(sock, selectors.EVENT_READ, self._worker)

    def _end_worker(self) -> None:
        if self._worker is None:
            return
        self._selector.unregister(self._worker.sock)
        self._worker.sock.close()
        try:
            os.kill(self._worker_pid, signal.SIGKILL)
            os.waitpid(self._worker_pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        self._worker, self._worker_ready = None, False

    def _worker_lost(self, cause: str) -> None:
        """Bury the worker, fail the prompt that killed it (if that is known by now), and start another."""
        started = self._worker_ready
        self._end_worker()
        self._restarts.count(cause)
        self._barren_starts += 1
        if self._on_ready or (not started and self._barren_starts >= MAX_BARREN_STARTS):
            raise RunError(f"the decoder's worker ended {self._barren_starts} times in a row before it could decode")
        if self._queue.running_batches:
            self._busy_s += time.monotonic() - self._head_since_s
        for job in self._queue.worker_died(hung=cause == "timeout"):
            self._fail_job(job, "timeout" if cause == "timeout" else "killed")
        print(f"gnl decoder: worker {self._worker_pid} lost ({cause}); starting another", file=sys.stderr, flush=True)
        self._start_worker(warm_up=False)

    def _fail_job(self, job: Job, reason: str) -> None:
        message = {
            "killed": "this prompt killed the decoder's worker each time it was tried alone",
            "timeout": f"this prompt took the decoder longer than {self._options.batch_timeout_s:g} s alone",
        }[reason]
        if job.cancelled:
            self._failed.count(reason)
        else:
            self._fail(job.client, job.submission.request_id, reason, message)

    def _fail(self, peer: Peer, request_id: int, reason: str, message: str) -> None:
        self._failed.count(reason)
        self._send(peer, json_frame(FAILED, {"reason": reason, "message": message}, request_id))

    def _send(self, peer: Peer, parts: list) -> None:
        peer.send(parts)
        self._watch(peer)

    def _watch(self, peer: Peer) -> None:
        """Wait for what makes sense: to write while answers are unread, to read unless too many of them are."""
        limit = 2 * self._options.max_unread_bytes
        reads = peer is self._worker or (peer.unread_bytes <= limit and peer.unread_buffers < 1 << 16)
        events = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if peer.unread_bytes else 0)
        if self._selector.get_key(peer.sock).events != events:
            self._selector.modify(peer.sock, events, peer)

    def _drop_client(self, peer: Peer) -> None:
        self._selector.unregister(peer.sock)
        self._clients.discard(peer)
        peer.sock.close()
        self.counters.count("dropped_by_disconnect", self._queue.drop_client(peer))


def _batch_parts(batch: list[Job]) -> list:
    parts = frame_parts(BATCH, len(batch))
    for job in batch:
        s = job.submission
        parts += submit_frame(Submission(job.number, s.codec, s.weights, s.fmt, s.slices))
    return parts
