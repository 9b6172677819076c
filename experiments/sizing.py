"""Where an analysis gets its sizes from without a tensor library: the user, an earlier run, or the codec."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from gnl.controller.sizes import Sizes, sizes_of_catalogue
from gnl.topologies.errors import CodecError, UsageError
from gnl.topologies.spec import ContentSpec, Scenario

# Codecs that encode without a tensor library, so that an analysis can measure them on the images themselves.
LIGHT_CODECS = ("jpeg", "webp")
Images = Callable[[], list[Any]]


def find_sizes(
    scenario: Scenario,
    catalogue: str | Path | None = None,
    content_bytes: float | None = None,
    prompt_bytes: float | None = None,
) -> Sizes:
    """Return the sizes to analyse a scenario with; `Sizes.origin` says which source each came from.

    `content_bytes` and `prompt_bytes` are the user's own means of L and L_p in bytes, and go before everything else.
    `catalogue` is the folder of an earlier run's catalogue; None looks in the cache for one of the same content.
    Without them, contents are computed (raw) or packed from the scenario's images (png, jpeg), and prompts are encoded
    by codecs that need no tensor library, or taken from the operating point that a codec's sidecar records.
    Raises `UsageError` or a child of it where a size cannot be known before a run, or a given one is not usable.
    """
    from gnl.node_apps.codecs.registry import describe

    facts = describe(scenario.content.codec)
    images = cache(partial(_load, scenario.content))
    if catalogue is None and (content_bytes is None or prompt_bytes is None):
        catalogue = _cached(scenario.content, facts.weights_sha256)
    known = None if catalogue is None else _from_catalogue(Path(catalogue), facts.generative)

    if content_bytes is not None:
        plain = contents = (_mean("--content-bytes", content_bytes),)
        content_origin = "contents as given by --content-bytes"
    elif known:
        plain, contents, content_origin = known.plain_bytes, known.content_bytes, known.origin
    else:
        plain, content_origin = _contents(scenario.content, images)
        contents = plain

    if prompt_bytes is not None:
        prompts = ((_mean("--prompt-bytes", prompt_bytes),),)
        prompt_origin = "prompts as given by --prompt-bytes"
    elif known:
        prompts, prompt_origin = known.prompt_slices, known.origin
    else:
        prompts, prompt_origin = _prompts(scenario.content, facts, images)

    count = max(len(contents), len(prompts))
    lists = (_repeated(sizes, count) for sizes in (plain, contents, prompts))
    origin = "; ".join(dict.fromkeys((content_origin, prompt_origin)))
    return Sizes(*lists, generative=facts.generative, origin=origin)


def _repeated(sizes: tuple, count: int) -> tuple:
    return sizes * count if len(sizes) == 1 else sizes


def _mean(option: str, value: float) -> int:
    if not 1 <= value <= 2**28:
        raise UsageError(f"{option} is {value!r}: give a number of bytes from 1 to {2**28}")
    return round(value)


def _from_catalogue(path: Path, generative: bool) -> Sizes:
    index = path / "catalogue.json" if path.is_dir() else path
    try:
        images = json.loads(index.read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"catalogue {index} is not usable ({error}): remove its folder, or run once") from None
    origin = f"contents and prompts as encoded for an earlier run ({index.parent})"
    return sizes_of_catalogue(images, generative, origin)


def _cached(content: ContentSpec, weights_sha256: str | None) -> Path | None:
    """The catalogue in the cache that was made as `content` asks, with the same weights: the one of most images.

    Images are matched by where they came from, not by their pixels, which would have to be read for it.
    """
    from .encoding import cache_folder

    wanted = {
        "codec": content.codec,
        "weights_sha256": weights_sha256,
        "bpp": content.bpp,
        "format": content.format,
        "source": content.images,
        "size_px": content.size_px,
    }
    found = []
    for index in cache_folder().glob("*/catalogue.json"):
        try:
            key = json.loads(index.read_text(encoding="utf-8"))["key"]
            if all(key[name] == value for name, value in wanted.items()) and len(key["images"]) <= content.max_images:
                found.append((len(key["images"]), index.stat().st_mtime, index.parent))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # unreadable, or of another version: a run will make its own
    return max(found)[2] if found else None


def _load(content: ContentSpec) -> list[Any]:
    from .images import load_images

    loaded, _ = load_images(content.images, content.size_px, content.max_images)
    return [entry.image for entry in loaded]


def _contents(content: ContentSpec, images: Images) -> tuple[tuple[int, ...], str]:
    from gnl.node_apps.codecs.content import PREFIX, pack

    if content.format == "raw":
        if content.size_px is not None:
            side = content.size_px
            return (PREFIX.size + 3 * side**2,), f"contents: raw RGB of {side} x {side}"
        sizes = tuple(PREFIX.size + image.size for image in images())
        return sizes, f"contents: raw RGB of {_count(sizes)} of {content.images}"
    sizes = tuple(len(pack(image, content.format)) for image in images())
    return sizes, f"contents: {_count(sizes)} of {content.images} as {content.format} (what g makes may differ)"


def _prompts(content: ContentSpec, facts: Any, images: Images) -> tuple[tuple[tuple[int, ...], ...], str]:
    family, _, parameter = facts.name.partition(":")
    if family == "stub":
        return ((int(parameter),),), f"prompts: of the size that {facts.name} names"
    if family in LIGHT_CODECS:
        from gnl.node_apps.codecs.registry import load_codec

        codec = load_codec(facts.name)
        prompts = tuple(
            tuple(len(piece) for piece in codec.encode(image, content.bpp).slices) for image in images()
        )
        return prompts, f"prompts: {_count(prompts)} of {content.images} encoded by {facts.name}"
    points = facts.operating_points_bpp
    if content.bpp is not None and facts.scalable:
        bpp = content.bpp
    elif points:
        bpp = points[0] if content.bpp is None else min(points, key=lambda point: abs(point - content.bpp))
    else:
        raise CodecError(f"prompt sizes of {facts.name} are unknown before a run: give --prompt-bytes, or run it once")
    if content.size_px is not None:
        pixels = [content.size_px**2]
    else:
        pixels = [image.shape[0] * image.shape[1] for image in images()]
    prompts = tuple((max(1, round(bpp * count / 8)),) for count in pixels)
    return prompts, f"prompts: estimated from the {bpp:.4g} bpp that {facts.name} is recorded to have"


def _count(sizes: tuple) -> str:
    return f"{len(sizes)} image{'s' if len(sizes) > 1 else ''}"
