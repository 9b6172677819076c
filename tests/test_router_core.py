"""The router's decisions: what is decoded, what goes on untouched, and what a silent or lost decoder leads to."""

import random

import pytest
from gnl.node_apps.protocol import header as h
from gnl.node_apps.protocol.packetise import packetise, packetise_prompt
from gnl.node_apps.protocol.reassembly import Reassembler
from gnl.node_apps.protocol.router import Decode, Emit, Forward, RouterCore
from hypothesis import given, settings
from hypothesis import strategies as st

S, D = ("10.0.0.1", 40000), ("10.0.0.2", h.PROMPT_PORT)
KNOWN = {(5, 6)}


def datagrams_of(runs):
    return [bytes(run[at : at + h.DATAGRAM_BYTES]) for run in runs for at in range(0, len(run), h.DATAGRAM_BYTES)]


def prompt(slices=(b"x" * 3000,), content=0, codec=5, weights=6, flow=1):
    fields = h.Header(h.KIND_PROMPT, codec, weights=weights, flow=flow, content=content)
    return datagrams_of(packetise_prompt(slices, fields))


def feed(router, datagrams, now=0.0, source=S, destination=D):
    return [action for d in datagrams for action in router.receive_datagram(d, source, destination, now)]


def sent(actions):
    """The datagrams that these Forward actions put on the wire."""
    assert all(isinstance(action, Forward) for action in actions)
    out = []
    for action in actions:
        step = action.segment_bytes or len(action.data) or 1
        out += [bytes(action.data[at : at + step]) for at in range(0, len(action.data) or 1, step)]
    return out


def test_a_known_prompt_is_decoded_and_the_content_sent_in_the_sources_name():
    router = RouterCore(KNOWN)
    (decode,) = feed(router, prompt((b"base" * 500, b"more"), content=8, flow=3), now=1.5)
    assert isinstance(decode, Decode)
    assert (decode.codec, decode.weights, decode.slices) == (5, 6, (b"base" * 500, b"more"))
    (emit,) = router.decoded(decode.request_id, b"image", 2.0)
    assert isinstance(emit, Emit)
    assert (emit.body, emit.requested_s) == (b"image", 1.5)
    assert (emit.source, emit.destination) == (S, ("10.0.0.2", h.CONTENT_PORT))
    sink = Reassembler(1 << 20, 10, 5.0)
    (datagram,) = datagrams_of([packetise(emit.body, emit.header)])
    item = sink.receive(*h.parse(datagram), S, 2.0)
    facts = item.header
    assert (facts.kind, facts.made, facts.codec, facts.weights, facts.flow, facts.content) == (
        h.KIND_CONTENT, h.MADE_EXPLICIT, 5, 6, 3, 8,
    )
    assert router.counters["decode"] == router.counters["emitted"] == 1 and router.in_flight == 0


def test_ipv6_addresses_keep_their_flow_and_scope():
    router = RouterCore(KNOWN)
    source, destination = ("fd00::1", 40000, 0, 0), ("fd00::2", h.PROMPT_PORT, 0, 3)
    (decode,) = feed(router, prompt(), source=source, destination=destination)
    (emit,) = router.decoded(decode.request_id, b"image", 0.0)
    assert (emit.source, emit.destination) == (source, ("fd00::2", h.CONTENT_PORT, 0, 3))


def damaged(datagram, at=40):
    return datagram[:at] + bytes([datagram[at] ^ 1]) + datagram[at + 1 :]


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "malformed_short"),
        (b"other traffic on this port, of any length at all", "malformed_magic"),
        (b"GN\x02" + bytes(60), "malformed_version"),
        (damaged(prompt()[0]), "malformed_check"),
        (prompt()[0][:-1], "malformed_length"),
        (prompt(codec=9)[0], "unknown_codec"),
        (prompt(weights=7)[0], "unknown_codec"),
        (bytes(packetise(b"image", h.Header(h.KIND_CONTENT))), "not_prompt"),
        (bytes(packetise(b"image", h.Header(h.KIND_PLAIN))), "not_prompt"),
    ],
)
def test_what_is_not_understood_goes_on_untouched(datagram, reason):
    router = RouterCore(KNOWN)
    actions = feed(router, [datagram])
    assert actions == [Forward(datagram, S, D)]
    assert router.counters == {"received": 1, reason: 1, "forwarded": 1}


