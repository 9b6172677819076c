"""`gnl validate`: the gains that `gnl optimize` promises, and those of a grid of capacities, measured on real packets.

OUT holds `validation.json`, written after every run, and a folder for each run: the same command goes on where an
interrupted one stopped, and repeats what did not count, or was made with other weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any, Optional

import numpy as np
from gnl.controller.sizes import LEVELS, Sizes
from gnl.node_apps.codecs.content import pack
from gnl.node_apps.codecs.pixel_swapping import parse_name
from gnl.node_apps.codecs.registry import describe, load_codec
from gnl.topologies.errors import RunError, UsageError
from gnl.topologies.spec import MIN_BW_MBIT, ContentSpec

from .document import read_document
from .encoding import code_digests, prepare_catalogue
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
# What errors are held against: every point of the figure, most of the grid, and all of the grid.
MOST_ERROR, GRID_SHARE, MOST_GRID_ERROR = 0.01, 0.95, 0.02
_ATTEMPTS = 3
_GAMMAS = tuple((np.linspace(0.0, 1.0, 9) ** 1.5).tolist())  # sizes between them are nearly linear


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
    found = optimize(options.problem, fitted_curves(options.problem))
    figure = trials_of_figure(found) if FIGURE in options.parts else {}
    trials = [*figure, *(grid() if GRID in options.parts else ())]
    content_bpp = found["problem"]["content_size"]
    _require_capacities(trials, options, content_bpp)
    images, _ = load_images(options.images, options.size_px, options.most_images)
    document = _started(options, images)
    for kind in options.parts:
        document["due"][kind] = [trial.name for trial in trials if trial.kind == kind]
    if figure:
        optima = [{**best, "trial": trial.name} for trial, bests in figure.items() for best in bests]
        document["figure"] = {"problem": found["problem"], "curves_sha256": found["curves_sha256"], "optima": optima}
    progress = Progress()
    progress.note(f"{len(figure)} runs for the figure, {len(trials) - len(figure)} of the grid")
    for number, trial in enumerate(trials, 1):
        size_bpp = figure[trial][0]["prompt_size"] if trial in figure and trial.bpp is None else None
        if not _counts(document["trials"].get(trial.name), trial, size_bpp):
            progress.note(f"{number} of {len(trials)}: {trial.name}")
            row = _measured(trial, prepared(trial, images, content_bpp, size_bpp, options), options, progress)
            progress.note(_said(row))
            document["trials"][trial.name] = {**row, "size_bpp": size_bpp}
        _write(options.out, document)
    return document


def _counts(row: Optional[Mapping[str, Any]], trial: Trial, size_bpp: Optional[float]) -> bool:
    """Whether a trial need not be run (again)."""
    if row is None or not row["valid"] or (row["trial"], row.get("size_bpp")) != (asdict(trial), size_bpp):
        return False
    return row["weights_sha256"] == describe(trial.codec).weights_sha256


def _require_capacities(trials: Sequence[Trial], options: ValidateOptions, content_bpp: float) -> None:
    """UsageError if a link would be slower than links can be; headers, which are left out here, make it faster."""
    least = min(min(trial.c_sg, trial.c_gd, trial.by_router) for trial in trials)
    unit_mbit = content_bpp * options.size_px**2 / 1e6
    if least * unit_mbit * options.contents_per_s < MIN_BW_MBIT:
        raise UsageError(
            f"links of {least * unit_mbit * options.contents_per_s:.3g} Mbit/s at --contents-per-s "
            f"{options.contents_per_s:g}: give {MIN_BW_MBIT / (least * unit_mbit) + 0.05:.3g} or more"
        )


@dataclass(frozen=True)
class Prepared:
    """What a trial sends: `content`, as a scenario has it, and the mean bits of what leaves g on the wire."""

    content: ContentSpec
    content_wire_bits: float


def prepared(
    trial: Trial,
    images: Sequence[LoadedImage],
    content_bpp: float,
    size_bpp: Optional[float],
    options: ValidateOptions,
) -> Prepared:
    """Contents of nearly L = `content_bpp` as g makes them, and prompts that are to them what the trial's are to L.

    G_flow depends on their ratio. JPEG has steps: where prompts have a target they follow L as it is met. Prompts of a
    codec of one rate, `size_bpp` by the curves, are larger for denser images: so are their contents then.
    """
    content = ContentSpec(options.images, options.size_px, max_images=options.most_images)
    made, sent_bpp = _generated(with_mean_size(trial, images, options.device), images, options.device)
    quality = content_format(made, content_bpp * (sent_bpp / size_bpp if size_bpp else 1.0))
    if trial.kind == FIGURE and trial.bpp is not None:
        trial = replace(trial, bpp=trial.bpp * _packed_bpp(made, quality) / content_bpp)
    trial = with_mean_size(trial, images, options.device)
    content = replace(content, codec=trial.codec, bpp=trial.bpp, format=quality)
    return Prepared(content, _content_wire_bits(content, options.device))


def with_mean_size(trial: Trial, images: Sequence[LoadedImage], device: str) -> Trial:
    """`trial` with the fraction of swapped pixels in its codec's name, such that prompts take `bpp` on average: with a
    target of each, images that need more without a swapped pixel would be left out."""
    if not trial.codec.startswith("ps:") or trial.bpp is None:
        return trial
    codec, inner = load_codec(trial.codec, device), parse_name(trial.codec).inner
    sizes = np.zeros(len(_GAMMAS))
    for image in images:
        sizes += [8 * size.coded_bytes for size, _ in codec.variants(image.image, _GAMMAS)]
    gamma = float(np.interp(trial.bpp, sizes / _pixels([one.image for one in images]), _GAMMAS))
    return replace(trial, codec=f"ps:{gamma:.5f}:{inner}" if gamma >= _GAMMAS[1] / 100 else inner, bpp=None)


def _generated(trial: Trial, images: Sequence[LoadedImage], device: str) -> tuple[list[np.ndarray], float]:
    """The images as they leave g, and the mean bits per pixel of their prompts."""
    codec, originals = load_codec(trial.codec, device), [one.image for one in images]
    prompts = [codec.encode(image, trial.bpp) for image in originals]
    bpp = sum(8 * prompt.size_bytes for prompt in prompts) / _pixels(originals)
    return list(map(codec.decode, prompts)) if codec.facts.generative else originals, bpp


def content_format(images: Sequence[np.ndarray], content_bpp: float) -> str:
    """The content format, a JPEG quality, in which these images are closest to `content_bpp`."""
    low, high = 1, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _packed_bpp(images, f"jpeg:{middle}") < content_bpp else (low, middle)
    return min((f"jpeg:{low}", f"jpeg:{high}"), key=lambda one: abs(_packed_bpp(images, one) - content_bpp))


def _packed_bpp(images: Sequence[np.ndarray], content: str) -> float:
    return sum(8 * len(pack(image, content)) for image in images) / _pixels(images)


def _pixels(images: Sequence[np.ndarray]) -> int:
    return sum(image[..., 0].size for image in images)


def _content_wire_bits(content: ContentSpec, device: str) -> float:
    """Mean bits on the wire of a content as it leaves g."""
    catalogue, _, _ = prepare_catalogue(content, device)
    plain = tuple(entry.content_bytes for entry in catalogue.entries)
    codec = load_codec(content.codec, device)
    made = plain
    if codec.facts.generative:
        made = tuple(len(pack(codec.decode(catalogue.prompt(n)), content.format)) for n in range(len(catalogue)))
    prompts = tuple(entry.prompt_slices for entry in catalogue.entries)
    return Sizes(plain, made, prompts, codec.facts.generative, "encoded now").means("wire").content_bits


def _measured(trial: Trial, made: Prepared, options: ValidateOptions, progress: Progress) -> dict[str, Any]:
    """Run a trial, again if the machine was too busy, and keep what it says."""
    scenario = trial.scenario(made.content, made.content_wire_bits, options.contents_per_s)
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
    facts = {"trial": asdict(trial), "content": asdict(made.content), "attempts": attempt}
    return {**facts, **figures_of(result, trial.through_g)}


def figures_of(result: Mapping[str, Any], through_g: bool) -> dict[str, Any]:
    """What the document keeps of a run's result: G_flow by level, analytic, measured (mean and 95% interval over the
    repeats) and the relative error; of g's path alone where `through_g`. None where no window counts."""
    last = list(result["analytic"]["wire"]["flows_bps"])[-1]

    def gain(figures: Mapping[str, Any], replicated: Mapping[str, Mapping[str, float]], level: str) -> Optional[float]:
        if not through_g:
            return figures["g_flow"]
        return 1 + figures["y_g_bps"] / replicated[level][last] if replicated[level][last] else None

    levels = {}
    for level in LEVELS:
        analytic = gain(result["analytic"][level], result["plan"]["replicate_flows_bps"], level)
        each = [gain(one["measured"][level], one["replicate_flows_bps"], level) for one in result["repeats"]]
        levels[level] = {"analytic": analytic, "measured": None, "ci95": None, "error": None}
        if None not in each:
            measured = fmean(each)
            levels[level] |= {"measured": measured, "ci95": interval95(each), "error": measured / analytic - 1}
    codec = result["codec"]
    pixels = 8 * codec["prompt_bytes_mean"] / codec["bpp_mean"]
    return {
        "g_flow": levels,
        "binds": result["plan"]["binds"],
        "lambda_per_s": result["plan"]["lambda_per_s"],
        "prompt_bpp": codec["bpp_mean"],
        "content_bpp": 8 * codec["content_bytes_mean"] / pixels,
        "weights_sha256": codec["weights_sha256"],
        "images": result["images"],
        "valid": result["valid"],
        "reasons": result["reasons"],
        "started": result["run"]["started"],
    }


