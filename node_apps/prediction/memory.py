"""What g remembers of one flow of frames: the last two that it received, never more, and none across a scene cut."""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

# Motion moves colours, a cut brings others: the share of pixels whose colour, in so many levels of each, has no match.
CUT_SHARE = 0.5
_LEVELS = 4


class Known(NamedTuple):
    """A frame that was received: its number in the flow, and its pixels (H, W, 3) uint8."""

    number: int
    image: np.ndarray


class Memory:
    """The frames to predict from. Predicted frames are never taken in: errors would feed on themselves."""

    def __init__(self) -> None:
        self.previous: Optional[Known] = None
        self.last: Optional[Known] = None

    def receive(self, number: int, image: np.ndarray) -> None:
        """Take in a received frame; one that is older than the last changes nothing."""
        if self.last is not None and number <= self.last.number:
            return
        cut = self.last is None or self.last.image.shape != image.shape or is_cut(self.last.image, image)
        self.previous = None if cut else self.last
        self.last = Known(number, image)


def is_cut(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two frames (H, W, 3) of one size belong to different scenes, by the histograms of their colours."""
    counts = [np.bincount(_colours(image), minlength=_LEVELS**3) for image in (first, second)]
    return np.abs(counts[0] - counts[1]).sum() / 2 > CUT_SHARE * counts[0].sum()


def _colours(image: np.ndarray) -> np.ndarray:
    red, green, blue = (image[::2, ::2, channel].ravel().astype(np.int64) * _LEVELS // 256 for channel in range(3))
    return (red * _LEVELS + green) * _LEVELS + blue
