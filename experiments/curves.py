"""`gnl curves`: points of rate and loss of quality for every codec, kept in a file from which curves are fitted.

OUT holds `curves.json`, which names every input, and `originals.npz`, the feature statistics of the patches. Both are
written as soon as there is something to write: the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
from gnl.node_apps.codecs.photos import find_photos
from gnl.node_apps.codecs.registry import GENERATIVE_CODEC_IDS, describe
from gnl.topologies.errors import RunError, UsageError

from .curve_points import Group, Quality, measure_group, statistics_of
from .document import read_document
from .encoding import code_digests
from .equal_rate import LEAST, MOST, weights_at
from .features import EfficientNetLite2, Features, InceptionV3
from .frechet import FeatureStatistics
from .parallel import each
from .patches import Patches, cut
from .progress import Progress, counted
from .quality import PerceptualDistance
from .text_table import aligned
from .whole_file import write_whole

SCHEMA = 1
CURVES, ORIGINALS = "curves.json", "originals.npz"
GAMMAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8)
SCALABLE_BPPS = (0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.65, 1.0)
JPEG_QUALITIES, SWAPPED_JPEG_QUALITIES = (2, 3, 5, 8, 13, 25, 45, 65, 80, 90, 95), (3, 9, 16)
WEBP_QUALITIES = (0, 2, 7, 20, 50, 75, 90)


@dataclass(frozen=True)
class CurvesOptions:
    """What `gnl curves` was asked for; `codecs` empty for the ones of the case study, `workers` passes at once."""

    images: Sequence[Path]
    out: Path
    patches: int = 2048
    size_px: int = 256
    stride_px: int = 128
    codecs: Sequence[str] = ()
    bpps: Sequence[float] = SCALABLE_BPPS
    gammas: Sequence[float] = GAMMAS
    lpips: Optional[Path] = None
    inception: Optional[Path] = None
    device: str = "auto"
    workers: int = 1
    command: str = ""


def groups_of(codecs: Sequence[str], bpps: Sequence[float], gammas: Sequence[float]) -> list[Group]:
    """What is measured: fixed codecs with pixels swapped, codecs of any rate at each of `bpps`; by default those of the
    case study, where JPEG stands for compression without a generative node."""
    gammas = tuple(sorted({0.0, *gammas}))
    found = []
    for name in codecs or GENERATIVE_CODEC_IDS:
        if describe(name).scalable:
            found += [Group(name, bpp) for bpp in bpps]
        else:
            found.append(Group(name, None, gammas))
    if not codecs:
        found += [Group(f"jpeg:{quality}", None, gammas) for quality in SWAPPED_JPEG_QUALITIES]
        swapped = set(SWAPPED_JPEG_QUALITIES)
        found += [Group(f"jpeg:{quality}") for quality in JPEG_QUALITIES if quality not in swapped]
        found += [Group(f"webp:{quality}") for quality in WEBP_QUALITIES]
    return found


def measure_curves(options: CurvesOptions) -> dict[str, Any]:
    """Measure what OUT does not hold yet; the document of `curves.json`.

    UsageError for what cannot be meant, and where OUT holds curves of other inputs; RunError if it cannot be written.
    """
    groups = groups_of(options.codecs, options.bpps, options.gammas)
    progress = Progress()
    paths = find_photos(options.images)
    progress.note(f"{len(paths)} photographs: reading their sizes")
    watched = counted(paths, "photographs")
    patches = cut(paths, options.size_px, options.stride_px, options.patches, watched)
    for name, reason in patches.left_out[:1]:
        progress.note(f"{len(patches.left_out)} of {len(patches.paths)} photographs left out (first: {name}: {reason})")
    features = _features(options)
    folder = _CurvesFolder(options.out)
    document, originals = folder.start(options, patches, features)
    progress.note(f"{len(patches)} patches of {patches.size_px} pixels, {len(groups)} passes over them")
    if len(patches) <= features.size:
        progress.note(
            f"only {len(patches)} patches for {features.size} features: the Frechet distance is then dominated by "
            "single images and too large for all; compare nothing with distances at another count"
        )
    left = [missing for group in groups if (missing := _missing(document, group)).gammas]
    start_s = time.monotonic()
    measured = each(partial(_points_of, options, patches, originals), left, options.workers)
    for number, (group, points) in enumerate(measured, 1):
        weights = describe(group.codec).weights_sha256
        kept = [one for one in document["points"] if not _is_of(one, group) or one["weights_sha256"] == weights]
        document["points"] = _in_order(kept + [{**point, "weights_sha256": weights} for point in points], groups)
        folder.write(document)
        left_s = (time.monotonic() - start_s) / number * (len(left) - number)
        said = f"{number} of {len(left)}: {group.label}: {_said(points)}"
        progress.note(said + (f"; about {left_s / 60:.0f} min left" if left_s else ""))
    return document


def _points_of(
    options: CurvesOptions, patches: Patches, originals: FeatureStatistics, group: Group
) -> list[dict[str, Any]]:
    """The points of a group; networks are made anew, since this may be another process."""
    device = _networks_device(options.device)
    quality = Quality(PerceptualDistance(options.lpips, device) if options.lpips else None)
    watched = _watcher(group.label)
    return measure_group(group, patches, originals, _features(options), quality, options.device, watched)


def _features(options: CurvesOptions) -> Features:
    device = _networks_device(options.device)
    return InceptionV3(options.inception, device) if options.inception else EfficientNetLite2(device)


def _in_order(points: list[dict[str, Any]], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Points in the order of the groups, those of no group first; those of one by gamma."""
    places = {(group.codec, group.bpp): place for place, group in enumerate(groups)}
    first = {}
    for point in points:
        key = (point["codec"], point["asked_bpp"])
        first.setdefault(key, (places.get(key, -1), len(first)))
    return sorted(points, key=lambda point: (*first[point["codec"], point["asked_bpp"]], point["gamma"]))


