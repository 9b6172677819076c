"""`gnl analyze`: max-flow, min-cut, lambda*, flows on every link and the gains, computed without a packet."""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import indent
from typing import Any

from gnl.controller.plan import Phase, Plan, plan_run
from gnl.controller.sizes import LEVELS
from gnl.topologies.spec import Scenario, scenario_to_dict

from .sizing import find_sizes
from .text_table import aligned

SCHEMA = 1


def analyze(
    scenario: Scenario,
    catalogue: str | Path | None = None,
    content_bytes: float | None = None,
    prompt_bytes: float | None = None,
    generation_rate_images_per_s: float | None = None,
) -> dict[str, Any]:
    """Return the analysis of a scenario as plain data, ready for JSON.

    `catalogue`, `content_bytes`, `prompt_bytes`: where sizes come from (see `find_sizes`).
    `generation_rate_images_per_s`: R_g; None takes the scenario's, else R_g is unlimited.
    Raises `UsageError` or a child of it.
    """
    sizes = find_sizes(scenario, catalogue, content_bytes, prompt_bytes)
    return document(scenario, plan_run(scenario, sizes, generation_rate_images_per_s))


def document(scenario: Scenario, plan: Plan) -> dict[str, Any]:
    """The analysis that `gnl analyze --json` prints; `analytic` is that of `result.json`."""
    return {
        "schema": SCHEMA,
        "scenario": scenario_to_dict(scenario),
        "sizes": _sizes(plan),
        "generation_rate_images_per_s": plan.generation_rate_images_per_s,
        "generates": plan.generates,
        "min_cut": {"links": list(plan.min_cut), "capacity_bps": plan.max_flow.value_bps},
        "prompt_rate": _prompt_rate(plan),
        "phases": {phase.name: _phase(plan, phase) for phase in (plan.replicate, plan.generate)},
        "analytic": {level: plan.analytic(level) for level in LEVELS},
        "differences": {level: plan.difference(level) for level in LEVELS},
        "notes": list(plan.notes),
    }


def _sizes(plan: Plan) -> dict[str, Any]:
    sizes = plan.sizes
    means = {
        f"{level}_bytes": {
            "plain": mean.plain_bits / 8,
            "content": mean.content_bits / 8,
            "prompt": mean.prompt_bits / 8,
        }
        for level, mean in plan.means.items()
    }
    return {"origin": sizes.origin, "images": len(sizes.plain_bytes), "generative": sizes.generative, **means}


def _prompt_rate(plan: Plan) -> dict[str, Any] | None:
    """Eq. 4, None for a codec that does not generate; an absent limit is null."""
    if plan.rate is None:
        return None
    first, last = (hop.link for hop in plan.diamond.by_genai)
    names = {"s-g": first, "g-d": last, "R_g": "R_g"}
    limits = {names[key]: limit if math.isfinite(limit) else None for key, limit in plan.rate.limits_per_s.items()}
    return {
        "lambda_per_s": plan.rate.lambda_per_s,
        "binds": list(plan.binds),
        "limits_per_s": limits,
        "feasible": plan.rate.feasible,
        "violated": plan.rate.violated,
    }


def _phase(plan: Plan, phase: Phase) -> dict[str, Any]:
    links = [
        {
            "link": hop.link,
            "direction": f"{hop.source}->{hop.target}",
            "capacity_bps": hop.capacity_bps,
            "wire_bps": phase.flows_bps["wire"][hop.link],
            "payload_bps": phase.flows_bps["payload"][hop.link],
            "utilisation": phase.flows_bps["wire"][hop.link] / hop.capacity_bps,
        }
        for hop in plan.diamond.hops
    ]
    streams = [
        {
            "kind": stream.kind,
            "path": list(stream.path),
            "wire_bps": stream.rate_bps,
            "contents_per_s": stream.contents_per_s,
            "paced": stream.paced,
        }
        for stream in phase.streams
    ]
    return {"links": links, "streams": streams, "contents_per_s": phase.contents_per_s}


