"""Codecs by name: the facts of each without loading it, and the loading.

Names: `gnl-low`, `jpeg:<q>`, `webp:<q>`, `compressai:<model>:<quality>:<checkpoint>` and `stub:<bytes>`. Importing this
module, and `describe`, load no tensor library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

from gnl.node_apps.codecs import baseline
from gnl.node_apps.codecs.interface import Codec, CodecFacts
from gnl.topologies.errors import CodecError

WEIGHTS_DIR = Path(__file__).resolve().parent / "weights"
GENERATIVE_CODEC_IDS = {"gnl-low": 1}
ZOO_CODEC_ID = 32
DEVICES = ("auto", "cpu", "cuda")
_PINNED = "latents: any machine; pixels: one kind of device"
_FAMILIES = ("jpeg:<quality>", "webp:<quality>", "compressai:<model>:<quality>:<checkpoint>", "stub:<bytes>")


def codec_names() -> list[str]:
    """Every name that can be loaded; families with their parameters in angle brackets."""
    return [*GENERATIVE_CODEC_IDS, *_FAMILIES]


def describe(name: str) -> CodecFacts:
    """The facts of a codec from its name and, for a generative one, its sidecar; CodecError for an unknown name."""
    family, _, rest = _require_text(name).partition(":")
    if name in GENERATIVE_CODEC_IDS:
        return _describe_generative(name)
    if family in ("jpeg", "webp") and rest:
        baseline.parse_quality(family, rest)
        codec_id = baseline.JPEG_CODEC_ID if family == "jpeg" else baseline.WEBP_CODEC_ID
        return CodecFacts(name, codec_id, None, False, False, (), "any")
    if family == "stub" and rest:
        baseline.parse_stub_size(rest)
        return CodecFacts(name, baseline.STUB_CODEC_ID, None, True, False, (), "any")
    if family == "compressai" and rest:
        return _describe_zoo(name, rest)
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
    if family == "compressai":
        from gnl.node_apps.codecs.zoo import ZooCodec, parse_zoo

        return ZooCodec(facts, parse_zoo(rest), device, threads)
    from gnl.node_apps.codecs.generative import GenerativeCodec

    return GenerativeCodec(facts, WEIGHTS_DIR / f"{name}.safetensors", device, threads)


def _require_text(name: object) -> str:
    if not isinstance(name, str):
        raise CodecError(f"codec {name!r}: give a name, one of {', '.join(codec_names())}")
    return name


def read_sidecar(path: Path) -> dict:
    """The training record beside a weights file; CodecError if it is missing or not JSON with a SHA-256."""
    try:
        sidecar = json.loads(path.read_text())
        int(sidecar["sha256"], 16)
        return sidecar
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}; reinstall gnl, or train with gnl train to make it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{path}: no JSON object with the weights' sha256; reinstall gnl or train again") from error


def _describe_generative(name: str) -> CodecFacts:
    sidecar = read_sidecar(WEIGHTS_DIR / f"{name}.json")
    points = tuple(float(value) for value in sidecar.get("operating_points_bpp", ()))
    return CodecFacts(name, GENERATIVE_CODEC_IDS[name], sidecar["sha256"], True, False, points, _PINNED)


def _describe_zoo(name: str, rest: str) -> CodecFacts:
    from gnl.node_apps.codecs.zoo import parse_zoo

    spec = parse_zoo(rest)
    return CodecFacts(name, ZOO_CODEC_ID, spec.sha256(), True, False, (), "the device that encoded")
