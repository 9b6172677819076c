"""One prompt as a file: what `gnl encode` writes and `gnl decode` reads.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------+---------------+---------------+---------------+
    |     0x89      |      'G'      |      'N'      |      'L'      |   0
    +---------------+---------------+---------------+---------------+
    |    version    |     codec     |    slices     |               |   4
    +---------------+---------------+---------------+               +
    |                    weights                    |               |   8
    +-----------------------------------------------+---------------+
    |       length of each slice, a varint of 1 to 4 bytes ...      |  11
    +---------------------------------------------------------------+
    |            the slices, most important first, end to end ...   |
    +---------------------------------------------------------------+
    |                             check                             |  last 4
    +---------------------------------------------------------------+

Network byte order. `codec` and `weights` are those of a prompt packet. A varint is that of Protocol Buffers (LEB128):
seven bits a byte, the low ones first, the top bit set on all but the last; the shortest form is the only one. `check`
is the CRC-32 of IEEE 802.3 (as zlib's) over all bytes before it. Nothing may follow it.

So a file is 15 bytes longer than its prompt, and one to two more for each slice of up to 16383 bytes.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from zlib import crc32

from gnl.node_apps.codecs.interface import MAX_SLICES, Prompt
from gnl.topologies.errors import BitstreamError, CodecError

MAGIC, VERSION, SUFFIX = b"\x89GNL", 1, ".gnl"
# More than any codec makes of the largest image: a larger file is none of ours, and is not read to its end.
MAX_FILE_BYTES = 1 << 28
_HEADER = struct.Struct("!4sBBBI")
_CHECK = struct.Struct("!I")
_MAX_VARINT_BYTES = 4
_MAX_PROMPT_BYTES = MAX_FILE_BYTES - _HEADER.size - _CHECK.size - MAX_SLICES * _MAX_VARINT_BYTES
LEAST_OVERHEAD_BYTES = _HEADER.size + 1 + _CHECK.size


def pack_file(prompt: Prompt) -> bytes:
    """The bytes of a file that holds `prompt`; CodecError for too many slices or bytes, which no codec makes."""
    count = len(prompt.slices)
    if not 1 <= count <= MAX_SLICES or prompt.size_bytes > _MAX_PROMPT_BYTES:
        bounds = f"1 to {MAX_SLICES} slices of {_MAX_PROMPT_BYTES} bytes together"
        raise CodecError(f"prompt of {count} slices and {prompt.size_bytes} bytes: a file holds {bounds}")
    head = _HEADER.pack(MAGIC, VERSION, prompt.codec_id, count, prompt.weights_id)
    body = head + b"".join(_varint(len(piece)) for piece in prompt.slices) + b"".join(prompt.slices)
    return body + _CHECK.pack(crc32(body))


def parse_file(data: bytes) -> Prompt:
    """The prompt in the bytes of a file; BitstreamError says what is wrong with them."""
    if data[: len(MAGIC)] != MAGIC:
        raise BitstreamError("not a prompt file of gnl: it does not begin with the bytes 89 47 4e 4c")
    if len(data) < LEAST_OVERHEAD_BYTES:
        raise BitstreamError(f"{len(data)} bytes: cut off, a prompt file has at least {LEAST_OVERHEAD_BYTES}")
    _, version, codec_id, count, weights_id = _HEADER.unpack_from(data)
    if version != VERSION:
        raise BitstreamError(f"version {version} of the prompt file: this gnl reads {VERSION}, a newer one may read it")
    if count == 0:
        raise BitstreamError("a prompt file without slices: damaged, encode the image again")
    lengths, start = _read_lengths(data, count)
    stop = start + sum(lengths)
    if stop + _CHECK.size != len(data):
        what = "it is cut off" if stop + _CHECK.size > len(data) else "something follows the prompt"
        raise BitstreamError(f"{len(data)} bytes where the header announces {stop + _CHECK.size}: {what}")
    if _CHECK.unpack_from(data, stop)[0] != crc32(memoryview(data)[:stop]):
        raise BitstreamError("the CRC-32 does not fit the bytes: the file is damaged, copy or encode it again")
    cuts = list(accumulate(lengths, initial=start))
    return Prompt(codec_id, weights_id, tuple(data[a:b] for a, b in zip(cuts, cuts[1:])))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_lengths(data: bytes, count: int) -> tuple[list[int], int]:
    """The lengths of `count` slices, and where the first slice begins."""
    lengths, position = [], _HEADER.size
    for _ in range(count):
        value = 0
        for place in range(_MAX_VARINT_BYTES):
            if position == len(data):
                raise BitstreamError(f"{len(data)} bytes: cut off within the lengths of {count} slices")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                break
        if byte >= 0x80 or (place and byte == 0):
            raise BitstreamError("a slice length that is no shortest varint: damaged, copy or encode the file again")
        lengths.append(value)
    return lengths, position