def render(analysis: dict[str, Any]) -> str:
    """The analysis as text for a terminal, at most 100 columns except for sentences."""
    parts = [_render_head(analysis), _render_links(analysis), _render_rate(analysis), _render_gains(analysis)]
    return "\n\n".join(part for part in (*parts, _render_sentences(analysis)) if part)


def _render_head(analysis: dict[str, Any]) -> str:
    scenario, sizes, cut = analysis["scenario"], analysis["sizes"], analysis["min_cut"]
    wire, payload = sizes["wire_bytes"], sizes["payload_bytes"]
    rows = [
        ["L", "content that g makes" if sizes["generative"] else "plain image", *_bytes(payload, wire, "content")],
        ["L_p", "prompt", *_bytes(payload, wire, "prompt")],
    ]
    if payload["plain"] != payload["content"]:
        rows.insert(0, ["", "plain image", *_bytes(payload, wire, "plain")])
    paths = [" -> ".join(stream["path"]) for stream in analysis["phases"]["generate"]["streams"]]
    return "\n".join(
        (
            f"{scenario['name']}: {paths[0]} and {paths[1]}, codec {scenario['content']['codec']}, "
            f"IPv{scenario['ip_version']}",
            indent(aligned(rows, left=2), "  "),
            f"sizes from: {sizes['origin']}",
            f"min-cut {' + '.join(cut['links'])} = {_mbit(cut['capacity_bps'])} Mbit/s",
        )
    )


def _bytes(payload: dict[str, float], wire: dict[str, float], kind: str) -> list[str]:
    return [f"{payload[kind]:.1f} bytes", f"{wire[kind]:.1f} on the wire"]


def _render_links(analysis: dict[str, Any]) -> str:
    before, after = (analysis["phases"][name]["links"] for name in ("replicate", "generate"))
    rows = [["link", "capacity", "replicate", "used", "generate", "used", "of it payload"]]
    for old, new in zip(before, after):
        rows.append(
            [
                new["link"],
                _mbit(new["capacity_bps"]),
                _mbit(old["wire_bps"]),
                f"{old['utilisation']:.1%}",
                _mbit(new["wire_bps"]),
                f"{new['utilisation']:.1%}",
                _mbit(new["payload_bps"]),
            ]
        )
    return "flows in Mbit/s (layer 2)\n" + indent(aligned(rows), "  ")


def _render_rate(analysis: dict[str, Any]) -> str:
    rate = analysis["prompt_rate"]
    if rate is None or not rate["feasible"]:
        return ""
    limits = ", ".join(
        f"{name} {'unlimited' if limit is None else f'{limit:.2f}'}" for name, limit in rate["limits_per_s"].items()
    )
    return (
        f"lambda* = {rate['lambda_per_s']:.4f} prompts/s, bound by {' and '.join(rate['binds'])}\n"
        f"  each alone would allow: {limits}"
    )


def _render_gains(analysis: dict[str, Any]) -> str:
    before = analysis["phases"]["replicate"]["contents_per_s"]
    wire, payload = (analysis["analytic"][level] for level in LEVELS)
    rows = [["", "wire", "payload"]]
    for key, label in (("max_flow_bps", "max-flow f'_sd  Mbit/s"), ("y_g_bps", "divergence y_g  Mbit/s")):
        rows.append([label, _mbit(wire[key]), _mbit(payload[key])])
    for key, label in (("g_flow", "G_flow (Eq. 3)"), ("delivery_gain", "delivery gain")):
        rows.append([label, f"{wire[key]:.4f}", f"{payload[key]:.4f}"])
    return (
        indent(aligned(rows), "  ")
        + f"\ncontents into d: {before:.4f}/s replicated, {wire['contents_per_s']:.4f}/s with prompts"
    )


def _render_sentences(analysis: dict[str, Any]) -> str:
    """Notes, and why the gains differ, at the first level where they do: the cause is the same at the other."""
    sentences = [f"note: {note}" for note in analysis["notes"]]
    different = [f"{level}: {analysis['differences'][level]}" for level in LEVELS if analysis["differences"][level]]
    return "\n".join(sentences + different[:1])


def _mbit(bps: float) -> str:
    return f"{bps / 1e6:.4f}"
