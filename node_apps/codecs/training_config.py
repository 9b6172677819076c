"""The configuration of a training: a YAML file of yours, or one that comes with gnl, by its name.

`training_configs/gnl-scalable.yaml` has every key and explains it. A file may begin with `based_on`, another
configuration's name or path, and then holds only what differs.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Sequence

import yaml
from gnl.topologies.errors import CodecError

FOLDER = Path(__file__).with_name("training_configs")
LARGEST_PHOTO_SIDE = 900  # photos are kept at most this large, see `photos`
_BASED_ON = "based_on"


class _Rule(NamedTuple):
    """Whether a value is accepted, and what is, in words."""

    accepts: Callable[[object], bool]
    accepted: str


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # of any whole number, and false for NaN


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _above_zero(top: float = math.inf) -> _Rule:
    words = "a number above 0" + ("" if math.isinf(top) else f" and at most {top:g}")
    return _Rule(lambda value: _is_number(value) and 0 < value <= top, words)


def _from_zero(top: float = math.inf) -> _Rule:
    words = "a number from 0 on" if math.isinf(top) else f"a number from 0 to {top:g}"
    return _Rule(lambda value: _is_number(value) and 0 <= value <= top, words)


def _whole(least: int, most: int = 10**9) -> _Rule:
    return _Rule(lambda value: _is_whole(value) and least <= value <= most, f"a whole number from {least} to {most}")


def _or_null(rule: _Rule) -> _Rule:
    return _Rule(lambda value: value is None or rule.accepts(value), f"{rule.accepted}, or null")


def _is_batches(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_batch, value))


def _is_batch(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_whole, value)):
        return False
    count, side = value
    return 1 <= count <= 4096 and 64 <= side <= 2048 and side % 64 == 0


def _is_range(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)):
        return False
    return 0 < value[0] < value[1] <= 24


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is not None


_TRUTH = _Rule(lambda value: isinstance(value, bool), "true or false")
_RULES = {
    "name": _Rule(_is_name, "letters, digits and . _ - in them, of which a file name is made"),
    "seed": _whole(0),
    "minutes": _above_zero(),
    "hyper_steps": _whole(0),
    "steps": _whole(1),
    "threads": _or_null(_whole(1, 1024)),
    "batches": _Rule(_is_batches, "a list of [crops, side]: 1 to 4096 crops, a side of 64 to 2048 in multiples of 64"),
    "least_side": _whole(64, LARGEST_PHOTO_SIDE),
    "bfloat16": _TRUTH,
    "learning_rate": _above_zero(1),
    "final_rate": _from_zero(1),
    "warmup_steps": _whole(1),
    "budget_bpp": _or_null(_Rule(_is_range, "[low, high] with 0 < low < high <= 24")),
    "target_bpp": _above_zero(24),
    "rate_weight": _above_zero(),
    "mse_weight": _above_zero(),
    "lpips_weight": _from_zero(),
    "lpips_from": _from_zero(1),
    "classifier_weight": _from_zero(),
    "adversarial_weight": _from_zero(),
    "adversarial_from": _from_zero(1),
    "adversarial_rate": _above_zero(1),
    "ema_decay": _Rule(lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "checkpoint_minutes": _above_zero(),
    "export_minutes": _above_zero(),
}


@dataclass(frozen=True)
class TrainingConfig:
    """The keys of a training's configuration; `training_configs/gnl-scalable.yaml` explains each."""

    name: str
    seed: int
    minutes: float
    hyper_steps: int
    steps: int
    threads: Optional[int]
    batches: list[list[int]]
    least_side: int
    bfloat16: bool
    learning_rate: float
    final_rate: float
    warmup_steps: int
    budget_bpp: Optional[list[float]]
    target_bpp: float
    rate_weight: float
    mse_weight: float
    lpips_weight: float
    lpips_from: float
    classifier_weight: float
    adversarial_weight: float
    adversarial_from: float
    adversarial_rate: float
    ema_decay: float
    checkpoint_minutes: float
    export_minutes: float

    def __post_init__(self) -> None:
        """CodecError names the first key whose value cannot be meant, the value, and what is accepted."""
        for key, value in asdict(self).items():
            if not _RULES[key].accepts(value):
                raise CodecError(f"{key} is {value!r}: give {_RULES[key].accepted}{_hint(value)}")

    @property
    def scalable(self) -> bool:
        """Whether the codec codes at any rate."""
        return self.budget_bpp is not None

    def batch(self, step: int) -> tuple[int, int]:
        """How many crops that step takes, and their side."""
        count, side = self.batches[step % len(self.batches)]
        return count, side

    def crops_before(self, step: int) -> int:
        """How many crops the steps before that one took."""
        return seen([{"from_step": 0, "batches": self.batches}], step)[0]


