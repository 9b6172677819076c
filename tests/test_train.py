"""`gnl train`: what it refuses, what it leaves, and that nothing but a second Ctrl-C loses anything."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gnl.experiments import cli, train, training_view
from gnl.experiments.train import TrainOptions
from gnl.experiments.training_folder import TrainingFolder, claimed
from gnl.node_apps.codecs import photos, training
from gnl.node_apps.codecs.registry import WEIGHTS_DIR, load_codec
from gnl.topologies.errors import CodecError, MachineError, RunError, UsageError
from PIL import Image
from safetensors.torch import load_file
from tiny_training import ANY_RATE, CONFIG, SHAPE, make_lpips, make_photos

LEFT = ["checkpoint.pt", "pictures.png", "tiny.json", "tiny.safetensors", "train.log"]


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Photographs and weights of LPIPS, which no test changes."""
    folder = tmp_path_factory.mktemp("things")
    make_photos(folder / "photos", 12, 72)
    make_lpips(folder / "lpips")
    return folder


def make_small(patch):
    """Small networks, and few photographs to begin with and to look at."""
    patch.setattr(training, "NetworkShape", lambda: SHAPE)
    patch.setattr(training, "_START_CROPS", 32)
    patch.setattr(training, "_START_SIDE", 64)
    patch.setattr(photos, "HELD_OUT", 2)
    patch.setattr(photos, "_LEAST_TO_HOLD_OUT", 10)


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    make_small(monkeypatch)


def options(things, tmp_path, steps=4, text="", **changes):
    (tmp_path / "tiny.yaml").write_text(f"{CONFIG}steps: {steps}\n{text}")
    given = {"images": [things / "photos"], "lpips": things / "lpips", "out": tmp_path / "out", "device": "cpu"}
    return TrainOptions("tiny.yaml", **{**given, **changes})


def logged(out, event=None):
    lines = [json.loads(line) for line in (out / "train.log").read_text().splitlines()]
    return [line for line in lines if event in (None, line["event"])]


SAVED_ALWAYS = "checkpoint_minutes: 0.000001\n"


