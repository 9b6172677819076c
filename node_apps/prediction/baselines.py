"""Two predictors that learn nothing: the last frame held, and its motion carried on."""

from __future__ import annotations

import numpy as np

from .memory import Memory

_LEAST_SIDE = 16  # DIS refuses images of fewer pixels


class Hold:
    """The last received frame again, as a player does that gets none."""

    name = "hold"

    def predict(self, memory: Memory, number: int) -> np.ndarray:
        """Frame `number`, (H, W, 3) uint8; the memory has a frame."""
        return memory.last.image


class Motion:
    """The last received frame, moved on as it has moved since the one before: dense optical flow (DIS, Kroeger et al.
    2016, from OpenCV), taken to go on at the same speed."""

    name = "motion"

    def __init__(self) -> None:
        import cv2

        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def predict(self, memory: Memory, number: int) -> np.ndarray:
        """Frame `number`, (H, W, 3) uint8; the memory has a frame. With one alone, or tiny ones, that is held."""
        last, previous = memory.last, memory.previous
        if previous is None or min(last.image.shape[:2]) < _LEAST_SIDE:
            return last.image
        back = self.flow(last.image, previous.image) / (last.number - previous.number)
        return moved(last.image, back * (number - last.number))

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Where each pixel of `first` is in `second`, relative to where it is: (H, W, 2) float32, x before y."""
        import cv2

        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
        return self._flow.calc(*grey, None)


def moved(image: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`image` with every pixel taken from `offsets` (H, W, 2) away; at the borders the outermost pixels go on."""
    import cv2

    height, width = image.shape[:2]
    places = offsets + np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    return cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
