"""One phase of a run: the node programs start, the source sends as planned, queues drain, the programs stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gnl.controller.plan import Phase, Plan, Stream
from gnl.node_apps.catalogue import Catalogue
from gnl.node_apps.protocol.header import wire_bytes_of
from gnl.node_apps.protocol.pacing import MAX_LAG_S
from gnl.topologies.errors import RunError
from gnl.topologies.network import EmulatedNetwork
from gnl.topologies.shaping import send_buffer_bytes

from .counters import EDGE_S, Sampler, Series
from .processes import Processes, Program
from .windows import SKIP_S

FIRST_SOURCE_PORT = 20000
FIRST_TABLE = 1000
START_DELAY_S = 0.2
SOURCE_READY_LIMIT_S = 120.0  # it lays every image out as packets first
STOP_LIMIT_S = 120.0  # the sink writes its images when it stops
DRAIN_QUIET_S = 0.4
DRAIN_LIMIT_S = 15.0
DRAIN_CONTENTS = 3
MIN_MAX_AGE_S = 10.0
# Prompts that g has ahead of its outgoing link, besides what unequal prompt sizes need, so that the link never waits.
QUEUE_AHEAD_S, MIN_QUEUE_AHEAD = 0.25, 8
# It must pass the first link in this time, while the source falls behind by less than makes it give up.
HEAD_START_S, HEAD_START_OF_LAG, SETTLE_S = 4.0, 0.9, 0.5
UNSHAPED_BPS = 10e9


@dataclass(frozen=True)
class Traffic:
    """What a phase left behind: when it sent, what the programs said, and a fact sheet of every content at d."""

    phase: Phase
    start_s: float
    measured_from_s: float
    stop_s: float
    source: dict
    router: dict | None
    sink: dict
    facts: list[dict]
    drained: bool


class PhaseRunner:
    """Runs phases of one plan after another on one network; each flow has its own path, source port and table."""

    def __init__(
        self,
        network: EmulatedNetwork,
        processes: Processes,
        sampler: Sampler,
        catalogue: Catalogue,
        decoder_socket: Path,
        content_format: str,
    ) -> None:
        self.network, self.processes, self.sampler = network, processes, sampler
        self.catalogue, self.decoder_socket, self.content_format = catalogue, decoder_socket, content_format

    def install_paths(self, plan: Plan) -> None:
        """Give each of the plan's paths its routing table, once."""
        for index, stream in enumerate(plan.generate.streams):
            self.network.install_path(list(stream.path), FIRST_SOURCE_PORT + index, FIRST_TABLE + index)

    def run(
        self,
        plan: Plan,
        phase: Phase,
        duration_s: float,
        out: Path,
        keep: int,
        meanwhile: Callable[[float, float], None] = lambda start_s, stop_s: None,
    ) -> Traffic:
        """Send for `skip_s` + `duration_s` + EDGE_S; `meanwhile(start_s, stop_s)` is called while the source sends and
        returns when it has stopped. The sink writes its facts, and the first `keep` contents of each flow, to `out`."""
        diamond, network = plan.diamond, self.network
        sink = self.processes.program(
            network,
            diamond.sink,
            "sink",
            {
                "out": str(out),
                "ip_version": network.plan.version,
                "keep_per_flow": keep,
                "max_age_s": MIN_MAX_AGE_S + 2 * self._slowest_content_s(plan, phase),
            },
        )
        programs = [sink]
        router = None
        if any(stream.kind == "prompt" for stream in phase.streams) and plan.generates:
            router = self._start_router(plan)
            programs.append(router)
        for program in programs:
            program.wait_ready()
        skip_s = self.skip_s(plan, phase)
        source = self._start_source(plan, phase, skip_s + duration_s + EDGE_S)
        source.wait_ready(SOURCE_READY_LIMIT_S)
        times = source.wait_json(5.0)
        start_s, stop_s = times["start_s"], times["stop_s"]
        meanwhile(start_s, stop_s)
        for program in (source, *programs):
            program.require_alive()
        slowest_s = self._slowest_content_s(plan, phase)
        sent = source.wait(max(0.0, stop_s - time.monotonic()) + DRAIN_LIMIT_S + 30 + 2 * slowest_s)
        for flow in sent["flows"]:
            if flow["error"]:
                raise RunError(f"the source could not send: {flow['error']}")
        drained = self._drain(plan, phase)
        routed = router.stop() if router else None
        received = sink.stop(STOP_LIMIT_S)
        facts = [json.loads(line) for line in open(out / "contents.jsonl")]
        measured_from_s = start_s + skip_s
        return Traffic(
            phase, start_s, measured_from_s, measured_from_s + duration_s, sent, routed, received, facts, drained
        )

    def _start_router(self, plan: Plan) -> Program:
        first, last = plan.diamond.by_genai
        largest_prompt_bytes = max(entry.prompt_bytes for entry in self.catalogue.entries)
        rate_bps = last.capacity_bps if self.network.shaped else UNSHAPED_BPS
        return self.processes.program(
            self.network,
            plan.diamond.genai,
            "genai_router",
            {
                "decoder": str(self.decoder_socket),
                "content_format": self.content_format,
                "ip_version": self.network.plan.version,
                "link_bps": rate_bps,
                "send_buffer_bytes": send_buffer_bytes(rate_bps),
                "max_age_s": MIN_MAX_AGE_S + 2 * 8 * largest_prompt_bytes / first.capacity_bps,
            },
        )

    def _start_source(self, plan: Plan, phase: Phase, duration_s: float) -> Program:
        flows, paths = [], [stream.path for stream in plan.generate.streams]
        for stream in phase.streams:
            index = paths.index(stream.path)
            link_bps = self._link_bps(plan, stream)
            flows.append(
                {
                    "flow": index,
                    "kind": stream.kind,
                    "source_port": FIRST_SOURCE_PORT + index,
                    "link_bps": link_bps,
                    "send_buffer_bytes": send_buffer_bytes(min(link_bps, 2 * stream.rate_bps)),
                    "rate_bps": stream.rate_bps if stream.paced or not self.network.shaped else None,
                    "head_start_bits": self._head_start_bits(plan, stream),
                }
            )
        return self.processes.program(
            self.network,
            plan.diamond.source,
            "source",
            {
                "catalogue": str(self.catalogue.folder),
                "source": self.network.plan.node(plan.diamond.source),
                "destination": self.network.plan.node(plan.diamond.sink),
                "ip_version": self.network.plan.version,
                "delay_s": START_DELAY_S,
                "duration_s": duration_s,
                "flows": flows,
            },
        )

    def skip_s(self, plan: Plan, phase: Phase) -> float:
        """What is not measured at the start of a phase: until shapers' buckets are spent, and head starts have passed a
        link that they fill."""
        passed_s = [0.0]
        for stream in phase.streams:
            head_bits = self._head_start_bits(plan, stream)
            if head_bits:
                passed_s.append(head_bits / (self._link_bps(plan, stream) - stream.rate_bps))
        return max(SKIP_S, max(passed_s) + SETTLE_S)

    def _link_bps(self, plan: Plan, stream: Stream) -> float:
        """Capacity of a stream's first link."""
        first = next(hop for hop in plan.diamond.hops if (hop.source, hop.target) == stream.path[:2])
        return first.capacity_bps if self.network.shaped else UNSHAPED_BPS

    def _head_start_bits(self, plan: Plan, stream: Stream) -> float:
        """Prompt bits sent at once at the start, where g's outgoing link is what binds: its queue must never run dry.

        Prompts are paced in bits, so a run of large ones delays images: the queue must cover the worst of the cycle. No
        more than what passes the first link, beside the paced bits, in HEAD_START_S, and before the pacer gives up.
        """
        if stream.kind != "prompt" or not plan.generates or plan.binds[:1] != (plan.diamond.by_genai[1].link,):
            return 0.0
        sizes = [entry.prompt_bytes for entry in self.catalogue.entries]
        mean, behind, worst = sum(sizes) / len(sizes), 0.0, 0.0
        for size in sizes * 2:
            behind += size / mean - 1
            worst = max(worst, behind)
        ahead = max(MIN_QUEUE_AHEAD, QUEUE_AHEAD_S * stream.contents_per_s) + worst
        link_bps = self._link_bps(plan, stream)
        most = min(HEAD_START_S * (link_bps - stream.rate_bps), HEAD_START_OF_LAG * MAX_LAG_S * link_bps)
        return max(0.0, min(ahead * stream.rate_bps / stream.contents_per_s, most))

    def _slowest_content_s(self, plan: Plan, phase: Phase) -> float:
        """Longest time that one content takes on the wire, on the slowest link that it crosses."""
        largest = max(*plan.sizes.plain_bytes, *plan.sizes.content_bytes)
        slowest_bps = min(hop.capacity_bps for hop in plan.diamond.hops)
        return 8 * wire_bytes_of(largest, self.network.plan.version) / slowest_bps

    def _drain(self, plan: Plan, phase: Phase) -> bool:
        """Wait until nothing has reached d for a while; False if it never became quiet.

        A slow decoder leaves d without packets for longer than a link does: several contents must have been due.
        """
        generated_per_s = [s.contents_per_s for s in phase.streams if s.kind == "prompt" and plan.generates]
        quiet_s = max([DRAIN_QUIET_S, *(min(DRAIN_CONTENTS / rate, DRAIN_LIMIT_S / 2) for rate in generated_per_s)])
        sink, last_links = plan.diamond.sink, [path[1] for path in (plan.diamond.by_router, plan.diamond.by_genai)]
        limit_s = DRAIN_LIMIT_S + (MIN_QUEUE_AHEAD + 2) * self._slowest_content_s(plan, phase)
        deadline_s, quiet_since_s, before = time.monotonic() + limit_s, time.monotonic(), None
        while time.monotonic() < deadline_s:
            now = Series([self.sampler.now()])
            total = sum(int(now.received(hop.source, sink, "packets")[0]) for hop in last_links)
            if total != before:
                before, quiet_since_s = total, time.monotonic()
            elif time.monotonic() - quiet_since_s > quiet_s:
                return True
            time.sleep(0.05)
        return False