def test_a_forwarded_datagram_is_a_copy_of_the_receive_buffer():
    router, buffer = RouterCore(), bytearray(prompt()[0])
    before = bytes(buffer)
    (action,) = router.receive_datagram(memoryview(buffer), S, D, 0.0)
    buffer[:] = bytes(len(buffer))
    assert action.data == before


@given(st.integers(0, 2**32), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_a_prompt_that_fails_to_decode_leaves_as_the_datagrams_that_came(seed, count):
    rng = random.Random(seed)
    slices = [rng.randbytes(rng.choice([0, 7, 1408, 4000])) for _ in range(count)]
    datagrams = prompt(slices, content=3)
    arriving = rng.sample(datagrams, len(datagrams))
    router = RouterCore(KNOWN)
    (decode,) = feed(router, arriving)
    assert sent(router.decoded(decode.request_id, None, 0.0)) == datagrams
    assert router.counters["decode_failed"] == 1 and router.counters["forwarded"] == len(datagrams)
    assert router.in_flight == 0


def test_overflow_goes_on_untouched_and_room_is_used_again():
    router = RouterCore(KNOWN, max_in_flight=2)
    first, second = (feed(router, prompt(content=n))[0] for n in (0, 1))
    assert sent(feed(router, prompt(content=2))) == prompt(content=2)
    assert router.counters["overflow"] == 1
    router.decoded(first.request_id, b"image", 0.0)
    assert isinstance(feed(router, prompt(content=3))[0], Decode)
    assert second.request_id != first.request_id


def test_bytes_in_flight_are_bounded():
    router = RouterCore(KNOWN, max_in_flight_bytes=7000)
    first, *rest = [feed(router, prompt(content=n))[0] for n in range(4)]
    assert list(map(type, rest)) == [Decode, Forward, Forward]
    assert router.counters["overflow"] == 2
    router.decoded(first.request_id, b"image", 0.0)
    assert isinstance(feed(router, prompt(content=4))[0], Decode)


def test_unanswered_prompt_goes_on_after_the_timeout_and_its_late_answer_is_dropped():
    router = RouterCore(KNOWN, decode_timeout_s=2.0)
    (decode,) = feed(router, prompt(), now=1.0)
    assert router.get_timer() == 3.0
    assert router.handle_timer(2.9) == []
    assert sent(router.handle_timer(3.0)) == prompt()
    assert router.decoded(decode.request_id, b"image", 3.1) == []
    assert router.counters["decode_timeout"] == router.counters["late_answer"] == 1
    assert router.get_timer() is None


def test_incomplete_prompt_is_given_up_by_age():
    router = RouterCore(KNOWN, max_age_s=5.0)
    datagrams = prompt()
    assert feed(router, datagrams[:-1], now=1.0) == []
    assert router.get_timer() == 6.0
    assert router.handle_timer(6.0) == []
    assert router.counters["age"] == 1 and router.get_timer() is None
    assert feed(router, datagrams[-1:], now=6.5) == []
    assert router.counters["late"] == 1


def test_without_a_decoder_everything_goes_on_and_with_it_again_nothing_is_lost():
    router = RouterCore(KNOWN)
    waiting, half = prompt(content=0), prompt(content=1)
    (decode,) = feed(router, waiting)
    feed(router, half[:1])
    assert sent(router.decoder_lost(0.0)) == waiting
    assert router.decoded(decode.request_id, b"image", 0.0) == []
    assert sent(feed(router, prompt(content=2))) == prompt(content=2)
    assert sent(feed(router, half[1:])) == half, "what was begun is finished, and then goes on whole"
    router.decoder_ready(KNOWN)
    assert isinstance(feed(router, prompt(content=4))[0], Decode)
    assert router.counters["decoder_lost"] == 1


def test_duplicates_are_decoded_once():
    router = RouterCore(KNOWN)
    assert len(feed(router, prompt() * 3)) == 1
    assert router.counters["duplicate"] == 6


def test_prompts_of_two_sources_with_the_same_ids_are_kept_apart():
    router = RouterCore(KNOWN)
    a, b = prompt((b"a" * 2000,)), prompt((b"b" * 2000,))
    other = ("10.0.0.9", 40000)
    feed(router, a[:1])
    feed(router, b[:1], source=other)
    (decode_b,) = feed(router, b[1:], source=other)
    (decode_a,) = feed(router, a[1:])
    assert (decode_a.slices, decode_b.slices) == ((b"a" * 2000,), (b"b" * 2000,))
    (emit,) = router.decoded(decode_b.request_id, b"image", 0.0)
    assert emit.source == other
