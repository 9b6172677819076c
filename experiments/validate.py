"""`gnl validate`: the gains that `gnl optimize` promises, and those of a grid of capacities, measured on real packets.

OUT holds `validation.json`, written after every run, and a folder for each run: the same command goes on where an
interrupted one stopped, and repeats what did not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from gnl.controller.sizes import LEVELS, Sizes
from gnl.node_apps.codecs.content import pack
from gnl.node_apps.codecs.pixel_swapping import parse_name
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import RunError, UsageError
from gnl.topologies.spec import MIN_BW_MBIT, ContentSpec

from .encoding import prepare_catalogue
from .images import LoadedImage, load_images
from .measure import interval95
from .optimize import OptimizeOptions, fitted_curves, optimize
from .out_folder import give_to_caller, hand_over
from .progress import Progress
from .repeats import RunOptions
from .result import write_result
from .run import run
from .text_table import aligned
from .trials import FIGURE, GRID, Trial, grid, trials_of_figure
from .whole_file import write_whole

SCHEMA = 1
VALIDATION = "validation.json"
PARTS = (FIGURE, GRID)
# What the errors are held against: on every point of the figure; on most of the grid, and nowhere.
MOST_ERROR, MOST_GRID_ERROR, GRID_SHARE = 0.01, 0.02, 0.95
_ATTEMPTS = 2
_GAMMAS = tuple(np.linspace(0.0, 1.0, 41).tolist())


@dataclass(frozen=True)
class ValidateOptions:
    """What `gnl validate` was asked for. `images`: a folder, or "sample". `contents_per_s`: what a capacity of L
    carries, in contents a second."""

    problem: OptimizeOptions
    images: str
    out: Path
    parts: Sequence[str] = PARTS
    contents_per_s: float = 10.0
    repeat: int = 3
    grid_repeat: int = 1
    duration_s: float = 12.0
    size_px: int = 256
    most_images: int = 16
    device: str = "auto"
    command: str = ""


def validate(options: ValidateOptions) -> dict[str, Any]:
    """Run what OUT does not hold yet; the document of `validation.json`.

    UsageError for what cannot be meant, and where OUT holds runs of other inputs; GnlError where a run cannot go on.
    """
    fitted = fitted_curves(options.problem)
    found = optimize(options.problem, fitted)
    figure = trials_of_figure(found) if FIGURE in options.parts else {}
    trials = [*figure, *(grid() if GRID in options.parts else ())]
    _require_capacities(trials, options, found["problem"]["content_bpp"])
    images, _ = load_images(options.images, options.size_px, options.most_images)
    content = ContentSpec(
        images=options.images,
        size_px=options.size_px,
        format=content_format(images, found["problem"]["content_bpp"]),
        max_images=options.most_images,
    )
    document = _started(options, _inputs(options, images, content))
    document["problem"] = found["problem"]
    names = {trial.name for trial in trials}
    rows = document["trials"].items()
    document["trials"] = {name: row for name, row in rows if name in names or row["trial"]["kind"] not in options.parts}
    progress = Progress()
    progress.note(f"{len(figure)} points of the figure, {len(trials) - len(figure)} of the grid; {content.format}")
    for number, trial in enumerate(trials, 1):
        row = document["trials"].get(trial.name)
        if row is None or not row["valid"]:
            progress.note(f"{number} of {len(trials)}: {trial.name}")
            row = _measured(trial, content, images, options, progress)
            progress.note(_said(row))
        document["trials"][trial.name] = {**row, "optima": figure.get(trial, [])}
        _write(options.out, document)
    return document


def _require_capacities(trials: Sequence[Trial], options: ValidateOptions, content_bpp: float) -> None:
    """UsageError if a link would be slower than links can be; headers, which are left out here, make it faster."""
    least = min(min(trial.c_sg, trial.c_gd, trial.by_router) for trial in trials)
    unit_mbit = content_bpp * options.size_px**2 / 1e6
    if least * unit_mbit * options.contents_per_s < MIN_BW_MBIT:
        raise UsageError(
            f"links of {least * unit_mbit * options.contents_per_s:.3g} Mbit/s at --contents-per-s "
            f"{options.contents_per_s:g}: give {MIN_BW_MBIT / (least * unit_mbit) + 0.05:.3g} or more"
        )


def content_format(images: Sequence[LoadedImage], content_bpp: float) -> str:
    """The JPEG quality at which these images are closest to L = `content_bpp`, the content format of all trials."""

    def bpp(quality: int) -> float:
        return sum(8 * len(pack(image.image, f"jpeg:{quality}")) for image in images) / _pixels(images)

    low, high = 1, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bpp(middle) < content_bpp else (low, middle)
    return f"jpeg:{min((low, high), key=lambda quality: abs(bpp(quality) - content_bpp))}"


def with_mean_size(trial: Trial, images: Sequence[LoadedImage], device: str) -> Trial:
    """`trial` with the fraction of swapped pixels in its codec's name, such that prompts take `bpp` on average: with a
    target of each, images that need more without a swapped pixel would be left out."""
    if not trial.codec.startswith("ps:") or trial.bpp is None:
        return trial
    codec, inner = load_codec(trial.codec, device), parse_name(trial.codec).inner
    sizes = np.zeros(len(_GAMMAS))
    for image in images:
        sizes += [8 * size.coded_bytes for size, _ in codec.variants(image.image, _GAMMAS)]
    gamma = float(np.interp(trial.bpp, sizes / _pixels(images), _GAMMAS))
    return replace(trial, codec=f"ps:{gamma:.5f}:{inner}" if gamma >= _GAMMAS[1] / 100 else inner, bpp=None)


def _pixels(images: Sequence[LoadedImage]) -> int:
    return sum(image.image[..., 0].size for image in images)


def _measured(
    trial: Trial, content: ContentSpec, images: Sequence[LoadedImage], options: ValidateOptions, progress: Progress
) -> dict[str, Any]:
    """Run a trial, again if the machine was too busy, and keep what it says."""
    made = with_mean_size(trial, images, options.device)
    content = replace(content, codec=made.codec, bpp=made.bpp)
    scenario = trial.scenario(content, _content_wire_bits(content, options.device), options.contents_per_s)
    repeat = options.repeat if trial.kind == FIGURE else options.grid_repeat
    settings = RunOptions(
        options.out / trial.name, options.duration_s, repeat, device=options.device, quiet=True, command=options.command
    )
    for attempt in range(1, _ATTEMPTS + 1):
        result = write_result(run(scenario, settings))
        give_to_caller(settings.out)
        if result["valid"]:
            break
        progress.note(f"does not count ({result['reasons'][0]})" + (": once more" if attempt < _ATTEMPTS else ""))
    return {"trial": asdict(trial), "attempts": attempt, **figures_of(result, trial.through_g)}


def _content_wire_bits(content: ContentSpec, device: str) -> float:
    """Mean bits on the wire of a content as it leaves g."""
    catalogue, images, _ = prepare_catalogue(content, device)
    plain = tuple(entry.content_bytes for entry in catalogue.entries)
    prompts = tuple(entry.prompt_slices for entry in catalogue.entries)
    codec = load_codec(content.codec, device)
    made = plain
    if codec.facts.generative:
        made = tuple(len(pack(codec.decode(catalogue.prompt(n)), content.format)) for n in range(len(catalogue)))
    return Sizes(plain, made, prompts, codec.facts.generative, "encoded now").means("wire").content_bits


def figures_of(result: Mapping[str, Any], through_g: bool) -> dict[str, Any]:
    """What the document keeps of a run's result: G_flow by level, analytic, measured (mean and 95% interval over the
    repeats) and the relative error; of g's path alone where `through_g`."""
    last = list(result["analytic"]["wire"]["flows_bps"])[-1]

    def gain(figures: Mapping[str, Any], replicated: Mapping[str, Mapping[str, float]], level: str) -> float:
        if not through_g:
            return figures["g_flow"]
        return 1 + figures["y_g_bps"] / replicated[level][last]

    levels = {}
    for level in LEVELS:
        analytic = gain(result["analytic"][level], result["plan"]["replicate_flows_bps"], level)
        each = [gain(one["measured"][level], one["replicate_flows_bps"], level) for one in result["repeats"]]
        levels[level] = {"analytic": analytic, "measured": fmean(each), "ci95": interval95(each)}
        levels[level]["error"] = levels[level]["measured"] / analytic - 1
    codec = result["codec"]
    pixels = 8 * codec["prompt_bytes_mean"] / codec["bpp_mean"]
    return {
        "g_flow": levels,
        "binds": result["plan"]["binds"],
        "lambda_per_s": result["plan"]["lambda_per_s"],
        "prompt_bpp": codec["bpp_mean"],
        "content_bpp": 8 * codec["content_bytes_mean"] / pixels,
        "images": result["images"],
        "valid": result["valid"],
        "reasons": result["reasons"],
        "started": result["run"]["started"],
    }


