"""`gnl train`: a generative codec from folders of photographs, in as many sittings as it takes."""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from gnl.node_apps.codecs.photos import Album, CropSampler, HeldOut, find_photos, hold_out
from gnl.node_apps.codecs.registry import GENERATIVE_CODEC_IDS, WEIGHTS_DIR, load_codec, read_sidecar
from gnl.node_apps.codecs.training_config import TrainingConfig, read_config, seen
from gnl.topologies.errors import GnlError, UsageError

from .held_out import budgets, check
from .picture_grid import CELL_PX
from .quality import PerceptualDistance
from .training_folder import TrainingFolder, claimed
from .training_view import TrainingView, duration
from .whole_file import write_whole

LOG_EVERY_S = 30.0
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class TrainOptions:
    """What `gnl train` was asked for: `start` is a codec's name or a file; `threads` and `minutes` replace what the
    configuration says."""

    config: str
    images: Sequence[Path]
    lpips: Path
    out: Path
    start: str | None = None
    resume: bool = False
    device: str = "auto"
    threads: int | None = None
    minutes: float | None = None

    def to_go_on(self) -> str:
        """The command that goes on from the last checkpoint."""
        words = ["gnl", "train", self.config]
        for folder in self.images:
            words += ["--images", str(folder)]
        words += ["--lpips", str(self.lpips), "--out", str(self.out), "--device", self.device, "--resume"]
        for name, value in (("--threads", self.threads), ("--minutes", self.minutes)):
            words += [] if value is None else [name, f"{value:g}"]
        return shlex.join(words)


