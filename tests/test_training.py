"""Trainings of a few steps on made pictures: the loss falls, the rate is steered, and nothing is lost on the way."""

import dataclasses
import json
import os
import threading
import traceback
from contextlib import closing

import numpy as np
import pytest
import safetensors
import torch
from gnl.node_apps.codecs import export, training
from gnl.node_apps.codecs.classifier import feature_distance
from gnl.node_apps.codecs.devices import ThreadChooser
from gnl.node_apps.codecs.perceptual import Lpips
from gnl.node_apps.codecs.photos import Album, CropSampler, find_photos
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError, MachineError, RunError
from tiny_training import SHAPE, make_photos, small_config
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return CropSampler(Album(find_photos([make_photos(tmp_path_factory.mktemp("photos"))]), 64), 0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "NetworkShape", lambda: SHAPE)
    monkeypatch.setattr(training, "_START_CROPS", 64)
    monkeypatch.setattr(training, "_START_SIDE", 64)


def make_lpips():
    torch.manual_seed(0)
    lpips = Lpips()
    with torch.no_grad():
        for name, value in lpips.named_buffers():
            if name.startswith("lin"):
                value.uniform_()
    return lpips


def make_trainer(**changes):
    return training.Trainer(small_config(**changes), make_lpips(), "cpu")


_STARTED = {}


def started(crops, **changes):
    """A trainer with the weights that `start` gives; they are found once."""
    trainer = make_trainer(**changes)
    if not _STARTED:
        trainer.start(crops)
        _STARTED.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
    trainer.model.load_state_dict(_STARTED)
    trainer.ema.load_state_dict(_STARTED)
    return trainer


def run(trainer, crops, steps):
    """So many steps, or all of them for None."""
    with closing(trainer.steps(crops)) as coming:
        for _ in coming:
            if trainer.step == steps:
                break


def batch(crops, count=2, first=0):
    return torch.from_numpy(crops.draw(count, 64, first))


def weights(module):
    return torch.cat([value.flatten() for value in module.parameters()])


@pytest.mark.parametrize("changes", [{}, {"budget_bpp": None, "target_bpp": 0.2, "adversarial_weight": 0.1}])
def test_a_short_training_leaves_a_codec_that_round_trips(crops, tmp_path, changes):
    trainer = started(crops, **changes)
    run(trainer, crops, None)
    assert trainer.step == 6 and trainer.progress == 1.0
    path = tmp_path / "tiny.safetensors"
    trainer.export(path, {"data": "made", "scalable": trainer.config.scalable}, crops)
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert record["data"] == "made" and record["versions"]["torch"] == torch.__version__
    assert record["size_bytes"] == path.stat().st_size
    assert sorted(one.name for one in tmp_path.iterdir()) == ["tiny.json", "tiny.safetensors"]
    codec = load_codec(f"trained:{path}", "cpu")
    image = np.full((70, 64, 3), 120, np.uint8)
    assert codec.decode(codec.encode(image)).shape == image.shape and codec.facts.scalable == trainer.config.scalable


def test_it_starts_as_a_block_transform_codec(crops):
    trainer, told = make_trainer(), []
    x = trainer._images(batch(crops, 8))
    before = (trainer.model(x).x_hat - x).square().mean()
    trainer.start(crops, lambda what, fraction: told.append((what, fraction)))
    after = (trainer.model(x).x_hat - x).square().mean()
    assert after < 0.8 * x.var() < before
    assert told == [("block transforms", 0.0), ("hyperprior", 0.0), ("hyperprior", 0.5)]


def test_crops_become_images_in_channels_last_order(crops):
    trainer, x = make_trainer(), batch(crops)
    images = trainer._images(x)
    assert images.shape == (2, 3, 64, 64) and images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images[1, 2, 3, 4], x[1, 3, 4, 2] / 255)


