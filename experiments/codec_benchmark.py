"""Codecs against JPEG and WebP on photographs: `python -m gnl.experiments.codec_benchmark --images DIR --lpips DIR`.

Rate and quality (PSNR, MS-SSIM, LPIPS and a Frechet distance) in three views: `square256`, the centre squares scaled to
what networks of routers carry here; `full`, the photographs as they are, where JPEG and WebP reach lower rates; and, if
asked for, `tiles256`, squares cut from the photographs, of which there are enough for a Frechet distance. Ratios to
both at equal bpp, against what the codecs are meant to reach; a scalable codec also beside the dedicated ones; and
speed. Standard output has the tables, or with --json one JSON document; standard error has the progress.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Optional, Sequence

import numpy as np
from gnl.node_apps.codecs.interface import Codec
from gnl.node_apps.codecs.photos import find_photos
from gnl.node_apps.codecs.registry import GENERATIVE_CODEC_IDS, WEIGHTS_DIR, describe, load_codec, read_sidecar
from gnl.topologies.errors import CodecError, GnlError

from .baseline_files import FAMILIES, Curves, up_to
from .benchmark_tables import render_speeds, render_view
from .codec_speed import measure_speed
from .equal_rate import FrechetDistances, check_scalable, compare_means, match, spread
from .features import EfficientNetLite2
from .frechet import FRECHET
from .picture_grid import Cell, draw_grid
from .progress import counted
from .quality import PerceptualDistance
from .rate_quality import LEAST_SIDE, METRICS, Contender, Figures, Judge, Measured, Photographs, measure, naming

VIEWS = ("square256", "full", "tiles256")
TARGET_BPPS = (0.1, 0.15, 0.3, 0.45)
GRID_ROWS, GRID_VERSIONS = 6, 2 * (1 + len(FAMILIES))
_SPEED_IMAGES = 24
_TRIED = 8


def contenders_of(names: Sequence[str], bpps: Sequence[float], own_bpps: dict[str, float]) -> list[Contender]:
    """What is measured: fixed codecs as they are, scalable ones at each of `bpps` and at each fixed one's mean rate.

    `own_bpps` are the mean rates of the fixed generative codecs among `names`.
    """
    found: dict[str, Contender] = {}
    for name in names:
        targets: Sequence[Optional[float]] = (None,)
        if describe(name).scalable:
            targets = (*bpps, *own_bpps.values()) if name in GENERATIVE_CODEC_IDS else bpps
        found |= {one.label: one for one in (Contender(name, bpp) for bpp in targets)}
    return list(found.values())


def mean_bpps(names: Sequence[str], codecs: dict[str, Codec], photographs: Photographs, label: str) -> dict[str, float]:
    """Mean rate of each named codec over the photographs."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for image, path in zip(counted(photographs, label), photographs.paths):
        pieces = photographs.pieces(image)
        for name in names:
            with naming(path):
                found[name].append(fmean(_bpp(codecs[name], piece) for piece in pieces))
    return {name: fmean(bpps) for name, bpps in found.items()}


def _bpp(codec: Codec, image: np.ndarray, bpp: Optional[float] = None) -> float:
    return 8 * codec.encode(image, bpp).size_bytes / (image.shape[0] * image.shape[1])