def config_names() -> list[str]:
    """The configurations that come with gnl."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_config(which: str | Path) -> TrainingConfig:
    """The configuration of that name, or in that YAML file; CodecError says which key, value or file is wrong."""
    path = _find(str(which), Path())
    found = _read(path, ())
    wanted = [field.name for field in fields(TrainingConfig)]
    unknown = [key for key in found if key not in wanted]
    if unknown:
        alike = difflib.get_close_matches(str(unknown[0]), wanted, 1)
        raise CodecError(
            f"{path}: unknown key {unknown[0]!r}" + (f", did you mean {alike[0]}?" if alike else "")
            + f" (accepted are {', '.join(wanted)} and {_BASED_ON})"
        )
    missing = [key for key in wanted if key not in found]
    if missing:
        raise CodecError(
            f"{path}: missing keys {', '.join(missing)}: add them, or begin with {_BASED_ON}: gnl-scalable to have "
            "only what differs"
        )
    try:
        return TrainingConfig(**found)
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from error


def seen(history: Sequence[dict], steps: int) -> tuple[int, int]:
    """Crops and pixels that a training of so many steps has seen; `history` says when its batches changed."""
    crops = pixels = 0
    starts = [entry["from_step"] for entry in history[1:]] + [steps]
    batches: list[list[int]] = []
    for entry, stop in zip(history, starts):
        batches = entry.get("batches", batches)
        for position, (count, side) in enumerate(batches):
            first = entry["from_step"] + (position - entry["from_step"]) % len(batches)
            times = len(range(first, stop, len(batches)))
            crops += times * count
            pixels += times * count * side**2
    return crops, pixels


def _find(which: str, folder: Path) -> Path:
    if which in config_names():
        return FOLDER / f"{which}.yaml"
    try:
        path = folder / Path(which).expanduser()
    except RuntimeError as error:  # a home of nobody
        raise CodecError(f"{which}: {error}; give a YAML file, or one of {', '.join(config_names())}") from error
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is neither a file nor a configuration that comes with gnl"
        raise CodecError(f"{path} {what}: give a YAML file, or one of {', '.join(config_names())}")
    return path


def _read(path: Path, above: tuple[Path, ...]) -> dict:
    """The keys of a file over those of the one that it is based on."""
    if path.resolve() in above:
        raise CodecError(f"{path}: {_BASED_ON} leads back to this file; base it on another one")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}; give a YAML file that you may read") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CodecError(f"{path}: no YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, dict):
        raise CodecError(f"{path}: holds {type(found).__name__}, not keys and values as in {FOLDER / 'gnl-low.yaml'}")
    base = found.pop(_BASED_ON, None)
    if base is None:
        return found
    if not isinstance(base, str):
        raise CodecError(f"{path}: {_BASED_ON} is {base!r}: give one of {', '.join(config_names())}, or a file's path")
    return {**_read(_find(base, path.parent), (*above, path.resolve())), **found}


def _hint(value: object) -> str:
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    return "; YAML takes this for text: leave out quotes, and write powers of ten as in 6.0e-4"
