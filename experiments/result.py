"""`result.json`, its companions for the report, and the images: what a run leaves in its OUT folder."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from gnl.controller.sizes import LEVELS
from gnl.node_apps.catalogue import Catalogue
from gnl.node_apps.codecs import pixel_swapping
from gnl.node_apps.codecs.prompt_file import SUFFIX, parse_file
from gnl.node_apps.codecs.registry import describe, load_codec
from gnl.topologies.errors import GnlError, RunError
from gnl.topologies.spec import scenario_to_dict
from PIL import Image

from .counters import Series
from .images import LoadedImage
from .measure import ci95, mean_figures, relative_errors
from .quality import mse, mse_normalised, psnr_db
from .repeats import Repeat
from .run import RunRecord
from .windows import Window

SCHEMA = 1
PACKAGES = ("gnl", "mininet", "torch", "compressai", "numpy", "pillow", "scipy")
IMAGE_KEYS = ("sent", "delivered", "generated", "plain", "partial", "failed", "missing")


def write_result(record: RunRecord) -> dict:
    """Write everything to OUT, `result.json` last and whole; returns its document. Raises `RunError` on a full disk."""
    out = record.options.out
    try:
        quality = write_images(record)
        document = result_of(record, quality)
        _write_json(out / "series.json", series_of(record))
        _write_json(out / "result.json", document)
    except OSError as error:
        (out / "result.json").unlink(missing_ok=True)
        raise RunError(
            f"the result cannot be written to {out} ({error.strerror}): free space there and run again"
        ) from None
    return document


def result_of(record: RunRecord, quality: dict) -> dict:
    """The document of a run (schema in the README)."""
    repeats = record.repeats
    analytic = {level: mean_figures([r.plan.analytic(level) for r in repeats]) for level in LEVELS}
    measured = {level: mean_figures([r.measured[level] for r in repeats]) for level in LEVELS}
    reasons = [reason for repeat in repeats for reason in repeat.reasons]
    return {
        "schema": SCHEMA,
        "run": _run_facts(record),
        "calibration": record.calibration,
        "codec": _codec_facts(record),
        "plan": _plan_facts(record),
        "analytic": analytic,
        "measured": {**measured, "ci95": _intervals(repeats)},
        "error": {level: relative_errors(measured[level], analytic[level]) for level in LEVELS},
        "images": {key: sum(r.images[key] for r in repeats) for key in IMAGE_KEYS},
        "quality": quality,
        "packets": _packets(record),
        "repeats": [_repeat_facts(r) for r in repeats],
        "skipped_images": [{"name": name, "reason": reason} for name, reason in record.skipped],
        "valid": not reasons,
        "reasons": list(dict.fromkeys(reasons)),
    }


def _intervals(repeats: list[Repeat]) -> dict | None:
    """95% intervals over the repeats: of each wire figure by its name, and those of the payload under "payload"."""
    wire, payload = (ci95([repeat.measured[level] for repeat in repeats]) for level in LEVELS)
    return {**wire, "payload": payload} if wire else None


def _run_facts(record: RunRecord) -> dict:
    options = record.options
    return {
        "id": record.run_id,
        "started": record.started,
        "command": options.command,
        "scenario": scenario_to_dict(record.scenario),
        "seed": options.seed,
        "repeat": options.repeat,
        "duration_s": options.duration_s,
        "versions": _versions(),
        "host": _host(),
    }


def _codec_facts(record: RunRecord) -> dict:
    facts, entries = describe(record.scenario.content.codec), record.catalogue.entries
    sizes = record.plan.sizes
    pixels = [image.image.shape[0] * image.image.shape[1] for image in record.images]
    rate = record.generation_rate
    content_bytes = sum(sizes.content_bytes) / len(sizes.content_bytes)
    planned = _mean_planned(record)
    return {
        "name": facts.name,
        "device": record.decoder.get("device"),
        "weights_sha256": facts.weights_sha256,
        "generative": facts.generative,
        "bpp_mean": sum(8 * e.prompt_bytes for e in entries) / sum(pixels),
        "prompt_bytes_mean": sum(e.prompt_bytes for e in entries) / len(entries),
        "content_bytes_mean": content_bytes,
        # What the plan uses: the measured rate less its headroom, or what the scenario gives.
        "generation_rate_bps": planned * 8 * content_bytes if planned else None,
        "generation_rate_images_per_s": planned,
        "generation_rate_measured": None
        if rate is None
        else {
            "images_per_s_mean": rate.images_per_s,
            "images_per_s_median": rate.images_per_s_median,
            "images_per_s_min": rate.images_per_s_min,
            "images_per_s_bins": list(rate.images_per_bin),
            "bin_s": rate.bin_s,
        },
        "decoder_threads": record.decoder.get("threads"),
        "pixel_swapping": swapping_facts(facts.name, record.catalogue, record.images),
    }


def swapping_facts(codec_name: str, catalogue: Catalogue, images: list[LoadedImage]) -> dict | None:
    """Means over a catalogue of `images` of what swapped pixels take, raw as Eq. 5 counts them and coded.

    The inner rate is that of the prompts without them. None where the codec swaps no pixels.
    """
    if codec_name.partition(":")[0] not in pixel_swapping.FAMILIES:
        return None
    codec = load_codec(codec_name, "cpu")
    found = [codec.sizes(loaded.image, catalogue.prompt(index)) for index, loaded in enumerate(images)]
    pixels = sum(loaded.image.shape[0] * loaded.image.shape[1] for loaded in images)
    return {
        "gamma_mean": sum(sizes.gamma for sizes in found) / len(found),
        "inner_bpp_mean": 8 * sum(sizes.inner_bytes for sizes in found) / pixels,
        "prompt_bytes_raw_mean": sum(sizes.raw_bytes for sizes in found) / len(found),
        "prompt_bytes_coded_mean": sum(sizes.coded_bytes for sizes in found) / len(found),
    }


def _mean_planned(record: RunRecord) -> float | None:
    """R_g / L that the repeats were planned with, on average; None where the codec does not generate."""
    rates = [repeat.plan.generation_rate_images_per_s for repeat in record.repeats]
    return None if None in rates else sum(rates) / len(rates)


def _plan_facts(record: RunRecord) -> dict:
    plan = record.plan
    differences = [plan.difference(level) for level in LEVELS if plan.difference(level)]
    return {
        "lambda_per_s": plan.rate.lambda_per_s if plan.rate else None,
        "binds": list(plan.binds),
        "min_cut": list(plan.min_cut),
        "notes": list(plan.notes),
        "sentence": differences[0] if differences else None,
        "paths": [list(stream.path) for stream in plan.generate.streams],
        "replicate_flows_bps": plan.replicate.flows_bps,
    }


def _repeat_facts(repeat: Repeat) -> dict:
    return {
        "measured": repeat.measured,
        "replicate_flows_bps": repeat.flows_bps["replicate"],
        "error": {level: relative_errors(repeat.measured[level], repeat.plan.analytic(level)) for level in LEVELS},
        "windows": {
            name: [[w.start_s, w.stop_s, w.discarded or "ok"] for w in windows]
            for name, windows in repeat.windows.items()
        },
        "images": repeat.images,
        "generation_rate_images_per_s": repeat.plan.generation_rate_images_per_s,
        "valid": not repeat.reasons,
        "reasons": repeat.reasons,
    }


def _packets(record: RunRecord) -> dict:
    """Every counter of every program and link; those of repeats are summed."""
    total: dict = {"links": {}, "source": {}, "genai_router": {}, "sink": {}, "decoder": record.decoder_stats}
    for repeat in record.repeats:
        for direction, counts in repeat.losses.items():
            _add(total["links"].setdefault(direction, {}), counts)
        for traffic in repeat.phases:
            for flow in traffic.source["flows"]:
                counts = {f"{flow['kind']}_{name}": flow[name] for name in ("contents", "packets", "wire_bytes")}
                _add(total["source"], counts)
            _add(total["sink"], traffic.sink["counters"])
            if traffic.router:
                _add(total["genai_router"], traffic.router["counters"])
                _add(total["genai_router"], {f"sent_{name}": n for name, n in traffic.router["sent"].items()})
    return total


def _add(total: dict, counts: dict) -> None:
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count


def series_of(record: RunRecord) -> dict:
    """`series.json`: counters over time, in seconds from the run's first sample, for the report."""
    series, origin_s = record.series, record.series.t_s[0]
    received = {hop.link: series.received(hop.source, hop.target) for hop in record.plan.diamond.hops}
    phases = [
        {
            "name": "calibrate",
            "repeat": 0,
            "t0": 0.0,
            "t1": record.repeats[0].replicate.start_s - origin_s,
            "windows": [],
        }
    ]
    for index, repeat in enumerate(record.repeats):
        if repeat.rate_s:
            phases.append(
                {
                    "name": "R_g",
                    "repeat": index,
                    "t0": repeat.replicate.stop_s - origin_s,
                    "t1": repeat.replicate.stop_s + repeat.rate_s - origin_s,
                    "windows": [],
                }
            )
        for traffic in repeat.phases:
            windows = [_window(series, received, window, origin_s) for window in repeat.windows[traffic.phase.name]]
            phases.append(
                {
                    "name": traffic.phase.name,
                    "repeat": index,
                    "t0": traffic.start_s - origin_s,
                    "t1": traffic.stop_s - origin_s,
                    "windows": windows,
                }
            )
    links = {
        hop.link: {"tx_bytes": series.sent(hop.source, hop.target).tolist(), "rx_bytes": received[hop.link].tolist()}
        for hop in record.plan.diamond.hops
    }
    ticks = np.array([sample.cpu_ticks for sample in series.samples])
    spent = np.diff(ticks, axis=0)
    stolen = np.divide(spent[:, 2], spent[:, 0], out=np.zeros(len(spent)), where=spent[:, 0] > 0)
    return {
        "phases": phases,
        "t": [round(t, 4) for t in (series.t_s - origin_s).tolist()],
        "links": links,
        "stolen_cpu": [0.0, *np.round(stolen, 3).tolist()],
    }