def _started(options: ValidateOptions, inputs: dict[str, Any]) -> dict[str, Any]:
    """The document as OUT has it, or a new one; UsageError if OUT's is of other inputs."""
    path = options.out / VALIDATION
    if path.exists():
        document = read_validation(path)
        differ = [key for key, value in inputs.items() if document["inputs"].get(key) != value]
        if differ:
            raise UsageError(f"{path} has other {', '.join(differ)}: give another --out, or remove that file")
        return document
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"schema": SCHEMA, "command": options.command, "started": now, "inputs": inputs, "trials": {}}


def read_validation(path: Path) -> dict[str, Any]:
    """The document in a file of validated points; UsageError if it is none, or one of another version."""
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise UsageError(f"{path}: version {document['schema']!r}, this gnl reads {SCHEMA}: validate again")
        document["trials"], document["inputs"], document["problem"]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the {VALIDATION} of gnl validate") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: nothing validated ({error}); give the {VALIDATION} of gnl validate") from error
    return document


def _inputs(options: ValidateOptions, images: Sequence[LoadedImage], content: ContentSpec) -> dict[str, Any]:
    pictures = hashlib.sha256(b"".join(image.image.tobytes() for image in images)).hexdigest()
    names = ("contents_per_s", "repeat", "grid_repeat", "duration_s", "size_px")
    given = {name: getattr(options, name) for name in names}
    return {"images": len(images), "images_sha256": pictures, "format": content.format, **given}


