"""Entropy coding of integer symbols with CompressAI's rANS coder, hardened for bytes from the network.

CompressAI's coder works on a table of cumulative frequencies for each symbol's index. It trusts its input: the encoder
writes into a buffer of one 32-bit word a symbol, the decoder reads on past the end of the string. So the encoder here
always has room (`_SPARE`), and the decoder gets a string long enough for whatever the symbols can ask of it.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path

import numpy as np
from gnl.topologies.errors import BitstreamError, MachineError

SYMBOL_LIMIT = 100
# A symbol within SYMBOL_LIMIT takes at most 16 bits (escape) and 12 (length and two nibbles): under a word, so that
# this many further symbols make room for the two words that end a string.
_SPARE = 20
FREQUENCY_TOTAL = 1 << 16


def import_ans():
    """CompressAI's rANS extension, without the package around it, whose import takes seconds."""
    if "compressai.ans" in sys.modules:
        return sys.modules["compressai.ans"]
    package = importlib.util.find_spec("compressai")
    for folder in package.submodule_search_locations if package else ():
        for suffix in EXTENSION_SUFFIXES:
            path = Path(folder) / f"ans{suffix}"
            if path.exists():
                loader = ExtensionFileLoader("compressai.ans", str(path))
                module = importlib.util.module_from_spec(importlib.util.spec_from_loader("compressai.ans", loader))
                loader.exec_module(module)
                # a later import of compressai finds this copy; the extension cannot be loaded twice
                sys.modules["compressai.ans"] = module
                return module
    raise MachineError("compressai's rANS extension is not installed: install compressai==1.2.8 (requirements.txt)")


def define_vision_operators() -> None:
    """Give torchvision the operator names that it looks up at import, where its compiled part does not load."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        define_vision_operators.library = library  # the names live as long as this object
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401


def import_entropy_models():
    """CompressAI's EntropyBottleneck and GaussianConditional classes."""
    import_ans()
    define_vision_operators()
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional

    return EntropyBottleneck, GaussianConditional


class SymbolCoder:
    """Codes integer symbols, each with one of several frequency tables.

    `cdf` is (T, longest) int32 with rows of `lengths[t]` rising cumulative frequencies from 0 to 65536, the last step
    being the escape; symbol `offsets[t]` is the first that table t holds.
    """

    def __init__(self, cdf: np.ndarray, lengths: np.ndarray, offsets: np.ndarray) -> None:
        _require_tables(cdf, lengths, offsets)
        self._ans = import_ans()
        self._tables = [row[:length].tolist() for row, length in zip(cdf, lengths)]
        self._lengths = lengths.tolist()
        self._offsets = offsets.tolist()
        self._bits = [-np.log2(np.diff(row) / FREQUENCY_TOTAL) for row in self._tables]

    def bits(self, symbols: np.ndarray, indexes: np.ndarray) -> np.ndarray:
        """What each symbol takes, (n,) float64; for one that its table does not hold, what the escape takes."""
        taken = np.zeros(len(symbols))
        for table in np.unique(indexes):
            here = indexes == table
            column = symbols[here] - self._offsets[table]
            escape = len(self._bits[table]) - 1
            taken[here] = self._bits[table][np.where((column < 0) | (column > escape), escape, column)]
        return taken

    def encode(self, symbols: np.ndarray, indexes: np.ndarray) -> bytes:
        """The string of `symbols` (n,), clipped to SYMBOL_LIMIT, under the tables `indexes` (n,)."""
        clipped = np.clip(symbols, -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int64).tolist()
        tables = self._in_use(np.concatenate((indexes, np.zeros(_SPARE, np.int32))))
        return self._ans.RansEncoder().encode_with_indexes(clipped + [0] * _SPARE, *tables)

    def decode(self, string: bytes, indexes: np.ndarray) -> np.ndarray:
        """The symbols (n,) int32 of a string; any bytes give symbols within SYMBOL_LIMIT or BitstreamError."""
        if len(string) % 4 or len(string) < 8:
            raise BitstreamError(f"entropy-coded string of {len(string)} bytes: a multiple of 4, at least 8, is needed")
        string = string[: 4 * len(indexes) + 16]  # all that so many symbols take: under a word each, and the state
        padded = string + bytes(read_ahead_bytes(len(string), len(indexes)))
        found = self._ans.RansDecoder().decode_with_indexes(padded, *self._in_use(indexes))
        return np.clip(np.asarray(found, np.int64), -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)

    def _in_use(self, indexes: np.ndarray) -> tuple[list, list, list, list]:
        """`indexes` into the tables that they use, and those tables: the coder copies all that it is given."""
        used = np.flatnonzero(np.bincount(indexes, minlength=len(self._tables))).tolist()
        place = np.zeros(len(self._tables), np.int32)
        place[used] = np.arange(len(used))
        parts = ([part[table] for table in used] for part in (self._tables, self._lengths, self._offsets))
        return place[indexes].tolist(), *parts


def read_ahead_bytes(string_bytes: int, symbols: int) -> int:
    """Zero bytes that, behind any string, hold all that the decoder can read beyond its end.

    An escape announces a length of 15 nibbles for each nibble of ones: inside the string that makes at most 15 bytes
    a byte. In the zeros a symbol takes 16 bits and an escape up to 60 more; a longer one empties the decoder's state
    of ones, after which every bit is zero and no further escape is long.
    """
    return 12 * symbols + 16 * string_bytes + 4096


def _require_tables(cdf: np.ndarray, lengths: np.ndarray, offsets: np.ndarray) -> None:
    """BitstreamError unless the tables are what the coder, which does not check them, can use without harm."""
    fits = cdf.ndim == 2 and lengths.shape == offsets.shape == (cdf.shape[0],)
    fits = fits and all(3 <= length <= cdf.shape[1] for length in lengths)
    for row, length in zip(cdf, lengths) if fits else ():
        steps = np.diff(row[:length].astype(np.int64))
        fits = fits and row[0] == 0 and row[length - 1] == FREQUENCY_TOTAL and bool((steps > 0).all())
    if not fits:
        raise BitstreamError(f"frequency tables of shape {cdf.shape} do not rise from 0 to {FREQUENCY_TOTAL}")
