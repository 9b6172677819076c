"""Twelve thousand hostile prompts for each kind of generative codec: an error or a picture, within bounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_codec import TINY, write_small

COUNT = 12_000


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.mark.parametrize("kind", ["one", "any"])
def test_hostile_prompts_end_in_an_error_or_a_picture(weights, kind):
    """In a process of its own: its end by a signal is a failure, as is any other exception, or work beyond bounds."""
    script = Path(__file__).with_name("fuzz_codecs.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, weights, kind, str(COUNT)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    totals = {end: sum(one.get(end, 0) for one in found["ended"].values()) for end in ("decoded", "refused")}
    assert sum(totals.values()) == COUNT and min(totals.values()) > COUNT // 10
    assert found["grown_mib"] < 256
