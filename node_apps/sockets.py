"""UDP sockets of the node programs: buffers, batches that the kernel cuts, and transparent addresses (Linux only)."""

from __future__ import annotations

import socket
import struct

from .protocol.header import DATAGRAM_BYTES, LAYER2_OVERHEAD_BYTES

Address = tuple[str, int]

# From the kernel's headers; Python's socket module names only some of them.
UDP_SEGMENT = 103
IP_TRANSPARENT, IP_RECVORIGDSTADDR = 19, 20
IPV6_TRANSPARENT, IPV6_RECVORIGDSTADDR = 75, 74
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

RECEIVE_BUFFER_BYTES = 8 << 20
BATCH_S = 0.002
# A batch must stay below the largest UDP payload, 65507 bytes.
MAX_BATCH_DATAGRAMS = 45
_SEGMENTED = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM_BYTES))]


def batch_datagrams(rate_bps: float, ip_version: int = 4) -> int:
    """Datagrams to hand to the kernel at once: 2 ms of the rate, so that a batch never outruns a shaper's burst."""
    frame_bits = 8 * (DATAGRAM_BYTES + LAYER2_OVERHEAD_BYTES[ip_version])
    return int(min(max(rate_bps * BATCH_S / frame_bits, 1), MAX_BATCH_DATAGRAMS))


def sender(source: Address, destination: Address, send_buffer_bytes: int, transparent: bool = False) -> socket.socket:
    """A connected, blocking socket from `source` to `destination`; `transparent` allows a foreign source address.

    A send blocks while the buffer is full: the interface's shaper paces the writer, and nothing is dropped.
    """
    made = socket.socket(_family(source[0]), socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, send_buffer_bytes)
        if transparent:
            _set_transparent(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(source)
        made.connect(destination)
    except BaseException:
        made.close()
        raise
    return made


def receiver(port: int, ip_version: int, transparent: bool = False, timeout_s: float = 0.2) -> socket.socket:
    """A socket bound to `port` on every address; `transparent` also takes what is addressed to other nodes.

    Receiving raises `BlockingIOError` after `timeout_s` without a datagram.
    """
    made = socket.socket(socket.AF_INET if ip_version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        seconds, fraction = divmod(timeout_s, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(seconds), int(fraction * 1e6)))
        if ip_version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            _set_transparent(made)
            level, option = ((socket.SOL_IP, IP_RECVORIGDSTADDR) if ip_version == 4
                             else (socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR))
            made.setsockopt(level, option, 1)
        made.bind(("0.0.0.0" if ip_version == 4 else "::", port))
    except BaseException:
        made.close()
        raise
    return made


def original_destination(ancillary: list[tuple[int, int, bytes]]) -> Address | None:
    """Where an intercepted datagram was going, from the ancillary data of `recvmsg`; None where it does not say."""
    for level, kind, data in ancillary:
        if level == socket.SOL_IP and kind == IP_RECVORIGDSTADDR:
            return socket.inet_ntop(socket.AF_INET, data[4:8]), int.from_bytes(data[2:4], "big")
        if level == socket.IPPROTO_IPV6 and kind == IPV6_RECVORIGDSTADDR:
            return socket.inet_ntop(socket.AF_INET6, data[8:24]), int.from_bytes(data[2:4], "big")
    return None


def send_batch(sock: socket.socket, batch: bytes | bytearray | memoryview) -> None:
    """Send datagrams laid end to end, in one call; blocks while the send buffer is full.

    The kernel cuts the batch before the shaper sees it, so each datagram is queued and counted by itself.
    """
    if len(batch) > DATAGRAM_BYTES:
        sock.sendmsg((batch,), _SEGMENTED)
    else:
        sock.send(batch)


def receive_drops(ports: set[int], ip_version: int) -> int:
    """Datagrams that the kernel dropped in this namespace because a socket bound to one of `ports` had no room."""
    with open(f"/proc/thread-self/net/{'udp' if ip_version == 4 else 'udp6'}") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(int(row[-1]) for row in rows if int(row[1].rsplit(":", 1)[1], 16) in ports)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _set_transparent(made: socket.socket) -> None:
    if made.family == socket.AF_INET:
        made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
