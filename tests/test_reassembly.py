"""Reassembly: sender and receiver joined in memory, over loss, reordering, duplication, damage, and under attack."""

import json
import random
import tracemalloc

import pytest
from gnl.node_apps.protocol import header as h
from gnl.node_apps.protocol import reassembly
from gnl.node_apps.protocol.packetise import packetise, packetise_prompt
from gnl.node_apps.protocol.reassembly import Reassembler
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = ("10.0.0.1", 40000, "10.0.0.2")


def prompt_datagrams(slices, flow=1, content=0, codec=5, weights=6):
    fields = h.Header(h.KIND_PROMPT, codec, weights=weights, flow=flow, content=content)
    return [
        bytes(run[at : at + h.DATAGRAM_BYTES])
        for run in packetise_prompt(slices, fields)
        for at in range(0, len(run), h.DATAGRAM_BYTES)
    ]


def plain_datagrams(body, flow=2, content=0):
    run = packetise(body, h.Header(h.KIND_PLAIN, flow=flow, content=content))
    return [bytes(run[at : at + h.DATAGRAM_BYTES]) for at in range(0, len(run), h.DATAGRAM_BYTES)]


def feed(machine, datagrams, now=0.0, prefix=PATH):
    """Give datagrams to the machine; the completed items in order."""
    items = [machine.receive(*h.parse(datagram), prefix, now) for datagram in datagrams]
    return [item for item in items if item is not None]


def roomy(**bounds):
    return Reassembler(**{"max_bytes": 1 << 22, "max_items": 1000, "max_age_s": 5.0, **bounds})


@st.composite
def traffics(draw):
    """A few contents of a few flows, and what a network may do to their datagrams."""
    rng = draw(st.randoms(use_true_random=False))
    sent, wire = {}, []
    for flow in range(draw(st.integers(1, 3))):
        for content in range(draw(st.integers(1, 4))):
            slices = [rng.randbytes(rng.choice([0, 1, 100, 1408, 1409, 5000])) for _ in range(rng.randint(1, 4))]
            sent[flow, content] = slices
            wire += [(flow, content, datagram) for datagram in prompt_datagrams(slices, flow, content)]
    return rng, sent, wire


