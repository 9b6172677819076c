"""The scalable codec: a prompt of any length, made of slices that are independent of each other.

The symbols of all latents' planes stand in one order, most useful first (`quantiser.class_order`), which both ends
derive from z alone. The order is cut into segments, each coded on its own; a slice is one or more segments.

    slice 0    height u16 | width u16 | segment 0 | segment ...
    slice k    segment | segment ...
    segment    number u8 | words varint | count varint | string of `words` 32-bit words

The string of segment 0 begins with z. A segment holds `count` - 1 symbols of y from where its number says; `count` 0
stands for as many as are foreseen, up to where the next one begins (`_cuts`). Varints are little-endian groups of 7
bits (LEB128).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional

import numpy as np
from gnl.node_apps.codecs import quantiser
from gnl.node_apps.codecs.entropy import SYMBOL_LIMIT
from gnl.node_apps.codecs.generative import (
    SIZE_PREFIX,
    Analysed,
    GenerativeCodec,
    Received,
    filled,
    least_bytes,
    read_size,
    z_shape,
    z_tables,
)
from gnl.node_apps.codecs.interface import MAX_SLICES, BudgetError, Prompt, at_least_bpp
from gnl.topologies.errors import BitstreamError

DEFAULT_BPP = 0.3
_FIRST_BPP, _RATIO = 0.01, 1.2  # y in segment 0, and how much each further segment adds to what came before
_LEAST_SEGMENT_BITS = 64 * 8
_COST_UNIT = 256  # class costs are whole numbers of this fraction of a bit
_WORTHWHILE_BYTES = 40  # under this a segment is mostly overhead: the one before it is made longer instead
_FITTING_TRIES = 16
_NUMBERS = 256  # of segments


@dataclass
class _Segment:
    """A segment as sent: its number, how many symbols of y it holds (None: as many as foreseen), and its string."""

    number: int
    count: Optional[int]
    string: bytes

    def pack(self) -> bytes:
        count = 0 if self.count is None else self.count + 1
        return bytes([self.number]) + _varint(len(self.string) // 4) + _varint(count) + self.string


class ScalableCodec(GenerativeCodec):
    """Any rate: `encode` fills the bits it is given, `decode` makes the best of the slices that arrive."""

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        """Code an image in at most `bpp` bits per pixel, all slices together and as close as possible.

        BudgetError names the least that this image needs where that is more. Without `bpp` it is coded in DEFAULT_BPP,
        or that least.
        """
        self.require_point(bpp)
        found = self._analyse(image)
        height, width = image.shape[:2]
        budget = int((DEFAULT_BPP if bpp is None else bpp) * height * width / 8 + 1e-6)
        packed = [one.pack() for one in self._fill(found, (height, width), budget - SIZE_PREFIX.size)]
        packed[0] = SIZE_PREFIX.pack(height, width) + packed[0]
        if bpp is not None and len(packed[0]) > budget:
            self._refuse((height, width), budget, packed[0])
        return Prompt(self.facts.codec_id, self.facts.weights_id, tuple(packed))

    def for_datagrams(self, prompt: Prompt, payload_bytes: int) -> Prompt:
        """The same prompt with neighbouring slices joined as long as they fit one datagram together."""
        joined = [b""]
        for piece in prompt.slices:
            if joined[-1] and len(joined[-1]) + len(piece) > payload_bytes:
                joined.append(b"")
            joined[-1] += piece
        return Prompt(prompt.codec_id, prompt.weights_id, tuple(joined))

    def _fill(self, found: Analysed, size: tuple[int, int], budget: int) -> list[_Segment]:
        """Segments of at most `budget` bytes in all, as many as fit, the last one cut to fit; at least one of z."""
        writer = _Writer(self, found, size)
        segments, left = [], budget
        for number in range(len(writer.order.cuts) - 1):
            segment = writer.whole(number)
            if len(segment.pack()) > left:
                break
            segments.append(segment)
            left -= len(segment.pack())
        else:
            return segments
        if segments and left < _WORTHWHILE_BYTES:
            left += len(segments.pop().pack())
        last = writer.fitting(len(segments), left)
        return segments + [last] if last.count or not segments else segments

    def _refuse(self, size: tuple[int, int], budget: int, first: bytes) -> None:
        pixels, least = size[0] * size[1], len(first)
        raise BudgetError(
            f"{budget * 8 / pixels:.4g} bpp is {budget} bytes for this image of {size[1]}x{size[0]}: "
            f"{self.facts.name} needs at least {least} bytes for it ({at_least_bpp(least, pixels)} bpp)",
            Prompt(self.facts.codec_id, self.facts.weights_id, (first,)),
        )

    def _read(self, slices: tuple[bytes, ...]) -> Received:
        height, width = read_size(slices[0])
        shape = z_shape(height, width, self._shape.z_channels)
        segments: dict[int, _Segment] = {}
        pieces = (slices[0][SIZE_PREFIX.size :], *slices[1:])
        for count, segment in enumerate(segment for piece in pieces for segment in _segments(piece)):
            if count == _NUMBERS:  # a number is a byte: more of them repeat one, and can be endless
                raise BitstreamError(f"{self.facts.name} prompt of more than {_NUMBERS} segments")
            segments.setdefault(segment.number, segment)
        if 0 not in segments:
            raise BitstreamError(f"first slice of a {self.facts.name} prompt without segment 0")
        z = self._coder.decode(segments[0].string, z_tables(shape)).reshape(shape)
        return Received(height, width, z, segments)

    def _symbols(self, received: Received, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = SymbolOrder(index, self._order, self._cost, received.height * received.width)
        latents = _Latents(index)
        for number, segment in sorted(received.rest.items()):
            if number >= len(order.cuts) - 1:
                raise BitstreamError(f"segment {number} of an image that has {len(order.cuts) - 1}")
            start, stop, furthest = order.bounds(number)
            if segment.count is not None:
                stop = start + segment.count
            if stop > furthest:
                raise BitstreamError(f"segment {number} of {segment.count} symbols: at most {furthest - start}")
            runs = list(order.runs(start, stop))
            before = z_tables(received.z.shape) if number == 0 else np.empty(0, np.int32)
            tables = np.concatenate((before, *(run.tables() for run in runs)))
            symbols = self._coder.decode(segment.string, tables)[len(before) :]
            for run in runs:
                latents.take(run, symbols[: len(run.places)])
                symbols = symbols[len(run.places) :]
        return latents.symbols()


@dataclass
class Run:
    """Neighbours in the order of symbols: latents of one level, at flat positions `places`, in one plane."""

    level: int
    plane: int
    places: np.ndarray

    def tables(self) -> np.ndarray:
        """The frequency table of each symbol."""
        finer = min(self.level + quantiser.LEVELS_PER_PLANE * self.plane, quantiser.LEVELS - 1)
        return np.full(len(self.places), quantiser.LEVELS + finer if self.plane else self.level, np.int32)


class SymbolOrder:
    """The order of all symbols of an image, derived from its scale indexes in whole numbers: the same at both ends."""

    def __init__(self, index: np.ndarray, classes: np.ndarray, cost: np.ndarray, pixels: int) -> None:
        flat = index.ravel().astype(np.uint8)
        self._places = np.argsort(flat, kind="stable")
        count = np.bincount(flat, minlength=quantiser.LEVELS).astype(np.int64)
        self._level_starts = np.concatenate(([0], count.cumsum()))
        self._classes = classes
        self._ends = count[classes[:, 0]].cumsum()
        self._cost = cost.astype(np.int64)
        self.cuts = self._cuts(count[classes[:, 0]], pixels)

    def _cuts(self, count: np.ndarray, pixels: int) -> list[int]:
        """Where segments begin and end, (segments + 1,): at costs growing by _RATIO, and by _LEAST_SEGMENT_BITS."""
        spent = (count * self._cost).cumsum()
        cuts, bits = [0], _FIRST_BPP * pixels
        while len(cuts) < MAX_SLICES and cuts[-1] < self._ends[-1]:
            units = int(bits) * _COST_UNIT
            number = int(np.searchsorted(spent, units, side="right"))
            if number == len(spent):
                break
            before = int(spent[number - 1]) if number else 0
            first = int(self._ends[number - 1]) if number else 0
            cut = first + (units - before) // int(self._cost[number])
            if cut > cuts[-1]:
                cuts.append(int(cut))
            bits = max(bits * _RATIO, bits + _LEAST_SEGMENT_BITS)
        return cuts + [int(self._ends[-1])] if cuts[-1] < self._ends[-1] else cuts

    def bounds(self, number: int) -> tuple[int, int, int]:
        """Where segment `number` begins, where it is foreseen to end, and how far it may be extended."""
        return self.cuts[number], self.cuts[number + 1], self.cuts[min(number + 2, len(self.cuts) - 1)]

    def runs(self, start: int, stop: int) -> Iterator[Run]:
        """The symbols from `start` up to `stop`."""
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            level, plane = self._classes[number]
            offset = self._level_starts[level] + start - (self._ends[number - 1] if number else 0)
            taken = min(stop, int(self._ends[number])) - start
            if taken:
                yield Run(int(level), int(plane), self._places[offset : offset + taken])
            start += taken
            number += 1


class _Latents:
    """Residuals put together from planes as they arrive, each latent's without a gap from plane 0 on."""

    def __init__(self, index: np.ndarray) -> None:
        self._shape = index.shape
        self._unsent = (index == 0).ravel()  # plane 0 of these is known to be 0
        self._have = self._unsent.astype(np.int8)
        self._symbol = np.zeros(index.size, np.int32)

    def take(self, run: Run, symbols: np.ndarray) -> None:
        """Add a run's symbols to the latents that have all planes before it."""
        ready = self._have[run.places] == run.plane
        places = run.places[ready]
        self._symbol[places] = 3 * self._symbol[places] + symbols[ready]
        self._have[places] += 1

    def symbols(self) -> tuple[np.ndarray, np.ndarray]:
        """The symbols in steps of each latent's last plane, and the count of planes received."""
        planes = np.where(self._unsent & (self._have == 1), 0, self._have)
        return self._symbol.reshape(self._shape), planes.reshape(self._shape)


