"""Sockets of the node programs on the loopback: batches that the kernel cuts, back-pressure, drops that are counted."""

import ipaddress
import socket
import struct

import pytest
from gnl.node_apps import sockets
from gnl.node_apps.protocol.header import DATAGRAM_BYTES, LAYER2_OVERHEAD_BYTES
from gnl.topologies.shaping import Shape
from hypothesis import given, settings
from hypothesis import strategies as st

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(autouse=True)
def _without_privileges(monkeypatch):
    """Buffers within the limits that everybody has."""
    monkeypatch.setattr(sockets, "SO_SNDBUFFORCE", socket.SO_SNDBUF)
    monkeypatch.setattr(sockets, "SO_RCVBUFFORCE", socket.SO_RCVBUF)


def pair(version, **options):
    if version == 6:
        try:
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    receiver = sockets.receiver(0, version, **options)
    address = LOOPBACK[version]
    return sockets.sender((address, 0), (address, receiver.getsockname()[1]), 200_000), receiver


@versions
def test_a_batch_arrives_as_the_datagrams_that_were_laid_end_to_end(version):
    sender, receiver = pair(version)
    with sender, receiver:
        batch = bytes(range(256)) * 13
        sockets.send_batch(sender, batch)
        received = [receiver.recv(65535) for _ in range(-(-len(batch) // DATAGRAM_BYTES))]
    assert [len(datagram) for datagram in received] == [DATAGRAM_BYTES, DATAGRAM_BYTES, len(batch) - 2 * DATAGRAM_BYTES]
    assert b"".join(received) == batch


@versions
@pytest.mark.parametrize("size", [0, 1, DATAGRAM_BYTES])
def test_one_datagram_goes_as_it_is(version, size):
    sender, receiver = pair(version)
    with sender, receiver:
        sockets.send_batch(sender, memoryview(bytearray(size)))
        assert len(receiver.recv(65535)) == size


def test_the_largest_batch_is_one_that_the_kernel_takes():
    sender, receiver = pair(4)
    with sender, receiver:
        sockets.send_batch(sender, bytes(sockets.MAX_BATCH_DATAGRAMS * DATAGRAM_BYTES))
        assert len(receiver.recv(65535)) == DATAGRAM_BYTES


def test_receiving_nothing_ends_after_its_time_and_not_for_ever():
    with sockets.receiver(0, 4, timeout_s=0.01) as receiver, pytest.raises(BlockingIOError):
        receiver.recv(100)


@versions
def test_full_receive_buffers_are_counted_datagram_by_datagram(version, monkeypatch):
    monkeypatch.setattr(sockets, "RECEIVE_BUFFER_BYTES", 4096)
    sender, receiver = pair(version, timeout_s=0.01)
    with sender, receiver:
        port, other = receiver.getsockname()[1], sender.getsockname()[1]
        for _ in range(100):
            sender.send(bytes(1000))
        received = 0
        try:
            while receiver.recv(2000):
                received += 1
        except BlockingIOError:
            pass
        assert 0 < received < 100
        assert sockets.receive_drops({port}, version) == 100 - received
        assert sockets.receive_drops({other}, version) == 0 == sockets.receive_drops(set(), version)


@versions
def test_a_port_in_use_is_an_error_and_leaves_no_socket_open(version):
    sender, receiver = pair(version)
    with sender, receiver, pytest.raises(OSError, match="in use"):
        sockets.receiver(receiver.getsockname()[1], version)


def test_a_prompt_of_either_version_may_listen_on_the_same_port():
    """Without IPV6_V6ONLY the second socket of a program that serves both versions could not be bound."""
    with sockets.receiver(0, 4) as four:
        try:
            sockets.receiver(four.getsockname()[1], 6).close()
        except OSError as error:
            if "in use" in str(error):
                raise
            pytest.skip("this machine has no IPv6")


def test_the_kernel_says_where_an_intercepted_datagram_was_going():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_IP, sockets.IP_RECVORIGDSTADDR, 1)
        receiver.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", receiver.getsockname())
        _, ancillary, _, _ = receiver.recvmsg(10, 128)
        assert sockets.original_destination(ancillary) == receiver.getsockname()


@given(st.ip_addresses(), st.integers(1, 65535))
@settings(deadline=None)
def test_destinations_of_both_versions_are_read(address, port):
    if address.version == 4:
        data = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + address.packed + bytes(8)
        entry = (socket.SOL_IP, sockets.IP_RECVORIGDSTADDR, data)
    else:
        data = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + address.packed + struct.pack("=I", 3)
        entry = (socket.IPPROTO_IPV6, sockets.IPV6_RECVORIGDSTADDR, data)
    noise = (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\0" * 4)
    host, found = sockets.original_destination([noise, entry])
    assert (ipaddress.ip_address(host), found) == (address, port)
    assert sockets.original_destination([noise]) is None


@given(st.floats(1e5, 2e9), st.sampled_from([4, 6]))
@settings(deadline=None)
def test_a_batch_fits_the_shapers_bucket_and_the_kernels_limit(rate_bps, version):
    datagrams = sockets.batch_datagrams(rate_bps, version)
    frame_bytes = DATAGRAM_BYTES + LAYER2_OVERHEAD_BYTES[version]
    assert isinstance(datagrams, int) and datagrams >= 1
    assert datagrams * DATAGRAM_BYTES <= 65_507
    assert datagrams * frame_bytes <= Shape(round(rate_bps)).burst_bytes
