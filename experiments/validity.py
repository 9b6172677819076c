"""When a run counts: every reason against it, each a sentence that says what was seen.

A figure that differs from the analysis is a finding, not a reason. A reason is something that makes the measurement
itself untrustworthy: lost packets, a saturated CPU, a decoder slower than planned, too few quiet windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gnl.node_apps.catalogue import Catalogue
from gnl.topologies.spec import Scenario

from .counters import Series
from .windows import MIN_WINDOWS, SATURATED, valid_windows

if TYPE_CHECKING:
    from .repeats import Repeat

# Programs that fill what was planned to this share keep up; the rest is edge effects of the windows.
KEEPS_UP = 0.98
FULL = 0.99
# What no link does to a packet: a program's own bounds were too tight, or it made something that is no image.
OWN_FAULTS = ("evicted", "too_large", "inconsistent", "unreadable_contents")
DECODER_REASONS = ("overflow", "decode_failed", "decode_timeout", "decoder_lost")


def reasons_against(repeat: Repeat, scenario: Scenario, catalogue: Catalogue, series: Series) -> list[str]:
    """Every reason why this repeat does not count; none: it does."""
    lossy = any(link.loss_percent for link in scenario.links)
    reasons = _windows(repeat) + _cpu(repeat, series) + _drops(repeat) + _decoder(repeat) + _altered(repeat, catalogue)
    reasons += _lost(repeat, lossy) + ([] if lossy else _short(repeat))
    for traffic in repeat.phases:
        if not traffic.drained:
            reasons.append(
                f"{traffic.phase.name}: packets still came long after the source had stopped: a queue never emptied"
            )
    return reasons


def _windows(repeat: Repeat) -> list[str]:
    reasons = []
    for name, windows in repeat.windows.items():
        valid = valid_windows(windows)
        if len(valid) < min(MIN_WINDOWS, len(windows)) or not valid:
            why = next(window.discarded for window in windows if window.discarded)
            reasons.append(
                f"{name}: only {len(valid)} of {len(windows)} windows count ({why}): free the machine and repeat"
            )
    return reasons


def _cpu(repeat: Repeat, series: Series) -> list[str]:
    reasons = []
    for traffic in repeat.phases:
        name, busy = traffic.phase.name, series.busy(traffic.measured_from_s, traffic.stop_s)
        if busy > SATURATED:
            reasons.append(
                f"{name}: the CPUs were {100 * busy:.0f}% busy, so the machine and not a link may have been measured"
            )
        elapsed_s = traffic.stop_s - traffic.start_s
        for program, said in (("source", traffic.source), ("router", traffic.router), ("sink", traffic.sink)):
            if said and said["cpu_s"] / elapsed_s > SATURATED:
                reasons.append(f"{name}: the {program} program used a whole core: lower the rates")
        for flow in traffic.source["flows"]:
            if flow["lost_s"] > 0:
                reasons.append(
                    f"{name}: the source fell {flow['lost_s']:.2f} s behind its schedule on flow {flow['flow']}"
                )
    return reasons


def _drops(repeat: Repeat) -> list[str]:
    reasons = []
    for direction, seen in repeat.losses.items():
        if seen["shaper_drops"]:
            reasons.append(f"{direction}: the shaper's queue dropped {seen['shaper_drops']} packets")
        if seen["interface_drops"]:
            reasons.append(f"{direction}: the interfaces dropped {seen['interface_drops']} packets")
    for traffic in repeat.phases:
        for program, said in (("router", traffic.router), ("sink", traffic.sink)):
            drops = said["counters"].get("receive_buffer_drops", 0) if said else 0
            if drops:
                reasons.append(f"{traffic.phase.name}: the {program}'s receive buffer dropped {drops} packets")
            for name in OWN_FAULTS:
                if said and said["counters"].get(name):
                    reasons.append(
                        f"{traffic.phase.name}: the {program} program counted {said['counters'][name]} x {name}"
                    )
    return reasons


def _decoder(repeat: Repeat) -> list[str]:
    if repeat.generate.router is None:
        return []
    counters, reasons = repeat.generate.router["counters"], []
    for name in DECODER_REASONS:
        if counters.get(name):
            reasons.append(f"the decoder did not keep up with the plan: {counters[name]} prompts forwarded ({name})")
    said = repeat.generate.router
    unsent = said["in_flight_at_stop"] + said["waiting_at_stop"]
    if unsent:
        reasons.append(f"{unsent} prompts were still in the generative router when it was stopped")
    for name, count in said["sent"].items():
        if name.startswith("send_error") or name == "without_destination":
            reasons.append(f"the generative router could not send {count} times ({name})")
    link = repeat.plan.diamond.by_genai[1].link
    reached = repeat.measured["wire"]["flows_bps"][link] / repeat.plan.generate.flows_bps["wire"][link]
    if any(hop.survival < 1 for hop in repeat.plan.diamond.hops):
        return reasons
    carried = f"link {link} carried {100 * reached:.1f}% of the plan"
    if reached < KEEPS_UP:
        reasons.append(f"{carried}: the generative router was the bottleneck")
    elif reached > 1 / KEEPS_UP:
        # Prompts come at the planned rate: more contents than that come out of a queue.
        reasons.append(f"{carried}: the generative router was emptying a queue, its decoder had not kept up before")
    return reasons


def _short(repeat: Repeat) -> list[str]:
    """Links that were calibrated, planned to be full, and were not filled: a program of ours did not keep up."""
    plan, measured, reasons = repeat.plan, repeat.measured["wire"], []
    for hop in plan.diamond.hops:
        planned_bps = plan.generate.flows_bps["wire"][hop.link]
        made_by_router = hop is plan.diamond.by_genai[1] and repeat.generate.router is not None
        if planned_bps >= FULL * hop.capacity_bps and not made_by_router:
            reasons += _unfilled(f"generate: link {hop.link}", measured["flows_bps"][hop.link], planned_bps)
    return reasons + _unfilled("replicate: max-flow", measured["max_flow_bps"], plan.gains["wire"].max_flow_bps)


def _unfilled(what: str, measured_bps: float, planned_bps: float) -> list[str]:
    share = measured_bps / planned_bps
    if share >= KEEPS_UP:
        return []
    return [f"{what} reached {100 * share:.1f}% of the plan: the programs do not keep up here, lower the rates"]


def _altered(repeat: Repeat, catalogue: Catalogue) -> list[str]:
    wrong = 0
    for traffic in repeat.phases:
        for fact in traffic.facts:
            if fact["kind"] == "plain" and fact["complete"]:
                wrong += fact["crc"] != catalogue.entries[fact["content"] % len(catalogue)].content_crc
    return [f"{wrong} plain images arrived altered"] if wrong else []


def _lost(repeat: Repeat, lossy: bool) -> list[str]:
    images, reasons = repeat.images, []
    for name, what in (("partial", "arrived in part"), ("missing", "never arrived")):
        if images[name] and not lossy:
            reasons.append(f"{images[name]} of {images['sent']} images {what}, on links that lose nothing")
    if images["failed"]:  # a link loses a prompt or delivers it: g lets it pass only where it could not decode it
        reasons.append(f"{images['failed']} of {images['sent']} images were not generated")
    return reasons