@pytest.fixture(scope="module")
def done(things, tmp_path_factory):
    """OUT of a training that has come to its end."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_small(patch)
        assert train.train(options(things, folder, 3, SAVED_ALWAYS))
    return folder / "out"


class TestWhatIsLeft:
    def test_all_of_it_is_there_and_nothing_else(self, done):
        assert sorted(path.name for path in done.iterdir()) == LEFT

    def test_the_record_says_how_it_came_about_without_paths_of_this_machine(self, done, things):
        text = (done / "tiny.json").read_text()
        record = json.loads(text)
        assert str(things) not in text and "out" not in record["command"].split()
        assert record["command"] == "gnl train tiny.yaml --images DIR --lpips DIR --out DIR"
        assert record["data"]["folders"] == [{"name": "photos", "photographs": 10}]
        assert (record["data"]["photographs"], record["data"]["held_out"], record["data"]["left_out"]) == (10, 2, None)
        assert (record["steps"], record["crops"], record["pixels"]) == (3, 6, 6 * 64**2)
        assert (record["device"], record["threads"], record["scalable"]) == ("cpu", 1, False)
        assert record["training_s"] > 0 and record["versions"]["torch"] == torch.__version__
        assert {"loss", "bpp", "mse", "lpips", "multiplier"} <= set(record["loss"])
        assert record["history"][0]["steps"] == 3 and len(record["history"]) == 1

    def test_its_figures_are_those_of_the_real_codec(self, done):
        record = json.loads((done / "tiny.json").read_text())
        codec = load_codec(f"trained:{done}/tiny.safetensors", "cpu")
        (figures,) = record["held_out"]
        assert codec.facts.operating_points_bpp == (pytest.approx(figures["bpp"], abs=1e-4),)
        grid = Image.open(done / "pictures.png")
        original = np.asarray(grid.crop((4, 36, 260, 292)))
        assert 8 * codec.encode(original).size_bytes / 256**2 == pytest.approx(figures["bpp"], rel=0.5)

    def test_the_pictures_are_rows_of_an_original_and_its_copies(self, done):
        assert Image.open(done / "pictures.png").size == (2 * 260 + 4, 2 * (256 + 32 + 4) + 4)

    def test_the_log_is_a_json_object_a_line(self, done):
        lines = logged(done)
        assert [line["event"] for line in lines] == ["start", *["checkpoint"] * 5, "export", "end"]
        assert [line["step"] for line in lines] == [0, 0, 1, 2, 3, 3, 3, 3]
        assert all(line["time"].endswith("+00:00") for line in lines) and lines[0]["photographs"] == 10

    def test_it_can_be_used_by_name(self, done, things, tmp_path):
        photo = next((things / "photos").iterdir())
        name = f"trained:{done}/tiny.safetensors"
        for arguments in (
            ["encode", photo, "-o", "prompt", "--codec", name],
            ["decode", "prompt", "-o", "shown.png", "--codec", name],
            ["analyze", "diamond", "--codec", name],
        ):
            found = CliRunner().invoke(cli.main, list(map(str, arguments)), prog_name="gnl")
            assert found.exit_code == 0, found.output
        assert Image.open("shown.png").size == Image.open(photo).size
        refused = CliRunner().invoke(cli.main, ["decode", "prompt", "-o", "x.png"], prog_name="gnl")
        assert refused.exit_code == 2 and "name it with --codec" in refused.stderr

    def test_a_finished_one_that_is_resumed_exports_again(self, done, things, tmp_path, capsys):
        before = load_file(done / "tiny.safetensors")
        (done / "tiny.safetensors").unlink()
        assert train.train(options(things, tmp_path, 3, SAVED_ALWAYS, out=done, resume=True))
        after = load_file(done / "tiny.safetensors")
        assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
        assert "going on from step 3 (100.0%)" in capsys.readouterr().err


def test_a_scalable_one_is_looked_at_at_several_rates(things, tmp_path, capsys):
    assert train.train(options(things, tmp_path, 2, ANY_RATE))
    record = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert [one["budget_bpp"] for one in record["held_out"]][-1] == 1.0 and "operating_points_bpp" not in record
    assert all(one["bpp"] <= one["budget_bpp"] for one in record["held_out"])
    assert Image.open(tmp_path / "out" / "pictures.png").width == 6 * 260 + 4
    assert capsys.readouterr().out.endswith(f"use it as --codec trained:{tmp_path}/out/tiny.safetensors\n")


def test_the_first_line_comes_before_anything_slow(things, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "find_photos", lambda folders: pytest.fail(capsys.readouterr().err))
    with pytest.raises(pytest.fail.Exception, match="training tiny for 0.3 bpp: 60 min or 4 steps, into"):
        train.train(options(things, tmp_path))


def test_another_training_can_be_its_beginning(things, tmp_path, monkeypatch):
    assert train.train(options(things, tmp_path, 2, ANY_RATE))
    start = tmp_path / "out" / "checkpoint.pt"
    text = "name: next\nadversarial_weight: 0.1\n"
    assert train.train(options(things, tmp_path, 2, text, start=start, out=tmp_path / "next"))
    record = json.loads((tmp_path / "next" / "next.json").read_text())
    assert record["history"][0]["started_from"][-1] == {"steps": 2} and record["command"].endswith("--start FILE")
    assert "judge" in record["loss"]


def test_a_codec_that_comes_with_gnl_can_be_named_to_start_from():
    assert train._weights_of("gnl-scalable") == WEIGHTS_DIR / "gnl-scalable.safetensors"
    assert train._weights_of("my/checkpoint.pt") == Path("my/checkpoint.pt")


class TestRefused:
    def refuse(self, things, tmp_path, error, words, **changes):
        with pytest.raises(error, match=words) as caught:
            train.train(options(things, tmp_path, **changes))
        assert "\n" not in str(caught.value)
        return caught.value

    @pytest.mark.parametrize(
        "changes, words",
        [
            ({"text": "speed: 1\n"}, "unknown key 'speed'"),
            ({"images": ["absent"]}, "absent: No such file"),
            ({"lpips": "absent"}, "absent/alexnet.* is missing.*PyPI wheel lpips 0.1.4.*alexnet-owt-7be5be79.pth"),
            ({"text": "least_side: 512\n"}, "12 of 12 photographs left out .*under 512.*larger"),
        ],
    )
    def test_what_cannot_be_meant(self, things, tmp_path, changes, words):
        self.refuse(things, tmp_path, CodecError, words, **changes)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("start", ["absent.pt", "gnl-scalabel"])
    def test_a_start_from_nowhere(self, things, tmp_path, start):
        self.refuse(things, tmp_path, UsageError, f"--start {start}: give one of gnl-low.* or a file", start=start)
        assert not (tmp_path / "out").exists()

    def test_a_start_from_something_else(self, things, tmp_path):
        (tmp_path / "x.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
        error = self.refuse(things, tmp_path, CodecError, "x.pt: no checkpoint", start=str(tmp_path / "x.pt"))
        assert "weights_only" not in str(error)

    def test_a_folder_that_holds_no_image(self, things, tmp_path):
        (tmp_path / "empty").mkdir()
        self.refuse(things, tmp_path, CodecError, "empty: no images", images=[things / "photos", tmp_path / "empty"])

    def test_a_gpu_that_is_not_there(self, things, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        self.refuse(things, tmp_path, MachineError, "no GPU", device="cuda")
        assert not (tmp_path / "out").exists()

    def test_going_on_and_starting_from_another_at_once(self, things, tmp_path):
        self.refuse(things, tmp_path, UsageError, "give one of them", resume=True, start="x.pt")

    def test_going_on_where_there_is_nothing(self, things, tmp_path):
        self.refuse(things, tmp_path, UsageError, "out/checkpoint.pt is not there: leave out --resume", resume=True)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["checkpoint.pt", "tiny.safetensors", "tiny.json", "pictures.png"])
    def test_what_is_there_is_never_overwritten(self, things, tmp_path, name):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text("mine")
        self.refuse(things, tmp_path, UsageError, f"{name} is there already: go on with it by --resume")
        assert (tmp_path / "out" / name).read_text() == "mine"

    def test_a_checkpoint_of_another_codec(self, things, tmp_path):
        assert train.train(options(things, tmp_path, 1))
        self.refuse(things, tmp_path, CodecError, "is of tiny, the configuration is of", text="name: b\n", resume=True)

    @pytest.mark.parametrize(
        "out, error, words",
        [
            ("/proc/gnl", RunError, "cannot write to /proc/gnl .*another --out"),
            ("/dev/null/out", UsageError, "--out /dev/null/out: /dev/null is no folder"),
        ],
    )
    def test_a_place_that_cannot_be_written(self, things, tmp_path, out, error, words):
        self.refuse(things, tmp_path, error, words, out=type(tmp_path)(out))

    def test_two_at_once_in_one_folder(self, things, tmp_path):
        with claimed(tmp_path / "out", "tiny", False):
            self.refuse(things, tmp_path, RunError, "out: another training is writing there")
        assert train.train(options(things, tmp_path, 1))

    def test_what_stopped_before_its_first_checkpoint_may_begin_again(self, things, tmp_path):
        with claimed(tmp_path / "out", "tiny", False) as folder:
            folder.log("start")
        assert train.train(options(things, tmp_path, 1))
        assert [line["event"] for line in logged(tmp_path / "out")][:2] == ["start", "start"]


class TestTrouble:
    """What happens in the middle of the night."""

    def test_a_disk_that_is_full_for_a_while_costs_nothing(self, things, tmp_path, monkeypatch, capsys):
        save, calls = training.Trainer.save, []

        def sometimes(self, path):
            calls.append(self.step)
            if self.step == 2 and calls.count(2) == 1:
                raise RunError("checkpoint.pt cannot be written (No space left on device): free space there")
            save(self, path)

        monkeypatch.setattr(training.Trainer, "save", sometimes)
        assert train.train(options(things, tmp_path, 3, SAVED_ALWAYS))
        assert calls == [0, 1, 2, 3, 3]
        assert "No space left on device" in logged(tmp_path / "out", "failed")[0]["error"]
        assert "training goes on" in capsys.readouterr().err

    def test_an_export_that_fails_is_tried_again(self, things, tmp_path, monkeypatch):
        export = training.Trainer.export

        def sometimes(self, *arguments):
            if self.step == 1:
                raise CodecError("hyper-synthesis weight 9: below 8 stays exact")
            export(self, *arguments)

        monkeypatch.setattr(training.Trainer, "export", sometimes)
        assert train.train(options(things, tmp_path, 2, "export_minutes: 0.000001\n"))
        assert [line["step"] for line in logged(tmp_path / "out", "export")] == [2, 2]

    def test_a_disk_that_is_still_full_at_the_end_is_an_error(self, things, tmp_path, monkeypatch):
        save = training.Trainer.save

        def full(self, path):
            if self.step:
                raise RunError("checkpoint.pt cannot be written")
            save(self, path)

        monkeypatch.setattr(training.Trainer, "save", full)
        with pytest.raises(RunError, match="cannot be written"):
            train.train(options(things, tmp_path, 2))

    def test_a_training_gone_wrong_keeps_its_last_good_weights(self, things, tmp_path, monkeypatch):
        step = training.Trainer.train_step

        def wrong(self, x):
            if self.step == 2:
                raise RunError("over 50 training steps had no finite gradient: lower learning_rate")
            step(self, x)

        monkeypatch.setattr(training.Trainer, "train_step", wrong)
        with pytest.raises(RunError, match="lower learning_rate"):
            train.train(options(things, tmp_path))
        assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] == 2
        assert logged(tmp_path / "out", "failed")[0]["step"] == 2

    def test_a_log_that_cannot_be_written_loses_its_lines_only(self, tmp_path):
        with open("/dev/full", "wb", buffering=0) as full:
            TrainingFolder(tmp_path, "tiny", full).log("step", step=3)


class TestProgress:
    @pytest.fixture(autouse=True)
    def _often(self, monkeypatch):
        monkeypatch.setattr(training_view, "LINE_EVERY_S", 0.0)
        monkeypatch.setattr(training_view, "BAR_EVERY_S", 0.0)
        monkeypatch.setattr(train, "LOG_EVERY_S", 0.0)

    def test_lines_say_how_far_it_is_and_how_good(self, things, tmp_path, capsys):
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "broken.jpg").write_bytes(b"no image")
        images = [things / "photos", tmp_path / "more"]
        assert train.train(options(things, tmp_path, 12, "batches: [[8, 64]]\n", images=images))
        said = capsys.readouterr().err
        assert "% " not in said.replace("%: ", "") and "100.0%: step 12, 0 s left: " in said
        assert "bpp, LPIPS " in said and "images/s" in said and "preparing: hyperprior" in said
        assert said.count("so far 1 of 11 photographs left out (first: broken.jpg: ") == 1
        steps = logged(tmp_path / "out", "step")
        assert [line["step"] for line in steps] == list(range(1, 13)) and steps[-1]["progress"] == 1.0
        assert {"elapsed_s", "images_per_s", "bpp", "lpips", "mse", "loss", "multiplier"} <= set(steps[-1])

    def test_on_a_terminal_it_is_a_bar_and_lines_stay(self, things, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert train.train(options(things, tmp_path, 2))
        assert "exported at step 2" in capsys.readouterr().err

    @pytest.mark.parametrize("seconds, words", [(0, "0 s"), (99, "99 s"), (150, "2 min"), (7200, "2.0 h")])
    def test_lengths_of_time_are_readable(self, seconds, words):
        assert training_view.duration(seconds) == words


class TestStopping:
    CODE = """
