"""How the weights of a generative codec lie in their file: what export writes and the codec reads."""

from __future__ import annotations

import numpy as np

LAYOUT = "gnl-mean-scale-hyperprior-1"
TRANSFORMS = ("g_a", "h_a", "g_s")
_TABLE_PARTS = ("cdf", "lengths", "offsets")


def read_tables(tensors: dict, prefix: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """cdf (T, longest), lengths (T,) and offsets (T,), as `entropy.SymbolCoder` takes them."""
    return tuple(tensors[f"{prefix}.{part}"].numpy() for part in _TABLE_PARTS)