def _started(options: ValidateOptions, images: Sequence[LoadedImage]) -> dict[str, Any]:
    """The document as OUT has it, or a new one; UsageError if OUT's is of other inputs."""
    names = ("contents_per_s", "repeat", "grid_repeat", "duration_s", "size_px", "device")
    inputs = {
        "images": len(images),
        "images_sha256": hashlib.sha256(b"".join(image.image.tobytes() for image in images)).hexdigest(),
        **{name: getattr(options, name) for name in names},
        "code": code_digests(),
    }
    path = options.out / VALIDATION
    if path.exists():
        document = read_validation(path)
        differ = [key for key, value in inputs.items() if document["inputs"].get(key) != value]
        if differ:
            raise UsageError(f"{path} has other {', '.join(differ)}: give another --out, or remove that file")
        return document
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    started = {"schema": SCHEMA, "command": options.command, "started": now, "inputs": inputs}
    return {**started, "due": {}, "figure": None, "trials": {}}


def read_validation(path: Path) -> dict[str, Any]:
    """The document in a file of validated points; UsageError if it is none, or one of another version."""
    return read_document(path, SCHEMA, ("inputs", "due", "figure", "trials"), "gnl validate")


def _write(out: Path, document: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / VALIDATION, json.dumps(document, indent=1, allow_nan=False).encode())
        hand_over([out / VALIDATION])
    except OSError as error:
        raise RunError(f"{out / VALIDATION} cannot be written ({error.strerror}): free space there") from error


