"""Reassembly of prompts and contents from datagrams under bounds on bytes, items and age, as a pure state machine.

    receive(header, payload, prefix, now) -> Item when it completes, else None
    expire(now)                           -> Partials given up since the last call (too old, or evicted for room)

An item is one prompt or content: its slices are told by the header. What an item claims to be (the `total` of each
slice seen) counts against the bound when it is claimed, and its buffers are taken then; an item that claims more than
`max_item_bytes` is never begun. Where there is no room the oldest incomplete items give way.
Every datagram that does not count towards an item is counted by reason; none raises.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from .counters import Counters
from .header import PAYLOAD_BYTES, Header, packets_of

Key = tuple[Hashable, int, int, int]
MAX_REMEMBERED = 20_000


@dataclass(slots=True)
class Slice:
    """One slice under way: its bytes, and which of its pieces are there."""

    data: bytearray
    arrived: bytearray
    missing: int

    @classmethod
    def claim(cls, total: int) -> Slice:
        packets = packets_of(total)
        return cls(bytearray(total), bytearray(packets), packets)


@dataclass(slots=True)
class Item:
    """A prompt or content, complete once every slice is. Times are the caller's `now`, in seconds.

    `header` is that of the first datagram that came; `prefix` is what the caller passed, usually
    (source address, source port, destination address). `slices` holds None where nothing of a slice came.
    """

    prefix: Hashable
    header: Header
    t_first_s: float
    t_last_s: float = 0.0
    packets: int = 0
    claimed_bytes: int = 0
    pending: int = 0
    slices: list[Slice | None] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.prefix, self.header.kind, self.header.flow, self.header.content

    @property
    def parts(self) -> tuple[bytearray | None, ...]:
        """The bytes of each slice, None where a slice is not complete."""
        return tuple(part.data if part is not None and not part.missing else None for part in self.slices)

    @property
    def body(self) -> bytearray:
        """The bytes of a complete item of one slice (a content)."""
        return self.slices[0].data

    @property
    def complete(self) -> bool:
        return not self.pending


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known of an item that never completed; its bytes are gone, except the slices that were whole.

    `reason`: age, evicted, or remaining (still under way when asked). `claimed_bytes` counts the slices of which
    anything came; `parts` are as in `Item`, and are kept only by `remaining`.
    """

    prefix: Hashable
    header: Header
    reason: str
    t_first_s: float
    t_last_s: float
    packets: int
    packets_missing: int
    claimed_bytes: int
    parts: tuple[bytearray | None, ...] = ()


