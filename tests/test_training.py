"""A training of a few steps on made pictures: it starts, stops, goes on, and leaves a codec that loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gnl.node_apps.codecs import training
from gnl.node_apps.codecs.devices import ThreadChooser
from gnl.node_apps.codecs.generative import GenerativeCodec
from gnl.node_apps.codecs.interface import CodecFacts
from gnl.node_apps.codecs.networks import NetworkShape
from gnl.node_apps.codecs.perceptual import Lpips
from gnl.node_apps.codecs.photos import CropSampler, find_photos
from gnl.topologies.errors import CodecError
from PIL import Image

CONFIG = Path(training.__file__).with_name("training.yaml")
SMALL = NetworkShape(8, 4, 8, (8, 8, 8), (1, 1), (8, 8, 8), (1, 1, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((96, 96), Image.Resampling.BICUBIC).save(path / f"{number}.png")
    return path


def small_config(**changes):
    config = training.read_config(CONFIG)
    values = {**vars(config), "steps": 6, "minutes": 60.0, "threads": 1, "batches": [[2, 64]], "least_side": 64}
    return training.TrainingConfig(**{**values, "hyper_steps": 3, "bfloat16": False, "name": "small", **changes})


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(training, "NetworkShape", lambda: SMALL)


def make_trainer(folder, config):
    crops = CropSampler(find_photos([folder]), 0, 64)
    torch.manual_seed(0)
    return training.Trainer(config, Lpips(), "cpu"), crops


def load(path):
    facts = CodecFacts("small", 1, json.loads(path.with_suffix(".json").read_text())["sha256"], True, False, (), "any")
    return GenerativeCodec(facts, path, "cpu")


def test_a_short_training_leaves_a_codec_that_round_trips(small, folder, tmp_path):
    trainer, crops = make_trainer(folder, small_config())
    trainer.start(crops)
    training.train(trainer, crops, tmp_path, {"data": "made"})
    record = json.loads((tmp_path / "small.json").read_text())
    assert record["steps"] == 6 and record["data"] == "made" and record["versions"]["torch"] == torch.__version__
    assert record["size_bytes"] == (tmp_path / "small.safetensors").stat().st_size
    codec = load(tmp_path / "small.safetensors")
    image = np.full((70, 64, 3), 120, np.uint8)
    assert codec.decode(codec.encode(image)).shape == image.shape


def test_it_starts_as_a_block_transform_codec(small, folder):
    trainer, crops = make_trainer(folder, small_config())
    x = torch.from_numpy(crops.draw(8, 64))
    before = (trainer.model(x).x_hat - x).square().mean()
    trainer.start(crops)
    after = (trainer.model(x).x_hat - x).square().mean()
    assert after < 0.5 * x.var() < before


def test_steps_lower_the_loss(small, folder):
    trainer, crops = make_trainer(folder, small_config(learning_rate=2e-3, warmup_steps=1, steps=1000))
    trainer.start(crops)
    x = torch.from_numpy(crops.draw(4, 64))

    def error():
        with torch.no_grad():
            return float((trainer.model(x).x_hat - x).square().mean())

    before = error()
    for _ in range(40):
        trainer.train_step(x)
    assert error() < before and trainer.step == 40


def test_the_multiplier_follows_the_rate(small, folder):
    trainer, crops = make_trainer(folder, small_config(start_bpp=1e-3, target_bpp=1e-3))
    trainer.start(crops)
    before = trainer.multiplier
    trainer.train_step(torch.from_numpy(crops.draw(2, 64)))
    assert trainer.multiplier > before


def test_a_training_goes_on_where_it_stopped(small, folder, tmp_path):
    trainer, crops = make_trainer(folder, small_config(learning_rate=4e-4))
    trainer.start(crops)
    trainer.train_step(torch.from_numpy(crops.draw(2, 64)))
    trainer.elapsed_s = 12.5
    training.save_checkpoint(trainer, tmp_path)
    other, _ = make_trainer(folder, small_config(learning_rate=1e-5))
    other.restore(tmp_path / "checkpoint.pt")
    assert [(one["from_step"], one["learning_rate"]) for one in other.history] == [(0, 4e-4), (1, 1e-5)]
    assert (other.step, other.elapsed_s, other.multiplier) == (1, 12.5, trainer.multiplier)
    for name, value in trainer.ema.state_dict().items():
        assert torch.equal(value, other.ema.state_dict()[name])


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_a_checkpoint_that_is_none_is_refused(small, folder, tmp_path, content):
    if content:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    trainer, _ = make_trainer(folder, small_config())
    with pytest.raises(CodecError, match="checkpoint.pt.*without --resume"):
        trainer.restore(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"speed": 1}, r"unknown keys \['speed'\]"),
        ({"steps": None}, "missing keys"),
        ({"batches": []}, "multiples of 64"),
        ({"batches": [[4, 100]]}, "multiples of 64"),
        ({"batches": [[0, 64]]}, "multiples of 64"),
    ],
)
def test_a_config_that_is_none_says_why(tmp_path, change, says):
    found = yaml.safe_load(CONFIG.read_text())
    found.update(change)
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in found.items() if v is not None}))
    with pytest.raises(CodecError, match=says):
        training.read_config(path)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", None])
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "t.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CodecError, match="t.yaml"):
        training.read_config(path)


def test_the_command_reports_missing_weights_in_one_line(folder, tmp_path, capsys):
    arguments = [str(CONFIG), "--images", str(folder), "--lpips", str(tmp_path), "--out", str(tmp_path / "o")]
    assert training.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


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
