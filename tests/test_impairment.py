"""Delay, jitter and loss: what is asked of the kernel, and a refusal where it cannot be had."""

import json
import re

import pytest
from gnl.topologies import impairment
from gnl.topologies.errors import MachineError
from gnl.topologies.spec import LinkSpec
from hypothesis import given, settings
from hypothesis import strategies as st


def link(**options):
    return LinkSpec("s", "r", 10.0, **options)


@given(st.floats(0.001, 99.9999))
@settings(deadline=None)
def test_the_share_that_is_dropped_is_the_one_that_was_given(percent):
    rules = impairment.loss_rules(link(loss_percent=percent), "r-s")
    parts, lost = map(int, re.search(r"mod (\d+) < (\d+) counter drop", rules).groups())
    assert 100 * lost / parts == pytest.approx(percent, abs=1e-4) and lost > 0


def test_a_loss_however_small_is_a_rule_and_a_total_one_one_that_the_kernel_takes():
    """nft refuses `mod 1000000 < 1000000`: the network would not come up, with a message about a comparison."""
    assert "< 1 counter drop" in impairment.loss_rules(link(loss_percent=1e-9), "r-s")
    everything = impairment.loss_rules(link(loss_percent=100), "r-s")
    assert "counter drop" in everything and "numgen" not in everything


def test_loss_acts_where_packets_arrive_and_only_there():
    rules = impairment.loss_rules(link(loss_percent=1), "r-s")
    assert 'hook ingress device "r-s"' in rules and "s-r" not in rules


def test_a_link_without_loss_has_no_rule_and_one_without_delay_no_netem():
    assert impairment.loss_rules(link(), "r-s") is None
    assert impairment.netem_arguments(link(loss_percent=5), 10_000_000) is None


@given(st.text("abcXYZ019_", min_size=1, max_size=7), st.text("abcXYZ019_", min_size=1, max_size=7))
@settings(deadline=None)
def test_the_tables_name_is_an_identifier_and_the_one_in_the_rules(a, b):
    interface = f"{a}-{b}"
    table = impairment.loss_table(interface)
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table)
    assert impairment.loss_rules(link(loss_percent=1), interface).startswith(f"table netdev {table} {{")


@given(st.floats(0.001, 10_000), st.floats(0, 10_000), st.integers(100_000, 2_000_000_000))
@settings(deadline=None)
def test_netem_queues_all_that_is_in_flight(delay_ms, jitter_ms, rate_bps):
    """A netem queue below the bandwidth-delay product drops packets on a link that should lose none."""
    arguments = impairment.netem_arguments(link(delay_ms=delay_ms, jitter_ms=jitter_ms), rate_bps)
    limit = int(re.search(r"limit (\d+)$", arguments)[1])
    assert limit >= rate_bps * (delay_ms + jitter_ms) / 1e3 / (8 * 1514)
    found = re.search(r"delay ([\d.e+-]+)ms(?: ([\d.e+-]+)ms)? limit", arguments)
    assert float(found[1]) == pytest.approx(delay_ms, rel=1e-5)
    assert float(found[2] or 0) == pytest.approx(jitter_ms, rel=1e-5)
    assert "{}" in arguments and "parent 5:1" in arguments


def test_counters_of_a_listing_are_summed_over_its_rules():
    def rule(packets):
        return {"rule": {"expr": [{"match": {}}, {"counter": {"packets": packets, "bytes": 1}}, {"drop": None}]}}

    listing = {
        "nftables": [
            {"metainfo": {"version": "1.0"}},
            {"table": {"name": "t"}},
            {"chain": {"name": "c"}},
            rule(3),
            rule(39),
        ]
    }
    assert impairment.counted_packets(json.dumps(listing)) == 42
    assert impairment.counted_packets(json.dumps({"nftables": [{"metainfo": {}}]})) == 0


def test_a_delay_that_this_kernel_cannot_make_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(impairment, "kernel_has_netem", lambda: False)
    with pytest.raises(
        MachineError, match=r"links\.s-r\.delay_ms is 20.*modprobe sch_netem.*set the delay to 0"
    ) as caught:
        impairment.require_netem((LinkSpec("r", "d", 10.0), link(delay_ms=20)))
    assert "\n" not in str(caught.value)


def test_a_kernel_without_netem_is_not_even_asked_where_no_link_delays(monkeypatch):
    def asked():
        raise AssertionError("asked")

    monkeypatch.setattr(impairment, "kernel_has_netem", asked)
    impairment.require_netem((link(loss_percent=1),))
    monkeypatch.setattr(impairment, "kernel_has_netem", lambda: True)
    impairment.require_netem((link(delay_ms=20),))
