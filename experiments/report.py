"""The HTML report of a run: one self-contained file drawn from what the run left in its folder.

    OUT/result.json          the figures                       (needed)
    OUT/series.json          kernel counters over time         (optional)
    OUT/images/triplets.json and its pictures                  (optional)

`python -m gnl.experiments.report OUT` draws it anew. Nothing but these files is read, and the page asks for nothing:
its pictures are data URIs, it has no script, and its content security policy forbids every request.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..topologies.errors import GnlError, MachineError, UsageError
from .report_values import Document, LinkFlow, figure, is_number, link_flows, node_roles, relative_error

SCHEMA = 1
TEMPLATES = Path(__file__).parent / "templates"
# A counter is a loss or a fault where a word of its name starts with one of these; what a scenario asks for is not.
FAULT_WORDS = (
    "drop", "lost", "loss", "discard", "error", "err", "miss", "malformed", "expire", "evict", "overflow", "fail",
    "reject", "refuse", "timeout", "truncat", "corrupt", "duplicate", "unknown", "stale", "late", "kill", "crash",
    "restart", "partial", "inconsistent", "large", "without",
)  # fmt: skip
HEADLINES = (
    ("g_flow", "Flow gain", "G", "flow", "ratio", ""),
    ("delivery_gain", "Delivery gain", "", "", "ratio", ""),
    ("max_flow_bps", "Max-flow, replication only", "f′", "sd", "mbit", "Mbit/s"),
)
QUALITY_NAMES = {
    "psnr_db": ("PSNR in dB", "higher is better"),
    "images": ("images compared", ""),
    "mse": ("MSE, 8-bit values", "lower is better"),
    "mse_normalised": ("MSE, normalised by the colour-inverted image", "0 is a replica, 1 its inversion"),
    "lpips": ("LPIPS", "lower is better"),
}
IMAGE_COUNTS = ("sent", "delivered", "generated", "plain", "partial", "failed", "missing")
IMAGE_FAULTS = ("partial", "failed", "missing")


def write_report(out_dir: str | Path) -> Path:
    """Draw `report.html` in a run's folder from the files there, and return its path.

    Raises `UsageError` where the folder holds no usable result.json, `MachineError` where the page cannot be written.
    Whatever else is missing or unreadable is named on the page.
    """
    folder = Path(out_dir)
    document = _read_result(folder)
    target = folder / "report.html"
    page = page_template("report.html.j2").render(_context(document, folder))
    unfinished = folder / "report.html.part"
    try:
        unfinished.write_text(page, encoding="utf-8", errors="replace")
        os.replace(unfinished, target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise MachineError(f"{target} cannot be written ({error.strerror}): make room or give another --out") from error
    return target


def _read_result(folder: Path) -> Document:
    path = folder / "result.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give the folder of a finished run") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}): give the folder of a finished run") from error
    schema = tree.get("schema") if isinstance(tree, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{path} has schema {schema!r}: this gnl draws schema {SCHEMA}, draw it with the gnl that ran it"
        )
    return Document(tree)


@functools.cache
def page_template(name: str) -> Any:
    """The jinja2 template of a page."""
    import jinja2  # only a report needs it, and the command line must start fast

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _context(document: Document, folder: Path) -> dict[str, Any]:
    from .report_topology import COMPACT_LABEL, draw_topology, label_size

    links = link_flows(document)
    notes: list[str] = []
    return {
        "doc": document,
        "figure": figure,
        "verdict": _verdict(document),
        "headlines": [_headline(document, *row) for row in HEADLINES],
        "plan": _plan(document),
        "links": links,
        "relative_error": relative_error,
        "topology": draw_topology(document, links),
        "compact": label_size(links) == COMPACT_LABEL,
        "delivery": _delivery(document, links),
        "timeline": _timeline(folder, links, notes),
        "gallery": _gallery(folder, notes),
        "quality": _quality(document),
        "skipped": [dict(item) for item in document.items("skipped_images") if isinstance(item, dict)],
        "image_counts": [(name, name in IMAGE_FAULTS) for name in IMAGE_COUNTS],
        "counters": _counters(document),
        "calibration": _calibration(document),
        "repeats": _repeats(document),
        "facts": {name: list(_flat(document.mapping("run", name))) for name in ("versions", "host")},
        "scenario_text": json.dumps(document.mapping("run", "scenario"), indent=2, ensure_ascii=False),
        "again": f"gnl run {shlex.quote(str(folder / 'result.json'))}",
        "notes": notes,
    }


def _verdict(document: Document) -> dict[str, Any]:
    """Valid only where the run says exactly that; reasons as the run gave them."""
    valid = document.at("valid") is True
    reasons = [str(reason) for reason in document.items("reasons")]
    if not valid and not reasons:
        reasons = ["The result gives no reason."]
    return {"valid": valid, "reasons": reasons}


def _plan(document: Document) -> dict[str, Any]:
    """What the plan says in words: what binds the prompt rate, the min-cut, its sentence and its notes."""
    said = [document.at("plan", "sentence"), *document.items("plan", "notes")]
    return {
        "binds": _joined(document.at("plan", "binds")),
        "min_cut": _joined(document.at("plan", "min_cut")),
        "sentences": [str(sentence) for sentence in said if sentence],
    }


def _joined(value: Any) -> str:
    if not isinstance(value, list):
        return str(value or "")
    return ", ".join(item if isinstance(item, str) else json.dumps(item) for item in value)


def _headline(
    document: Document, key: str, words: str, symbol: str, index: str, show: str, unit: str
) -> dict[str, Any]:
    levels = {
        level: {kind: document.show(how, kind, level, key) for kind, how in _kinds(show)}
        for level in ("wire", "payload")
    }
    return {
        "key": key,
        "words": words,
        "symbol": symbol,
        "index": index,
        "unit": unit,
        "levels": levels,
        "interval": document.interval(key, show),
    }


def _kinds(show: str) -> tuple[tuple[str, str], ...]:
    return (("analytic", show), ("measured", show), ("error", "error"))


def _delivery(document: Document, links: list[LinkFlow]) -> list[dict[str, Any]]:
    """Bars of what enters the destinations on the wire: all by replication, and by each last link with generation."""
    roles = node_roles(document)
    last = [link for link in links if roles.get(link.b) == "sink"]
    measured = [link.measured_bps for link in last]
    replicated = document.number("measured", "wire", "max_flow_bps")
    if not last or replicated is None or None in measured:
        return []
    scale = 1.02 * max(replicated, sum(measured), sum(link.predicted_bps or 0.0 for link in last)) or 1.0  # type: ignore
    plain = {"name": "all replicated", "kind": "plain", "bps": replicated, "percent": 100 * replicated / scale}
    parts = [
        {
            "name": f"by {link.a}" + (", generated" if roles.get(link.a) == "genai" else ", replicated"),
            "kind": "generated" if roles.get(link.a) == "genai" else "plain",
            "bps": link.measured_bps,
            "percent": 100 * link.measured_bps / scale,  # type: ignore[operator]
        }
        for link in last
    ]
    predicted = document.number("analytic", "wire", "max_flow_bps")
    rows = [("replicate", [plain], predicted), ("generate", parts, _total([link.predicted_bps for link in last]))]
    return [
        {"phase": phase, "parts": bars, "total": sum(bar["bps"] for bar in bars), "predicted": expected,
         "tick": None if expected is None else 100 * expected / scale}
        for phase, bars, expected in rows
    ]  # fmt: skip


def _total(values: list[float | None]) -> float | None:
    return None if None in values else sum(values)  # type: ignore[arg-type]


def _timeline(folder: Path, links: list[LinkFlow], notes: list[str]) -> dict[str, Any] | None:
    from .report_series import read_series
    from .report_timeline import draw_timeline, heading
    from .report_windows import draw_window_errors, window_errors

    try:
        series = read_series(folder / "series.json")
        if len(series.t_s) < 2:
            raise ValueError("it holds fewer than two samples")
    except (OSError, ValueError) as error:
        notes.append(f"Utilisation over time is not drawn: series.json {_why(error)}.")
        return None
    panels, stolen = draw_timeline(series, links)
    discarded = [(phase, window) for phase in series.phases for window in phase.windows if window.discarded]
    windows = [
        (phase, window, [series.window_bps(panel.link.name, window) for panel in panels])
        for phase in series.phases
        for window in phase.windows
    ]
    return {"panels": panels, "stolen": stolen, "heading": heading, "discarded": discarded, "windows": windows,
            "errors": draw_window_errors(window_errors(series, links)),
            "bins_s": sorted({round(panel.bin_s, 2) for panel in panels})}  # fmt: skip


def _gallery(folder: Path, notes: list[str]) -> Any:
    from .report_images import load_gallery

    try:
        gallery = load_gallery(folder / "images")
    except (OSError, ValueError) as error:
        notes.append(f"Images are not shown: images/triplets.json {_why(error)}.")
        return None
    return gallery if gallery.triplets else None


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON ({error})"
    return f"is not usable: {error}"


def _quality(document: Document) -> list[dict[str, Any]]:
    rows = []
    for path, value in _flat(document.mapping("quality")):
        words, sense = QUALITY_NAMES.get(path[-1], ("", ""))
        name = " ".join([*path[:-1], words or path[-1]])
        rows.append(
            {
                "name": name,
                "sense": sense,
                "value": document.show("count" if isinstance(value, int) else "short", "quality", *path),
                "raw": value,
            }
        )
    return rows


def _repeats(document: Document) -> list[dict[str, Any]]:
    """Verdict of each repeat: whether it is valid, and its reasons in one line."""
    repeats = [Document(item if isinstance(item, dict) else {}) for item in document.items("repeats")]
    return [
        {"valid": item.at("valid") is True, "reasons": "; ".join(map(str, item.items("reasons")))} for item in repeats
    ]


def _calibration(document: Document) -> list[dict[str, Any]]:
    """The calibrated directions, with the one that was off most marked."""
    errors = [item.get("rel_error") if isinstance(item, dict) else None for item in document.items("calibration")]
    worst = max((abs(error) for error in errors if is_number(error)), default=None)
    return [
        {"index": index, "link": item.get("link"), "direction": item.get("direction"),
         "worst": is_number(error) and len(errors) > 1 and abs(error) == worst}
        for index, (item, error) in enumerate(zip(document.items("calibration"), errors))
        if isinstance(item, dict)
    ]  # fmt: skip


def _counters(document: Document) -> dict[str, Any]:
    """Counters in groups (one a program or link), and those of losses and faults that are not zero."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, value in _flat(document.mapping("packets")):
        name = " / ".join(path[1:]) or path[0]
        is_fault = is_number(value) and any(map(_is_fault, path))
        row = {"name": name, "value": document.show("count", "packets", *path) if is_number(value) else str(value),
               "fault": is_fault, "nonzero": is_fault and value != 0, "group": path[0]}  # fmt: skip
        groups.setdefault(path[0], []).append(row)
    rows = [row for group in groups.values() for row in group]
    return {
        "groups": groups,
        "faults": [row for row in rows if row["nonzero"]],
        "watched": sum(row["fault"] for row in rows),
    }


def _is_fault(name: str) -> bool:
    words = re.split(r"[^a-z]+", name.lower())
    return "purpose" not in words and any(word.startswith(FAULT_WORDS) for word in words)


def _flat(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves of nested mappings with their paths; a list is a leaf, written as text."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, (*path, str(key)))
        else:
            yield (*path, str(key)), _joined(value) if isinstance(value, list) else value


def main(arguments: list[str] | None = None) -> int:
    """Draw the report of the folder named on the command line; print its path."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise UsageError("give the folder of a run: python -m gnl.experiments.report OUT")
        print(write_report(arguments[0]))
    except GnlError as error:
        print(f"gnl: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
