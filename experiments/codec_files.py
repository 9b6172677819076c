"""`gnl encode` and `gnl decode`: an image file to a prompt file, and back.

A budget, in bytes or in bits per pixel, is one of the whole file, and is met from below: by codecs of any rate within
3%, or within some bytes where a file is that small; by the others where their one rate is below it.
"""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from gnl.node_apps.codecs.image_files import read_image
from gnl.node_apps.codecs.interface import MAX_BPP, BudgetError, Codec, Prompt, at_least_bpp
from gnl.node_apps.codecs.pixel_swapping import PixelSwapping, SwapSizes
from gnl.node_apps.codecs.prompt_file import LEAST_OVERHEAD_BYTES, MAGIC, MAX_FILE_BYTES, pack_file, parse_file
from gnl.node_apps.codecs.registry import EXAMPLES, load_codec, name_for_id
from gnl.topologies.errors import BitstreamError, CodecError, UsageError, within_memory
from PIL import Image

from .whole_file import require_place, write_whole

DEFAULT_CODEC = "gnl-scalable"
_NO_MEMORY = "out of memory; free some, or use a smaller image"
# How an image is written, by the suffix of its name; JPEG alone loses anything.
FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".webp": ("WEBP", {"lossless": True}),
    ".ppm": ("PPM", {}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}


