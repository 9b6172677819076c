"""Sequences of frames: a video file, or a folder of numbered images, as RGB arrays with the times they are shown at.

Everything that a network run needs of a sequence is known before the run: its frames all have one size, and their times
start at 0 and grow. What a file has otherwise (a change of resolution midway, frames without a time) is made so, and
said in `notes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from gnl.node_apps.codecs.image_files import read_image
from gnl.topologies.errors import CodecError, UsageError

DEFAULT_FRAMES_PER_S = 25.0
MAX_BYTES = 4 << 30
_VARIES = 0.02
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}


class Frame(NamedTuple):
    """A frame: `image` (H, W, 3) uint8 RGB, shown `time_s` after the first one."""

    image: np.ndarray
    time_s: float


@dataclass(frozen=True)
class Sequence:
    """Frames of one size; `frames_per_s` is their mean rate."""

    name: str
    frames: tuple[Frame, ...]
    frames_per_s: float
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def images(self) -> list[np.ndarray]:
        return [frame.image for frame in self.frames]


def load_sequence(
    source: Path, limit: Optional[int] = None, frames_per_s: Optional[float] = None, within_px: Optional[int] = None
) -> Sequence:
    """Read a video file or a folder of images, in the order of their names.

    `limit` reads the first so many frames. `frames_per_s` shows the frames at that rate instead of the file's; folders
    have DEFAULT_FRAMES_PER_S. `within_px` scales frames down until neither side is longer. UsageError for what is
    neither, cannot be read, holds fewer than two frames, of which none could be predicted, or more than MAX_BYTES.
    """
    if limit is not None and limit < 2:
        raise UsageError(f"{limit} frames of {source}: give 2 or more, so that there is one to predict another from")
    if frames_per_s is not None and not 0 < frames_per_s <= 1000:
        raise UsageError(f"{frames_per_s} frames/s: give a number above 0, up to 1000")
    if source.is_dir():
        read, own_rate = _read_folder(source, within_px), DEFAULT_FRAMES_PER_S
    elif source.is_file():
        read, own_rate = _read_video(source, within_px), None
    else:
        raise UsageError(f"{source} is not there: give a video file, or a folder of images")
    notes: list[str] = []
    frames = _of_one_size(islice(read, limit), notes)
    if len(frames) < 2:
        raise UsageError(f"{source} holds {len(frames)} frame: give a sequence of 2 or more")
    times = _times([frame.time_s for frame in frames], frames_per_s or own_rate, notes)
    rate = (len(times) - 1) / times[-1]
    shown = tuple(Frame(frame.image, time_s) for frame, time_s in zip(frames, times))
    return Sequence(source.name, shown, rate, tuple(notes))


def _read_video(path: Path, within_px: Optional[int]) -> Iterator[Frame]:
    """Frames as they are decoded; UsageError where the file is no video, or ends in the middle of its first frame."""
    import av

    any_frame = False
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UsageError(f"{path} has no pictures in it: give a video file, or a folder of images")
            for frame in container.decode(container.streams.video[0]):
                size = _within(frame.width, frame.height, within_px)
                image = frame.to_ndarray(width=size[0], height=size[1], format="rgb24", interpolation="BICUBIC")
                yield Frame(np.ascontiguousarray(image), np.nan if frame.time is None else float(frame.time))
                any_frame = True
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if not any_frame:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"{path} cannot be read as a video ({reason}): give one that ffmpeg reads") from error
        # what was decoded before the damage is a sequence


def _read_folder(folder: Path, within_px: Optional[int]) -> Iterator[Frame]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES and path.is_file())
    if not paths:
        raise UsageError(f"{folder} holds no images: give a folder of numbered frames, or a video file")
    for path in paths:
        try:
            yield Frame(read_image(path, within_px=within_px).pixels, np.nan)
        except CodecError as error:
            raise UsageError(f"{path}: {error}; a sequence needs all its frames: mend or remove that file") from error


def _within(width: int, height: int, within_px: Optional[int]) -> tuple[int, int]:
    share = 1.0 if within_px is None else min(1.0, within_px / max(width, height))
    return max(1, round(width * share)), max(1, round(height * share))


def _of_one_size(frames: Iterable[Frame], notes: list[str]) -> list[Frame]:
    """The frames up to the first one of another size."""
    found: list[Frame] = []
    for frame in frames:
        if found and frame.image.shape != found[0].image.shape:
            (height, width), (old_height, old_width) = frame.image.shape[:2], found[0].image.shape[:2]
            notes.append(f"frame {len(found)} is {width}x{height} after {old_width}x{old_height}: it ends there")
            break
        found.append(frame)
        if len(found) * frame.image.nbytes > MAX_BYTES:
            raise UsageError(f"over {len(found) - 1} frames, {MAX_BYTES >> 30} GiB: read fewer, or scale them down")
    return found


def _times(times_s: list[float], frames_per_s: Optional[float], notes: list[str]) -> list[float]:
    """Times from 0 on, growing; at `frames_per_s`, if that is given or the file's own do not grow."""
    steps = np.diff(times_s)
    if frames_per_s is None and (not np.isfinite(steps).all() or (steps <= 0).any()):
        frames_per_s = DEFAULT_FRAMES_PER_S
        notes.append(f"its frames' times do not grow: shown at {frames_per_s:g} frames/s")
    if frames_per_s is not None:
        return [number / frames_per_s for number in range(len(times_s))]
    if np.ptp(steps) > _VARIES * steps.mean():
        notes.append(f"its frame rate varies: frames last {1e3 * steps.min():.1f} to {1e3 * steps.max():.1f} ms")
    return [time_s - times_s[0] for time_s in times_s]
