"""CompressAI's pretrained models by name, from its own download or a checkpoint file that the user has.

    slice 0    height u16 | width u16 | strings u8 | bytes of each string u32... | the strings      (network order)

Their entropy parameters come from floating-point networks: decode on the same kind of device that encoded. The rANS
decoder trusts its input; it gets strings long enough for whatever the symbols can ask of it (`entropy`).
"""

from __future__ import annotations

import functools
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from gnl.node_apps.codecs.entropy import read_ahead_bytes
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt, require_image
from gnl.topologies.errors import BitstreamError, CodecError

QUALITIES = {
    "bmshj2018-factorized": 8,
    "bmshj2018-hyperprior": 8,
    "mbt2018-mean": 8,
    "mbt2018": 8,
    "cheng2020-anchor": 6,
    "cheng2020-attn": 6,
}
AUTOREGRESSIVE = ("mbt2018", "cheng2020-anchor", "cheng2020-attn")
STRIDE = 64
_PREFIX = struct.Struct("!HHB")
_LENGTH = struct.Struct("!I")
_MOST_SYMBOL_BYTES, _STATE_BYTES = 16, 16  # what a symbol takes at most, escapes included, and the coder's state


@dataclass(frozen=True)
class ZooSpec:
    """Which model, at which quality, from which file; None for the one that CompressAI offers."""

    model: str
    quality: int
    checkpoint: Optional[Path]

    def file(self) -> Path:
        """The checkpoint, downloaded if need be; MachineError if it cannot be."""
        if self.checkpoint is not None:
            return self.checkpoint
        from gnl.node_apps.codecs.zoo_download import pretrained

        return pretrained(self.model, self.quality)

    def sha256(self) -> str:
        """Hash of the checkpoint; CodecError if it cannot be read, MachineError if it cannot be downloaded."""
        path = self.file()
        try:
            stat = path.stat()
            return _sha256(path, stat.st_mtime_ns, stat.st_size)
        except OSError as error:
            raise CodecError(f"checkpoint {path}: {error.strerror}; give a file that you have") from error


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parse_zoo(rest: str) -> ZooSpec:
    """The spec in `<model>:<quality>[:<checkpoint>]`; CodecError says which of them is wrong."""
    model, _, more = rest.partition(":")
    quality, _, checkpoint = more.partition(":")
    if model not in QUALITIES:
        raise CodecError(f"compressai model {model!r} is unknown: accepted are {', '.join(QUALITIES)}")
    top = QUALITIES[model]
    if quality not in map(str, range(1, top + 1)):
        raise CodecError(f"compressai:{model} has no quality {quality[:9]!r}: accepted are 1 to {top}")
    return ZooSpec(model, int(quality), Path(checkpoint) if checkpoint else None)


