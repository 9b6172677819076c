"""The source s: sends plain images and prompts from a catalogue that was encoded beforehand, at the planned rates.

A flow is one (path, kind) stream; its datagrams leave from a source port of its own, which is what routes them along
the flow's path. A flow that fills its first link has no pacer: the link's shaper holds the blocking sender back, so the
link is full and loses nothing. A flow below that is paced in bits, not in images, so that its rate is constant although
prompts differ in size.

    python -m gnl.node_apps.source CONFIG.json      (settings as in `Config`)
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace

from .catalogue import Catalogue
from .program import announce_ready, run_program, wait_for
from .protocol.header import (
    CONTENT_PORT,
    DATAGRAM_BYTES,
    KIND_PLAIN,
    KIND_PROMPT,
    LAYER2_OVERHEAD_BYTES,
    PROMPT_PORT,
    Header,
)
from .protocol.pacing import Pacer
from .protocol.packetise import batches, packetise, packetise_prompt, restamp
from .sockets import batch_datagrams, send_batch, sender


@dataclass(frozen=True)
class FlowConfig:
    """One stream: `kind` "plain" or "prompt"; `rate_bps` counts layer-2 bits, None where the first link paces it.

    `link_bps` is the capacity of the first link; `head_start_bits` go at once, to fill the router's queue.
    """

    flow: int
    kind: str
    source_port: int
    link_bps: float
    send_buffer_bytes: int
    rate_bps: float | None = None
    head_start_bits: float = 0.0


@dataclass(frozen=True)
class Config:
    """What the source sends: `catalogue` folder, addresses, and for how long, `delay_s` after all is prepared.

    `start_s` and `stop_s` (monotonic seconds) follow from these once it is ready.
    """

    catalogue: str
    source: str
    destination: str
    ip_version: int
    delay_s: float
    duration_s: float
    flows: tuple[FlowConfig, ...]
    start_s: float = math.inf
    stop_s: float = math.inf

    @classmethod
    def of(cls, settings: dict) -> Config:
        return cls(**{**settings, "flows": tuple(FlowConfig(**flow) for flow in settings["flows"])})


@dataclass
class Sent:
    """What one flow sent. `lost_s`: time by which it fell behind its schedule for good."""

    flow: int
    kind: str
    contents: int = 0
    packets: int = 0
    wire_bytes: int = 0
    lost_s: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Batch:
    """Datagrams to send in one call; `wire_bytes` is what they are on layer 2."""

    view: memoryview
    packets: int
    wire_bytes: int


@dataclass(frozen=True)
class Prepared:
    """One content as datagrams, a buffer for each slice, and these buffers cut into batches."""

    buffers: list[bytearray]
    batches: list[Batch]


class Flow:
    """A stream of contents, each prepared as datagrams once and given a new id every time it is sent."""

    def __init__(self, config: FlowConfig, run: Config, catalogue: Catalogue, stopped: threading.Event) -> None:
        self.config, self.run, self.stopped = config, run, stopped  # `run` gets its times before the flow starts
        self.sent = Sent(config.flow, config.kind)
        datagrams = batch_datagrams(config.rate_bps or config.link_bps, run.ip_version)
        self.prepared = [self._prepare(catalogue, index, datagrams) for index in range(len(catalogue))]

    def send_all(self) -> None:
        """Send one content after the other until it is time to stop; a content that was begun is finished."""
        config, run, sent, pacer = self.config, self.run, self.sent, None
        if config.rate_bps is not None:
            pacer = Pacer(config.rate_bps, run.start_s, config.head_start_bits)
        port = PROMPT_PORT if config.kind == "prompt" else CONTENT_PORT
        try:
            with sender((run.source, config.source_port), (run.destination, port), config.send_buffer_bytes) as sock:
                self._wait_until(run.start_s)
                while not self.stopped.is_set() and time.monotonic() < run.stop_s:
                    self._send(sock, self.prepared[sent.contents % len(self.prepared)], pacer)
        except OSError as error:
            sent.error = f"flow {config.flow} ({config.kind}) could not send: {error}"
        sent.lost_s = pacer.lost_s if pacer else 0.0

    def _send(self, sock, content: Prepared, pacer: Pacer | None) -> None:
        for buffer in content.buffers:
            restamp(buffer, self.sent.contents)
        for batch in content.batches:
            if pacer:
                self._wait_until(pacer.release_s(8 * batch.wire_bytes, time.monotonic()))
            send_batch(sock, batch.view)
            self.sent.packets += batch.packets
            self.sent.wire_bytes += batch.wire_bytes
        self.sent.contents += 1

    def _prepare(self, catalogue: Catalogue, index: int, datagrams: int) -> Prepared:
        if self.config.kind == "prompt":
            prompt = catalogue.prompt(index)
            header = Header(KIND_PROMPT, codec=prompt.codec_id, weights=prompt.weights_id, flow=self.config.flow)
            buffers = packetise_prompt(prompt.slices, header)
        else:
            buffers = [packetise(catalogue.content(index), Header(KIND_PLAIN, flow=self.config.flow))]
        overhead_bytes, cut = LAYER2_OVERHEAD_BYTES[self.run.ip_version], []
        for buffer in buffers:
            for start, end in batches(len(buffer), datagrams):
                packets = -(-(end - start) // DATAGRAM_BYTES)
                cut.append(Batch(memoryview(buffer)[start:end], packets, end - start + packets * overhead_bytes))
        return Prepared(buffers, cut)

    def _wait_until(self, due_s: float) -> None:
        wait_s = due_s - time.monotonic()
        if wait_s > 0:
            self.stopped.wait(wait_s)


def send(settings: dict, stopped: threading.Event) -> dict:
    """Run every flow of the settings in a thread of its own and return what was sent.

    Preparing takes as long as it takes; only then the start is set, and said in a line of JSON behind `ready`.
    """
    config = Config.of(settings)
    catalogue = Catalogue.open(config.catalogue)
    flows = [Flow(flow, config, catalogue, stopped) for flow in config.flows]
    threads = [threading.Thread(target=flow.send_all, name=f"flow-{flow.config.flow}") for flow in flows]
    start_s = time.monotonic() + config.delay_s
    timed = replace(config, start_s=start_s, stop_s=start_s + config.duration_s)
    for flow in flows:
        flow.run = timed
    announce_ready()
    print(json.dumps({"start_s": timed.start_s, "stop_s": timed.stop_s}), flush=True)
    for thread in threads:
        thread.start()
    wait_for(threads)
    return {"flows": [asdict(flow.sent) for flow in flows], "cpu_s": time.process_time()}


if __name__ == "__main__":
    sys.exit(run_program(send))
