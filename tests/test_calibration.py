"""Calibration: every direction once, never more at once than the machine carries, and a link that is off is refused."""

import os
import shutil
import socket
from collections import Counter

import pytest
from gnl.experiments import calibration
from gnl.experiments.calibration import (
    MAX_TOGETHER_BPS,
    MEASURE_S,
    TOLERANCE,
    Direction,
    datagram_bytes,
    groups_of,
    listening_ports,
    require_calibrated,
    require_iperf3,
    saturating_load,
)
from gnl.node_apps.protocol.header import LAYER2_OVERHEAD_BYTES
from gnl.topologies.errors import MachineError, RunError
from gnl.topologies.spec import LinkSpec
from hypothesis import given, settings
from hypothesis import strategies as st

rates = st.floats(0.1, 2000)
versions = st.sampled_from([4, 6])


@given(st.lists(st.tuples(rates, st.none() | rates), min_size=1, max_size=12))
@settings(deadline=None)
def test_every_direction_is_in_one_group_and_no_group_is_more_than_the_machine_carries(capacities):
    links = [LinkSpec(f"a{i}", f"b{i}", there, back) for i, (there, back) in enumerate(capacities)]
    directions = [Direction(link, *ends) for link in links for ends in ((link.a, link.b), (link.b, link.a))]
    groups = groups_of(directions)
    assert Counter((d.source, d.target) for group in groups for d in group) == Counter(
        (d.source, d.target) for d in directions
    )
    for group in groups:
        assert len(group) == 1 or sum(direction.configured_bps for direction in group) <= MAX_TOGETHER_BPS


def test_the_two_directions_of_a_link_have_capacities_of_their_own():
    link = LinkSpec("d", "g", 3.0, 20.0)
    assert (
        Direction(link, "d", "g").configured_bps == 3_000_000 and Direction(link, "g", "d").configured_bps == 20_000_000
    )


@given(st.floats(1e5, 2e9), versions)
@settings(deadline=None)
def test_datagrams_fit_a_frame_and_a_slow_link_sends_many_in_the_measured_time(rate_bps, version):
    """A frame more or less must stay below the tolerance, or slow links would be refused at random."""
    size = datagram_bytes(rate_bps, version)
    assert 16 <= size <= 1400
    frames = rate_bps * MEASURE_S / 8 / (size + LAYER2_OVERHEAD_BYTES[version])
    assert 1 / frames < TOLERANCE / 2


@given(st.floats(1e5, 2e9), versions)
@settings(deadline=None)
def test_the_load_is_datagrams_up_to_what_one_sender_manages(rate_bps, version):
    load = saturating_load(rate_bps, version)
    if rate_bps <= 800e6:
        options = dict(zip(load[1::2], load[2::2]))
        assert load[0] == "-u" and options["-b"] == "0" and int(options["-l"]) == datagram_bytes(rate_bps, version)
    else:
        assert "-u" not in load


def row(error, direction="g->d"):
    return {
        "link": "g-d",
        "direction": direction,
        "configured_mbit": 20.0,
        "measured_mbit": 20 * (1 + error),
        "rel_error": error,
    }


def test_links_within_the_tolerance_pass():
    require_calibrated([row(0), row(TOLERANCE), row(-TOLERANCE)])


@pytest.mark.parametrize("error", [-0.2, 0.05])
def test_a_link_that_is_off_stops_the_run_with_what_was_reached(error):
    with pytest.raises(RunError) as caught:
        require_calibrated([row(0, "d->g"), row(error)])
    message = str(caught.value)
    assert "g->d" in message and f"{20 * (1 + error):.4g} Mbit/s" in message and "20 of the spec" in message
    assert f"{100 * error:+.1f}%" in message and "lower its bw_mbit" in message and "\n" not in message


def test_a_missing_load_generator_is_said_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MachineError, match="apt-get install iperf3"):
        require_iperf3()


@pytest.mark.parametrize("family, address", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_server_is_waited_for_until_it_accepts_connections(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as server:
        try:
            server.bind((address, 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        port = server.getsockname()[1]
        assert port not in listening_ports(os.getpid())
        server.listen()
        assert port in listening_ports(os.getpid())
    assert port not in listening_ports(os.getpid())


def test_rows_say_direction_and_error_of_what_the_receiver_counted():
    found = calibration._row(Direction(LinkSpec("d", "g", 3.0, 20.0), "g", "d"), 19.9e6)
    assert found == {
        "link": "d-g",
        "direction": "g->d",
        "configured_mbit": 20.0,
        "measured_mbit": pytest.approx(19.9),
        "rel_error": pytest.approx(-0.005),
    }