def curves_for(contenders: Sequence[Contender], codecs: dict[str, Codec], photographs: Photographs) -> Curves:
    """The parts of the baselines' curves that comparing with the contenders takes, judged by a few photographs."""
    count = min(_TRIED, len(photographs))
    paths = [photographs.paths[index * len(photographs) // count] for index in range(count)]
    images = [photographs.pieces(photographs.read(path))[0] for path in paths]
    return up_to(max(fmean(_bpp(codecs[one.codec], image, one.bpp) for image in images) for one in contenders), images)


def evaluate(view: str, measured: Measured, contenders: Sequence[Contender], own_bpps: dict[str, float]) -> dict:
    """Everything that is said of one view, as JSON has it."""
    labels = [one.label for one in contenders]
    curves = [point for family in FAMILIES for point in measured.curve_labels(family)]
    frechet = FrechetDistances(measured) if len(measured.photo_of_tile) > 1 else None  # one has no covariance
    metrics = [name for name in ("lpips", "psnr_db", "ms_ssim") if not np.isnan(measured.column(labels[0], name)).any()]
    pairs = [(label, family) for label in labels for family in FAMILIES]
    compared = [compare_means(measured, *pair, metric) for metric in metrics for pair in pairs]
    scalable = [(one.label, name) for one in contenders for name, bpp in own_bpps.items() if one.bpp == bpp]
    rows = [_row(measured, label) for label in dict.fromkeys((*labels, *curves))]
    if frechet:
        compared += [frechet.compare(*pair) for pair in pairs]
        for row in rows:
            row[FRECHET] = frechet(row["codec"])
            row[FRECHET + "_ci95"] = frechet.spread(row["codec"])[1] if row["codec"] in labels else None
    with_lpips = "lpips" in metrics
    return {
        "view": view,
        "photographs": len(measured.figures[labels[0]]),
        "frechet": frechet and {"features": FRECHET, "n": frechet.count},
        "rows": rows,
        "at_equal_bpp": [asdict(one) for one in compared],
        "image_by_image": [asdict(match(measured, *pair)) for pair in pairs] if with_lpips else [],
        "scalable": [asdict(check_scalable(measured, *pair)) for pair in scalable] if with_lpips else [],
    }


def _row(measured: Measured, label: str) -> dict:
    row = {"codec": label}
    for metric in METRICS:
        values = measured.column(label, metric)
        row[metric] = None if np.isnan(values).any() else spread(values)._asdict()
    return row


def record_figures(sidecar: Path, rows: Sequence[dict], photographs: int, size_px: int) -> None:
    """Put a codec's measured means into the record beside its weights.

    Of a fixed codec, the one row, where `describe` finds its operating point too; of a scalable one, a row a rate.
    """
    document = read_sidecar(sidecar)
    points = [_flat(row) for row in rows]
    images = f"{photographs} photographs outside the training set, centre squares of {size_px} pixels"
    if points[0]["codec"] == sidecar.stem:
        document["operating_points_bpp"] = [round(points[0]["bpp"], 4)]
        document["measured"] = {"images": images, **points[0]}
    else:
        document["measured"] = {"images": images, "points": points}
    sidecar.write_text(json.dumps(document, indent=1) + "\n")


def _flat(row: dict) -> dict:
    flat = {"codec": row["codec"]}
    for metric in METRICS:
        if row[metric] is not None:
            flat |= {metric: round(row[metric]["mean"], 5), f"{metric}_sd": round(row[metric]["sd"], 5)}
    return flat | ({FRECHET: round(row[FRECHET], 5)} if FRECHET in row else {})


def save_grid(path: Path, measured: Measured) -> None:
    """Write the photographs that were kept, in lines of the original, two codecs, and the baselines behind each."""

    def cell(label: str, image: np.ndarray, figures: Optional[Figures]) -> Cell:
        if figures is None:
            return Cell((label,), image)
        lpips = "" if figures.lpips is None else f"  LPIPS {figures.lpips:.3f}"
        return Cell((label, f"{figures.bpp:.3f} bpp{lpips}"), image)

    lines = []
    for original, *versions in measured.shown:
        for start in range(0, len(versions), GRID_VERSIONS):
            lines.append([cell(*one) for one in (original, *versions[start : start + GRID_VERSIONS])])
    draw_grid(lines).save(path)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        document = _run(options)
        text = json.dumps(_finite(document), indent=1)
        if options.out:
            options.out.write_text(text + "\n")
        if options.json:
            print(text)
        return 0
    except GnlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"error: {error.strerror}" + (f": {error.filename}" if error.filename else ""), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m gnl.experiments.codec_benchmark", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--images", nargs="+", required=True, metavar="DIR", help="folders of photographs")
    add("--lpips", metavar="DIR", help="folder with the LPIPS weights; without it, LPIPS is left out")
    add("--limit", type=int, metavar="N", help="evenly spaced subset of so many photographs")
    add("--view", action="append", choices=VIEWS, help=f"measure this view ({' and '.join(VIEWS[:2])})")
    add("--size", type=int, default=256, metavar="PX", help="side of the squares (256); the view is named after it")
    add("--codec", action="append", metavar="NAME", help="codecs to compare (all that come with gnl)")
    add("--bpp", action="append", type=float, metavar="X", help=f"rates of codecs that have a choice {TARGET_BPPS}")
    add("--no-frechet", action="store_true", help="leave out the Frechet distance")
    add("--only-frechet", action="store_true", help="leave out all quality but the Frechet distance, which is faster")
    add("--no-speed", action="store_true", help="leave out the timing")
    add("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="where networks run (cpu)")
    add("--batch", type=int, default=8, metavar="N", help="batch of the timing (8)")
    add("--grid", type=Path, metavar="FILE.png", help="draw photographs beside what became of them")
    add("--record", action="store_true", help="put the codecs' figures, of the squares, beside their weights")
    add("--json", action="store_true", help="print JSON on standard output, and nothing else there")
    add("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    return parser


def _run(options: argparse.Namespace) -> dict:
    from gnl.node_apps.codecs.devices import resolve_device

    names = list(dict.fromkeys(options.codec or GENERATIVE_CODEC_IDS))
    _check(options, names)
    device = resolve_device(options.device)
    paths = find_photos(options.images)
    if options.limit is not None and options.limit < len(paths):
        paths = [paths[index * len(paths) // options.limit] for index in range(options.limit)]
    square = f"square{options.size}"
    views = {
        square: Photographs(paths, options.size),
        "full": Photographs(paths, None),
        "tiles256": Photographs(paths, None, tiled=True),
    }
    wanted = {square if view == "square256" else view for view in options.view or VIEWS[:2]}
    codecs = {name: load_codec(name, device) for name in names}
    lpips = PerceptualDistance(options.lpips, device) if options.lpips else None
    features = None if options.no_frechet else EfficientNetLite2(device)
    judge = Judge(lpips, features, distortion=not options.only_frechet)
    document = {"codecs": names, "device": device, "views": [], "speed": []}
    for view in (view for view in views if view in wanted):
        found = _measure_view(view, views[view], codecs, judge, options, len(wanted) > 1)
        document["views"].append(found)
        _say(options, render_view(found))
    if not options.no_speed:
        images = list(Photographs(paths[:_SPEED_IMAGES], options.size))
        document["speed"] = _speeds(names, images, device, options)
        _say(options, render_speeds(document["speed"]))
    return document


def _check(options: argparse.Namespace, names: Sequence[str]) -> None:
    """CodecError for what cannot be meant, before anything is measured."""
    if options.size < LEAST_SIDE or (options.limit is not None and options.limit < 1) or options.batch < 1:
        raise CodecError(
            f"size {options.size}, limit {options.limit}, batch {options.batch}: size is at least {LEAST_SIDE}, "
            "limit and batch at least 1"
        )
    if any(not 0 < bpp <= 24 for bpp in options.bpp or ()):
        raise CodecError(f"--bpp {options.bpp}: give numbers above 0 and at most 24")
    if options.bpp and not any(describe(name).scalable for name in names):
        raise CodecError(f"--bpp: none of {', '.join(names)} has a choice of rates; leave it out, or name one that has")
    for name in names if options.record else ():
        if name not in GENERATIVE_CODEC_IDS:
            raise CodecError(f"--record: {name} has no record, only {', '.join(GENERATIVE_CODEC_IDS)} have one")
    if options.record and "square256" not in (options.view or VIEWS):
        raise CodecError("--record: the record is of squares; add --view square256")
    if options.only_frechet and (options.no_frechet or options.lpips or options.record):
        raise CodecError("--only-frechet goes with none of --no-frechet, --lpips and --record")
    if options.grid and options.grid.suffix != ".png":
        raise CodecError(f"--grid {options.grid}: give a file name that ends in .png")
    for path in (options.grid, options.out):
        if path and not os.access(path.absolute().parent, os.W_OK):
            raise CodecError(f"{path}: {path.parent} is no folder that you may write to; make it first")


def _measure_view(
    view: str,
    photographs: Photographs,
    codecs: dict[str, Codec],
    judge: Judge,
    options: argparse.Namespace,
    one_of_several: bool,
) -> dict:
    dedicated = [name for name in codecs if name in GENERATIVE_CODEC_IDS and not describe(name).scalable]
    own_bpps = mean_bpps(dedicated, codecs, photographs, f"{view}: read and encoded")
    contenders = contenders_of(list(codecs), options.bpp or TARGET_BPPS, own_bpps)
    rows = min(GRID_ROWS, len(photographs)) if options.grid else 0
    curves = curves_for(contenders, codecs, photographs)
    measured = measure(
        photographs, contenders, codecs, judge, rows, lambda items: counted(items, f"{view}: measured"), curves
    )
    if options.grid:
        name = f"{options.grid.stem}-{view}{options.grid.suffix}" if one_of_several else options.grid.name
        save_grid(options.grid.with_name(name), measured)
    found = evaluate(view, measured, contenders, own_bpps)
    for name in codecs if options.record and photographs.size_px else ():
        labels = [one.label for one in contenders if one.codec == name]
        rows = [row for row in found["rows"] if row["codec"] in labels]
        record_figures(WEIGHTS_DIR / f"{name}.json", rows, len(photographs), options.size)
    return found


def _speeds(names: Sequence[str], images: list[np.ndarray], device: str, options: argparse.Namespace) -> list[dict]:
    settings = [("cpu", 1), ("cpu", 2), *([("cuda", None)] if device == "cuda" else [])]
    found = []
    for name, (where, threads) in counted([(name, one) for name in names for one in settings], "timed"):
        bpp = max(options.bpp or TARGET_BPPS) if describe(name).scalable else None
        speed = measure_speed(load_codec(name, where, threads), bpp, images, where, threads, options.batch)
        found.append({**asdict(speed), "verdict": speed.verdict})
    return found


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        print(text, flush=True)


def _finite(value):
    """The same document with null for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
