"""How the weights of a generative codec lie in their file: what export writes and the codec reads."""

from __future__ import annotations

import numpy as np

LAYOUT = "gnl-mean-scale-hyperprior-2"
TRANSFORMS = ("g_a", "h_a", "g_s")
# In every file, in this order, one set of frequency tables: of plane 0 and of a refining plane by scale index, then of
# each channel of z.
TABLES = ("plane0", "digit", "z")
_TABLE_PARTS = ("cdf", "lengths", "offsets")

_SCALE = ".scale"


def pack_filters(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors that store a network's parameter: filters (O, I, k, k) of the networks as int8 with a scale for each
    output; all else in half precision, the linear transforms too, whose filters span too many magnitudes."""
    if value.ndim != 4 or ".linear." in name:
        return {name: value.astype(np.float16)}
    scale = np.maximum(np.abs(value).max(axis=(1, 2, 3)), 1e-12).astype(np.float32) / 127
    return {name: np.rint(value / scale[:, None, None, None]).astype(np.int8), name + _SCALE: scale}


def unpack_filters(name: str, tensors: dict) -> np.ndarray:
    """The parameter as float32 from what `pack_filters` stored; KeyError if it is not there."""
    value = tensors[name].numpy().astype(np.float32)
    return value * tensors[name + _SCALE].numpy()[:, None, None, None] if name + _SCALE in tensors else value


def read_tables(tensors: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """cdf (T, longest), lengths (T,) and offsets (T,) of all TABLES, as `entropy.SymbolCoder` takes them."""
    sets = [[tensors[f"{prefix}.{part}"].numpy() for part in _TABLE_PARTS] for prefix in TABLES]
    longest = max(cdf.shape[1] for cdf, _, _ in sets)
    cdf = np.concatenate([np.pad(one, ((0, 0), (0, longest - one.shape[1]))) for one, _, _ in sets])
    return cdf, np.concatenate([one for _, one, _ in sets]), np.concatenate([one for _, _, one in sets])