@given(traffics())
@settings(deadline=None)
def test_reordered_duplicated_interleaved_flows_arrive_whole_once(traffic):
    rng, sent, wire = traffic
    copies = wire + rng.sample(wire, len(wire) // 2)
    rng.shuffle(copies)
    machine = roomy()
    items = feed(machine, [datagram for *_, datagram in copies])
    assert {(item.header.flow, item.header.content): list(map(bytes, item.parts)) for item in items} == sent
    assert len(items) == len(sent)
    assert machine.counters["duplicate"] == len(copies) - len(wire)
    assert machine.counters["packets"] == len(wire) and machine.counters["items"] == len(sent)
    assert machine.claimed_bytes == len(machine) == 0


@given(traffics())
@settings(deadline=None)
def test_loss_and_damage_leave_exactly_the_untouched_whole(traffic):
    rng, sent, wire = traffic
    touched, arrived = set(), []
    for flow, content, datagram in wire:
        fate = rng.random()
        if fate < 0.1:
            touched.add((flow, content))
        elif fate < 0.2:
            touched.add((flow, content))
            damaged = bytearray(datagram)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            arrived.append(bytes(damaged))
        elif fate < 0.3:
            touched.add((flow, content))
            arrived.append(datagram[: rng.randrange(len(datagram))])
        else:
            arrived.append(datagram)
    machine, whole = roomy(), {}
    for datagram in arrived:
        try:
            item = machine.receive(*h.parse(datagram), PATH, 0.0)
        except h.MalformedPacket:
            continue
        if item:
            whole[item.header.flow, item.header.content] = list(map(bytes, item.parts))
    assert whole == {key: slices for key, slices in sent.items() if key not in touched}
    left = {(p.header.flow, p.header.content) for p in machine.remaining()}
    assert left <= touched
    expired = machine.expire(5.0)
    assert {(p.header.flow, p.header.content) for p in expired} == left
    assert all(p.reason == "age" for p in expired)
    assert machine.claimed_bytes == len(machine) == 0


def test_facts_of_a_completed_item():
    machine = roomy()
    datagrams = plain_datagrams(bytes(3000), flow=9, content=4)
    feed(machine, datagrams[:1], now=1.0)
    (item,) = feed(machine, datagrams[1:], now=2.5)
    assert item.key == (PATH, h.KIND_PLAIN, 9, 4) and item.complete
    assert (item.t_first_s, item.t_last_s, item.packets, item.body) == (1.0, 2.5, 3, bytes(3000))


def test_same_ids_from_other_senders_or_of_another_kind_are_other_items():
    machine = roomy()
    a, b = plain_datagrams(b"a" * 2000), plain_datagrams(b"b" * 2000)
    assert feed(machine, a[:1]) == feed(machine, b[:1], prefix=("10.9.9.9", 1, "10.0.0.2")) == []
    (item,) = feed(machine, a[1:])
    assert item.body == b"a" * 2000
    assert [p.prefix[0] for p in machine.remaining()] == ["10.9.9.9"]
    prompt = prompt_datagrams([b"p"], flow=2, content=0)
    assert [i.header.kind for i in feed(machine, prompt)] == [h.KIND_PROMPT]


def test_late_duplicate_begins_no_new_item_until_it_is_forgotten():
    machine = roomy()
    datagrams = plain_datagrams(bytes(2000))
    assert len(feed(machine, datagrams, now=0.0)) == 1
    assert feed(machine, datagrams, now=4.9) == []
    assert (machine.counters["duplicate"], len(machine)) == (2, 0)
    assert len(feed(machine, datagrams, now=5.0)) == 1


def test_datagram_of_a_given_up_item_counts_as_late():
    machine = roomy()
    datagrams = plain_datagrams(bytes(5000))
    feed(machine, datagrams[:1], now=0.0)
    assert machine.expire(4.9) == [] and machine.next_expiry_s() == 5.0
    (given_up,) = machine.expire(5.0)
    assert (given_up.packets, given_up.packets_missing, given_up.claimed_bytes) == (1, 3, 5000)
    assert feed(machine, datagrams[1:], now=5.1) == [] and len(machine) == 0
    assert machine.counters == {"packets": 1, "bytes": 1408, "age": 1, "age_packets": 1, "late": 3}
    assert machine.next_expiry_s() is None


@pytest.mark.parametrize("field", ["slices", "codec", "weights", "made", "total"])
def test_inconsistent_datagram_is_counted_and_dropped(field):
    machine = roomy()
    first, second = prompt_datagrams([bytes(2000), b""])[:2]
    feed(machine, [first])
    header, payload = h.parse(second)
    lie = header._replace(**{field: getattr(header, field) + 1})
    assert machine.receive(lie, payload, PATH, 0.0) is None
    assert machine.counters["inconsistent"] == 1
    assert [p.packets for p in machine.remaining()] == [1]


def test_claimed_totals_allocate_nothing_beyond_the_bound():
    machine = roomy(max_bytes=1 << 20)
    tracemalloc.start()
    for content in range(300):
        for total in (h.MAX_TOTAL_BYTES, 1 << 19):
            machine.receive(h.Header(1, length=1408, total=total, flow=7, content=content), bytes(1408), PATH, 0.0)
            assert machine.claimed_bytes <= 1 << 20
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20
    assert machine.counters["too_large"] == 300 and len(machine) == 2


def test_one_item_cannot_claim_more_than_its_share_slice_by_slice():
    machine = roomy(max_bytes=10_000, max_item_bytes=4000)
    headers = [h.Header(1, length=1408, total=3000, slice=i, slices=255) for i in range(255)]
    for header in headers:
        machine.receive(header, bytes(1408), PATH, 0.0)
    assert machine.claimed_bytes == 3000 and machine.counters["too_large"] == 254


def test_full_machine_gives_up_the_oldest_first_and_says_so():
    machine = roomy(max_bytes=10_000)
    datagrams = [plain_datagrams(bytes([content]) * 3000, content=content) for content in range(4)]
    for content in range(4):
        feed(machine, datagrams[content][:2], now=float(content))
    (evicted,) = machine.expire(3.0)
    assert (evicted.reason, evicted.header.content, evicted.packets) == ("evicted", 0, 2)
    assert machine.counters["evicted"] == 1 and machine.counters["evicted_packets"] == 2
    assert [item.header.content for d in datagrams for item in feed(machine, d[2:], now=3.0)] == [1, 2, 3]
    assert machine.counters["late"] == 1


def test_number_of_items_is_bounded_too():
    machine = roomy(max_items=10)
    for content in range(100):
        feed(machine, plain_datagrams(bytes(2000), content=content)[:1])
    assert len(machine) == 10 and machine.counters["evicted"] == 90
    assert sorted(p.header.content for p in machine.remaining()) == list(range(90, 100))


def test_memory_of_finished_items_is_bounded(monkeypatch):
    monkeypatch.setattr(reassembly, "MAX_REMEMBERED", 50)
    machine = Reassembler(1 << 20, 10, 1e9)
    first = plain_datagrams(b"x", content=0)
    feed(machine, first)
    for content in range(1, 51):
        feed(machine, plain_datagrams(b"x", content=content))
    assert len(feed(machine, first)) == 1, "the oldest of 51 is forgotten"
    assert feed(machine, plain_datagrams(b"x", content=50)) == []


@given(st.integers(0, 2**32), st.integers(200, 20_000), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_bounds_hold_under_any_mixture(seed, max_bytes, max_items):
    rng = random.Random(seed)
    machine = Reassembler(max_bytes, max_items, 1.0)
    now = 0.0
    for _ in range(300):
        now += rng.random() / 50
        total = rng.choice([0, 10, 1408, 3000, 9000])
        piece = rng.randrange(h.packets_of(total))
        length = min(h.PAYLOAD_BYTES, total - piece * h.PAYLOAD_BYTES)
        slices = rng.randint(1, 3)
        header = h.Header(
            1, slice=rng.randrange(slices), slices=slices, content=rng.randrange(30), length=length,
            offset=piece * h.PAYLOAD_BYTES, total=total,
        )
        machine.receive(header, bytes(length), PATH, now)
        assert machine.claimed_bytes <= max_bytes and len(machine) <= max_items
        assert machine.claimed_bytes == sum(p.claimed_bytes for p in machine.remaining())
        if rng.random() < 0.1:
            machine.expire(now)
            assert all(now - p.t_first_s < 1.0 for p in machine.remaining())
    assert json.loads(json.dumps(machine.counters)) == machine.counters


def test_whole_slices_of_an_item_under_way_can_be_asked_for():
    machine = roomy()
    slices = [b"base", b"r" * 2000, b"rest"]
    datagrams = prompt_datagrams(slices)
    feed(machine, [datagrams[0], datagrams[1], datagrams[3]])
    key = (PATH, h.KIND_PROMPT, 1, 0)
    assert key in machine and machine.complete_parts(key) == (b"base", None, b"rest")
    (left,) = machine.remaining()
    assert (left.reason, left.parts, left.packets_missing) == ("remaining", (b"base", None, b"rest"), 1)
    assert len(feed(machine, datagrams[2:3])) == 1
    assert key not in machine and machine.complete_parts(key) == ()
