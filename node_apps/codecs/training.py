"""Train a generative codec: the loss, its steps, and everything needed to go on after an interruption.

    one rate    multiplier * bpp + distortion
    any rate    distortion / (distortion as it is) + multiplier * log(bpp)

distortion = mse_weight * MSE + lpips_weight * LPIPS + classifier_weight * the distance in a classifier's features, and
adversarial_weight times the judge's opinion; the multiplier is steered towards a target rate, as HiFiC does. Figures
stay on the device until somebody reads them, since a GPU runs dry while it is waited for. What a user sees and keeps of
a training is the business of `gnl train`, in experiments.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Callable, Iterator, Optional

import torch
import torch.nn.functional as F
from gnl.node_apps.codecs import export
from gnl.node_apps.codecs.checkpoints import load_plain, reason_of
from gnl.node_apps.codecs.classifier import TRAINING_NUMBER, EfficientNetLite, feature_distance
from gnl.node_apps.codecs.devices import ThreadChooser
from gnl.node_apps.codecs.networks import Discriminator, NetworkShape
from gnl.node_apps.codecs.perceptual import Lpips
from gnl.node_apps.codecs.photos import CropSampler
from gnl.node_apps.codecs.registry import read_sidecar
from gnl.node_apps.codecs.training_config import TrainingConfig
from gnl.node_apps.codecs.transform_coder import Estimate, TransformCoder
from gnl.topologies.errors import CodecError, RunError, within_memory
from safetensors import SafetensorError
from torch import Tensor

_LEAST_MULTIPLIER, _MOST_MULTIPLIER = 1e-3, 1e3
_STEER = 0.002
_CLIP_NORM = 1.0
_BAD_STEPS = 50
_START_CROPS, _START_SIDE, _START_RATE = 256, 128, 2e-3
_LINEAR_PACE, _HYPER_PACE, _GAIN_PACE = 0.03, 2.0, 8.0
_MEET_TRIES, _SHIFTS = 20, (-3.0, 5.0)
_RATE_CROPS = 512  # the mean rate of 64 was 15% off
_MOST_LOADERS = 8
_PAUSE_S, _PAUSE_STEPS = 60.0, 10
Watch = Callable[[str, float], None]


class Trainer:
    """The state of one training, and its steps."""

    def __init__(self, config: TrainingConfig, lpips: Lpips, device: str) -> None:
        """`device` is cpu or cuda."""
        torch.manual_seed(config.seed)
        torch.backends.cudnn.benchmark = True  # batches have few shapes
        self.config = config
        self.device = device
        self.threads = config.threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(self.threads)
        self.model = self._placed(TransformCoder(NetworkShape()))
        self.ema = self._placed(TransformCoder(NetworkShape())).requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.judge = self._placed(Discriminator(self.model.shape))
        self.lpips = self._placed(lpips)
        self.classifier = self._placed(EfficientNetLite(TRAINING_NUMBER)) if config.classifier_weight else None
        self.optimizer = torch.optim.Adam(_parameter_groups(self.model), lr=config.learning_rate, fused=True)
        self.judge_optimizer = torch.optim.Adam(
            self.judge.parameters(), lr=config.adversarial_rate, betas=(0.5, 0.9), fused=True
        )
        self.step = 0
        self.elapsed_s = 0.0
        self.history = [{"from_step": 0, **self._settings()}]
        self._multiplier = self._scalar(config.rate_weight)
        self._bad_steps = self._scalar(0.0)
        self._means: dict[str, Tensor] = {}

    def start(self, crops: CropSampler, watch: Watch = lambda *_: None) -> None:
        """Set the first weights: block transforms from sample crops, and a hyperprior trained on their latents.

        Without the latter the hyperprior starts as noise that costs rate, and is soon trained away instead of used.
        `watch` is told what is done, and which fraction of it.
        """
        model, (count, side) = self.model, self.config.batch(0)
        watch("block transforms", 0.0)
        model.start_from_blocks(self._images(torch.from_numpy(crops.draw(_START_CROPS, _START_SIDE, 0))))
        parts = [*model.h_a.parameters(), *model.h_s.parameters(), *model.z_model.parameters()]
        optimizer = torch.optim.Adam(parts, lr=_START_RATE)
        for step in range(self.config.hyper_steps):
            watch("hyperprior", step / self.config.hyper_steps)
            for group in optimizer.param_groups:
                group["lr"] = _START_RATE * (1 - 0.8 * step / self.config.hyper_steps)
            x = self._images(torch.from_numpy(crops.draw(2 * count, side, _START_CROPS + 2 * count * step)))
            with torch.no_grad():
                y = model.g_a(x)
            _, _, _, y_bits, z_bits = model.code(y, z_free=2 * step < self.config.hyper_steps)
            optimizer.zero_grad(set_to_none=True)
            ((y_bits.mean() + z_bits.mean()) / side**2).backward()
            optimizer.step()
        self.ema.load_state_dict(model.state_dict())

    def start_from(self, path: Path, crops: CropSampler, watch: Watch = lambda *_: None) -> None:
        """Take another training's averaged weights; for one rate, with gains that meet its target.

        `path` is a checkpoint, or weights (.safetensors) with their record; CodecError if it does not fit.
        """
        remedy = "give another training's checkpoint.pt, or the .safetensors that it wrote"
        if path.suffix == ".safetensors":
            weights, record = export.read_codec(path).state_dict(), read_sidecar(path.with_suffix(".json"), remedy)
            history, steps = record.get("history", []), record.get("steps")
        else:
            state = _read_checkpoint(path, self.device, remedy)
            with _naming(path, remedy):
                weights, history, steps = state["ema"], json.loads(state["history"]), state["step"]
        with _naming(path, remedy):
            self.model.load_state_dict(weights)
        self.history[0]["started_from"] = [*history, {"steps": steps}]
        batches = self._samples(crops)
        self._meet_target(self.model, batches, watch)
        if not self.config.scalable:
            self._multiplier = self._scalar(self.config.rate_weight * self._distortion_per_bit(batches[0]))
        self.ema.load_state_dict(self.model.state_dict())

    def _samples(self, crops: CropSampler) -> list[Tensor]:
        count, side = self.config.batch(0)
        numbers = range(0, max(count, _RATE_CROPS), count)
        return [self._images(torch.from_numpy(crops.draw(count, side, first))) for first in numbers]

    def _meet_target(self, model: TransformCoder, batches: list[Tensor], watch: Watch = lambda *_: None) -> None:
        """Shift all gains of `model` until the batches take target_bpp."""
        first, low, high = model.log_gain.detach().clone(), *_SHIFTS
        with torch.no_grad():
            latents = [model.analysed(x, self.config.bfloat16) for x in batches]
            for number in range(_MEET_TRIES):
                watch("gains for target_bpp", number / _MEET_TRIES)
                shift = (low + high) / 2
                model.log_gain.copy_(first + shift)
                bpp = fmean(model.rates_bpp(y)[1 if self.config.scalable else 0] for y in latents)
                low, high = (shift, high) if bpp < self.config.target_bpp else (low, shift)

    def _distortion_per_bit(self, x: Tensor) -> float:
        with torch.no_grad():
            estimate = self.model(x, self.config.bfloat16)
            distortion, _ = self._distortion(x, estimate.x_hat)
        return float(distortion.mean()) / float(self._steered_bpp(estimate))

    def _placed(self, module):
        return module.to(self.device, memory_format=torch.channels_last)

    def _scalar(self, value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=self.device).detach()

    def _images(self, crops: Tensor) -> Tensor:
        """Crops (B, S, S, 3) uint8 on the device, as (B, 3, S, S) float32 in [0, 1], channels last in memory."""
        return crops.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0

    @property
    def device_name(self) -> str:
        """`cpu`, or `cuda` with the GPU's name."""
        return f"cuda ({torch.cuda.get_device_name()})" if self.device == "cuda" else self.device

    def _settings(self) -> dict:
        return {**asdict(self.config), "device": self.device}

    @property
    def progress(self) -> float:
        """Fraction of the training done, by steps or by time, whichever is further."""
        return min(1.0, max(self.step / self.config.steps, self.elapsed_s / (60 * self.config.minutes)))

    @property
    def left_s(self) -> float:
        """How long the rest will take; by time alone before the first step."""
        by_time_s = 60 * self.config.minutes - self.elapsed_s
        if self.step:
            by_time_s = min(by_time_s, (self.config.steps - self.step) * self.elapsed_s / self.step)
        return max(0.0, by_time_s)

    def steps(self, crops: CropSampler) -> Iterator[None]:
        """Train to the end of the schedule, yielding after each step; the time between is not counted.

        CodecError if no photograph is any use any more; MachineError if the memory is too small for the batches.
        """
        threads = ThreadChooser(self.threads) if self.device == "cpu" else None
        with _drawn_ahead(crops, self.config, self.step, pinned=self.device == "cuda") as batches:
            while self.progress < 1.0:
                start_s = time.monotonic()
                if threads:
                    threads.before_step()
                batch = next(batches)
                with within_memory(_too_large(batch)):
                    self.train_step(batch)
                spent_s = time.monotonic() - start_s
                if threads:
                    threads.after_step(spent_s)
                self._count(spent_s)
                yield

    def _count(self, spent_s: float) -> None:
        """Count the time of a step. One that took far longer than usual was a pause: Ctrl-Z, or a machine asleep."""
        usual_s = self.elapsed_s / (self.step - 1) if self.step > 1 else math.inf
        self.elapsed_s += usual_s if spent_s > max(_PAUSE_S, _PAUSE_STEPS * usual_s) else spent_s

    def _learning_rate(self) -> float:
        """Warmed up anew after a change of settings: one that raises the rate of a trained model can explode."""
        warm = min(1.0, (self.step + 1 - self.history[-1]["from_step"]) / self.config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return self.config.learning_rate * warm * (self.config.final_rate + (1 - self.config.final_rate) * cosine)

    def train_step(self, crops: Tensor) -> None:
        """One update on crops (B, S, S, 3) uint8; one whose gradient is not finite changes no weight."""
        x = self._images(crops)
        for group in self.optimizer.param_groups:
            group["lr"] = group["pace"] * self._learning_rate()
        estimate = self.model(x, self.config.bfloat16, self._budgets(len(x)))
        distortion, figures = self._distortion(x, estimate.x_hat)
        bpp = estimate.y_bpp + estimate.z_bpp
        judged = self.config.adversarial_weight > 0 and self.progress >= self.config.adversarial_from
        deceit = self._deceit(estimate) if judged else torch.zeros_like(bpp)
        loss = self._loss(distortion, bpp, deceit)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        bad = ~torch.isfinite(norm)
        _update(self.optimizer, bad)
        figures |= {"loss": loss, "bpp": bpp.mean(), "z_bpp": estimate.z_bpp.mean(), "norm": norm}
        figures["plane0"] = estimate.plane0_bpp
        if judged:
            figures |= {"deceit": deceit.mean(), "judge": self._train_judge(x, estimate, bad)}
        self._steer(self._steered_bpp(estimate), bad)
        self._note(figures, bad)
        self._average()
        self.step += 1

    def _budgets(self, count: int) -> Optional[Tensor]:
        """A bit budget for each image, uniform in its logarithm; None for a codec of one rate."""
        if self.config.budget_bpp is None:
            return None
        low, high = self.config.budget_bpp
        return low * (high / low) ** torch.rand(count, device=self.device)

    def _loss(self, distortion: Tensor, bpp: Tensor, deceit: Tensor) -> Tensor:
        """One rate: multiplier * bpp + distortion. Any rate: the logarithms of both, so that a relative improvement
        counts the same at every budget."""
        judged = distortion + self.config.adversarial_weight * deceit
        if not self.config.scalable:
            return (self._multiplier * bpp + judged).mean()
        return (judged / distortion.detach() + self._multiplier * torch.log(bpp)).mean()

    def _distortion(self, x: Tensor, x_hat: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of MSE, LPIPS and the classifier's distance of each image, (B,), and the means of each."""
        mse = 255.0**2 * (x_hat - x).square().mean((1, 2, 3))
        distance = self._distance(x, x_hat)
        distortion = self.config.mse_weight * mse + self.config.lpips_weight * distance
        figures = {"mse": mse.mean(), "lpips": distance.mean()}
        if self.classifier and self.progress >= self.config.lpips_from:
            unlike = self._unlikeness(x, x_hat)
            distortion = distortion + self.config.classifier_weight * unlike
            figures["classifier"] = unlike.mean()
        return distortion, figures

    def _distance(self, x: Tensor, x_hat: Tensor) -> Tensor:
        if self.progress < self.config.lpips_from:
            return x.new_zeros(len(x))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.bfloat16):
            with torch.no_grad():
                wanted = self.lpips.features(x)
            found = self.lpips.features(x_hat)
        return self.lpips.compare(wanted, found)

    def _unlikeness(self, x: Tensor, x_hat: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.bfloat16):
            with torch.no_grad():
                wanted = self.classifier(255.0 * x)
            found = self.classifier(255.0 * x_hat)
        return feature_distance(wanted, found)

    def _deceit(self, estimate: Estimate) -> Tensor:
        """How surely the judge tells each image from a photograph, (B,): the generator's adversarial loss."""
        self.judge.requires_grad_(False)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.bfloat16):
            logits = self.judge(estimate.x_hat, estimate.y_hat.detach())
        return F.softplus(-logits.float()).mean((1, 2, 3))

    def _train_judge(self, x: Tensor, estimate: Estimate, bad: Tensor) -> Tensor:
        self.judge.requires_grad_(True)
        y_hat = estimate.y_hat.detach()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.bfloat16):
            real, made = self.judge(x, y_hat), self.judge(estimate.x_hat.detach(), y_hat)
        loss = F.softplus(-real.float()).mean() + F.softplus(made.float()).mean()
        self.judge_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _update(self.judge_optimizer, bad)
        return loss

    def _steered_bpp(self, estimate: Estimate) -> Tensor:
        """What target_bpp is about: the rate of the images, or, if any rate is coded, that of plane 0 alone. Without
        the latter the price of rate would shift all gains for ever, as finer planes fill the budget up again."""
        if self.config.scalable:
            return self._scalar(estimate.plane0_bpp)
        return self._scalar((estimate.y_bpp + estimate.z_bpp).mean())

    def _steer(self, bpp: Tensor, bad: Tensor) -> None:
        off = torch.log(bpp.clamp_min(1e-3) / self.config.target_bpp).clamp(-0.7, 0.7)
        steered = (self._multiplier * torch.exp(_STEER * off)).clamp(_LEAST_MULTIPLIER, _MOST_MULTIPLIER)
        self._multiplier = torch.where(bad, self._multiplier, steered)

    def _average(self) -> None:
        decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def _note(self, figures: dict[str, float | Tensor], bad: Tensor) -> None:
        self._bad_steps += bad
        for name, value in figures.items():
            now = self._scalar(value)
            old = self._means.get(name, torch.where(bad, 0.0, now))
            self._means[name] = torch.where(bad, old, old + 0.01 * (now - old))

    def figures(self) -> dict[str, float]:
        """Running means over some hundred steps, and the multiplier; waits for the device.

        RunError if steps had no finite gradient, too often for chance.
        """
        found = self._read_figures()
        if found.pop("bad_steps") > _BAD_STEPS:
            raise RunError(f"over {_BAD_STEPS} training steps had no finite gradient: lower learning_rate")
        return found

    def _read_figures(self) -> dict[str, float]:
        kept = {**self._means, "multiplier": self._multiplier, "bad_steps": self._bad_steps}
        return dict(zip(kept, torch.stack(list(kept.values())).tolist()))

    def state(self) -> dict:
        """Everything that `restore` needs."""
        means = self._read_figures()
        del means["bad_steps"]
        return {
            "history": json.dumps(self.history),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "judge": self.judge.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "multiplier": means.pop("multiplier"),
            "means": means,
        }

    def save(self, path: Path) -> None:
        """Replace the checkpoint at `path` in one move, so that a kill or a full disk leaves a whole one.

        RunError if it cannot be written.
        """
        new, state = path.with_suffix(".new"), self.state()
        try:
            with open(new, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except (OSError, RuntimeError) as error:  # torch hides why it could not write all of it
            new.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or "the disk took a part of it only"
            raise RunError(f"{path} cannot be written ({reason}): free space there") from error

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint; CodecError if there is none that fits, or it is of a codec of another name."""
        state = _read_checkpoint(path, self.device, "train without --resume, into another folder")
        with _naming(path, "train without --resume, into another folder"):
            history = json.loads(state["history"])
            before = {key: value for entry in history for key, value in entry.items()}
            if before["name"] != self.config.name:
                raise CodecError(
                    f"{path} is of {before['name']}, the configuration is of {self.config.name}: give that one's, or "
                    "train into another folder"
                )
            for part in ("model", "ema", "judge", "optimizer", "judge_optimizer"):
                getattr(self, part).load_state_dict(state[part])
            self.step, self.elapsed_s, self.history = state["step"], state["elapsed_s"], history
            self._multiplier = self._scalar(state["multiplier"])
            self._means = {name: self._scalar(value) for name, value in state["means"].items()}
        torch.manual_seed(self.config.seed + self.step)
        changed = {key: value for key, value in self._settings().items() if before.get(key) != value}
        if changed:
            self.history.append({"from_step": self.step, **changed})

    def export(self, path: Path, record: dict, crops: CropSampler) -> None:
        """Write the codec of the averaged weights to `path`, safetensors, and its record beside it.

        The gains of one of one rate are shifted to meet target_bpp on `crops`: steering leaves some percent to do.
        RunError if it cannot be written; CodecError if the weights do not make a codec, as in a training gone wrong.
        """
        torch.set_num_threads(self.threads)  # sums round as the number of threads, and steps choose theirs
        model = deepcopy(self.ema)
        with torch.random.fork_rng():  # z is noisy in training: the same weights are to give the same file
            torch.manual_seed(self.config.seed)
            if not self.config.scalable:
                self._meet_target(model, self._samples(crops))
        try:
            export.write_codec(model, path, record)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} cannot be written ({error}): free space there") from error


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


def _update(optimizer: torch.optim.Adam, bad: Tensor) -> None:
    """A step of a fused optimizer, skipped where the device finds `bad` true; gradient scaling has it from there."""
    optimizer.found_inf = bad.float()
    optimizer.step()


@contextmanager
def _drawn_ahead(
    crops: CropSampler, config: TrainingConfig, step: int, pinned: bool
) -> Iterator[Iterator[Tensor]]:
    """The batches from `step` on, (B, S, S, 3) uint8, drawn by threads while earlier ones are in use; `pinned` in
    memory from which a GPU reads without waiting."""
    loaders = max(1, min(_MOST_LOADERS, len(os.sched_getaffinity(0)) // 2))
    pool = ThreadPoolExecutor(loaders, thread_name_prefix="crops")

    def draw(count: int, side: int, first: int) -> Tensor:
        batch = torch.from_numpy(crops.draw(count, side, first))
        return batch.pin_memory() if pinned else batch

    def batches() -> Iterator[Tensor]:
        coming, at, first = deque(), step, config.crops_before(step)
        while True:
            while len(coming) <= loaders:
                count, side = config.batch(at)
                coming.append(pool.submit(draw, count, side, first))
                at, first = at + 1, first + count
            yield coming.popleft().result()

    try:
        yield batches()
    finally:
        pool.shutdown(cancel_futures=True)


def _too_large(batch: Tensor) -> str:
    count, side = batch.shape[:2]
    return (
        f"a step with {count} crops of {side} pixels does not fit into the memory: give smaller batches in the "
        "configuration, and go on with --resume"
    )


def _read_checkpoint(path: Path, device: str, remedy: str) -> dict:
    with _naming(path, remedy):
        return load_plain(path, device)


@contextmanager
def _naming(path: Path, remedy: str) -> Iterator[None]:
    """CodecError with the file's name, whatever goes wrong with a checkpoint: torch reports damage with many kinds."""
    try:
        yield
    except CodecError:
        raise
    except Exception as error:
        raise CodecError(f"{path}: no checkpoint of such a training ({reason_of(error)}); {remedy}") from error
