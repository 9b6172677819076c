"""`gnl predict`: how well g makes the frames that a source omits, from those that it received.

Of every `keep` frames the first is received and the others are predicted, as in implicit prompting; a frame that
follows a cut is predicted from the old scene, which no predictor can do well, and counts like any other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Optional, Protocol

import numpy as np
from gnl.node_apps.prediction.baselines import Hold, Motion
from gnl.node_apps.prediction.memory import Memory
from gnl.topologies.errors import UsageError

from . import sequences
from .cpu_load import BUSY_SHARE, OtherLoad
from .progress import Progress
from .quality import PerceptualDistance, ms_ssim, mse, psnr_db
from .text_table import aligned

PREDICTORS = {"hold": Hold, "motion": Motion}


class Predictor(Protocol):
    """What makes frames of a flow that did not come."""

    def predict(self, memory: Memory, number: int) -> np.ndarray:
        """Frame `number`, (H, W, 3) uint8, from a memory that has one frame or two."""


@dataclass(frozen=True)
class PredictOptions:
    """What `gnl predict` was asked for; `codec` codes the received frames, None: they arrive as they are."""

    sources: Sequence[Path]
    keep: int = 2
    frames: Optional[int] = None
    within_px: Optional[int] = None
    frames_per_s: Optional[float] = None
    codec: Optional[str] = None
    bpp: Optional[float] = None
    lpips: Optional[Path] = None
    device: str = "auto"


def predict_sequences(options: PredictOptions) -> dict[str, Any]:
    """The losses of quality of predicted frames, by sequence and predictor, and the time that one takes.

    UsageError for a sequence that cannot be read, or has no frame to predict.
    """
    if options.keep < 2:
        raise UsageError(f"1 of {options.keep} frames kept: give 2 or more, so that there are frames to predict")
    progress, found = Progress(), []
    distance = _distance(options)
    for source in options.sources:
        sequence = sequences.load_sequence(source, options.frames, options.frames_per_s, options.within_px)
        for note in sequence.notes:
            progress.note(f"{sequence.name}: {note}")
        received = _received(sequence, options)
        for name, make in PREDICTORS.items():
            found.append(_measured(sequence, received, name, make(), options, distance))
            progress.note(f"{sequence.name}: {name}: {found[-1]['frames']} frames, MSE {found[-1]['mse']:.1f}")
    return {"keep": options.keep, "codec": options.codec, "sequences": found}


def _distance(options: PredictOptions) -> Optional[PerceptualDistance]:
    if options.lpips is None:
        return None
    from gnl.node_apps.codecs.devices import resolve_device

    return PerceptualDistance(options.lpips, resolve_device(options.device))


def _received(sequence: sequences.Sequence, options: PredictOptions) -> dict[int, np.ndarray]:
    """The frames that are not omitted, as g has them."""
    kept = {number: sequence.frames[number].image for number in range(0, len(sequence), options.keep)}
    if options.codec is None:
        return kept
    from gnl.node_apps.codecs.registry import load_codec

    codec = load_codec(options.codec, options.device)
    return {number: codec.decode(codec.encode(image, options.bpp)) for number, image in kept.items()}


def predicted(received: dict[int, np.ndarray], count: int, predictor: Predictor) -> Iterator[tuple[int, np.ndarray]]:
    """Number and image of each frame up to `count` that was not received, made when it would have been shown."""
    memory = Memory()
    for number in range(count):
        if number in received:
            memory.receive(number, received[number])
        elif memory.last is not None:
            yield number, predictor.predict(memory, number)


def _measured(sequence, received, name: str, predictor: Predictor, options: PredictOptions, distance) -> dict[str, Any]:
    losses: dict[str, list[float]] = {"mse": [], "psnr_db": [], "ms_ssim": [], "lpips": []}
    spent_s, others = [], OtherLoad()
    made = predicted(received, len(sequence), predictor)
    while True:
        start_s = time.perf_counter()
        number, image = next(made, (None, None))
        if number is None:
            break
        spent_s.append(time.perf_counter() - start_s)
        original = sequence.frames[number].image
        losses["mse"].append(mse(original, image))
        losses["psnr_db"].append(psnr_db(original, image))
        losses["ms_ssim"].append(ms_ssim(original, image))
        if distance:
            losses["lpips"].append(distance(original, image))
    height, width = sequence.frames[0].image.shape[:2]
    share = others.share()
    return {
        "sequence": sequence.name, "width": width, "height": height, "frames_per_s": sequence.frames_per_s,
        "predictor": name, "frames": len(spent_s),
        **{key: _mean(values) for key, values in losses.items()},
        "ms_per_frame": 1e3 * float(np.median(spent_s)),
        "others_share_of_cpu": share, "trusted": share <= BUSY_SHARE,
    }  # fmt: skip


def _mean(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return fmean(known) if known else None


_COLUMNS = (("mse", ".1f"), ("psnr_db", ".2f"), ("ms_ssim", ".4f"), ("lpips", ".4f"), ("ms_per_frame", ".1f"))


def render(document: dict[str, Any]) -> str:
    """A line a sequence and predictor."""
    rows = [["sequence", "size", "predictor", "frames", "MSE", "PSNR dB", "MS-SSIM", "LPIPS", "ms a frame"]]
    for one in document["sequences"]:
        cells = ["" if one[key] is None else format(one[key], form) for key, form in _COLUMNS]
        cells[-1] += "" if one["trusted"] else " (busy)"
        rows.append(
            [one["sequence"], f"{one['width']}x{one['height']}", one["predictor"], str(one["frames"]), *cells]
        )
    received = "as they are" if document["codec"] is None else f"through {document['codec']}"
    note = f"1 of {document['keep']} frames received, {received}; means of the predicted ones"
    busy = not all(one["trusted"] for one in document["sequences"])
    return "\n".join([aligned(rows), note, *(["(busy): other programs took the CPU; measure again"] if busy else [])])
