"""Weights as a safetensors file whose bytes follow from what is in it: prompts name weights by the file's SHA-256."""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping

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


@contextmanager
def replaced_together(path: Path) -> Iterator[tuple[Path, Path]]:
    """Places for new weights and their record, which become `path` and the .json beside it when the block ends.

    Whatever goes wrong in it leaves both as they were: weights do not load with the record of others.
    """
    record = path.with_suffix(".json")
    new_weights, new_record = path.with_suffix(".new"), path.with_suffix(".json.new")
    try:
        for place in (path, record):
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        yield new_weights, new_record
        new_weights.chmod(0o644)
        new_record.replace(record)
        new_weights.replace(path)
    finally:
        new_weights.unlink(missing_ok=True)
        new_record.unlink(missing_ok=True)