def _write(out: Path, document: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / VALIDATION, json.dumps(document, indent=1, allow_nan=False).encode())
        hand_over([out / VALIDATION])
    except OSError as error:
        raise RunError(f"{out / VALIDATION} cannot be written ({error.strerror}): free space there") from error


def _said(row: Mapping[str, Any]) -> str:
    wire = row["g_flow"]["wire"]
    return f"G_flow {wire['measured']:.4f}, analytic {wire['analytic']:.4f}, error {100 * wire['error']:+.3f}%"


def verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """How the errors of G_flow on the wire are distributed, by kind of trial, and whether they are as small as asked.

    An error counts only where the run does; a run that does not is a failure too.
    """
    found = {}
    for kind, most, share in ((FIGURE, MOST_ERROR, 1.0), (GRID, MOST_GRID_ERROR, GRID_SHARE)):
        rows = [row for row in document["trials"].values() if row["trial"]["kind"] == kind]
        if not rows:
            continue
        errors = np.abs([row["g_flow"]["wire"]["error"] for row in rows if row["valid"]])
        within = float(np.mean(errors < MOST_ERROR)) if len(errors) else 0.0
        found[kind] = {
            "runs": len(rows),
            "invalid": sum(not row["valid"] for row in rows),
            "median": float(np.median(errors)) if len(errors) else None,
            "p95": float(np.quantile(errors, 0.95)) if len(errors) else None,
            "largest": float(errors.max()) if len(errors) else None,
            "share_within_1_percent": within,
            "met": len(errors) == len(rows) and within >= share and float(errors.max()) <= most,
        }
    return found


def render(document: Mapping[str, Any]) -> str:
    """A line a run, and the errors of each kind."""
    rows = [["run", "L_p bpp", "lambda/s", "held by", "G_flow", "measured", "95%", "error"]]
    for name, row in document["trials"].items():
        wire = row["g_flow"]["wire"]
        interval = "" if wire["ci95"] is None else "[{:.4f}, {:.4f}]".format(*wire["ci95"])
        rate = "" if row["lambda_per_s"] is None else f"{row['lambda_per_s']:.3f}"
        cells = [f"{wire['analytic']:.4f}", f"{wire['measured']:.4f}", interval, f"{100 * wire['error']:+.3f}%"]
        rows.append([name + ("" if row["valid"] else " (does not count)"), f"{row['prompt_bpp']:.3f}", rate])
        rows[-1] += [" ".join(row["binds"]), *cells]
    lines = [aligned(rows), ""]
    for kind, one in verdict(document).items():
        spread = "" if one["median"] is None else (
            f"|error| median {100 * one['median']:.3f}%, p95 {100 * one['p95']:.3f}%, largest "
            f"{100 * one['largest']:.3f}%, "
        )
        said = f"{kind}: {one['runs']} runs, {spread}{100 * one['share_within_1_percent']:.0f}% below 1%"
        lines.append(said + (f", {one['invalid']} do not count" if one["invalid"] else ""))
    return "\n".join(lines)
