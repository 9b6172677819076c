"""How a phase begins: a head start for the router's queue that has passed the link before anything is measured."""

from types import SimpleNamespace

import pytest
from gnl.experiments.phases import HEAD_START_S, PhaseRunner
from gnl.experiments.windows import SKIP_S
from gnl.node_apps.protocol.pacing import MAX_LAG_S
from synthetic_run import diamond_plan


def begun(prompt_bytes, sizes=None):
    """The prompts' stream, its link's capacity, its head start and what is skipped, contents being 196616 bytes."""
    plan = diamond_plan(prompt_bytes=prompt_bytes)
    entries = [SimpleNamespace(prompt_bytes=size) for size in sizes or [prompt_bytes] * 4]
    network = SimpleNamespace(shaped=True)
    runner = PhaseRunner(network, None, None, SimpleNamespace(entries=entries), None, "raw")
    (stream,) = [one for one in plan.generate.streams if one.kind == "prompt"]
    return stream, plan.diamond.by_genai[0].capacity_bps, runner._head_start_bits(plan, stream), runner.skip_s(
        plan, plan.generate
    )


def test_small_prompts_get_what_the_queue_needs():
    stream, link_bps, head_bits, skip_s = begun(1500)
    assert stream.paced and head_bits == pytest.approx(8 * stream.rate_bps / stream.contents_per_s, rel=0.1)
    assert skip_s == SKIP_S


@pytest.mark.parametrize("prompt_bytes", [14_500, 16_000, 18_000])
def test_a_head_start_that_fills_the_link_is_not_measured(prompt_bytes):
    stream, link_bps, head_bits, skip_s = begun(prompt_bytes)
    passed_s = head_bits / (link_bps - stream.rate_bps)
    assert stream.paced and SKIP_S < skip_s and passed_s < skip_s <= HEAD_START_S + 1
    assert head_bits / link_bps < MAX_LAG_S  # or the source gives up what it owes


def test_a_full_link_has_no_head_start():
    stream, link_bps, head_bits, skip_s = begun(40_000)
    assert not stream.paced and head_bits == 0 and skip_s == SKIP_S
