"""Image files for tests: written by Pillow, or by hand where it does not write the kind."""

import struct
import zlib

import numpy as np
from PIL import Image


def gradient(height=40, width=60):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, np.full_like(x, 80)], axis=-1).astype(np.uint8)


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def png(pixels, colour_type, chunks=(), size=None):
    """A PNG of (H, W[, C]) uint8 or uint16 samples as they are; `size` claims another width and height."""
    width, height = size or (pixels.shape[1], pixels.shape[0])
    depth = 8 * pixels.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = b""
    for kind, data in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels, photometric, sample_format=1, order="<", bits=None, data=None, extra=None):
    """An uncompressed TIFF of (H, W[, C]) samples; `data` are its bytes where the samples are packed in `bits`."""
    height, width = pixels.shape[:2]
    channels = pixels.size // (height * width)
    data = data or pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data += b"\0" * (len(data) % 2)
    tags = {
        256: [width],
        257: [height],
        258: [bits or 8 * pixels.dtype.itemsize] * channels,
        259: [1],
        262: [photometric],
        273: [8],
        277: [channels],
        278: [height],
        279: [len(data)],
        339: [sample_format] * channels,
    }
    tags |= {} if extra is None else {338: [extra]}
    behind = 8 + len(data) + 2 + 12 * len(tags) + 4
    entries = tail = b""
    for tag in sorted(tags):
        code = "I" if tag in (273, 279) else "H"
        value = struct.pack(f"{order}{len(tags[tag])}{code}", *tags[tag])
        if len(value) > 4:
            tail, value = tail + value, struct.pack(order + "I", behind + len(tail))
        entries += struct.pack(order + "HHI", tag, 4 if code == "I" else 3, len(tags[tag])) + value.ljust(4, b"\0")
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return start + data + struct.pack(order + "H", len(tags)) + entries + bytes(4) + tail
