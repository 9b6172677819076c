"""`gnl codecs`: the codecs that can be named, and what is known of them without loading one."""

from __future__ import annotations

from typing import Any

from gnl.node_apps.codecs.registry import codec_names, describe


def list_codecs() -> list[dict[str, Any]]:
    """One entry a name; families (`jpeg:<quality>`) have no facts until their parameters are given."""
    entries = []
    for name in codec_names():
        entry: dict[str, Any] = {"name": name}
        if "<" not in name:
            facts = describe(name)
            entry |= {
                "generative": facts.generative,
                "scalable": facts.scalable,
                "weights_sha256": facts.weights_sha256,
                "operating_points_bpp": list(facts.operating_points_bpp),
                "deterministic_on": facts.deterministic_on,
            }
        entries.append(entry)
    return entries


def render(entries: list[dict[str, Any]]) -> str:
    """A line a codec."""
    lines = []
    for entry in entries:
        facts = ""
        if "generative" in entry:
            points = ", ".join(f"{bpp:.3f}" for bpp in entry["operating_points_bpp"]) or "unknown"
            kind = "generative" if entry["generative"] else "replicates"
            facts = f"  {kind}, {points} bpp, weights {entry['weights_sha256'][:12]}"
        lines.append(entry["name"] + facts)
    return "\n".join(lines)