def _window(series: Series, received: dict[str, np.ndarray], window: Window, origin_s: float) -> list:
    verdict = f"discarded: {window.discarded}" if window.discarded else "ok"
    flows = {link: 8 * series.rate(counter, window.start_s, window.stop_s) for link, counter in received.items()}
    return [window.start_s - origin_s, window.stop_s - origin_s, verdict, flows]


def write_images(record: RunRecord) -> dict:
    """Write pairs of what was sent and what arrived by g, as PNG, and return their mean quality (uint8 RGB)."""
    folder, received = record.options.out / "images", record.options.out / "received" / "generate-0"
    folder.mkdir(parents=True, exist_ok=True)
    rows, codecs = [], []
    made_of = {fact["content"]: fact["made"] for fact in record.repeats[0].generate.facts if fact["flow"] == 1}
    for index, loaded in enumerate(record.images):
        arrived, made = _arrived(record, received / f"1-{index:06d}", made_of.get(index, "none"), codecs)
        if arrived is None or arrived.shape != loaded.image.shape:
            continue
        sent_name, received_name = f"{index:03d}-sent.png", f"{index:03d}-generated.png"
        Image.fromarray(loaded.image).save(folder / sent_name, compress_level=1)
        Image.fromarray(arrived).save(folder / received_name, compress_level=1)
        entry = record.catalogue.entries[index]
        rows.append(
            {
                "name": loaded.name,
                "sent": sent_name,
                "received": received_name,
                "made": made,
                "psnr_db": _finite(psnr_db(loaded.image, arrived)),
                "mse": mse(loaded.image, arrived),
                "mse_normalised": mse_normalised(loaded.image, arrived),
                "prompt_bytes": entry.prompt_bytes,
                "content_bytes": record.plan.sizes.content_bytes[index],
            }
        )
    _write_json(folder / "triplets.json", rows)
    quality: dict = {"images": len(rows)}
    for name in ("psnr_db", "mse", "mse_normalised"):
        values = [row[name] for row in rows if row[name] is not None]
        quality[name] = sum(values) / len(values) if values else None
    return quality


def _arrived(record: RunRecord, stem: Path, made: str, codecs: list) -> tuple[np.ndarray | None, str]:
    """What arrived at d of one image by g, and how it was made; a prompt that came undecoded is decoded here, at d.

    `codecs` holds the codec once it had to be loaded.
    """
    if stem.with_suffix(".png").exists():
        with Image.open(stem.with_suffix(".png")) as opened:
            return np.asarray(opened.convert("RGB")), made
    if stem.with_suffix(SUFFIX).exists():
        try:
            if not codecs:
                codecs.append(load_codec(record.scenario.content.codec, "cpu"))
            return codecs[0].decode(parse_file(stem.with_suffix(SUFFIX).read_bytes())), "at d"
        except GnlError:
            return None, "none"
    return None, "none"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _host() -> dict:
    model = next(
        (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), None
    )
    memory_kb = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kb / 2**20, 1),
        "system": platform.system(),
        "machine": platform.machine(),
        "executable": sys.executable,
    }


def _write_json(path: Path, document) -> None:
    """Write a document whole or not at all. A figure that is not finite is a defect, not a result."""
    partial = path.with_suffix(".part")
    try:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False))
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
