"""Codecs by name: the facts of each without loading it, and the loading.

Names: those of `codec_names`. Importing this module, and `describe`, load no tensor library, except to find what
CompressAI offers for a `compressai:` name without a checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

from gnl.node_apps.codecs import baseline, pixel_swapping
from gnl.node_apps.codecs.interface import Codec, CodecFacts
from gnl.topologies.errors import BitstreamError, CodecError

WEIGHTS_DIR = Path(__file__).resolve().parent / "weights"
GENERATIVE_CODEC_IDS = {"gnl-low": 1, "gnl-medium": 2, "gnl-high": 3, "gnl-scalable": 4}
HIFIC_CODEC_IDS = {"hific-low": 8, "hific-medium": 9, "hific-high": 10}
# Whatever a user trained; the hash of the weights tells these apart.
TRAINED_CODEC_ID, TRAINED_SCALABLE_CODEC_ID = 5, 6
ZOO_CODEC_ID = 32
DEVICES = ("auto", "cpu", "cuda")
_PINNED = "latents: any machine; pixels: one kind of device"
# Families of names with their codec id.
FAMILIES = {
    "jpeg:<quality>": baseline.JPEG_CODEC_ID,
    "webp:<quality>": baseline.WEBP_CODEC_ID,
    **{f"{name}:<weights>": codec_id for name, codec_id in HIFIC_CODEC_IDS.items()},
    "trained:<weights>": TRAINED_CODEC_ID,
    "trained:<scalable weights>": TRAINED_SCALABLE_CODEC_ID,
    "compressai:<model>:<quality>[:<checkpoint>]": ZOO_CODEC_ID,
    "stub:<bytes>": baseline.STUB_CODEC_ID,
}
# Of families whose parameter matters to the encoder only: a name that decodes what any of the family encoded.
EXAMPLES = {"jpeg:<quality>": "jpeg:30", "webp:<quality>": "webp:30"}


def codec_names() -> list[str]:
    """Every name that can be loaded; families with their parameters in angle brackets."""
    return [*GENERATIVE_CODEC_IDS, *FAMILIES, *pixel_swapping.NAMES]


def name_for_id(codec_id: int) -> str:
    """A name whose codec decodes every prompt of this id (made with the same weights, where it has weights).

    BitstreamError for an id that no codec here has; CodecError where the id alone does not say what to load.
    """
    for family, first in pixel_swapping.FAMILIES.items():
        if first <= codec_id <= first + pixel_swapping.MAX_INNER_ID:
            try:
                return f"{family}:{name_for_id(codec_id - first)}"
            except CodecError as error:
                raise CodecError(
                    f"codec id {codec_id} is {family} around another codec, whose {error}, as --codec {family}:NAME"
                ) from None
    ids = {**GENERATIVE_CODEC_IDS, **FAMILIES}
    found = [name for name, number in ids.items() if number == codec_id]
    if not found:
        known = ", ".join(f"{number} {name}" for name, number in ids.items())
        raise BitstreamError(f"codec id {codec_id} is unknown here: known are {known}; a newer gnl may have it")
    name = EXAMPLES.get(found[0], found[0])
    if "<" in name:
        raise CodecError(f"codec id {codec_id} does not say which {name} made the prompt: name it with --codec")
    return name


def describe(name: str) -> CodecFacts:
    """The facts of a codec from its name and, for a generative one, its sidecar; CodecError for an unknown name."""
    family, _, rest = _require_text(name).partition(":")
    if name in GENERATIVE_CODEC_IDS:
        return _describe_generative(name, GENERATIVE_CODEC_IDS[name], read_sidecar(WEIGHTS_DIR / f"{name}.json"))
    if family == "trained":
        return _describe_trained(name, rest)
    if family in ("jpeg", "webp") and rest:
        baseline.parse_quality(family, rest)
        codec_id = baseline.JPEG_CODEC_ID if family == "jpeg" else baseline.WEBP_CODEC_ID
        return CodecFacts(name, codec_id, None, False, False, (), "any")
    if family == "stub" and rest:
        baseline.parse_stub_size(rest)
        return CodecFacts(name, baseline.STUB_CODEC_ID, None, True, False, (), "any")
    if family in HIFIC_CODEC_IDS:
        return _describe_hific(name, family, rest)
    if family == "compressai" and rest:
        return _describe_zoo(name, rest)
    if family in pixel_swapping.FAMILIES and rest:
        swap = pixel_swapping.parse_name(name)
        return pixel_swapping.describe_swapping(name, swap, describe(swap.inner))
    raise CodecError(f"codec {name!r} is unknown: accepted are {', '.join(codec_names())}")


def load_codec(name: str, device: str = "auto", threads: Optional[int] = None) -> Codec:
    """Load a codec by name onto `device` (`auto` takes a GPU if there is one), with `threads` CPU threads.

    `threads` sets the tensor library's count for the whole process; None leaves it alone. CodecError for an unknown
    name or device, or for weights that are missing or not the ones that the sidecar describes.
    """
    facts = describe(name)
    if device not in DEVICES:
        raise CodecError(f"device {device!r} is unknown: accepted are {', '.join(DEVICES)}")
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise CodecError(f"threads {threads!r}: give a whole number of at least 1, or none")
    family, _, rest = name.partition(":")
    if family == "jpeg":
        return baseline.PillowCodec(facts, "JPEG", int(rest))
    if family == "webp":
        return baseline.PillowCodec(facts, "WEBP", int(rest))
    if family == "stub":
        return baseline.StubCodec(facts, int(rest))
    if family in HIFIC_CODEC_IDS:
        from gnl.node_apps.codecs.hific import HificCodec

        return HificCodec(facts, Path(rest), device, threads)
    if family == "compressai":
        from gnl.node_apps.codecs.zoo import ZooCodec, parse_zoo

        return ZooCodec(facts, parse_zoo(rest), device, threads)
    if family in pixel_swapping.FAMILIES:
        swap = pixel_swapping.parse_name(name)
        return pixel_swapping.PixelSwapping(facts, swap, load_codec(swap.inner, device, threads))
    if facts.scalable:
        from gnl.node_apps.codecs.scalable import ScalableCodec as codec
    else:
        from gnl.node_apps.codecs.fixed_rate import FixedRateCodec as codec
    return codec(facts, Path(rest) if family == "trained" else WEIGHTS_DIR / f"{name}.safetensors", device, threads)


def decodes_slowly(name: str) -> bool:
    """Whether the codec decodes pixel after pixel, in seconds an image: too slow for a router."""
    family, _, rest = _require_text(name).partition(":")
    if family in pixel_swapping.FAMILIES:
        return decodes_slowly(pixel_swapping.parse_name(name).inner)
    if family != "compressai":
        return False
    from gnl.node_apps.codecs.zoo import AUTOREGRESSIVE

    return rest.partition(":")[0] in AUTOREGRESSIVE


def _require_text(name: object) -> str:
    if not isinstance(name, str):
        raise CodecError(f"codec {name!r}: give a name, one of {', '.join(codec_names())}")
    return name


def read_sidecar(path: Path, remedy: str = "reinstall gnl, or train with gnl train to make it") -> dict:
    """The training record beside a weights file; CodecError if it is missing or not JSON with a SHA-256."""
    try:
        sidecar = json.loads(path.read_text())
        int(sidecar["sha256"], 16)
        return sidecar
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{path}: no JSON object with the weights' sha256; {remedy}") from error


def _operating_points(name: str, sidecar: dict) -> tuple[float, ...]:
    points = sidecar.get("operating_points_bpp", [])
    if not isinstance(points, list) or not all(isinstance(point, (int, float)) for point in points):
        raise CodecError(
            f"codec {name}: operating_points_bpp of its .json is {str(points)[:80]}: restore that file, or train again"
        )
    return tuple(float(point) for point in points)


def _describe_generative(name: str, codec_id: int, sidecar: dict) -> CodecFacts:
    points = _operating_points(name, sidecar)
    return CodecFacts(name, codec_id, sidecar["sha256"], True, bool(sidecar.get("scalable")), points, _PINNED)


def _describe_trained(name: str, weights: str) -> CodecFacts:
    remedy = "name what gnl train wrote, as in trained:OUT/gnl-low.safetensors, with its .json beside it"
    if Path(weights).suffix != ".safetensors":
        raise CodecError(f"codec {name!r} names no .safetensors file: {remedy}")
    sidecar = read_sidecar(Path(weights).with_suffix(".json"), remedy)
    codec_id = TRAINED_SCALABLE_CODEC_ID if sidecar.get("scalable") else TRAINED_CODEC_ID
    return _describe_generative(name, codec_id, sidecar)


def _describe_hific(name: str, family: str, weights: str) -> CodecFacts:
    remedy = (
        "download a checkpoint of the PyTorch port (github.com/Justin-Tan/high-fidelity-generative-compression, "
        f"assets/USAGE_GUIDE.md), run gnl convert CHECKPOINT --codec {family}, and name what it wrote, as in "
        f"{family}:{family}.safetensors"
    )
    if Path(weights).suffix != ".safetensors":
        raise CodecError(f"codec {name!r} names no .safetensors file, and gnl ships none for it: {remedy}")
    sidecar = read_sidecar(Path(weights).with_suffix(".json"), remedy)
    if sidecar.get("codec") != family:
        right = f"{sidecar.get('codec')}:{weights}"
        raise CodecError(f"codec {name!r}: these are weights of another codec, name them {right}")
    points = _operating_points(name, sidecar)
    return CodecFacts(name, HIFIC_CODEC_IDS[family], sidecar["sha256"], True, False, points, _PINNED)


def _describe_zoo(name: str, rest: str) -> CodecFacts:
    from gnl.node_apps.codecs.zoo import parse_zoo

    spec = parse_zoo(rest)
    return CodecFacts(name, ZOO_CODEC_ID, spec.sha256(), True, False, (), "the device that encoded")
