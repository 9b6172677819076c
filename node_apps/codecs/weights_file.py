"""Weights as a safetensors file whose bytes follow from what is in it: prompts name weights by the file's SHA-256."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Mapping

import torch
from safetensors.torch import save_file

_LENGTH_BYTES = 8


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors, and what is said of them in the order of its keys: the library alone has that in any
    order, so that equal weights would have unequal hashes.

    OSError or SafetensorError if it cannot be written.
    """
    save_file(dict(tensors), path, dict(metadata))
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        said = dict(sorted(header.pop("__metadata__", {}).items()))
        text = json.dumps({"__metadata__": said, **header}, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(_LENGTH_BYTES)
        file.write(text.ljust(length))  # spaces in front of the tensors, as the format has them
