"""Large pictures in horizontal strips: a network's memory is bounded by the strip, and its result is the same."""

from __future__ import annotations

from typing import Callable, Sequence

import torch
from torch import Tensor


def in_strips(
    network: Callable, inputs: Sequence[Tensor], rows: int, margin: int, scale: int, shrinks: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """`network(*inputs)`, computed for `rows` rows of the inputs at a time, each with `margin` rows around it.

    The inputs are (B, C, H, W) with one H; each result has `scale` times as many rows, or with `shrinks` one for each
    `scale` rows, of which `rows` and `margin` are then multiples. `margin` covers the network's receptive field.
    """
    height = inputs[0].shape[-2]
    if height <= rows + margin:
        return network(*inputs)

    def scaled(count: int) -> int:
        return count // scale if shrinks else count * scale

    strips = []
    for top in range(0, height, rows):
        first, last = max(0, top - margin), min(height, top + rows + margin)
        found = network(*(one[..., first:last, :] for one in inputs))
        start, stop = scaled(top - first), scaled(min(top + rows, height) - first)
        several = found if isinstance(found, tuple) else (found,)
        strips.append([one[..., start:stop, :] for one in several])
    whole = tuple(torch.cat(parts, dim=-2) for parts in zip(*strips))
    return whole if len(whole) > 1 else whole[0]
