"""`gnl codecs`: the codecs that can be named, what is known of them, and what they do on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from statistics import fmean, median
from typing import Any

import numpy as np
from gnl.node_apps.codecs import pixel_swapping, registry
from gnl.node_apps.codecs.registry import FAMILIES, WEIGHTS_DIR, codec_names, describe, load_codec
from gnl.topologies.errors import GnlError

from .cpu_load import BUSY_SHARE, OtherLoad
from .images import load_images
from .text_table import aligned

# What stands for a family in the measurement.
EXAMPLES = registry.EXAMPLES | {
    name: f"{family}:0.1:gnl-low" for name, family in zip(pixel_swapping.NAMES, pixel_swapping.FAMILIES)
}
IMAGES, SIZE_PX = 4, 256
LEAST_S = 0.3


def list_codecs(measure: bool = True) -> list[dict[str, Any]]:
    """One entry a name. `measured` holds what each does here, on a few sample photographs; families by an example.

    `unusable` says why where a codec cannot be loaded. Families have no facts until their parameters are given.
    """
    photos = [image.image for image in load_images("sample", SIZE_PX, IMAGES)[0]] if measure else []
    return [_entry(name, photos) for name in codec_names()]


def _entry(name: str, photos: Sequence[np.ndarray]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "codec_id": FAMILIES.get(name)}
    example = EXAMPLES.get(name, name)
    try:
        if "<" not in name:
            entry |= _facts(name)
        if photos and "<" not in example:
            entry["measured"] = measure_codec(example, photos)
    except GnlError as error:
        entry["unusable"] = str(error)
    return entry


def _facts(name: str) -> dict[str, Any]:
    facts = describe(name)
    weights = WEIGHTS_DIR / f"{name}.safetensors"
    return {
        "codec_id": facts.codec_id,
        "generative": facts.generative,
        "scalable": facts.scalable,
        "weights_sha256": facts.weights_sha256,
        "weights_bytes": weights.stat().st_size if weights.exists() else None,
        "operating_points_bpp": list(facts.operating_points_bpp),
        "deterministic_on": facts.deterministic_on,
    }


def measure_codec(name: str, photos: Sequence[np.ndarray]) -> dict[str, Any]:
    """Rate and speed of a codec, one photograph at a time, on all CPU threads or the GPU; after a warm-up.

    Speeds are those of the median call. `others_cpu_share` is the part of the CPU time that other programs took
    meanwhile: above BUSY_SHARE, the speeds are those of a busy machine.
    """
    threads = len(os.sched_getaffinity(0))
    codec = load_codec(name, "auto", threads)
    codec.decode(codec.encode(photos[0]))
    others = OtherLoad()
    prompts, encode_s = _timed(codec.encode, photos, len(photos))
    _, decode_s = _timed(codec.decode, prompts, 1)
    return {
        "name": name,
        "images": len(photos),
        "size_px": SIZE_PX,
        "device": getattr(codec, "device", "cpu"),
        "threads": threads,
        "bpp": 8 * fmean(prompt.size_bytes for prompt in prompts) / SIZE_PX**2,
        "encode_per_s": 1 / encode_s,
        "decode_per_s": 1 / decode_s,
        "others_cpu_share": others.share(),
    }


def _timed(work: Callable[[Any], Any], items: Sequence[Any], least: int) -> tuple[list[Any], float]:
    """`work` on one item after the other for LEAST_S, and `least` times: the first results, the median seconds."""
    results: list[Any] = []
    took_s: list[float] = []
    for item in cycle(items):
        start_s = time.perf_counter()
        results.append(work(item))
        took_s.append(time.perf_counter() - start_s)
        if len(took_s) >= least and sum(took_s) >= LEAST_S:
            return results[: len(items)], median(took_s)
    raise AssertionError("no items")


def render(entries: list[dict[str, Any]]) -> str:
    """A line a codec, then how the figures were measured, and why codecs are not usable."""
    rows = [["codec", "id", "weights", "bpp", "encode/s", "decode/s"]]
    rows += [_row(entry) for entry in entries]
    lines = [aligned(rows), ""]
    found = [entry["measured"] for entry in entries if "measured" in entry]
    if found:
        devices = " and ".join(sorted({one["device"] for one in found}))
        lines.append(
            f"measured on {found[0]['images']} of the sample photographs at {SIZE_PX}x{SIZE_PX}, one at a time, on "
            f"{devices} with {found[0]['threads']} CPU threads; families as {', '.join(EXAMPLES.values())}"
        )
        busiest = max(one["others_cpu_share"] for one in found)
        if busiest > BUSY_SHARE:
            lines.append(
                f"other programs took up to {100 * busiest:.0f}% of the CPU meanwhile: these speeds are those of a "
                "busy machine, end the programs and measure again"
            )
    lines += [f"{entry['name']} is not usable: {entry['unusable']}" for entry in entries if "unusable" in entry]
    return "\n".join(lines).rstrip()


def _row(entry: dict[str, Any]) -> list[str]:
    measured, points = entry.get("measured"), entry.get("operating_points_bpp")
    size = entry.get("weights_bytes")
    bpp = f"{measured['bpp']:.3f}" if measured else ", ".join(f"{point:.3f}" for point in points or ()) or "-"
    speeds = [f"{measured[key]:.1f}" if measured else "-" for key in ("encode_per_s", "decode_per_s")]
    weights = f"{size / 1e6:.1f} MB" if size else "-"
    return [entry["name"], str(entry["codec_id"] or "-"), weights, bpp, *speeds]