import sys
from gnl.experiments import cli
from test_train import make_small
make_small(type("Patch", (), {"setattr": setattr}))
cli.main(sys.argv[1:], prog_name="gnl")
"""

    def arguments(self, things, tmp_path, text=""):
        (tmp_path / "tiny.yaml").write_text(f"{CONFIG}{text}")
        images, lpips = (str(things / name) for name in ("photos", "lpips"))
        return ["train", "tiny.yaml", "--images", images, "--lpips", lpips, "--out", "out", "--device", "cpu"]

    def gnl(self, *arguments):
        return CliRunner().invoke(cli.main, list(arguments), prog_name="gnl")

    @pytest.fixture
    def running(self, things, tmp_path):
        """A real process, which has made some steps."""
        paths = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, *self.arguments(things, tmp_path, "checkpoint_minutes: 0.0001\n")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        log = tmp_path / "out" / "train.log"
        while not (log.exists() and any(line["step"] > 2 for line in logged(tmp_path / "out"))):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield process
        process.kill()
        process.communicate()

    def test_ctrl_c_keeps_everything_and_says_how_to_go_on(self, things, tmp_path, running):
        running.send_signal(signal.SIGINT)
        stdout, said = running.communicate(timeout=120)
        assert (running.returncode, stdout) == (130, ""), said
        out = tmp_path / "out"
        stopped = logged(out, "stop")[0]["step"]
        arguments = self.arguments(things, tmp_path, f"steps: {stopped + 2}\n")
        command = f"gnl {' '.join(arguments)} --resume"
        assert said.splitlines()[-1].endswith(f"stopped at step {stopped}, all of it kept; to go on: {command}")
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        assert state["step"] == stopped > 2 and not list(out.glob("*.new"))
        again = self.gnl(*arguments, "--resume")
        assert again.exit_code == 0 and f"going on from step {stopped} " in again.stderr, again.output
        record = json.loads((out / "tiny.json").read_text())
        assert record["steps"] == stopped + 2 and record["history"][1]["from_step"] == stopped
        assert again.stdout.endswith("use it as --codec trained:out/tiny.safetensors\n")

    def test_a_kill_leaves_a_checkpoint_and_no_lock(self, tmp_path, running):
        running.kill()
        running.communicate()
        assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] >= 1
        with open(tmp_path / "out" / "train.log") as log:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_the_end_of_a_job_or_of_a_terminal_keeps_everything_too(self, things, tmp_path, monkeypatch, number):
        step = training.Trainer.train_step

        def interrupted(self, crops):
            if self.step == 1:
                signal.raise_signal(number)
            step(self, crops)

        monkeypatch.setattr(training.Trainer, "train_step", interrupted)
        assert self.gnl(*self.arguments(things, tmp_path)).exit_code == 130
        assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] == 2

    def test_before_the_first_step_there_is_nothing_to_keep(self, things, tmp_path, monkeypatch):
        start = training.Trainer.start

        def interrupted(self, crops, watch):
            signal.raise_signal(signal.SIGINT)
            start(self, crops, watch)

        monkeypatch.setattr(training.Trainer, "start", interrupted)
        done = self.gnl(*self.arguments(things, tmp_path))
        assert done.exit_code == 130 and "stopped before the first step" in done.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.log"]

    def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_checkpoint(self, things, tmp_path):
        """The limit of a file's size does what a full disk does, in the kernel."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
        try:
            done = self.gnl(*self.arguments(things, tmp_path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert done.exit_code == 1 and done.stdout == ""
        assert "gnl: out/checkpoint.pt cannot be written (" in done.stderr.splitlines()[-1]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.log"]


class TestSecondSignal:
    def test_it_has_its_usual_effect(self):
        got = []
        signal.signal(signal.SIGINT, lambda *_: got.append("usual"))
        with train.StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.made and not got
            signal.raise_signal(signal.SIGINT)
            assert got == ["usual"]

    def test_handlers_come_back_and_ignored_signals_stay_ignored(self):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        before = signal.getsignal(signal.SIGINT)
        with train.StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.made
        assert signal.getsignal(signal.SIGINT) is before and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(cli.main, ["train", *map(str, arguments)], prog_name="gnl")

    def test_its_options_reach_the_training(self, monkeypatch, tmp_path):
        asked = []
        monkeypatch.setattr(train, "train", lambda options: asked.append(options) or len(asked) == 1)
        arguments = ["gnl-low", "--images", "a", "--images", "b", "--lpips", "l", "--out", "o"]
        assert self.run(*arguments).exit_code == 0
        more = ["--start", "s.pt", "--device", "cpu", "--threads", "2", "--minutes", "0.5", "--resume"]
        assert self.run(*arguments, *more).exit_code == 130
        path = type(tmp_path)
        first = TrainOptions("gnl-low", (path("a"), path("b")), path("l"), path("o"))
        assert asked == [first, TrainOptions(*list(vars(first).values())[:4], "s.pt", True, "cpu", 2, 0.5)]

    @pytest.mark.parametrize("option", ["--images", "--lpips", "--out"])
    def test_what_it_needs(self, option):
        given = [word for name in ("--images", "--lpips", "--out") if name != option for word in (name, "x")]
        done = self.run("gnl-low", *given)
        assert done.exit_code == 2 and option in done.stderr and done.stderr.count("\n") == 1

    def test_errors_are_one_line(self):
        done = self.run("gnl-lwo", "--images", "x", "--lpips", "x", "--out", "x")
        assert done.exit_code == 2 and "gnl-high, gnl-low" in done.stderr and done.stderr.count("\n") == 1

    def test_minutes_and_threads_replace_those_of_the_configuration(self, things, tmp_path):
        assert train.train(options(things, tmp_path, 1, "threads: 2\n", minutes=3.0, threads=1))
        record = json.loads((tmp_path / "out" / "tiny.json").read_text())
        assert (record["history"][0]["minutes"], record["history"][0]["threads"]) == (3.0, 1)


def test_a_stubborn_command_to_go_on_quotes_what_needs_it(tmp_path):
    path = type(tmp_path)
    found = TrainOptions("my.yaml", [path("my photos")], path("l"), path("o"), minutes=0.5, threads=2).to_go_on()
    wanted = "gnl train my.yaml --images 'my photos' --lpips l --out o --device auto --resume --threads 2 --minutes 0.5"
    assert found == wanted