@pytest.mark.parametrize("budget_bpp", [None, [0.1, 1.0]])
def test_steps_lower_the_loss(crops, budget_bpp):
    trainer = started(crops, learning_rate=2e-3, warmup_steps=1, steps=1000, budget_bpp=budget_bpp, target_bpp=1.0)
    x = batch(crops, 4)

    def error():
        with torch.no_grad():
            images = trainer._images(x)
            return float((trainer.model(images).x_hat - images).square().mean())

    before = error()
    for _ in range(15):
        trainer.train_step(x)
    assert error() < before and trainer.step == 15


@pytest.mark.parametrize("target_bpp, rises", [(1e-3, True), (20.0, False)])
def test_the_multiplier_follows_the_rate(crops, target_bpp, rises):
    trainer = started(crops, target_bpp=target_bpp, budget_bpp=None)
    before = trainer.figures()["multiplier"]
    trainer.train_step(batch(crops))
    assert (trainer.figures()["multiplier"] > before) == rises


def test_the_loss_is_what_the_module_says(crops):
    trainer = make_trainer(rate_weight=0.5, adversarial_weight=0.25)
    distortion, bpp, deceit = torch.tensor([2.0, 4.0]), torch.tensor([1.0, 0.5]), torch.tensor([4.0, 8.0])
    assert float(trainer._loss(distortion, bpp, deceit)) == pytest.approx(1.5 + 0.5 * np.log([1.0, 0.5]).mean())
    trainer = make_trainer(rate_weight=0.5, adversarial_weight=0.25, budget_bpp=None)
    assert float(trainer._loss(distortion, bpp, deceit)) == pytest.approx((0.5 + 2 + 1 + 0.25 + 4 + 2) / 2)


