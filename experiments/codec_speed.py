"""How fast a codec encodes and decodes on this machine, and whether the machine was free while that was measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Callable, Optional, Sequence

import numpy as np
from gnl.node_apps.codecs.interface import Codec

from .cpu_load import BUSY_SHARE, OtherLoad

# Images per second at 256 x 256: one by one on a CPU of two cores, and in batches on a data-centre GPU.
DECODE_TARGET, ENCODE_TARGET, GPU_DECODE_TARGET = 20.0, 8.0, 2000.0
_PASSES = 3


@dataclass(frozen=True)
class Speed:
    """Images per second, the median of three passes over the images.

    `encode_per_s` and `decode_per_s` are one by one, `decode_batch_per_s` in batches of `batch`. `latents_share` is the
    share of a batch's time that goes into its latents (range decoder and hyper-synthesis, on the CPU): None for a codec
    without. `others_share` is what other programs took of the machine's CPU time meanwhile, the hypervisor included.
    """

    codec: str
    bpp: Optional[float]
    device: str
    threads: Optional[int]
    encode_per_s: float
    decode_per_s: float
    batch: int
    decode_batch_per_s: float
    latents_share: Optional[float]
    others_share: float

    @property
    def verdict(self) -> str:
        """Whether the targets are met, where the figures can be trusted."""
        if self.others_share > BUSY_SHARE:
            return "machine busy"
        if self.device == "cuda":
            return "pass" if self.decode_batch_per_s >= GPU_DECODE_TARGET else "FAIL"
        return "pass" if self.decode_per_s >= DECODE_TARGET and self.encode_per_s >= ENCODE_TARGET else "FAIL"


def measure_speed(
    codec: Codec, bpp: Optional[float], images: Sequence[np.ndarray], device: str, threads: Optional[int], batch: int
) -> Speed:
    """Time a codec on images of one size, after a warm-up; images are repeated until they fill a batch.

    `device` and `threads` are what it was loaded with.
    """
    prompts = [codec.encode(image, bpp) for image in images]
    filled = [prompts[index % len(prompts)] for index in range(batch * -(-len(prompts) // batch))]
    batches = [filled[start : start + batch] for start in range(0, len(filled), batch)]
    latents = getattr(codec, "latents", None)
    codec.decode_batch(batches[0])
    codec.decode(prompts[0])
    others = OtherLoad()
    encode_s = _seconds(lambda: [codec.encode(image, bpp) for image in images])
    decode_s = _seconds(lambda: [codec.decode(prompt) for prompt in prompts])
    batches_s = _seconds(lambda: [codec.decode_batch(one) for one in batches])
    latents_s = _seconds(lambda: [latents(one) for one in batches]) if latents else None
    return Speed(
        codec.facts.name,
        bpp,
        device,
        threads,
        len(images) / encode_s,
        len(images) / decode_s,
        batch,
        len(filled) / batches_s,
        latents_s / batches_s if latents_s else None,
        others.share(),
    )


def _seconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(_PASSES):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return median(spent)