def read_curves(path: Path) -> dict[str, Any]:
    """The document in a curves file; UsageError if it is none, or one of another version."""
    return read_document(path, SCHEMA, ("inputs", "content_bpp", "features", "points"), "gnl curves")


def render(document: dict[str, Any]) -> str:
    """A line a point; Frechet distances also as a share of what the baselines have at the same bpp."""
    shares = [f"of {family}'s" for family in _BASELINES]
    rows = [["codec", "gamma", "bpp", "bpp, raw pixels", "MSE normalised", "PSNR dB", "MS-SSIM", "LPIPS", "Frechet"]]
    rows[0] += shares
    for point in document["points"]:
        name = point["codec"] if point["asked_bpp"] is None else f"{point['codec']}@{point['asked_bpp']:g}"
        cells = [_cell(point.get(key), form) for key, form in _COLUMNS]
        beside = [_beside(point, document["points"], family) for family in _BASELINES]
        rows.append([name, f"{point['gamma']:g}", *cells, _distance(point, ".2f"), *beside])
    patches = document["inputs"]["patches"]
    note = f"means of {patches} patches; Frechet distance: {document['features']}, n = {patches}"
    beyond = "of a baseline: interpolated in log bpp; <, > of its least or most bits, which are more or fewer"
    return f"{aligned(rows)}\n{note}; content as stored: {document['content_bpp']:.3f} bpp\n{beyond}"


def _beside(point: dict[str, Any], points: Sequence[dict[str, Any]], family: str) -> str:
    """The Frechet distance of a generative codec's point over that of a baseline at its rate."""
    curve = [one for one in points if one["codec"].startswith(f"{family.lower()}:") and not one["gamma"]]
    compared = not point["gamma"] and not point["codec"].startswith(_BASELINE_NAMES)
    if not compared or not curve or not _all_have_distance(*curve, point):
        return ""
    weights, where = weights_at(point["bpp"]["mean"], [one["bpp"]["mean"] for one in curve])
    share = point["frechet"] / float(weights @ [one["frechet"] for one in curve])
    return {LEAST: "<", MOST: ">"}.get(where, "") + f"{share:.3f}"


def _all_have_distance(*points: dict[str, Any]) -> bool:
    return all(point["frechet"] is not None for point in points)


_BASELINES = ("JPEG", "WebP")
_BASELINE_NAMES = tuple(f"{family.lower()}:" for family in _BASELINES)
_COLUMNS = (
    ("bpp", ".4f"), ("bpp_raw", ".4f"), ("mse_normalised", ".5f"), ("psnr_db", ".2f"), ("ms_ssim", ".4f"),
    ("lpips", ".4f"),
)  # fmt: skip


