"""A generative codec of one rate: every latent at one quantisation step, the whole image in one slice.

    slice 0    height u16 | width u16 | string of z, then y      (network order)

Latents whose scale index is 0 are not in the string.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
from gnl.node_apps.codecs.generative import (
    SIZE_PREFIX,
    GenerativeCodec,
    Received,
    filled,
    least_bytes,
    read_size,
    z_shape,
    z_tables,
)
from gnl.node_apps.codecs.interface import Prompt
from gnl.topologies.errors import BitstreamError


class FixedRateCodec(GenerativeCodec):
    """One operating point, one slice."""

    def encode(self, image: np.ndarray, bpp: Optional[float] = None) -> Prompt:
        """Code an image at this codec's one operating point, whatever `bpp` asks for."""
        self.require_point(bpp)
        found = self._analyse(image)
        coded = found.index > 0
        symbols = np.concatenate((found.z.ravel(), np.rint(found.residual[coded]).astype(np.int64)))
        string = self._coder.encode(symbols, np.concatenate((z_tables(found.z.shape), found.index[coded])))
        height, width = image.shape[:2]
        body = SIZE_PREFIX.pack(height, width) + string
        return Prompt(
            self.facts.codec_id, self.facts.weights_id, (filled(body, least_bytes(height * width) - len(body)),)
        )

    def _read(self, slices: tuple[bytes, ...]) -> Received:
        if len(slices) != 1:
            raise BitstreamError(f"prompt of {len(slices)} slices: {self.facts.name} has exactly one")
        height, width = read_size(slices[0])
        shape = z_shape(height, width, self._shape.z_channels)
        string = slices[0][SIZE_PREFIX.size :]
        z = self._coder.decode(string, z_tables(shape)).reshape(shape)
        return Received(height, width, z, string)

    def _symbols(self, received: Received, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        coded = index > 0
        tables = np.concatenate((z_tables(received.z.shape), index[coded]))
        symbols = np.zeros(index.shape, np.int32)
        # z is read once more, to arrive at where y begins
        symbols[coded] = self._coder.decode(received.rest, tables)[received.z.size :]
        return symbols, coded.astype(np.int8)