class Reassembler:
    """Items from datagrams, in any order, of any number of flows at once.

    `max_bytes` bounds the buffers of all incomplete items together, `max_items` their number, `max_age_s` the time
    from an item's first datagram. Keys of finished items are remembered for `max_age_s` after, at most MAX_REMEMBERED,
    so that a late duplicate begins no new item; a sender that uses an id again must wait for so long.
    `counters`: packets, bytes, items, duplicate, late, inconsistent, too_large, and per given-up item age, evicted
    (with age_packets, evicted_packets).
    """

    def __init__(
        self, max_bytes: int, max_items: int, max_age_s: float, max_item_bytes: int | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.max_bytes, self.max_items, self.max_age_s = max_bytes, max_items, max_age_s
        self.max_item_bytes = min(max_bytes, max_bytes if max_item_bytes is None else max_item_bytes)
        self.counters = Counters() if counters is None else counters
        self.claimed_bytes = 0
        self._items: OrderedDict[Key, Item] = OrderedDict()  # by time of the first datagram, oldest first
        self._finished: OrderedDict[Key, tuple[float, bool]] = OrderedDict()  # when, and whether complete
        self._given_up: deque[Partial] = deque(maxlen=MAX_REMEMBERED)

    def __len__(self) -> int:
        """Number of items under way."""
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def receive(self, header: Header, payload: bytes | memoryview, prefix: Hashable, now: float) -> Item | None:
        """Take one parsed datagram; the payload is copied. Returns the item that it completes, else None."""
        key = (prefix, header.kind, header.flow, header.content)
        item = self._items.get(key)
        if item is None:
            if key in self._finished and not self._forget_if_old(key, now):
                self.counters.count("duplicate" if self._finished[key][1] else "late")
                return None
            item = self._begin(key, header, prefix, now)
            if item is None:
                return None
        part = self._slice_of(item, header, now)
        if part is None:
            return None
        piece = header.offset // PAYLOAD_BYTES
        if part.arrived[piece]:
            self.counters.count("duplicate")
            return None
        part.arrived[piece] = 1
        part.missing -= 1
        part.data[header.offset : header.offset + header.length] = payload
        item.packets += 1
        item.t_last_s = now
        counters = self.counters
        counters["packets"] += 1
        counters["bytes"] += header.length
        if part.missing:
            return None
        item.pending -= 1
        return None if item.pending else self._finish(key, item, now)

    def expire(self, now: float) -> list[Partial]:
        """Give up the items that are too old, and report these and what was evicted since the last call."""
        while self._items:
            key, item = next(iter(self._items.items()))
            if now - item.t_first_s < self.max_age_s:
                break
            self._give_up(key, "age", now)
        while self._finished and self._forget_if_old(next(iter(self._finished)), now):
            pass
        given_up = list(self._given_up)
        self._given_up.clear()
        return given_up

    def next_expiry_s(self) -> float | None:
        """When `expire` will next have something to give up; None while nothing is under way."""
        return next(iter(self._items.values())).t_first_s + self.max_age_s if self._items else None

    def complete_parts(self, key: Key) -> tuple[bytearray | None, ...]:
        """The slices of an item under way that are already whole (None for the others); () where it is unknown."""
        item = self._items.get(key)
        return () if item is None else item.parts

    def remaining(self) -> list[Partial]:
        """What is still under way, oldest first, with the slices that are whole. Nothing is given up by asking."""
        return [_partial(item, "remaining", item.parts) for item in self._items.values()]

    def _begin(self, key: Key, header: Header, prefix: Hashable, now: float) -> Item | None:
        if header.total > self.max_item_bytes:
            self.counters.count("too_large")
            return None
        while len(self._items) >= self.max_items:
            self._give_up(next(iter(self._items)), "evicted", now)
        item = Item(prefix, header, now, now, pending=header.slices, slices=[None] * header.slices)
        self._items[key] = item
        return item

    def _slice_of(self, item: Item, header: Header, now: float) -> Slice | None:
        """The slice that a datagram belongs to, claimed if it is the first of it; None where it must be dropped."""
        first = item.header
        if (header.slices, header.codec, header.weights, header.made) != (
            first.slices, first.codec, first.weights, first.made,
        ):
            self.counters.count("inconsistent")
            return None
        part = item.slices[header.slice]
        if part is None:
            if item.claimed_bytes + header.total > self.max_item_bytes:
                self.counters.count("too_large")
                return None
            self._make_room(header.total, item, now)
            part = item.slices[header.slice] = Slice.claim(header.total)
            item.claimed_bytes += header.total
            self.claimed_bytes += header.total
        elif len(part.data) != header.total:
            self.counters.count("inconsistent")
            return None
        return part

    def _make_room(self, size_bytes: int, claimant: Item, now: float) -> None:
        # The claimant alone fits (max_item_bytes <= max_bytes), so giving up all others always suffices.
        while self.claimed_bytes + size_bytes > self.max_bytes:
            self._give_up(next(k for k, item in self._items.items() if item is not claimant), "evicted", now)

    def _finish(self, key: Key, item: Item, now: float) -> Item:
        self._drop(key, now, complete=True)
        self.counters.count("items")
        return item

    def _give_up(self, key: Key, reason: str, now: float) -> None:
        item = self._drop(key, now, complete=False)
        self.counters.count(reason)
        self.counters.count(reason + "_packets", item.packets)
        self._given_up.append(_partial(item, reason))

    def _drop(self, key: Key, now: float, complete: bool) -> Item:
        item = self._items.pop(key)
        self.claimed_bytes -= item.claimed_bytes
        self._finished[key] = now, complete
        if len(self._finished) > MAX_REMEMBERED:
            self._finished.popitem(last=False)
        return item

    def _forget_if_old(self, key: Key, now: float) -> bool:
        if now - self._finished[key][0] < self.max_age_s:
            return False
        del self._finished[key]
        return True


def _partial(item: Item, reason: str, parts: tuple[bytearray | None, ...] = ()) -> Partial:
    missing = sum(part.missing for part in item.slices if part is not None)
    times_s = item.t_first_s, item.t_last_s
    return Partial(item.prefix, item.header, reason, *times_s, item.packets, missing, item.claimed_bytes, parts)
