"""The sink d: collects contents from every path, keeps a fact sheet of each, and writes the first of them as images.

It acknowledges nothing. Plain images and generated ones come to the content port; prompts that no router decoded come
to the prompt port, and are kept as they are: d, an edge node, may decode them.

    python -m gnl.node_apps.sink SETTINGS.json      (settings as in `Settings`)

Writes OUT/contents.jsonl, one line a content or prompt, and for those that it keeps OUT/FLOW-CONTENT.png, or .gnl with
a prompt that came undecoded, as `gnl decode` takes it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

from .codecs.interface import Prompt
from .codecs.prompt_file import SUFFIX, pack_file
from .program import announce_ready, run_program, wait_for
from .protocol.counters import Counters
from .protocol.header import CONTENT_PORT, KIND_NAMES, KIND_PROMPT, MADE_NAMES, PROMPT_PORT, MalformedPacket, parse
from .protocol.reassembly import Item, Partial, Reassembler
from .sockets import receive_drops, receiver

EXPIRE_EVERY_S = 0.25
LARGEST_DATAGRAM_BYTES = 65_535


@dataclass(frozen=True)
class Settings:
    """Where facts and images go, and how many contents of each flow are kept as images."""

    out: str
    ip_version: int
    keep_per_flow: int
    max_reassembly_bytes: int = 256 << 20
    max_contents: int = 4096
    max_age_s: float = 10.0


@dataclass(frozen=True)
class Fact:
    """What is known of one content. Times are monotonic seconds; `crc` is the CRC-32 of a complete body."""

    flow: int
    content: int
    kind: str
    made: str
    complete: bool
    bytes: int
    packets: int
    t_first_s: float
    t_last_s: float
    source: str
    crc: int | None = None


class Port:
    """One receiving socket with its own reassembly, counters and thread."""

    def __init__(self, port: int, settings: Settings, stopped: threading.Event) -> None:
        self.settings, self.stopped = settings, stopped
        self.counters = Counters()
        self.reassembler = Reassembler(
            settings.max_reassembly_bytes, settings.max_contents, settings.max_age_s, counters=self.counters
        )
        self.facts: list[Fact] = []
        self.kept: dict[tuple[int, int], Item] = {}
        self.socket = receiver(port, settings.ip_version)

    def receive_all(self) -> None:
        """Receive until stopped; then report what is still incomplete."""
        buffer = bytearray(LARGEST_DATAGRAM_BYTES)
        view, receive, take = memoryview(buffer), self.socket.recvfrom_into, self.reassembler.receive
        next_expiry_s = 0.0
        while not self.stopped.is_set():
            now = time.monotonic()
            if now > next_expiry_s:
                self._note_partials(self.reassembler.expire(now))
                next_expiry_s = now + EXPIRE_EVERY_S
            try:
                size, source = receive(buffer)
            except BlockingIOError:
                continue
            try:
                header, payload = parse(view[:size])
            except MalformedPacket as error:
                self.counters.count("malformed_" + error.reason)
                continue
            item = take(header, payload, source[:2], time.monotonic())
            if item is not None:
                self._note(item)
        self._note_partials(self.reassembler.expire(time.monotonic()) + self.reassembler.remaining())

    def _note(self, item: Item) -> None:
        header, crc = item.header, 0
        for part in item.parts:
            crc = crc32(part, crc)
        self.facts.append(Fact(
            header.flow, header.content, KIND_NAMES[header.kind], MADE_NAMES[header.made], True, item.claimed_bytes,
            item.packets, item.t_first_s, item.t_last_s, item.prefix[0], crc,
        ))
        if header.content < self.settings.keep_per_flow:
            self.kept[header.flow, header.content] = item

    def _note_partials(self, partials: list[Partial]) -> None:
        for partial in partials:
            header = partial.header
            self.facts.append(Fact(
                header.flow, header.content, KIND_NAMES[header.kind], MADE_NAMES[header.made], False,
                partial.claimed_bytes, partial.packets, partial.t_first_s, partial.t_last_s, partial.prefix[0],
            ))


def collect(settings_tree: dict, stopped: threading.Event) -> dict:
    """Receive on both ports until told to stop, then write facts and images and return the counters."""
    settings = Settings(**settings_tree)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    ports = {number: Port(number, settings, stopped) for number in (CONTENT_PORT, PROMPT_PORT)}
    threads = [threading.Thread(target=port.receive_all, name=f"port-{number}") for number, port in ports.items()]
    for thread in threads:
        thread.start()
    announce_ready()
    wait_for(threads)
    cpu_s = time.process_time()
    drops = receive_drops(set(ports), settings.ip_version)
    with open(out / "contents.jsonl", "w") as lines:
        for port in ports.values():
            lines.writelines(json.dumps(asdict(fact)) + "\n" for fact in port.facts)
    unreadable = sum(write_images(out, port.kept) for port in ports.values())
    counters = Counters()
    for port in ports.values():
        for name, count in port.counters.items():
            counters.count(name, count)
    counters.update(receive_buffer_drops=drops, unreadable_contents=unreadable)
    return {"counters": counters, "cpu_s": cpu_s}


def write_images(out: Path, kept: dict[tuple[int, int], Item]) -> int:
    """Write kept contents as PNG and kept prompts as prompt files; returns how many contents were no image."""
    from gnl.topologies.errors import BitstreamError
    from PIL import Image

    from .codecs.content import unpack

    unreadable = 0
    for (flow, content), item in kept.items():
        stem = out / f"{flow}-{content:06d}"
        if item.header.kind == KIND_PROMPT:
            prompt = Prompt(item.header.codec, item.header.weights, tuple(bytes(part) for part in item.parts))
            stem.with_suffix(SUFFIX).write_bytes(pack_file(prompt))
            continue
        try:
            Image.fromarray(unpack(item.body)).save(stem.with_suffix(".png"), compress_level=1)
        except BitstreamError:
            unreadable += 1
    return unreadable


if __name__ == "__main__":
    sys.exit(run_program(collect))
