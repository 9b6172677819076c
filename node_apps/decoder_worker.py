"""The decoder's worker process: batches in, contents out. It alone runs decoders on bytes from the network.

It is forked from the loaded service, so that a restart reads nothing and takes milliseconds. A bitstream may kill it.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnl.node_apps.codecs import content
from gnl.node_apps.codecs.interface import Codec, Prompt
from gnl.topologies.errors import BitstreamError, CodecError

from .decoder_frames import (
    BATCH,
    FAILED,
    HELLO,
    MAX_PROMPT_BYTES,
    RESULT,
    SUBMIT,
    FrameReader,
    Submission,
    frame_parts,
    json_frame,
    read_submission,
    send_all,
    widen_buffers,
)
from .privileges import die_with_parent


@dataclass(frozen=True)
class Loaded:
    """A codec in the service's memory, how to load it anew onto a device, and a prompt to warm it up with."""

    codec: Codec
    load: Callable[[str], Codec]
    sample: Prompt

    @property
    def key(self) -> tuple[int, int]:
        return self.codec.facts.codec_id, self.codec.facts.weights_id


@dataclass(frozen=True)
class WorkerOptions:
    """`device` is cpu or cuda; `memory_bytes` bounds what the worker maps beyond what it inherits (cpu only)."""

    device: str
    threads: int
    max_batch: int
    memory_bytes: int


def fork_worker(loaded: Sequence[Loaded], options: WorkerOptions, warm_up: bool) -> tuple[int, socket.socket]:
    """Fork a worker; returns its pid and this end of its socket. Its first frame is HELLO, or FAILED and its end."""
    ours, theirs = socket.socketpair()
    widen_buffers(ours)
    widen_buffers(theirs)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    status = 1
    try:
        _settle(parent, theirs, options)
        _work(theirs, loaded, options, warm_up)
        status = 0
    except BaseException as error:  # noqa: B036 - whatever it is, this process ends here and says why
        _say_last(theirs, error)
    finally:
        os._exit(status)


def _settle(parent: int, sock: socket.socket, options: WorkerOptions) -> None:
    """Shed what the fork inherited and this process has no business with."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent(parent)
    os.dup2(2, 1)  # stdout belongs to the service's one line
    keep = sock.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    gc.freeze()
    # A GPU driver reserves address space by the terabyte, so that there is nothing to bound.
    if options.device == "cpu":
        bound = _mapped_bytes() + options.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _work(sock: socket.socket, loaded: Sequence[Loaded], options: WorkerOptions, warm_up: bool) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(options.threads)
    codecs = {item.key: _on_device(item, options.device) for item in loaded}
    if warm_up:
        for item in loaded:
            codecs[item.key].decode(item.sample)
            codecs[item.key].decode_batch([item.sample] * options.max_batch)
    send_all(sock, json_frame(HELLO, {"device": options.device, "device_name": _device_name(options.device)}))
    reader = FrameReader(sock, MAX_PROMPT_BYTES)
    while True:
        batch = _read_batch(reader)
        if batch is None:
            return
        for submission, body in _decode_batch(codecs[batch[0].codec, batch[0].weights], batch):
            if isinstance(body, dict):
                send_all(sock, json_frame(FAILED, body, submission.request_id))
            else:
                send_all(sock, frame_parts(RESULT, submission.request_id, b"", body))


def _read_batch(reader: FrameReader) -> list[Submission] | None:
    """The next batch, None at the end of the stream."""
    frames, wanted = [], None
    while wanted is None or len(frames) < wanted:
        frame = reader.next()
        if frame is None:
            if not reader.receive():
                return None
        elif frame.type == BATCH:
            wanted = frame.request_id
        elif frame.type == SUBMIT:
            frames.append(frame)
    return [read_submission(frame) for frame in frames]


def _decode_batch(codec: Codec, batch: list[Submission]):
    """Yield (submission, content bytes, or {"reason", "message"}) of each; one bad prompt spoils only itself."""
    prompts = [Prompt(s.codec, s.weights, tuple(map(bytes, s.slices))) for s in batch]
    try:
        images = codec.decode_batch(prompts)
    except Exception as error:
        if "CUDA error" in str(error):
            raise  # it sticks to the process: only a new worker decodes again
        images = [None] * len(batch)
    for submission, prompt, image in zip(batch, prompts, images, strict=True):
        try:
            yield submission, content.pack(codec.decode(prompt) if image is None else image, submission.fmt)
        except BitstreamError as error:
            yield submission, {"reason": "bitstream", "message": str(error)}
        except MemoryError as error:
            yield submission, {"reason": "memory", "message": f"decoding ran out of memory: {error}"}
        except CodecError as error:
            yield submission, {"reason": "codec", "message": str(error)}
        except Exception as error:
            if "CUDA error" in str(error):
                raise
            yield submission, {"reason": "codec", "message": f"{type(error).__name__}: {error}"}


def _on_device(item: Loaded, device: str) -> Codec:
    """The codec where it decodes: the one inherited, moved if it can be, or else loaded anew."""
    if device == "cpu":
        return item.codec
    move = getattr(item.codec, "to", None)
    return item.load(device) if move is None else (move(device) or item.codec)


def _device_name(device: str) -> str:
    if device == "cuda":
        return sys.modules["torch"].cuda.get_device_name()
    return "cpu"


def _mapped_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _say_last(sock: socket.socket, error: BaseException) -> None:
    try:
        sock.settimeout(1.0)
        send_all(sock, json_frame(FAILED, {"reason": "worker", "message": f"{type(error).__name__}: {error}"}))
    except Exception:
        pass