class _Writer:
    """Codes segments of one image."""

    def __init__(self, codec: ScalableCodec, found: Analysed, size: tuple[int, int]) -> None:
        self._coder = codec._coder
        self._z = found.z
        self._residual = found.residual.ravel()
        self._least = least_bytes(size[0] * size[1])
        self.order = SymbolOrder(found.index, codec._order, codec._cost, size[0] * size[1])

    def whole(self, number: int) -> _Segment:
        """A segment of as many symbols as are foreseen."""
        start, stop, _ = self.order.bounds(number)
        return self._segment(number, start, stop, whole=True)

    def fitting(self, number: int, most_bytes: int) -> _Segment:
        """The longest segment of at most `most_bytes`; one without any symbol of y if none is."""
        start, _, furthest = self.order.bounds(number)
        symbols, tables = self._range(start, furthest)
        bits = np.concatenate(([0.0], self._coder.bits(symbols, tables).cumsum()))
        low, high = 0, furthest - start
        best, guess = self._segment(number, start, start), 0
        spare = most_bytes - len(best.pack())
        for tried in range(_FITTING_TRIES if spare >= 0 else 0):
            guess = int(np.searchsorted(bits, bits[guess] + 8 * spare)) - 1
            if not low < guess <= high or tried > _FITTING_TRIES // 2:
                guess = (low + high + 1) // 2
            if low >= high:
                break
            segment = self._segment(number, start, start + guess)
            spare = most_bytes - len(segment.pack())
            if spare < 0:
                high = guess - 1
            else:
                low, best = guess, segment
                if spare < 4:
                    break
        return best

    def _segment(self, number: int, start: int, stop: int, whole: bool = False) -> _Segment:
        symbols, tables = self._range(start, stop)
        if number == 0:
            symbols = np.concatenate((self._z.ravel(), symbols))
            tables = np.concatenate((z_tables(self._z.shape), tables))
        string = self._coder.encode(symbols, tables)
        if number == 0:
            string = filled(string, self._least - SIZE_PREFIX.size - len(string))
        return _Segment(number, None if whole else stop - start, string)

    def _range(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Symbols of y from `start` up to `stop` of the order, int64, and their frequency tables, int32."""
        runs = list(self.order.runs(start, stop))
        symbols = [np.empty(0, np.int64), *(self._symbols(run) for run in runs)]
        return np.concatenate(symbols), np.concatenate((np.empty(0, np.int32), *(run.tables() for run in runs)))

    def _symbols(self, run: Run) -> np.ndarray:
        """The symbols of a run: the last of the digits that lead to each residual."""
        rest = self._residual[run.places].astype(np.float64)
        symbol = np.zeros(len(rest))
        if run.level > 0:
            symbol = np.clip(np.rint(rest), -SYMBOL_LIMIT, SYMBOL_LIMIT)
            rest -= symbol
        for plane in range(1, run.plane + 1):
            symbol = np.clip(np.rint(rest * 3.0**plane), -1, 1)
            rest -= symbol * 3.0**-plane
        return symbol.astype(np.int64)


def _segments(piece: bytes) -> Iterator[_Segment]:
    """The segments of a slice; BitstreamError if one is cut short."""
    at = 0
    while at < len(piece):
        number = piece[at]
        words, at = _read_varint(piece, at + 1)
        count, at = _read_varint(piece, at)
        if len(piece) - at < 4 * words:
            raise BitstreamError(f"segment {number} of {4 * words} bytes, {len(piece) - at} are there")
        yield _Segment(number, count - 1 if count else None, piece[at : at + 4 * words])
        at += 4 * words


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `data[at]`, below 2^35, and the place behind it."""
    value = 0
    for position, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, at + position + 1
    raise BitstreamError("segment whose length is cut short, or longer than five bytes")