class StopRequest:
    """Context manager that takes the first signal for a wish to stop soon; the second has its usual effect."""

    def __init__(self) -> None:
        self.made = False
        self._before: dict[int, Callable] = {}

    def __enter__(self) -> StopRequest:
        handlers = {number: signal.getsignal(number) for number in _STOPPING}
        self._before = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in self._before:
            signal.signal(number, self._make)
        return self

    def __exit__(self, *_exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _make(self, *_signal) -> None:
        self.made = True
        self.__exit__()


class _Stopped(Exception):
    """Somebody wished to stop before there was anything to keep."""


def train(options: TrainOptions) -> bool:
    """Train until the schedule ends; False if a signal ended it before, with everything kept to go on.

    Raises UsageError, or a child of it, for what cannot be meant, before OUT is made; and RunError where OUT cannot be
    written to, another training has it, or the training goes wrong.
    """
    if options.start and options.resume:
        raise UsageError("--resume goes on from OUT's own checkpoint, --start from another: give one of them")
    given = {"threads": options.threads, "minutes": options.minutes}
    config = read_config(options.config)
    config = dataclasses.replace(config, **{key: value for key, value in given.items() if value is not None})
    TrainingFolder(options.out, config.name).require(options.resume)
    if options.start and not _weights_of(options.start).is_file():
        raise UsageError(
            f"--start {options.start}: give one of {', '.join(GENERATIVE_CODEC_IDS)}, or a file: another training's "
            "checkpoint.pt, or the .safetensors that it wrote"
        )
    with TrainingView() as view:
        view.note(f"training {config.name} for {_goal(config)}, into {options.out}")
        paths = find_photos(options.images)
        view.note(f"{len(paths)} photographs; loading the tensor library")
        from gnl.node_apps.codecs.devices import resolve_device
        from gnl.node_apps.codecs.perceptual import load_lpips
        from gnl.node_apps.codecs.training import Trainer

        trainer = Trainer(config, load_lpips(options.lpips), resolve_device(options.device))
        chosen, held = hold_out(paths, config.least_side, CELL_PX)
        crops = CropSampler(Album(chosen, config.least_side), config.seed)
        with claimed(options.out, config.name, options.resume) as folder, StopRequest() as stop:
            sitting = _Sitting(options, trainer, crops, held, folder, view, stop)
            try:
                sitting.prepare()
            except _Stopped:
                view.note("stopped before the first step: there is nothing to go on from")
                return False
            return sitting.run()


def _weights_of(start: str) -> Path:
    """The file to start from: a codec's that comes with gnl, by its name, or the user's own."""
    return WEIGHTS_DIR / f"{start}.safetensors" if start in GENERATIVE_CODEC_IDS else Path(start)


def _goal(config: TrainingConfig) -> str:
    rates = f"{config.target_bpp:g} bpp" if not config.scalable else "{:g} to {:g} bpp".format(*config.budget_bpp)
    return f"{rates}: {duration(60 * config.minutes)} or {config.steps} steps"


class _Sitting:
    """One process's share of a training."""

    def __init__(
        self,
        options: TrainOptions,
        trainer,
        crops: CropSampler,
        held: Sequence[HeldOut],
        folder: TrainingFolder,
        view: TrainingView,
        stop: StopRequest,
    ) -> None:
        self._options, self._trainer, self._crops = options, trainer, crops
        self._held, self._folder, self._view, self._stop = held, folder, view, stop
        self._lpips = PerceptualDistance(options.lpips, trainer.device)
        self._complained = False

    def prepare(self) -> None:
        """Have weights and a checkpoint to begin with; _Stopped if that was ended."""
        trainer, options = self._trainer, self._options
        if options.resume:
            trainer.restore(self._folder.checkpoint)
            self._view.note(f"going on from step {trainer.step} ({100 * trainer.progress:.1f}%)")
        elif options.start:
            trainer.start_from(_weights_of(options.start), self._crops, self._watch)
        else:
            trainer.start(self._crops, self._watch)
        self._folder.log("start", resumed=options.resume, step=trainer.step, **self._facts())
        self._view.note(f"on {trainer.device_name}, CPU threads at most: {trainer.threads}; Ctrl-C stops and keeps all")
        if not options.resume:
            self._save()

    def run(self) -> bool:
        """Train; as `train`."""
        trainer, config = self._trainer, self._trainer.config
        saved_s = exported_s = trainer.elapsed_s
        self._logged = self._now()
        try:
            with closing(trainer.steps(self._crops)) as steps:
                for _ in steps:
                    self._report()
                    if self._stop.made:
                        break
                    if trainer.elapsed_s - saved_s >= 60 * config.checkpoint_minutes:
                        saved_s = trainer.elapsed_s
                        self._try(self._save)
                    if trainer.elapsed_s - exported_s >= 60 * config.export_minutes:
                        exported_s = trainer.elapsed_s
                        self._try(self._export)
        except GnlError as error:
            self._folder.log("failed", step=trainer.step, error=str(error))
            with suppress(GnlError):
                self._save()
            raise
        self._save()
        if trainer.progress < 1.0:
            self._folder.log("stop", step=trainer.step)
            self._view.note(f"stopped at step {trainer.step}, all of it kept; to go on: {self._options.to_go_on()}")
            return False
        figures = self._export()
        self._folder.log("end", step=trainer.step)
        print(f"{self._folder.codec}: {_in_words(figures)}; use it as --codec trained:{self._folder.codec}")
        return True

    def _watch(self, what: str, fraction: float) -> None:
        if self._stop.made:
            raise _Stopped
        if self._view.due():
            self._view.show(fraction, f"preparing: {what}")

    def _try(self, work: Callable[[], object]) -> None:
        """Do what can be done again later: a full disk need not end a training that goes on all night."""
        try:
            work()
        except (GnlError, OSError) as error:
            self._view.note(f"{error}; training goes on, and will try again")
            self._folder.log("failed", step=self._trainer.step, error=str(error))

    def _save(self) -> None:
        self._trainer.save(self._folder.checkpoint)
        self._folder.log("checkpoint", step=self._trainer.step)

    def _export(self) -> list[dict[str, float]]:
        """Write the codec and its record, then look at the held-out photographs through it; the figures."""
        from gnl.node_apps.codecs.export import write_record

        trainer, folder = self._trainer, self._folder
        trainer.export(folder.codec, self._record(), self._crops)
        codec = load_codec(f"trained:{folder.codec}", trainer.device)
        figures, grid = check(codec, self._held, budgets(trainer.config), self._lpips)
        found = {"held_out": _rounded(figures)}
        if figures and not trainer.config.scalable:
            found["operating_points_bpp"] = [round(figures[0]["bpp"], 4)]
        write_record(folder.codec, {**read_sidecar(folder.codec.with_suffix(".json")), **found})
        body = io.BytesIO()
        grid.save(body, "PNG")
        write_whole(folder.pictures, body.getvalue())
        folder.log("export", step=trainer.step, **found)
        self._view.note(f"exported at step {trainer.step}: {_in_words(figures)}")
        return figures

    def _report(self) -> None:
        """Show and log how it goes, now and then: reading the figures waits for the device."""
        trainer, due = self._trainer, time.monotonic() - self._logged[0] >= LOG_EVERY_S
        if not due and not self._view.due():
            return
        figures = trainer.figures()
        seconds, crops = (now - before for now, before in zip(self._now()[1:], self._logged[1:]))
        per_s = crops / max(seconds, 1e-9)
        self._view.show(
            trainer.progress,
            f"step {trainer.step}, {duration(trainer.left_s)} left: {figures['bpp']:.3f} bpp, "
            f"LPIPS {figures['lpips']:.3f}, MSE {figures['mse']:.0f}, {per_s:.1f} images/s",
        )
        if not self._complained and self._crops.album.useless:
            self._complained = True
            self._view.note(f"so far {self._crops.album.complaint()}")
        if due:
            facts = {"progress": trainer.progress, "elapsed_s": trainer.elapsed_s, "images_per_s": per_s, **figures}
            self._folder.log("step", step=trainer.step, **_rounded([facts])[0])
            self._logged = self._now()

    def _now(self) -> tuple[float, float, int]:
        """The clock, the seconds of training, and the crops seen."""
        trainer = self._trainer
        return time.monotonic(), trainer.elapsed_s, seen(trainer.history, trainer.step)[0]

    def _facts(self) -> dict:
        """What the log says at the beginning of a sitting."""
        trainer = self._trainer
        facts = {"pid": os.getpid(), "command": self._options.to_go_on(), "device": trainer.device_name}
        return facts | {"threads": trainer.threads, "photographs": len(self._crops.album.paths)}

    def _record(self) -> dict:
        """How the codec was trained, for whoever gets its weights: no paths of this machine."""
        trainer, album = self._trainer, self._crops.album
        config, figures = trainer.config, trainer.figures()
        crops, pixels = seen(trainer.history, trainer.step)
        started = " --start FILE" if "started_from" in trainer.history[0] else ""
        folders = [
            {"name": folder.resolve().name, "photographs": sum(path.is_relative_to(folder) for path in album.paths)}
            for folder in map(Path, self._options.images)
        ]
        data = {
            "photographs": len(album.paths) - len(album.useless),
            "folders": folders,
            "left_out": album.complaint() or None,
            "held_out": sum(photo.path not in album.paths for photo in self._held),
            "crops": "random squares, scaled down and mirrored at random",
        }
        return {
            "name": config.name,
            "scalable": config.scalable,
            "command": f"gnl train {Path(self._options.config).name} --images DIR --lpips DIR --out DIR{started}",
            "data": data,
            "device": trainer.device_name,
            "threads": trainer.threads,
            "steps": trainer.step,
            "crops": crops,
            "pixels": pixels,
            "training_s": round(trainer.elapsed_s, 1),
            "loss": _rounded([figures])[0],
            "history": trainer.history,
        }


def _rounded(figures: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: round(value, 5) for name, value in one.items()} for one in figures]


def _in_words(figures: Sequence[dict[str, float]]) -> str:
    words = [f"{one['bpp']:.3f} bpp with LPIPS {one['lpips']:.3f}, MSE {one['mse']:.0f}" for one in figures]
    return "; ".join(words) or "no photograph fits any rate yet"