def test_budgets_are_drawn_between_the_bounds_evenly_in_their_logarithm():
    drawn = make_trainer(budget_bpp=[0.01, 1.0])._budgets(4000)
    assert 0.01 <= drawn.min() and drawn.max() <= 1.0
    assert float((drawn < 0.1).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_the_judge_enters_when_it_is_due_and_learns(crops):
    trainer = started(crops, adversarial_weight=0.1, adversarial_from=0.5, steps=4)
    before = weights(trainer.judge)
    for step in range(4):
        trainer.train_step(batch(crops, first=step))
        assert ("judge" in trainer.figures()) == (step >= 2)
        assert torch.equal(before, weights(trainer.judge)) == (step < 2)


def test_lpips_enters_when_it_is_due(crops):
    trainer = started(crops, lpips_from=0.5, steps=4)
    for step in range(4):
        trainer.train_step(batch(crops, first=step))
        assert (trainer.figures()["lpips"] > 0) == (step >= 2)


def test_the_classifier_counts_as_much_as_it_is_said_to(crops):
    plain, trainer = (started(crops, lpips_from=0.0, classifier_weight=weight) for weight in (0.0, 0.5))
    x = trainer._images(batch(crops))
    x_hat = (x + 0.1).clamp(0, 1)
    without, _ = plain._distortion(x, x_hat)
    found, figures = trainer._distortion(x, x_hat)
    wanted = feature_distance(trainer.classifier(255 * x), trainer.classifier(255 * x_hat))
    torch.testing.assert_close(found, without + 0.5 * wanted)
    assert figures["classifier"] == wanted.mean() > 0 and plain.classifier is None


def test_the_rate_of_learning_is_warmed_up_at_the_start_and_after_a_change_only(crops, tmp_path):
    settings = {"learning_rate": 1.0, "warmup_steps": 4, "steps": 1000}

    def after(count, **changes):
        trainer = make_trainer(**settings | changes)
        trainer.restore(tmp_path / "checkpoint.pt")
        rates = []
        for _ in range(count):
            rates.append(trainer._learning_rate())
            trainer.step += 1
        return rates

    trainer = started(crops, **settings)
    trainer.step = 10
    trainer.save(tmp_path / "checkpoint.pt")
    assert after(2) == pytest.approx([1, 1], rel=1e-3)
    assert after(5, steps=2000) == pytest.approx([0.25, 0.5, 0.75, 1, 1], rel=1e-3)


def test_a_step_hardly_waits_for_the_device(crops):
    """A number that is read from a tensor lets a GPU run dry. Ours reads plane 0's rate; CompressAI's has more."""
    reads = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                reads.append([frame.filename for frame in traceback.extract_stack()])
            return function(*args, **(kwargs or {}))

    trainer = started(crops, adversarial_weight=0.1)
    with Reads():
        trainer.train_step(batch(crops))
    assert len([files for files in reads if not any("compressai" in file for file in files)]) <= 1


class TestBadSteps:
    def ruin(self, trainer):
        loss = trainer._loss
        trainer._loss = lambda *parts: loss(*parts) * float("nan")

    def test_one_changes_no_weight_and_no_figure(self, crops):
        trainer = started(crops, adversarial_weight=0.1)
        trainer.train_step(batch(crops))
        before = weights(trainer.model), weights(trainer.judge), trainer.figures()
        self.ruin(trainer)
        trainer.train_step(batch(crops))
        assert torch.equal(weights(trainer.model), before[0]) and torch.equal(weights(trainer.judge), before[1])
        assert trainer.figures() == before[2]
        del trainer._loss
        trainer.train_step(batch(crops))
        assert not torch.equal(weights(trainer.model), before[0]) and np.isfinite(trainer.figures()["loss"])

    def test_the_first_one_leaves_figures_that_recover(self, crops):
        trainer = started(crops)
        self.ruin(trainer)
        trainer.train_step(batch(crops))
        del trainer._loss
        trainer.train_step(batch(crops))
        assert all(np.isfinite(value) for value in trainer.figures().values())

    def test_many_of_them_end_the_training_and_spare_the_checkpoint(self, crops, monkeypatch, tmp_path):
        monkeypatch.setattr(training, "_BAD_STEPS", 2)
        trainer = started(crops)
        self.ruin(trainer)
        for _ in range(2):
            trainer.train_step(batch(crops))
        trainer.figures()
        trainer.train_step(batch(crops))
        with pytest.raises(RunError, match="no finite gradient: lower learning_rate"):
            trainer.figures()
        trainer.save(tmp_path / "checkpoint.pt")
        make_trainer().restore(tmp_path / "checkpoint.pt")


class TestCheckpoints:
    def trained(self, crops, path, **changes):
        trainer = started(crops, **changes)
        trainer.train_step(batch(crops))
        trainer.elapsed_s = 12.5
        trainer.save(path)
        return trainer

    def test_a_training_goes_on_where_it_stopped(self, crops, tmp_path):
        path = tmp_path / "checkpoint.pt"
        trainer = self.trained(crops, path, learning_rate=4e-4)
        other = make_trainer(learning_rate=1e-5, minutes=2)
        other.restore(path)
        assert other.history[1:] == [{"from_step": 1, "minutes": 2, "learning_rate": 1e-5}]
        assert other.history[0] == trainer.history[0] and other.history[0]["device"] == "cpu"
        assert (other.step, other.elapsed_s, other.figures()) == (1, 12.5, trainer.figures())
        for part in ("model", "ema", "judge"):
            assert torch.equal(weights(getattr(other, part)), weights(getattr(trainer, part)))

    def test_the_next_step_is_the_one_that_would_have_been(self, crops, tmp_path):
        trainer = self.trained(crops, tmp_path / "checkpoint.pt")
        other = make_trainer()
        other.restore(tmp_path / "checkpoint.pt")
        found = []
        for one in (trainer, other):
            torch.manual_seed(9)
            one.train_step(batch(crops, first=2))
            found.append((weights(one.model), one.figures()))
        assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]

    def test_changes_add_up_over_several_sittings(self, crops, tmp_path):
        path = tmp_path / "checkpoint.pt"
        self.trained(crops, path)
        for minutes in (5, 5, 9):
            trainer = make_trainer(minutes=minutes)
            trainer.restore(path)
            trainer.train_step(batch(crops))
            trainer.save(path)
        assert [(one["from_step"], one.get("minutes")) for one in trainer.history[1:]] == [(1, 5), (3, 9)]

    def test_one_without_what_is_newer_is_read(self, crops, tmp_path):
        """Checkpoints of before have a whole configuration at every change, and say no device."""
        path = tmp_path / "checkpoint.pt"
        self.trained(crops, path)
        state = torch.load(path, weights_only=True)
        before = {key: value for key, value in json.loads(state["history"])[0].items() if key != "device"}
        state["history"] = json.dumps([before, {**before, "from_step": 1, "seed": 5}])
        torch.save(state, path)
        trainer = make_trainer()
        trainer.restore(path)
        assert trainer.history[2:] == [{"from_step": 1, "seed": 1, "device": "cpu"}]

    @pytest.mark.parametrize("content", [None, b"garbage", b""])
    def test_what_is_none_is_refused(self, crops, tmp_path, content):
        path = tmp_path / "checkpoint.pt"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CodecError, match="checkpoint.pt.*without --resume") as caught:
            make_trainer().restore(path)
        with pytest.raises(CodecError, match="checkpoint.pt.*another training's"):
            make_trainer().start_from(path, crops)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500

    def test_one_of_other_networks_or_another_codec_is_refused(self, crops, tmp_path, monkeypatch):
        path = tmp_path / "checkpoint.pt"
        self.trained(crops, path)
        with pytest.raises(CodecError, match="is of tiny, the configuration is of other"):
            make_trainer(name="other").restore(path)
        monkeypatch.setattr(training, "NetworkShape", lambda: dataclasses.replace(SHAPE, y_channels=16))
        with pytest.raises(CodecError, match="no checkpoint of such a training .*size mismatch") as caught:
            make_trainer().restore(path)
        assert len(str(caught.value)) < 500

    def test_nothing_in_a_file_is_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "made"),)

        torch.save({"history": Evil()}, tmp_path / "checkpoint.pt")
        with pytest.raises(CodecError):
            make_trainer().restore(tmp_path / "checkpoint.pt")
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("kind", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter")])
    def test_a_full_disk_leaves_the_former_one_whole(self, crops, tmp_path, monkeypatch, kind):
        path = tmp_path / "checkpoint.pt"
        trainer = self.trained(crops, path)
        before = path.read_bytes()

        def full(state, file):
            file.write(b"part")
            raise kind

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(RunError, match="checkpoint.pt cannot be written .*free space there"):
            trainer.save(path)
        assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["checkpoint.pt"]

    def test_it_is_on_the_disk_before_it_takes_the_place_of_the_former(self, crops, tmp_path, monkeypatch):
        done = []
        monkeypatch.setattr(os, "fsync", lambda number: done.append("synced"))
        monkeypatch.setattr(type(tmp_path), "replace", lambda *_: done.append("replaced"))
        make_trainer().save(tmp_path / "checkpoint.pt")
        assert done == ["synced", "replaced"]


class TestStartFrom:
    def checkpoint(self, crops, tmp_path):
        trainer = started(crops, name="first", steps=3)
        run(trainer, crops, None)
        trainer.save(tmp_path / "checkpoint.pt")
        return trainer

    def test_a_codec_of_one_rate_begins_at_its_target(self, crops, tmp_path):
        first = self.checkpoint(crops, tmp_path)
        for target in (0.1, 0.4):
            trainer = make_trainer(budget_bpp=None, target_bpp=target, batches=[[8, 64]])
            trainer.start_from(tmp_path / "checkpoint.pt", crops)
            with torch.no_grad():
                estimate = trainer.ema(trainer._images(batch(crops, 8)))
                distortion = trainer._distortion(trainer._images(batch(crops, 8)), estimate.x_hat)[0].mean()
            bpp = float((estimate.y_bpp + estimate.z_bpp).mean())
            assert bpp == pytest.approx(target, rel=0.1)
            assert trainer.figures()["multiplier"] == pytest.approx(0.4 * float(distortion) / bpp, rel=0.1)
            assert torch.equal(trainer.model.g_a.linear[1].weight, first.ema.g_a.linear[1].weight)

    def test_one_of_any_rate_keeps_its_price(self, crops, tmp_path):
        self.checkpoint(crops, tmp_path)
        trainer = make_trainer(rate_weight=0.7)
        trainer.start_from(tmp_path / "checkpoint.pt", crops)
        assert trainer.figures()["multiplier"] == pytest.approx(0.7)

    def test_exported_weights_do_as_well(self, crops, tmp_path):
        first = self.checkpoint(crops, tmp_path)
        first.export(tmp_path / "first.safetensors", {"history": first.history, "steps": 3}, crops)
        trainer = make_trainer(budget_bpp=None, target_bpp=0.2, batches=[[8, 64]])
        trainer.start_from(tmp_path / "first.safetensors", crops)
        with torch.no_grad():
            estimate = trainer.ema(trainer._images(batch(crops, 8)))
        assert float((estimate.y_bpp + estimate.z_bpp).mean()) == pytest.approx(0.2, rel=0.1)
        assert trainer.history[0]["started_from"] == [*first.history, {"steps": 3}]

    def test_the_history_says_what_it_was(self, crops, tmp_path):
        first = self.checkpoint(crops, tmp_path)
        trainer = make_trainer(budget_bpp=None)
        trainer.start_from(tmp_path / "checkpoint.pt", crops)
        assert trainer.history[0]["started_from"] == [*first.history, {"steps": 3}]
        assert trainer.history[0]["name"] == "tiny" and trainer.step == 0


class TestSteps:
    def test_batches_follow_the_configuration_and_go_on_where_they_were(self, crops, monkeypatch):
        config = {"batches": [[2, 64], [1, 128]], "steps": 7}
        seen = []

        def step(self, x):
            seen.append(x)
            self.step += 1

        monkeypatch.setattr(training.Trainer, "train_step", step)
        run(make_trainer(**config), crops, None)
        assert [tuple(x.shape[:2]) for x in seen] == [(2, 64), (1, 128)] * 3 + [(2, 64)]
        firsts = [0, 2, 3, 5, 6, 8, 9]
        for x, first in zip(seen, firsts):
            assert np.array_equal(x, crops.draw(*x.shape[:2], first))
        later = make_trainer(**config)
        later.step = 5
        del seen[:]
        run(later, crops, None)
        assert np.array_equal(seen[0], crops.draw(1, 128, 8)) and len(seen) == 2

    def test_only_the_time_of_steps_counts(self, crops, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(training.time, "monotonic", lambda: now[0])

        def step(self, x):
            now[0] += 2.0
            self.step += 1

        monkeypatch.setattr(training.Trainer, "train_step", step)
        trainer = make_trainer(steps=5)
        for _ in trainer.steps(crops):
            now[0] += 1000.0
        assert trainer.elapsed_s == pytest.approx(10.0)

    def test_a_pause_within_a_step_counts_as_a_usual_step(self, crops, monkeypatch):
        now, lengths = [0.0], [2.0, 2.0, 3600.0, 2.0]
        monkeypatch.setattr(training.time, "monotonic", lambda: now[0])

        def step(self, x):
            now[0] += lengths[self.step]
            self.step += 1

        monkeypatch.setattr(training.Trainer, "train_step", step)
        trainer = make_trainer(steps=4)
        run(trainer, crops, None)
        assert trainer.elapsed_s == pytest.approx(8.0)

    def test_time_ends_a_training_as_steps_do(self, crops, monkeypatch):
        trainer = make_trainer(minutes=1.0, steps=1000)
        trainer.step, trainer.elapsed_s = 10, 20.0
        assert trainer.progress == pytest.approx(1 / 3) and trainer.left_s == pytest.approx(40)
        trainer.elapsed_s = 61.0
        assert trainer.progress == 1.0 and trainer.left_s == 0 and list(trainer.steps(crops)) == []

    def test_what_is_left_is_the_shorter_of_time_and_steps(self):
        trainer = make_trainer(minutes=60.0, steps=100)
        assert trainer.left_s == 3600
        trainer.step, trainer.elapsed_s = 50, 25.0
        assert trainer.left_s == pytest.approx(25)

    def test_no_thread_is_left_behind(self, crops):
        before = threading.active_count()
        trainer = started(crops)
        run(trainer, crops, 2)
        assert threading.active_count() == before

    def test_photographs_that_have_gone_are_an_error_of_the_users(self, tmp_path):
        crops = CropSampler(Album(find_photos([make_photos(tmp_path)]), 500), 0)
        with pytest.raises(CodecError, match="4 of 4 photographs left out"):
            run(make_trainer(), crops, 1)

    def test_a_step_that_does_not_fit_into_memory_says_so(self, crops, monkeypatch):
        def step(self, x):
            raise RuntimeError("CUDA out of memory. Tried to allocate")

        monkeypatch.setattr(training.Trainer, "train_step", step)
        with pytest.raises(MachineError, match="2 crops of 64 pixels .*smaller batches"):
            run(make_trainer(), crops, 1)

    def test_other_errors_of_the_tensor_library_are_not_disguised(self, crops, monkeypatch):
        def step(self, x):
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(training.Trainer, "train_step", step)
        with pytest.raises(RuntimeError, match="shapes"):
            run(make_trainer(), crops, 1)

    def test_all_threads_that_there_are_may_be_used(self, monkeypatch):
        wanted = []
        monkeypatch.setattr(torch, "set_num_threads", wanted.append)
        assert make_trainer(threads=None).threads == len(os.sched_getaffinity(0)) == wanted[0]


class TestExport:
    def test_a_full_disk_leaves_the_former_codec_whole(self, crops, tmp_path, monkeypatch):
        trainer, path = started(crops), tmp_path / "tiny.safetensors"
        trainer.export(path, {"steps": 1}, crops)
        before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}

        def full(tensors, file, metadata):
            file.write_bytes(b"part")
            raise safetensors.SafetensorError("I/O error: No space left on device")

        monkeypatch.setattr(export, "write_tensors", full)
        with pytest.raises(RunError, match="tiny.safetensors cannot be written .*No space left"):
            trainer.export(path, {"steps": 2}, crops)
        assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before

    def test_a_record_that_cannot_be_written_leaves_the_former_pair(self, crops, tmp_path, monkeypatch):
        trainer, path = started(crops), tmp_path / "tiny.safetensors"
        trainer.export(path, {"steps": 1}, crops)
        before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
        monkeypatch.setattr(export, "_versions", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.export(path, {"steps": 2}, crops)
        assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before

    def test_a_codec_of_one_rate_meets_its_target(self, crops, tmp_path):
        for target in (0.1, 0.4):
            started(crops, target_bpp=target, budget_bpp=None).export(tmp_path / "tiny.safetensors", {}, crops)
            model = export.read_codec(tmp_path / "tiny.safetensors")
            with torch.no_grad():
                estimate = model(torch.from_numpy(crops.draw(64, 64, 0)).permute(0, 3, 1, 2) / 255)
            assert float((estimate.y_bpp + estimate.z_bpp).mean()) == pytest.approx(target, rel=0.05)

    def test_the_model_in_training_is_left_as_it_is(self, crops, tmp_path):
        trainer = started(crops, budget_bpp=None)
        before = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
        trainer.export(tmp_path / "tiny.safetensors", {}, crops)
        assert all(torch.equal(value, trainer.ema.state_dict()[name]) for name, value in before.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_its_checkpoint_goes_on_on_the_cpu(crops, tmp_path):
    trainer = training.Trainer(small_config(bfloat16=True, adversarial_weight=0.1), make_lpips(), "cuda")
    trainer.start(crops)
    run(trainer, crops, 4)
    assert all(np.isfinite(value) for value in trainer.figures().values())
    trainer.save(tmp_path / "checkpoint.pt")
    trainer.export(tmp_path / "tiny.safetensors", {"scalable": True}, crops)
    other = make_trainer()
    other.restore(tmp_path / "checkpoint.pt")
    run(other, crops, None)
    assert other.history[1]["device"] == "cpu"


def test_threads_follow_what_is_faster():
    before = torch.get_num_threads()
    chooser = ThreadChooser(2)
    try:
        for _ in range(6):
            chooser.before_step()
            chooser.after_step(5.0 if torch.get_num_threads() == 2 else 1.0)
        chooser.before_step()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
