"""Checkpoints of others: files of torch.save, of which nothing is run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

_UNPICKLER, _ADVICE = "WeightsUnpickler error:", "Check the documentation"
_OBJECTS = ("Unsupported global", "Unsupported class")
_MOST_LETTERS = 200


def load_plain(path: Path, device: str = "cpu") -> object:
    """What torch.load reads of tensors and plain values; it raises many kinds of errors, see `reason_of`.

    Mapped where that can be, so that of what is left alone, as an optimiser's state, nothing is read.
    """
    mapped = device == "cpu" and zipfile.is_zipfile(path)
    return torch.load(path, map_location=device, weights_only=True, mmap=mapped)


def holds_objects(error: Exception) -> bool:
    """Whether a file did not load because it holds Python objects, and not because it is damaged or no checkpoint."""
    return any(words in str(error) for words in _OBJECTS)


def reason_of(error: Exception) -> str:
    """Why a file did not load, in a line: of torch's words those that are about the file, not its advice to run it."""
    reason = getattr(error, "strerror", None)
    if reason is None:
        words = str(error)
        reason = (words.partition(_UNPICKLER)[2] if _UNPICKLER in words else words).partition(_ADVICE)[0]
    reason = " ".join(str(reason).split())[:_MOST_LETTERS]
    return reason if len(reason) > 3 else f"damaged, or no file of torch.save ({type(error).__name__} {reason})"
