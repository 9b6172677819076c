"""Content bodies: the bytes of one image as a generative node, or a plain source, sends it to the sink.

    0        1        2        4        6        8
    +--------+--------+--------+--------+--------+---------------------
    | format |    0   | width  | height |    0   | data
    +--------+--------+--------+--------+--------+---------------------
    network order; format 1 raw (RGB rows), 2 PNG, 3 JPEG
"""

from __future__ import annotations

import io
import struct

import numpy as np
from gnl.node_apps.codecs.interface import require_image, require_size
from gnl.topologies.errors import BitstreamError, CodecError
from PIL import Image

PREFIX = struct.Struct("!BBHHH")
RAW, PNG, JPEG = 1, 2, 3
_PILLOW_NAME = {PNG: "PNG", JPEG: "JPEG"}
_FORMATS = "raw, png, or jpeg:Q with Q from 1 to 100"


def parse_format(fmt: str) -> tuple[int, int]:
    """Format number and JPEG quality (0 for the others) of `raw`, `png` or `jpeg:Q`; CodecError otherwise."""
    if fmt == "raw":
        return RAW, 0
    if fmt == "png":
        return PNG, 0
    name, _, quality = str(fmt).partition(":")
    if name == "jpeg" and quality.isascii() and quality.isdigit() and 1 <= int(quality) <= 100:
        return JPEG, int(quality)
    raise CodecError(f"content format {fmt!r}: accepted are {_FORMATS}")


def pack(image: np.ndarray, fmt: str) -> bytes:
    """The content body of `image`, (H, W, 3) uint8, in format `fmt`."""
    number, quality = parse_format(fmt)
    height, width = require_image(image).shape[:2]
    prefix = PREFIX.pack(number, 0, width, height, 0)
    if number == RAW:
        return prefix + image.tobytes()
    out = io.BytesIO()
    if number == PNG:
        Image.fromarray(image).save(out, "PNG", compress_level=1)
    else:
        Image.fromarray(image).save(out, "JPEG", quality=quality, optimize=True)
    return prefix + out.getvalue()


def unpack(body: bytes) -> np.ndarray:
    """The image, (H, W, 3) uint8, of a content body; BitstreamError if the body is none."""
    if len(body) < PREFIX.size:
        raise BitstreamError(f"content body of {len(body)} bytes: at least {PREFIX.size} are needed")
    number, reserved, width, height, reserved_too = PREFIX.unpack_from(body)
    if reserved or reserved_too:
        raise BitstreamError(f"content body with reserved fields {reserved} and {reserved_too}: both must be 0")
    require_size(height, width)
    data = memoryview(body)[PREFIX.size :]
    if number == RAW:
        if len(data) != height * width * 3:
            raise BitstreamError(f"raw content of {len(data)} bytes: {width}x{height} needs {height * width * 3}")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()
    if number in _PILLOW_NAME:
        return read_pillow(bytes(data), _PILLOW_NAME[number], (height, width))
    raise BitstreamError(f"content format number {number}: known are {RAW} raw, {PNG} png, {JPEG} jpeg")


def read_pillow(data: bytes, pillow_name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode one complete image with Pillow, restricted to the format `pillow_name`, as (H, W, 3) uint8.

    The size is read and checked (against `size`, (height, width), where given) before pixels are allocated.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[pillow_name]) as opened:
            width, height = opened.size
            require_size(height, width)
            if size is not None and (height, width) != size:
                raise BitstreamError(f"{pillow_name} of {width}x{height} announced as {size[1]}x{size[0]}")
            return np.asarray(opened.convert("RGB"), np.uint8).copy()
    except BitstreamError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds on damaged data
        raise BitstreamError(f"{len(data)} bytes do not decode as {pillow_name}: {error}") from error