class ZooCodec(Codec):
    """One model of CompressAI's zoo. Loading takes seconds: the package imports much."""

    def __init__(self, facts: CodecFacts, spec: ZooSpec, device: str = "auto", threads: Optional[int] = None) -> None:
        from gnl.node_apps.codecs.devices import resolve_device, set_threads, single_thread

        self.facts = facts
        self._wanted_device = resolve_device(device, lazily=True)
        set_threads(threads)
        with single_thread():
            self._model = _load_model(spec)
        self._placed = False
        self._factorized = spec.model == "bmshj2018-factorized"

    @property
    def device(self) -> str:
        """Where the networks run: `cpu` or `cuda`."""
        from gnl.node_apps.codecs.devices import resolve_device

        return resolve_device(self._wanted_device)

    def _placed_model(self):
        """The model on its device, moved there at the first use: a GPU's runtime does not survive a fork."""
        if not self._placed:
            self._model.to(self.device)
            self._placed = True
        return self._model

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        """Code an image at the model's one operating point, whatever `bpp` asks for."""
        import torch
        from gnl.node_apps.codecs.generative import filled, least_bytes
        from gnl.node_apps.codecs.networks import pad_to_stride

        self.require_point(bpp)
        height, width = require_image(image).shape[:2]
        with torch.inference_mode():
            x = torch.from_numpy(np.array(image.transpose(2, 0, 1)[None])).to(self.device).float() / 255.0
            strings = [one[0] for one in self._placed_model().compress(pad_to_stride(x))["strings"]]
        used = _PREFIX.size + sum(_LENGTH.size + len(one) for one in strings)
        strings[-1] = filled(strings[-1], least_bytes(height * width) - used)
        head = _PREFIX.pack(height, width, len(strings)) + b"".join(_LENGTH.pack(len(one)) for one in strings)
        return Prompt(self.facts.codec_id, self.facts.weights_id, (head + b"".join(strings),))

    def decode(self, prompt: Prompt) -> np.ndarray:
        import torch

        height, width, strings = _parse(self.require_own(prompt), 1 if self._factorized else 2)
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        factor = 4 if self._factorized else 1
        try:
            with torch.inference_mode():
                padded = [[self._padded(one, rows, columns)] for one in strings]
                x_hat = self._placed_model().decompress(padded, (rows * factor, columns * factor))["x_hat"]
                pixels = (x_hat[0] * 255.0 + 0.5).clamp(0, 255).nan_to_num().to(torch.uint8)
        except (RuntimeError, ValueError, IndexError) as error:
            raise BitstreamError(f"{self.facts.name} does not decode {prompt.size_bytes} bytes: {error}") from error
        return np.ascontiguousarray(pixels[:, :height, :width].permute(1, 2, 0).cpu().numpy())

    def _padded(self, string: bytes, rows: int, columns: int) -> bytes:
        """All of a string that so many symbols can take, and zeros behind it: CompressAI's coder reads on past the end
        of a damaged one."""
        symbols = rows * columns * STRIDE * STRIDE // 256 * self._model.M
        string = string[: _MOST_SYMBOL_BYTES * symbols + _STATE_BYTES]
        return string + bytes(read_ahead_bytes(len(string), symbols))


def _parse(slices: tuple[bytes, ...], count: int) -> tuple[int, int, list[bytes]]:
    from gnl.node_apps.codecs.generative import read_size

    if len(slices) != 1 or len(slices[0]) < _PREFIX.size + count * _LENGTH.size:
        sizes = [len(one) for one in slices]
        raise BitstreamError(f"prompt with slices of {sizes} bytes: one slice with all its fields is needed")
    body = slices[0]
    height, width = read_size(body)
    found = _PREFIX.unpack_from(body)[2]
    if found != count:
        raise BitstreamError(f"prompt with {found} strings: this model has {count}")
    lengths = [_LENGTH.unpack_from(body, _PREFIX.size + n * _LENGTH.size)[0] for n in range(count)]
    start = _PREFIX.size + count * _LENGTH.size
    if start + sum(lengths) != len(body) or any(length < 8 or length % 4 for length in lengths):
        raise BitstreamError(f"prompt of {len(body)} bytes announces strings of {lengths} bytes behind {start}")
    strings = []
    for length in lengths:
        strings.append(body[start : start + length])
        start += length
    return height, width, strings


def _load_model(spec: ZooSpec):
    """The architecture with the checkpoint's weights and fresh frequency tables, in evaluation mode."""
    from gnl.node_apps.codecs.entropy import import_entropy_models

    import_entropy_models()
    from compressai.zoo.image import cfgs, model_architectures
    from compressai.zoo.pretrained import load_pretrained

    path = spec.file()
    state = _read_state(path)
    model = model_architectures[spec.model](*cfgs[spec.model][spec.quality])
    try:
        model.load_state_dict(load_pretrained(state))
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CodecError(
            f"checkpoint {path} does not fit compressai:{spec.model}:{spec.quality} ({reason}): "
            "give the model and quality that it was trained as"
        ) from error
    model.update(force=True)
    return model.eval()


def _read_state(path: Path) -> dict:
    from gnl.node_apps.codecs.checkpoints import load_plain, reason_of
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = load_plain(path)
    except Exception as error:  # torch and safetensors report damaged files with many kinds
        reason = reason_of(error)
        raise CodecError(f"checkpoint {path} does not load ({reason}): give a .pth or .safetensors file") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CodecError(f"checkpoint {path} holds a {type(state).__name__}: give a state dict")
    return state
