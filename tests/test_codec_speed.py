"""What is timed, and what is said of it; never how long anything took."""

import dataclasses

import numpy as np
import pytest
from fake_scalable import FakeScalable
from gnl.experiments.codec_speed import Speed, measure_speed
from gnl.node_apps.codecs.registry import load_codec

IMAGES = [np.random.default_rng(n).integers(0, 256, (48, 48, 3), dtype=np.uint8) for n in range(3)]


class Counting(FakeScalable):
    def __init__(self):
        self.calls = []

    def decode_batch(self, prompts):
        self.calls.append(("batch", len(prompts)))
        return super().decode_batch(prompts)

    def latents(self, prompts):
        self.calls.append(("latents", len(prompts)))
        return super().latents(prompts)


@pytest.mark.parametrize("batch, expected", [(8, {8}), (2, {2}), (1, {1})])
def test_batches_are_full_even_of_few_images(batch, expected):
    codec = Counting()
    found = measure_speed(codec, 3.0, IMAGES, "cpu", 1, batch)
    assert {size for _, size in codec.calls} == expected
    assert sum(kind == "latents" for kind, _ in codec.calls) == sum(kind == "batch" for kind, _ in codec.calls) - 1
    assert (found.codec, found.bpp, found.threads, found.batch) == ("gnl-scalable", 3.0, 1, batch)
    assert min(found.encode_per_s, found.decode_per_s, found.decode_batch_per_s) > 0 and found.latents_share >= 0


def test_a_codec_without_latents_has_no_share_of_them():
    assert measure_speed(load_codec("jpeg:30"), None, IMAGES, "cpu", None, 2).latents_share is None


SPEED = Speed("gnl-low", None, "cpu", 2, 8.0, 20.0, 8, 30.0, None, 0.01)


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({}, "pass"),
        ({"decode_per_s": 19.9}, "FAIL"),
        ({"encode_per_s": 7.9}, "FAIL"),
        ({"others_share": 0.11}, "machine busy"),
        ({"device": "cuda", "decode_batch_per_s": 2000.0}, "pass"),
        ({"device": "cuda", "decode_batch_per_s": 1999.0}, "FAIL"),
    ],
)
def test_verdicts(changes, verdict):
    assert dataclasses.replace(SPEED, **changes).verdict == verdict
