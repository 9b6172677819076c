"""Frames that nobody sent: what is remembered, what the baselines make of it, and how `gnl predict` measures them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from gnl.experiments import cli
from gnl.experiments.prediction import PredictOptions, predict_sequences, predicted, render
from gnl.experiments.quality import mse
from gnl.node_apps.prediction.baselines import Hold, Motion, moved
from gnl.node_apps.prediction.memory import Memory, is_cut
from gnl.topologies.errors import UsageError
from PIL import Image

SIDES = (96, 128)


def texture(seed=0, height=200, width=300):
    small = np.random.default_rng(seed).integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def panned(count, per_frame=3, seed=0):
    """A camera that moves to the right at a constant speed."""
    wide = texture(seed)
    return [wide[40 : 40 + SIDES[0], 10 + per_frame * n : 10 + per_frame * n + SIDES[1]] for n in range(count)]


class TestMemory:
    def test_it_holds_the_last_two_received_and_never_more(self):
        memory, frames = Memory(), panned(4)
        assert memory.last is None and memory.previous is None
        for number in (0, 2, 3):
            memory.receive(number, frames[number])
        assert (memory.previous.number, memory.last.number) == (2, 3)

    def test_a_frame_that_comes_late_changes_nothing(self):
        memory, frames = Memory(), panned(4)
        memory.receive(2, frames[2])
        memory.receive(1, frames[1])
        memory.receive(2, frames[1])
        assert memory.last.number == 2 and memory.last.image is frames[2] and memory.previous is None

    def test_a_cut_or_a_change_of_size_forgets_what_was_before(self):
        memory, frames = Memory(), panned(2)
        black = np.zeros_like(frames[0])
        for number, image in enumerate((frames[0], frames[1], black, black[::2])):
            memory.receive(number, image)
            assert (memory.previous is None) == (number != 1)

    def test_motion_and_noise_are_no_cut_but_another_scene_is(self):
        frames = panned(6, per_frame=12)
        noisy = np.clip(frames[0] + np.random.default_rng(1).normal(0, 25, frames[0].shape), 0, 255).astype(np.uint8)
        assert not is_cut(frames[0], frames[1]) and not is_cut(frames[0], noisy)
        assert is_cut(np.full((9, 9, 3), 20, np.uint8), np.full((9, 9, 3), 120, np.uint8))
        assert not is_cut(np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8))


class TestPredictors:
    def test_pixels_come_from_the_offsets(self):
        image = texture()[:40, :50]
        offsets = np.zeros((40, 50, 2), np.float32)
        offsets[..., 0], offsets[..., 1] = 3, -2
        assert np.array_equal(moved(image, offsets)[5:35, 5:40], image[3:33, 8:43])

    def test_a_steady_pan_goes_on(self):
        frames = panned(5)
        for gap, ahead in ((1, 1), (2, 1), (2, 2)):
            memory = Memory()
            memory.receive(0, frames[0])
            memory.receive(gap, frames[gap])
            held = mse(frames[gap + ahead], Hold().predict(memory, gap + ahead))
            made = Motion().predict(memory, gap + ahead)
            inner = (slice(8, -8), slice(16, -24))  # what comes into view cannot be known
            assert mse(frames[gap + ahead][inner], made[inner]) < 0.05 * held

    def test_with_one_frame_or_a_tiny_one_it_is_held(self):
        memory = Memory()
        memory.receive(0, panned(1)[0])
        assert Motion().predict(memory, 1) is memory.last.image
        memory = Memory()
        for number in range(2):
            memory.receive(number, np.full((8, 40, 3), number, np.uint8))
        assert np.array_equal(Motion().predict(memory, 2), memory.last.image)

    def test_what_is_omitted_is_predicted_from_what_was_received_before_it_alone(self):
        frames = panned(7)
        seen = []

        class Watching(Hold):
            def predict(self, memory, number):
                seen.append((number, memory.last.number, memory.previous and memory.previous.number))
                return super().predict(memory, number)

        received = {0: frames[0], 3: frames[3], 6: frames[6]}
        made = dict(predicted(received, 7, Watching()))
        assert seen == [(1, 0, None), (2, 0, None), (4, 3, 0), (5, 3, 0)]
        assert list(made) == [1, 2, 4, 5] and made[5] is frames[3]
        assert [number for number, _ in predicted({2: frames[2]}, 4, Hold())] == [3]  # nothing to predict 0 and 1 from


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pan"
    folder.mkdir()
    for number, image in enumerate(panned(6)):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


class TestCommand:
    def test_losses_are_those_of_the_omitted_frames(self, folder):
        document = predict_sequences(PredictOptions([folder], device="cpu"))
        hold, motion = document["sequences"]
        frames = panned(6)
        assert (hold["predictor"], hold["frames"], hold["width"], hold["height"]) == ("hold", 3, 128, 96)
        assert hold["mse"] == pytest.approx(np.mean([mse(frames[n], frames[n - 1]) for n in (1, 3, 5)]))
        assert motion["mse"] < hold["mse"] and motion["lpips"] is None and motion["ms_per_frame"] > 0
        assert f"{motion['mse']:.1f}" in render(document) and "1 of 2 frames received, as they are" in render(document)

    def test_received_frames_go_through_the_codec(self, folder):
        document = predict_sequences(PredictOptions([folder], keep=3, codec="jpeg:10", device="cpu"))
        plain = predict_sequences(PredictOptions([folder], keep=3, device="cpu"))
        assert all(a["mse"] > b["mse"] for a, b in zip(document["sequences"], plain["sequences"]))
        assert "through jpeg:10" in render(document) and document["sequences"][0]["frames"] == 4

    def test_it_is_a_command(self, folder, tmp_path):
        done = CliRunner().invoke(cli.main, ["predict", str(folder), "--frames", "4", "--json"], prog_name="gnl")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert [one["frames"] for one in found["sequences"]] == [2, 2] and found["keep"] == 2
        for arguments, said in (
            ([str(tmp_path / "absent.mp4")], "absent.mp4 is not there: give a video file, or a folder of images"),
            ([str(folder), "--keep", "1"], "1 is not in the range"),
            ([str(folder), "--codec", "jpeg:0"], "the quality must be a whole number from 1 to 100"),
        ):
            refused = CliRunner().invoke(cli.main, ["predict", *arguments], prog_name="gnl")
            assert refused.exit_code == 2 and said in refused.stderr and refused.stdout == ""

    def test_all_frames_kept_leaves_nothing_to_measure(self, folder):
        with pytest.raises(UsageError, match="1 of 1 frames kept: give 2 or more"):
            predict_sequences(PredictOptions([folder], keep=1))
