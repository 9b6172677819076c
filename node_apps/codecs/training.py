"""Train a generative codec: `python -m gnl.node_apps.codecs.training CONFIG --images DIR --lpips DIR --out DIR`.

loss = multiplier * bpp + mse_weight * MSE + lpips_weight * LPIPS; the multiplier is steered towards a target rate, as
HiFiC does. Everything needed to go on after an interruption is in OUT/checkpoint.pt (`--resume`); the exported codec
is OUT/NAME.safetensors with its record OUT/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Optional, Sequence

import torch
import yaml
from gnl.node_apps.codecs import export
from gnl.node_apps.codecs.devices import ThreadChooser
from gnl.node_apps.codecs.networks import NetworkShape
from gnl.node_apps.codecs.perceptual import Lpips, load_lpips
from gnl.node_apps.codecs.photos import CropSampler, find_photos
from gnl.node_apps.codecs.transform_coder import TransformCoder
from gnl.topologies.errors import CodecError, GnlError, RunError

_LEAST_MULTIPLIER, _MOST_MULTIPLIER = 1e-3, 1e3
_STEER = 0.002
_CLIP_NORM = 1.0
_BAD_STEPS = 50
_START_CROPS, _START_RATE = 256, 2e-3
_LINEAR_PACE, _HYPER_PACE, _GAIN_PACE = 0.02, 4.0, 8.0


@dataclass(frozen=True)
class TrainingConfig:
    """The keys of a training file; `training.yaml` beside this module explains each."""

    name: str
    seed: int
    minutes: float
    hyper_steps: int
    steps: int
    threads: int
    batches: list
    least_side: int
    bfloat16: bool
    learning_rate: float
    warmup_steps: int
    target_bpp: float
    start_bpp: float
    mse_weight: float
    lpips_weight: float
    lpips_from: float
    ema_decay: float
    checkpoint_minutes: float
    export_minutes: float


def read_config(path: Path) -> TrainingConfig:
    """The configuration in a YAML file; CodecError names the keys that are missing or unknown, or a bad batch."""
    try:
        found = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}; give a training file") from error
    except yaml.YAMLError as error:
        raise CodecError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    wanted = {field.name for field in fields(TrainingConfig)}
    if not isinstance(found, dict) or set(found) != wanted:
        keys = set(found) if isinstance(found, dict) else set()
        raise CodecError(f"{path}: missing keys {sorted(wanted - keys)}, unknown keys {sorted(keys - wanted)}")
    config = TrainingConfig(**found)
    if not config.batches or any(count < 1 or side < 64 or side % 64 for count, side in config.batches):
        raise CodecError(f"{path}: batches {config.batches}: give [crops, side] pairs, sides multiples of 64")
    return config


class Trainer:
    """The state of one training, and its steps."""

    def __init__(self, config: TrainingConfig, lpips: Lpips, device: str) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.model = self._placed(TransformCoder(NetworkShape()))
        self.ema = self._placed(TransformCoder(NetworkShape())).requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.lpips = self._placed(lpips)
        self.optimizer = torch.optim.Adam(_parameter_groups(self.model), lr=config.learning_rate)
        self.step = 0
        self.elapsed_s = 0.0
        self.multiplier = 1.5
        self.bad_steps = 0
        self.means: dict[str, float] = {}
        self.history = [{"from_step": 0, **asdict(config)}]

    def start(self, crops: CropSampler) -> None:
        """Set the first weights: block transforms from sample crops, and a hyperprior trained on their latents.

        Without the latter the hyperprior starts as noise that costs rate, and is soon trained away instead of used.
        """
        model, count, side = self.model, *self.config.batches[0]
        model.start_from_blocks(torch.from_numpy(crops.draw(_START_CROPS, 128)).to(self.device))
        parts = [*model.h_a.parameters(), *model.h_s.parameters(), *model.z_model.parameters()]
        optimizer = torch.optim.Adam(parts, lr=_START_RATE)
        for step in range(self.config.hyper_steps):
            for group in optimizer.param_groups:
                group["lr"] = _START_RATE * (1 - 0.8 * step / self.config.hyper_steps)
            with torch.no_grad():
                y = model.g_a.linear(torch.from_numpy(crops.draw(2 * count, side)).to(self.device))
            _, y_bits, z_bits = model.code(y, z_free=2 * step < self.config.hyper_steps)
            optimizer.zero_grad(set_to_none=True)
            pixels = 2 * count * side**2
            ((y_bits + z_bits) / pixels).backward()
            optimizer.step()
            if step % 100 == 0:
                y_bpp, z_bpp = y_bits.item() / pixels, z_bits.item() / pixels
                print(f"hyperprior {step}: y {y_bpp:.4f} z {z_bpp:.4f} bpp", flush=True)
        self.ema.load_state_dict(model.state_dict())

    def _placed(self, module):
        return module.to(self.device, memory_format=torch.channels_last)

    @property
    def progress(self) -> float:
        """Fraction of the training done, by steps or by time, whichever is further."""
        return min(1.0, max(self.step / self.config.steps, self.elapsed_s / (60 * self.config.minutes)))

    def target_bpp(self) -> float:
        """The rate aimed at now: falling geometrically over the first quarter."""
        share = min(1.0, self.progress / 0.25)
        return self.config.start_bpp ** (1 - share) * self.config.target_bpp**share

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return self.config.learning_rate * warm * (0.025 + 0.975 * cosine)

    def train_step(self, x: torch.Tensor) -> None:
        """One update on a batch (B, 3, S, S) in [0, 1]."""
        x = x.to(self.device, memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = group["pace"] * self._learning_rate()
        estimate = self.model(x, self.config.bfloat16)
        mse = 255.0**2 * (estimate.x_hat - x).square().mean()
        distance = self._distance(x, estimate.x_hat)
        bpp = estimate.y_bpp + estimate.z_bpp
        loss = self.multiplier * bpp + self.config.mse_weight * mse + self.config.lpips_weight * distance
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        if torch.isfinite(norm):
            self.optimizer.step()
            self._steer(float(bpp.detach()))
            self._note(loss=loss, bpp=bpp, z_bpp=estimate.z_bpp, mse=mse, lpips=distance)
        else:
            self.bad_steps += 1
            if self.bad_steps > _BAD_STEPS:
                raise RunError(f"{_BAD_STEPS} training steps had no finite gradient: lower learning_rate")
        self._average()
        self.step += 1

    def _distance(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        if self.progress < self.config.lpips_from:
            return x.new_zeros(())
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            with torch.no_grad():
                wanted = self.lpips.features(x)
            found = self.lpips.features(x_hat)
        return self.lpips.compare(wanted, found).mean()

    def _steer(self, bpp: float) -> None:
        change = _STEER * max(-0.7, min(0.7, math.log(max(bpp, 1e-3) / self.target_bpp())))
        self.multiplier = min(_MOST_MULTIPLIER, max(_LEAST_MULTIPLIER, self.multiplier * math.exp(change)))

    def _average(self) -> None:
        decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def _note(self, **values: torch.Tensor) -> None:
        for name, value in values.items():
            now = float(value.detach())
            old = self.means.get(name, now)
            self.means[name] = old + 0.01 * (now - old)

    def state(self) -> dict:
        """Everything that `restore` needs."""
        return {
            "history": json.dumps(self.history),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "multiplier": self.multiplier,
            "means": self.means,
        }

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint; CodecError if there is none that fits."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.elapsed_s = state["step"], state["elapsed_s"]
            self.multiplier, self.means = state["multiplier"], state["means"]
            self.history = json.loads(state["history"])
        except Exception as error:  # torch reports damaged files with many kinds
            reason = " ".join(str(error).split())
            raise CodecError(f"{path}: no checkpoint to resume from ({reason}); train without --resume") from error
        now, last = asdict(self.config), self.history[-1]
        changed = {name: value for name, value in now.items() if last.get(name) != value}
        if changed:
            self.history.append({**last, "from_step": self.step, **changed})


def _parameter_groups(model: TransformCoder) -> list[dict]:
    """Parameters with their learning pace: slow for the linear parts, which start near their end; fast for the
    hyperprior, which follows the latents, and for the gains, which are logarithms and steer the rate."""
    linear = [*model.g_a.linear.parameters(), *model.g_s.linear.parameters()]
    hyper = [*model.h_a.parameters(), *model.h_s.parameters(), *model.z_model.parameters()]
    apart = {id(parameter) for parameter in [*linear, *hyper, model.log_gain]}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    return [
        {"params": rest, "pace": 1.0},
        {"params": linear, "pace": _LINEAR_PACE},
        {"params": hyper, "pace": _HYPER_PACE},
        {"params": [model.log_gain], "pace": _GAIN_PACE},
    ]


def train(trainer: Trainer, crops: CropSampler, out: Path, record: dict) -> None:
    """Run to the end of the schedule, leaving checkpoints, exports and a log line every hundred steps in `out`."""
    config = trainer.config
    saved_s = exported_s = trainer.elapsed_s
    before_s = trainer.elapsed_s - time.monotonic()
    threads = ThreadChooser(config.threads)
    while trainer.progress < 1.0:
        threads.before_step()
        count, side = config.batches[trainer.step // 2 % len(config.batches)]
        trainer.train_step(torch.from_numpy(crops.draw(count, side)))
        threads.after_step(before_s + time.monotonic() - trainer.elapsed_s)
        trainer.elapsed_s = before_s + time.monotonic()
        if trainer.step % 100 == 0:
            _log(trainer, out)
        if trainer.elapsed_s - saved_s > 60 * config.checkpoint_minutes:
            saved_s = trainer.elapsed_s
            save_checkpoint(trainer, out)
        if trainer.elapsed_s - exported_s > 60 * config.export_minutes:
            exported_s = trainer.elapsed_s
            export_now(trainer, out, record)
    save_checkpoint(trainer, out)
    export_now(trainer, out, record)


def save_checkpoint(trainer: Trainer, out: Path) -> None:
    """Replace OUT/checkpoint.pt in one move, so that a kill leaves a whole one."""
    torch.save(trainer.state(), out / "checkpoint.new")
    (out / "checkpoint.new").replace(out / "checkpoint.pt")


def export_now(trainer: Trainer, out: Path, record: dict) -> None:
    """Write the codec of the averaged weights, with what the training has reached."""
    reached = {
        "steps": trainer.step,
        "wall_s": round(trainer.elapsed_s),
        "rate_multiplier": round(trainer.multiplier, 4),
        "history": trainer.history,
        "training_means": {name: round(value, 5) for name, value in trainer.means.items()},
    }
    export.write_codec(trainer.ema, out / f"{trainer.config.name}.safetensors", {**record, **reached})


def _log(trainer: Trainer, out: Path) -> None:
    means = " ".join(f"{name} {value:.4f}" for name, value in trainer.means.items())
    line = (
        f"step {trainer.step} {trainer.elapsed_s:.0f} s ({100 * trainer.progress:.1f}%) "
        f"target {trainer.target_bpp():.3f} multiplier {trainer.multiplier:.3f} "
        f"threads {torch.get_num_threads()} {means}"
    )
    with open(out / "train.log", "a") as log:
        log.write(line + "\n")
    print(line, flush=True)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gnl.node_apps.codecs.training", description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path, help="training file (YAML)")
    parser.add_argument("--images", nargs="+", required=True, metavar="DIR", help="folders of photographs")
    parser.add_argument("--lpips", required=True, metavar="DIR", help="folder with the LPIPS weights")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoints, log and codec go here")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except GnlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _run(options: argparse.Namespace) -> None:
    config = read_config(options.config)
    torch.set_num_threads(config.threads)
    trainer = Trainer(config, load_lpips(options.lpips), options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.resume:
        trainer.restore(options.out / "checkpoint.pt")
    crops = CropSampler(find_photos(options.images), config.seed + trainer.step, config.least_side)
    if not options.resume:
        trainer.start(crops)
    record = {
        "name": config.name,
        "command": f"python -m gnl.node_apps.codecs.training {options.config.name} --images DIR --lpips DIR --out DIR",
        "data": f"{len(crops)} photographs, random square crops with random downscaling and mirroring",
        "device": options.device,
    }
    train(trainer, crops, options.out, record)


if __name__ == "__main__":
    sys.exit(main())