def _cell(figure: Optional[dict[str, float]], form: str) -> str:
    return "" if figure is None else format(figure["mean"], form)


def _distance(point: dict[str, Any], form: str) -> str:
    return "" if point["frechet"] is None else format(point["frechet"], form)


def _inputs(options: CurvesOptions, patches: Patches, features: Features) -> dict[str, Any]:
    """What every point depends on, so that no file holds points of different inputs."""
    photographs = hashlib.sha256()
    for path in patches.paths:
        photographs.update(f"{path.name} {path.stat().st_size}\n".encode())
    photographs.update(repr(patches.places).encode())
    return {
        "photographs": len(patches.paths) - len(patches.left_out),
        "photographs_sha256": photographs.hexdigest(),
        "patches": len(patches),
        "size_px": patches.size_px,
        "stride_px": options.stride_px,
        "features": features.name,
        "lpips": options.lpips is not None,
        "code": code_digests(),
    }


def _networks_device(device: str) -> str:
    from gnl.node_apps.codecs.devices import resolve_device

    return resolve_device(device)


def default_workers(device: str) -> int:
    """One a core where networks run on the CPU, one alone for a GPU."""
    return len(os.sched_getaffinity(0)) if _networks_device(device) == "cpu" else 1


def _watcher(label: str) -> Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]:
    return lambda patches: counted(patches, label)


def _missing(document: dict[str, Any], group: Group) -> Group:
    """The group with those of its fractions that have no point yet, of the weights that its codec has now."""
    weights = describe(group.codec).weights_sha256
    points = (point for point in document["points"] if _is_of(point, group))
    found = {point["gamma"] for point in points if point["weights_sha256"] == weights}
    return group._replace(gammas=tuple(gamma for gamma in group.gammas if gamma not in found))


def _is_of(point: dict[str, Any], group: Group) -> bool:
    return (point["codec"], point["asked_bpp"]) == (group.codec, group.bpp)


def _said(points: Sequence[dict[str, Any]]) -> str:
    first = points[0]
    skipped = f", {len(first['skipped'])} patches skipped" if first["skipped"] else ""
    return f"{first['bpp']['mean']:.3f} bpp, Frechet {_distance(first, '.1f') or 'of one patch unknown'}{skipped}"


class _Hashed:
    """Patches, and a digest of the pixels of those that were asked for."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self.digest = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._patches)

    def __iter__(self) -> Iterator[np.ndarray]:
        for pixels in self._patches:
            self.digest.update(pixels.tobytes())
            yield pixels


class _CurvesFolder:
    """OUT: started or gone on with, and written to as points come."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def start(
        self, options: CurvesOptions, patches: Patches, features: Features
    ) -> tuple[dict[str, Any], FeatureStatistics]:
        """The document so far, and the statistics of the originals."""
        inputs = _inputs(options, patches, features)
        path = self._out / CURVES
        if path.exists():
            document = read_curves(path)
            changed = [key for key, value in inputs.items() if document["inputs"].get(key) != value]
            if changed:
                raise UsageError(
                    f"{path} was measured with another {', '.join(changed)}: give another --out, or remove it"
                )
            with np.load(self._out / ORIGINALS) as arrays:
                return document, FeatureStatistics.of_arrays(dict(arrays))
        self._make()
        hashed = _Hashed(patches)
        originals = statistics_of(counted(hashed, "patches as they are"), features)
        buffer = io.BytesIO()
        np.savez(buffer, **originals.arrays())
        self._put(ORIGINALS, buffer.getvalue())
        document = {
            "schema": SCHEMA,
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": options.command,
            "inputs": inputs,
            "pixels_sha256": hashed.digest.hexdigest(),
            "content_bpp": patches.stored_bpp,
            "features": features.name,
            "points": [],
        }
        self.write(document)
        return document, originals

    def write(self, document: dict[str, Any]) -> None:
        """Replace `curves.json`; RunError if that fails."""
        self._put(CURVES, (json.dumps(document, indent=1) + "\n").encode())

    def _make(self) -> None:
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self._out}: {error.strerror}; give a folder that can be made") from error

    def _put(self, name: str, data: bytes) -> None:
        try:
            write_whole(self._out / name, data)
        except OSError as error:
            raise RunError(f"{self._out / name} cannot be written ({error.strerror}): free space there") from error