def is_of(document: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a validation is of the curves and the problem of `found`, a document of `gnl optimize`; one of the grid
    alone is of any."""
    figure = document["figure"]
    return figure is None or all(figure[key] == found[key] for key in ("problem", "curves_sha256"))


@dataclass(frozen=True)
class FigurePoint:
    """A point of Fig. 4b: what the curves promise, and what was measured, of payload as the curves' sizes are."""

    series: str
    metric: str
    w: float
    prompt_size: float
    sent_bpp: float
    promised: float
    measured: float
    ci95: Optional[tuple[float, float]]
    generates: bool

    @property
    def off(self) -> float:
        """Relative, measured against promised."""
        return self.measured / self.promised - 1


def figure_points(document: Mapping[str, Any]) -> list[FigurePoint]:
    """The points of the figure whose runs are there and count."""
    found = []
    for best in (document["figure"] or {"optima": ()})["optima"]:
        row = document["trials"].get(best["trial"])
        if row is not None and row["valid"]:
            gain = row["g_flow"]["payload"]
            what = (best["series"], best["metric"], best["w"], best["prompt_size"], row["prompt_bpp"])
            generates = row["lambda_per_s"] is not None
            found.append(FigurePoint(*what, best["g_flow"], gain["measured"], gain["ci95"], generates))
    return found


def verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of each kind of trial how the errors of G_flow are distributed, and whether they are as small as asked.

    Errors are those of a run against its own analysis, on the wire, and of the figure also those of its points against
    the curves; runs of codecs that do not generate, whose gain is 1 by any analysis, are left out of the distribution.
    `met` is None until all that is due has been run; a run that does not count is a failure.
    """
    found = {}
    for kind, names in document["due"].items():
        rows = [document["trials"][name] for name in names if name in document["trials"]]
        counted = [row for row in rows if row["valid"]]
        errors = [abs(row["g_flow"]["wire"]["error"]) for row in counted]
        told = [abs(row["g_flow"]["wire"]["error"]) for row in counted if row["lambda_per_s"] is not None]
        off = [abs(point.off) for point in figure_points(document)] if kind == FIGURE else []
        small = [error < MOST_ERROR for error in (*errors, *off)]
        share = float(np.mean(small)) if small else 0.0
        good = share == 1 if kind == FIGURE else share >= GRID_SHARE and max(errors, default=0.0) <= MOST_GRID_ERROR
        found[kind] = {
            "due": len(names),
            "runs": len(rows),
            "invalid": len(rows) - len(counted),
            "errors": _distribution(told),
            "against_curves": _distribution(off),
            "share_within_1_percent": share,
            "met": bool(good and len(counted) == len(names)) if len(rows) == len(names) else None,
        }
    return found


def _distribution(errors: Sequence[float]) -> Optional[dict[str, float]]:
    if not errors:
        return None
    return {
        "median": float(np.median(errors)),
        "p95": float(np.quantile(errors, 0.95)),
        "largest": float(max(errors)),
    }


def in_words(one: Mapping[str, Any]) -> list[str]:
    """What `verdict` says of a kind of trials, a phrase each."""
    said = [f"{one['runs']} of {one['due']} runs" + (f", {one['invalid']} do not count" if one["invalid"] else "")]
    for name, key in (("against the analysis of each run", "errors"), ("against the curves", "against_curves")):
        if one[key]:
            median, p95, largest = (f"{100 * one[key][figure]:.3f}%" for figure in ("median", "p95", "largest"))
            said.append(f"|error| {name}: median {median}, 95th percentile {p95}, largest {largest}")
    return [*said, f"{100 * one['share_within_1_percent']:.0f}% of all errors are below 1%"]


def _said(row: Mapping[str, Any]) -> str:
    wire = row["g_flow"]["wire"]
    if wire["measured"] is None:
        return "no window counts"
    return f"G_flow {wire['measured']:.4f}, analytic {wire['analytic']:.4f}, error {100 * wire['error']:+.3f}%"


def render(document: Mapping[str, Any]) -> str:
    """A line a run, a line a point of the figure, and the errors of each kind."""
    rows = [["run", "L_p bpp", "lambda/s", "held by", "G_flow", "measured", "95%", "error"]]
    for name in (name for names in document["due"].values() for name in names):
        row = document["trials"].get(name)
        if row is None:
            rows.append([name, "not run"])
            continue
        wire = row["g_flow"]["wire"]
        rate = "" if row["lambda_per_s"] is None else f"{row['lambda_per_s']:.3f}"
        error = "" if wire["error"] is None else f"{100 * wire['error']:+.3f}%"
        cells = [f"{wire['analytic']:.4f}", _number(wire["measured"]), _interval(wire["ci95"]), error]
        rows.append([name + ("" if row["valid"] else " (does not count)"), f"{row['prompt_bpp']:.3f}", rate])
        rows[-1] += [" ".join(row["binds"]), *cells]
    points = [["point of Fig. 4b", "metric", "w", "L_p*", "sent", "G_flow", "measured", "95%", "error"]]
    for one in figure_points(document):
        sizes = [f"{one.prompt_size:.3f}", f"{one.sent_bpp:.3f}"]
        gains = [f"{one.promised:.4f}", f"{one.measured:.4f}", _interval(one.ci95), f"{100 * one.off:+.3f}%"]
        points.append([one.series, one.metric, f"{one.w:g}", *sizes, *gains])
    width = len(rows[0])
    lines = [aligned([row + [""] * (width - len(row)) for row in rows])]
    lines += ["", aligned(points)] if len(points) > 1 else []
    return "\n".join([*lines, "", *(f"{kind}: {'; '.join(in_words(one))}" for kind, one in verdict(document).items())])


def _number(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(ends: Optional[Sequence[float]]) -> str:
    return "" if ends is None else "[{:.4f}, {:.4f}]".format(*ends)