@dataclass(frozen=True)
class Encoded:
    """What `gnl encode` did. `prompt_bytes` are those of the slices, `file_bytes` those of the file, header and all."""

    image: str
    file: str
    width: int
    height: int
    codec: str
    codec_id: int
    slices: int
    prompt_bytes: int
    file_bytes: int
    prompt_bpp: float
    file_bpp: float
    load_s: float
    encode_s: float
    pixel_swapping: SwapSizes | None
    notes: tuple[str, ...]

    def as_json(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.file}: {self.width}x{self.height} by {self.codec} in {self.encode_s:.2f} s "
            f"(and {self.load_s:.2f} s to load it)",
            f"prompt {self.prompt_bytes} bytes, {self.prompt_bpp:.4f} bpp, in {_slices(self.slices)}; "
            f"file {self.file_bytes} bytes, {self.file_bpp:.4f} bpp",
        ]
        if self.pixel_swapping:
            sizes = self.pixel_swapping
            lines.append(
                f"{sizes.gamma:.2%} of the pixels swapped: prompt of {sizes.coded_bytes} bytes with them coded, "
                f"{sizes.raw_bytes} raw as in Eq. 5, {sizes.inner_bytes} without them"
            )
        return "\n".join([*lines, *(f"{self.image}: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Decoded:
    """What `gnl decode` did."""

    image: str
    width: int
    height: int
    codec: str
    load_s: float
    decode_s: float

    def __str__(self) -> str:
        return (
            f"{self.image}: {self.width}x{self.height} by {self.codec} in {self.decode_s:.2f} s "
            f"(and {self.load_s:.2f} s to load it)"
        )


def encode_file(
    image: Path,
    out: Path,
    codec_name: str | None = None,
    bpp: float | None = None,
    size_bytes: int | None = None,
    device: str = "auto",
) -> Encoded:
    """Encode the image file `image` into the prompt file `out`; `bpp` or `size_bytes` bounds that file's size.

    Raises UsageError, or a child of it, where the image, the codec or the budget cannot be meant.
    """
    if bpp is not None and size_bytes is not None:
        raise UsageError("--bpp and --bytes both bound the file: give one of them")
    require_place(out, image)
    try:
        pixels, notes = read_image(image)
    except CodecError as error:
        raise CodecError(f"{image}: {error}") from error
    except OSError as error:
        raise UsageError(f"{image}: {error.strerror}; give an image file that you can read") from error
    height, width = pixels.shape[:2]
    start_s = time.perf_counter()
    codec = load_codec(DEFAULT_CODEC if codec_name is None else codec_name, device)
    codec.require_point(bpp)
    loaded_s = time.perf_counter()
    with within_memory(f"{codec.facts.name} cannot encode {width}x{height} pixels: {_NO_MEMORY}"):
        budget = size_bytes if bpp is None else int(min(bpp * height * width / 8, MAX_FILE_BYTES))
        prompt = codec.encode(pixels) if budget is None else encode_within(codec, pixels, budget)
    done_s = time.perf_counter()
    data = pack_file(prompt)
    write_whole(out, data)
    return Encoded(
        image=str(image),
        file=str(out),
        width=width,
        height=height,
        codec=codec.facts.name,
        codec_id=prompt.codec_id,
        slices=len(prompt.slices),
        prompt_bytes=prompt.size_bytes,
        file_bytes=len(data),
        prompt_bpp=8 * prompt.size_bytes / (height * width),
        file_bpp=8 * len(data) / (height * width),
        load_s=loaded_s - start_s,
        encode_s=done_s - loaded_s,
        pixel_swapping=codec.sizes(pixels, prompt) if isinstance(codec, PixelSwapping) else None,
        notes=notes,
    )


def encode_within(codec: Codec, image: np.ndarray, budget_bytes: int) -> Prompt:
    """The prompt of `image`, (H, W, 3) uint8, whose file has at most `budget_bytes`; CodecError says what is needed.

    The header depends on how many slices the codec makes, so a codec of any rate is asked again with what is left.
    """
    pixels = image.shape[0] * image.shape[1]
    room = max(1, min(budget_bytes, MAX_FILE_BYTES) - LEAST_OVERHEAD_BYTES)
    while True:
        try:
            prompt = codec.encode(image, min(8 * room / pixels, MAX_BPP) if codec.facts.scalable else None)
        except BudgetError as error:
            raise _too_little(codec, error.least, pixels, budget_bytes) from None
        file_bytes = len(pack_file(prompt))
        if file_bytes <= budget_bytes:
            return prompt
        left = budget_bytes - (file_bytes - prompt.size_bytes)
        if not (codec.facts.scalable and prompt.size_bytes <= room and left > 0):
            raise _too_little(codec, prompt, pixels, budget_bytes)
        room = left  # less than before, or the file would have fitted


def _too_little(codec: Codec, least: Prompt, pixels: int, budget_bytes: int) -> CodecError:
    file_bytes = len(pack_file(least))
    return CodecError(
        f"{codec.facts.name} needs {file_bytes} bytes ({at_least_bpp(file_bytes, pixels)} bpp) for this image and the "
        f"file's header, {budget_bytes} are allowed: allow as many, or choose another codec (gnl codecs)"
    )


def decode_file(file: Path, out: Path, codec_name: str | None = None, device: str = "auto") -> Decoded:
    """Decode the prompt file `file` into the image file `out`, whose suffix names the format.

    Raises BitstreamError where the file does not decode or was made with other weights, and UsageError, or a child of
    it, for a suffix or codec that is none; `codec_name` is needed where the codec's id does not name what to load.
    """
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{out}: the suffix {out.suffix!r} names no image format; accepted are {', '.join(FORMATS)}")
    require_place(out, file)
    try:
        prompt = parse_file(_read(file))
        start_s = time.perf_counter()
        codec = load_codec(name_for_id(prompt.codec_id) if codec_name is None else codec_name, device)
        loaded_s = time.perf_counter()
        with within_memory(f"{codec.facts.name} cannot decode {file}: {_NO_MEMORY}"):
            pixels = codec.decode(prompt)
        done_s = time.perf_counter()
    except BitstreamError as error:
        raise BitstreamError(f"{file}: {error}") from error
    pillow_name, options = FORMATS[out.suffix.lower()]
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, pillow_name, **options)
    write_whole(out, body.getvalue())
    height, width = pixels.shape[:2]
    shown = codec_name or _without_quality(codec.facts.name)
    return Decoded(str(out), width, height, shown, loaded_s - start_s, done_s - loaded_s)


def _read(file: Path) -> bytes:
    try:
        with open(file, "rb") as stream:
            data = stream.read(len(MAGIC))
            if data == MAGIC:  # else parse_file says so, however long the rest is
                data += stream.read(MAX_FILE_BYTES)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; give a prompt file that you can read") from error
    if len(data) > MAX_FILE_BYTES:
        raise BitstreamError(f"over {MAX_FILE_BYTES} bytes: no prompt file of gnl is as large")
    return data


def _without_quality(name: str) -> str:
    """`name` without a quality that does not matter to the decoder and is not that of the encoder."""
    for example in EXAMPLES.values():
        if name.endswith(example):
            return name.rpartition(":")[0]
    return name


def _slices(count: int) -> str:
    return f"{count} slice" + ("" if count == 1 else "s")
