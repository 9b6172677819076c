"""From a phase's counters to the figures of `result.json`: flows, max-flow, gains, and what was lost on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from gnl.controller.plan import Plan
from gnl.controller.sizes import LEVELS
from gnl.topologies.network import EmulatedNetwork

from .counters import Sample, Sampler, Series
from .phases import Traffic
from .windows import Window, link_flow_bps, valid_windows

FIGURES = ("max_flow_bps", "y_g_bps", "g_flow", "delivery_gain", "contents_per_s")


def flows_of(plan: Plan, series: Series, windows: list[Window], ip_version: int) -> dict[str, dict[str, float]]:
    """Measured flow on every link towards the sink, by level and link, in bit/s at the receiving end."""
    valid = valid_windows(windows)
    by_link = {hop.link: link_flow_bps(series, hop.source, hop.target, valid, ip_version) for hop in plan.diamond.hops}
    order = [link for link in plan.generate.flows_bps["wire"]]
    return {level: {link: by_link[link][level] for link in order} for level in LEVELS}


def measured_figures(
    plan: Plan, replicate: dict[str, float], generate: dict[str, float], contents_per_s: float
) -> dict:
    """The `A` of `result.json` at one level, from the measured flows of the two phases (Eq. 2 and 3)."""
    router_link, (first, last) = plan.diamond.by_router[1].link, (hop.link for hop in plan.diamond.by_genai)
    max_flow_bps = replicate[router_link] + replicate[last]
    y_g_bps = generate[last] - generate[first]
    into_sink_bps = generate[router_link] + generate[last]
    return {
        "max_flow_bps": max_flow_bps,
        "flows_bps": dict(generate),
        "y_g_bps": y_g_bps,
        "g_flow": 1 + y_g_bps / max_flow_bps if max_flow_bps else None,
        "delivery_gain": into_sink_bps / max_flow_bps if max_flow_bps else None,
        "contents_per_s": contents_per_s,
    }


def contents_rate(traffic: Traffic, windows: list[Window]) -> float:
    """Complete contents per second at d, over the time from the first valid window to the last."""
    valid = valid_windows(windows)
    if not valid:
        return 0.0
    start_s, stop_s = valid[0].start_s, valid[-1].stop_s
    return sum(fact["complete"] and start_s <= fact["t_last_s"] < stop_s for fact in traffic.facts) / (stop_s - start_s)


def relative_errors(measured: dict, analytic: dict) -> dict:
    """`measured / analytic - 1` for each figure; `links_max` is the largest among links in size, None if undefined."""
    errors = {name: _relative(measured[name], analytic[name]) for name in ("g_flow", "delivery_gain", "max_flow_bps")}
    links = [_relative(measured["flows_bps"][link], analytic["flows_bps"][link]) for link in analytic["flows_bps"]]
    known = [error for error in links if error is not None]
    errors["links_max"] = max(known, key=abs) if known else None
    return errors


def mean_figures(figures: list[dict]) -> dict:
    """Mean over repeats of every figure of an `A`."""
    mean = {name: _mean([f[name] for f in figures]) for name in FIGURES}
    mean["flows_bps"] = {link: fmean(f["flows_bps"][link] for f in figures) for link in figures[0]["flows_bps"]}
    return {name: mean[name] for name in figures[0]}


def ci95(figures: list[dict]) -> dict[str, list[float]] | None:
    """95% confidence interval of each figure's mean over repeats (Student's t); None for a single run."""
    if len(figures) < 2:
        return None
    by_name = {name: [f[name] for f in figures] for name in FIGURES}
    return {name: interval95(values) for name, values in by_name.items() if None not in values}


def interval95(values: Sequence[float]) -> list[float] | None:
    """95% confidence interval of the mean of `values` (Student's t); None for a single one."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    half = stdtrit(len(values) - 1, 0.975) / math.sqrt(len(values)) * stdev(values)
    return [fmean(values) - half, fmean(values) + half]


def image_counts(plan: Plan, traffic: Traffic) -> dict[str, int]:
    """What became of every content that the source sent in the generate phase."""
    sent = sum(flow["contents"] for flow in traffic.source["flows"])
    complete = [fact for fact in traffic.facts if fact["complete"]]
    generated = sum(fact["made"] != "none" for fact in complete)
    prompts = sum(fact["kind"] == "prompt" for fact in complete)
    # Prompts of a codec that does not generate are meant to be decoded at d; of one that does, they are failures of g.
    failed = prompts if plan.sizes.generative else 0
    partial = sum(not fact["complete"] for fact in traffic.facts)
    delivered = len(complete) - failed
    return {
        "sent": sent,
        "delivered": delivered,
        "generated": generated,
        "plain": delivered - generated,
        "partial": partial,
        "failed": failed,
        "missing": max(0, sent - delivered - failed - partial),
    }


def link_losses(network: EmulatedNetwork, before: Losses, after: Losses) -> dict[str, dict[str, int]]:
    """Per direction, between two readings: packets sent and received, and those dropped by each cause."""
    first, last, losses = Series([before.sample]), Series([after.sample]), {}
    for source, target in network.directions():

        def grown(node: str, neighbour: str, column: str) -> int:
            return int(last.counter(node, neighbour, column)[0] - first.counter(node, neighbour, column)[0])

        name = f"{source}->{target}"
        losses[name] = {
            "sent": grown(source, target, "tx_packets"),
            "received": grown(target, source, "rx_packets"),
            "shaper_drops": after.shaper[name] - before.shaper[name],
            "interface_drops": grown(source, target, "tx_drops") + grown(target, source, "rx_drops"),
            "lost_on_purpose": after.lost[name] - before.lost[name],
        }
    return losses


@dataclass(frozen=True)
class Losses:
    """The drop counters of every direction at one time. `lost`: drawn at random, as the scenario asks."""

    sample: Sample
    shaper: dict[str, int]
    lost: dict[str, int]


def read_losses(network: EmulatedNetwork, sampler: Sampler) -> Losses:
    """Read every drop counter now."""
    shapers = network.shapers()
    shaper = {f"{a}->{b}": shapers[a, b].drops if (a, b) in shapers else 0 for a, b in network.directions()}
    lost = {f"{a}->{b}": network.lost_on_purpose(a, b) for a, b in network.directions()}
    return Losses(sampler.now(), shaper, lost)


def _relative(measured: float | None, analytic: float | None) -> float | None:
    return measured / analytic - 1 if measured is not None and analytic else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
