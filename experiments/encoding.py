"""From images to the catalogue that a source sends: loaded, encoded once, and kept in a cache for the next run.

The cache is a folder of catalogues named by what went into them (every pixel, the codec, its code and its weights, the
target, the format), so that a changed image, codec or release is never mistaken for the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import PIL
from gnl.node_apps.catalogue import INDEX, Catalogue, write_catalogue
from gnl.node_apps.codecs import registry
from gnl.node_apps.codecs.content import pack
from gnl.node_apps.codecs.registry import describe, load_codec
from gnl.node_apps.protocol.header import PAYLOAD_BYTES
from gnl.topologies.errors import CodecError, GnlError, RunError
from gnl.topologies.spec import ContentSpec

from .images import LoadedImage, load_images

MAX_CACHED = 16
REPORT_EVERY = 16
_TRAINING_MODULES = {"export.py", "photos.py", "training.py", "training_config.py"}


def cache_folder() -> Path:
    """Where catalogues are kept: $XDG_CACHE_HOME/gnl, else ~/.cache/gnl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gnl" / "catalogues"


def prepare_catalogue(
    content: ContentSpec, device: str = "auto", seed: int = 0, report: Callable[[str], None] = lambda _: None
) -> tuple[Catalogue, list[LoadedImage], list[tuple[str, str]]]:
    """Load the images of `content` and have their prompts, from the cache or by encoding them now.

    `seed` gives the order in which they are sent: a folder sorted by size or subject would not be a stationary source.
    Returns the catalogue, the images in its order, and (name, reason) of those that were skipped because they could not
    be read or encoded. Raises `CodecError` where the codec takes none of them.
    """
    facts = describe(content.codec)
    images, skipped = load_images(content.images, content.size_px, content.max_images)
    random.Random(seed).shuffle(images)
    key = {
        "images": [
            [name, hashlib.sha256(image.tobytes()).hexdigest(), list(image.shape[:2])] for name, image in images
        ],
        "codec": facts.name,
        "code": code_digests(),
        "weights_sha256": facts.weights_sha256,
        "bpp": content.bpp,
        "format": content.format,
        "source": content.images,
        "size_px": content.size_px,
    }
    folder = cache_folder() / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    if (folder / INDEX).exists():
        try:
            os.utime(folder)
            return _kept(Catalogue.open(folder), images, skipped)
        except RunError:
            shutil.rmtree(folder, ignore_errors=True)
    _make_room(folder.parent)
    return _kept(_encode(folder, key, content, device, images, skipped, report), images, skipped)


def code_digests() -> dict[str, str]:
    """What codes the images: a digest of gnl's codecs as they are, and Pillow's version.

    What only makes weights is not in it: weights have digests of their own.
    """
    found = hashlib.sha256()
    for path in sorted(Path(registry.__file__).parent.glob("*.py")):
        if path.name not in _TRAINING_MODULES:
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return {"gnl": found.hexdigest(), "pillow": PIL.__version__}


def _encode(folder, key, content, device, images, skipped, report) -> Catalogue:
    codec = load_codec(content.codec, device=device)

    def encoded():
        for number, (name, image) in enumerate(images, 1):
            if number % REPORT_EVERY == 0:
                report(f"encoded {number} of {len(images)} images")
            try:
                prompt = codec.for_datagrams(codec.encode(image, content.bpp), PAYLOAD_BYTES)
                yield name, pack(image, content.format), prompt
            except GnlError as error:
                skipped.append((name, str(error)))

    prepared = list(encoded())
    if not prepared:
        raise CodecError(
            f"{content.codec} encodes none of {len(images)} images (first: {skipped[0][0]}: {skipped[0][1]})"
        )
    try:
        return write_catalogue(folder, key, prepared)
    except OSError as error:
        raise RunError(f"the catalogue cannot be written to {folder} ({error.strerror}): free space there") from None


def _kept(catalogue: Catalogue, images: list[LoadedImage], skipped: list[tuple[str, str]]):
    by_name = {loaded.name: loaded for loaded in images}
    kept = [by_name[entry.name] for entry in catalogue.entries]
    names = {loaded.name for loaded in kept} | {name for name, _ in skipped}
    skipped += [(name, "the codec refused it when the catalogue was made") for name in by_name if name not in names]
    return catalogue, kept, skipped


def _make_room(root: Path) -> None:
    """Keep the newest catalogues only; the cache stays within a bound without anybody looking after it."""
    if root.is_dir():
        folders = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        for folder in folders[: max(0, len(folders) - MAX_CACHED + 1)]:
            shutil.rmtree(folder, ignore_errors=True)
