"""Hostile prompts for a generative codec, in a process of its own, which native code may end: see test_fuzz.

    python fuzz_codecs.py WEIGHTS one|any COUNT

Prints as JSON how the prompts of each kind ended, and the most work that one of them made.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from gnl.node_apps.codecs.interface import Prompt, size_allowed
from gnl.node_apps.codecs.quantiser import PLANES
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import BitstreamError
from small_codec import TINY, load_small, scene

SIZES = [(16, 16), (64, 64), (40, 100), (130, 70)]
DECODED_EVERY = 20  # the others stop at the latents, behind which nothing depends on the bytes any more
ROOM_BYTES = 1 << 30


class Fuzz:
    """Prompts of a codec, and what can be made of them."""

    def __init__(self, codec, scalable: bool) -> None:
        self.rng = np.random.default_rng(17)
        rates = (0.2, 0.6, 1.5) if scalable else (None,)
        self.good = [
            self._encoded(codec, scene(*size, seed), bpp) for size in SIZES for seed in range(2) for bpp in rates
        ]
        self.foreign = [load_codec(name).encode(scene(64, 64)).slices[0] for name in ("jpeg:60", "webp:60", "stub:300")]
        self.truncated = self._truncations()

    @staticmethod
    def _encoded(codec, image, bpp):
        try:
            return codec.encode(image, bpp).slices
        except Exception:
            return codec.encode(image).slices

    def _truncations(self):
        """Every prompt cut in each of its slices, at every length."""
        for slices in self.good:
            for number, piece in enumerate(slices):
                for length in range(len(piece)):
                    yield (*slices[:number], piece[:length])

    def some(self):
        return self.good[self.rng.integers(len(self.good))]

    def cut(self):
        return next(self.truncated, None) or self.cut_anywhere()

    def cut_anywhere(self):
        slices = list(self.some())
        number = self.rng.integers(len(slices))
        slices[number] = slices[number][: self.rng.integers(0, len(slices[number]) + 1)]
        return tuple(slices)

    def flipped(self, keep=0):
        slices = [bytearray(piece) for piece in self.some()]
        for _ in range(self.rng.integers(1, 9)):
            piece = slices[number := self.rng.integers(len(slices))]
            first = keep if number == 0 else 0
            if len(piece) > first:
                piece[self.rng.integers(first, len(piece))] ^= 1 << int(self.rng.integers(8))
        return tuple(map(bytes, slices))

    def flipped_behind_the_size(self):
        return self.flipped(keep=4)

    def overwritten(self):
        slices = list(self.some())
        number = self.rng.integers(len(slices))
        piece = bytearray(slices[number])
        start = self.rng.integers(4, max(5, len(piece)))
        fill = [b"\xff", b"\0", b"\xff\xff\xff\xff\x0f\0\0\0", self.rng.bytes(16)][self.rng.integers(4)]
        piece[start:] = (fill * len(piece))[: len(piece) - start]
        slices[number] = bytes(piece)
        return tuple(slices)

    def random(self):
        head = struct.pack("!HH", *SIZES[self.rng.integers(len(SIZES))])
        return (head + self.rng.bytes(int(self.rng.integers(0, 300))),)

    def random_segments(self):
        """Well-formed fields of what segments hold, with senseless numbers in them."""
        head, body = struct.pack("!HH", *SIZES[self.rng.integers(len(SIZES))]), b""
        for number in (0, *self.rng.integers(0, 24, self.rng.integers(0, 20))):
            words = int(self.rng.integers(0, 12))
            count = int(self.rng.choice([0, 1, 2, 50, 1000, 1 << 20, (1 << 35) - 1]))
            body += bytes([number, words]) + varint(count) + self.rng.bytes(4 * words)
        return (head + body,)

    def enlarged(self):
        """A prompt that announces another size, small or huge, some with enough bytes for it."""
        height, width = self.rng.choice([0, 1, 60, 700, 2000, 8192, 65535], 2)
        slices = self.some()
        first = struct.pack("!HH", height, width) + slices[0][4:]
        return (first + self.rng.bytes(int(self.rng.choice([0, 300]))), *slices[1:])

    def overstated(self):
        """Lengths and counts near the head of slices replaced by large numbers."""
        slices = [bytearray(piece) for piece in self.some()]
        piece = slices[self.rng.integers(len(slices))]
        start = int(self.rng.integers(0, min(12, len(piece)) + 1))
        number = int(self.rng.choice([127, 1 << 14, 1 << 31, (1 << 35) - 1]))
        piece[start : start + self.rng.integers(0, 3)] = varint(number)
        return tuple(map(bytes, slices))

    def spliced(self):
        """Slices of several pictures behind one first slice."""
        first, rest = self.some()[0], [piece for _ in range(3) for piece in self.some()[1:]]
        self.rng.shuffle(rest)
        return (first, *rest[: self.rng.integers(0, 40)], *([b""] * self.rng.integers(0, 3)))

    def joined(self):
        """Parts of two prompts in one string."""
        one, other = b"".join(self.some()), b"".join(self.some())
        return (one[: self.rng.integers(0, len(one) + 1)] + other[self.rng.integers(0, len(other) + 1) :],)

    def of_another_codec(self):
        return (self.foreign[self.rng.integers(len(self.foreign))][self.rng.integers(0, 8) :],)

    def empty(self):
        return ((), (b"",), (b"",) * 3, (self.some()[0], b"", b""), (b"", *self.some()))[self.rng.integers(5)]

    KINDS = (
        (6, cut),
        (4, flipped_behind_the_size),
        (2, flipped),
        (3, overwritten),
        (2, random),
        (3, random_segments),
        (1, enlarged),
        (2, overstated),
        (3, spliced),
        (2, joined),
        (1, of_another_codec),
        (1, empty),
    )


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


class Work:
    """Counts what a codec has its entropy decoder do."""

    def __init__(self, codec) -> None:
        self.symbols = self.calls = 0
        self._decode = codec._coder.decode
        codec._coder.decode = self

    def __call__(self, string, indexes):
        self.symbols += len(indexes)
        self.calls += 1
        return self._decode(string, indexes)


def bounds(slices) -> int:
    """The most symbols that a decoder of these slices may be made to decode: z twice, and every plane of every latent
    twice, of a picture that its size's bytes pay for; or nothing."""
    if not slices or len(slices[0]) < 4:
        return 0
    height, width = struct.unpack_from("!HH", slices[0])
    if not size_allowed(height, width) or len(slices[0]) * 8 * 256 + 2048 < height * width:
        return 0
    blocks = -(-height // 64) * -(-width // 64)
    return 2 * TINY.z_channels * blocks + 2 * PLANES * 16 * TINY.y_channels * blocks


def main(path: Path, scalable: bool, count: int) -> None:
    torch.set_num_threads(1)
    codec = load_small(path, scalable)
    fuzz, work = Fuzz(codec, scalable), Work(codec)
    for slices in fuzz.good:
        codec.decode(Prompt(codec.facts.codec_id, codec.facts.weights_id, slices))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM_BYTES, mapped + ROOM_BYTES))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kinds = [kind for weight, kind in Fuzz.KINDS for _ in range(weight)]
    ended: dict[str, Counter] = {kind.__name__: Counter() for kind in kinds}
    most = 0.0
    for number in range(count):
        kind = kinds[number % len(kinds)]
        slices = kind(fuzz)
        prompt = Prompt(codec.facts.codec_id, codec.facts.weights_id, slices)
        work.symbols = work.calls = 0
        try:
            latents = codec.latents([prompt])
            assert np.isfinite(latents).all() and np.abs(latents).max() < 1000, slices
            if number // len(kinds) % DECODED_EVERY == 0:
                work.symbols = work.calls = 0
                assert codec.decode(prompt).shape == (*struct.unpack_from("!HH", slices[0]), 3)
            ended[kind.__name__]["decoded"] += 1
        except BitstreamError:
            ended[kind.__name__]["refused"] += 1
        assert work.symbols <= bounds(slices) and work.calls <= 256, (kind.__name__, work.symbols, bounds(slices))
        most = max(most, work.symbols / max(1, bounds(slices)))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    print(json.dumps({"ended": ended, "most": most, "grown_mib": grown_kib >> 10}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "any", int(sys.argv[3]))
