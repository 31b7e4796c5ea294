"""Post-filters: a codec's decoded images are smoothed, its bits stay as they are."""

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch

from icmlib.codecs.bitstream import Bitstream

cv2.setNumThreads(1)  # it has a pool of its own, beside PyTorch's threads


class PostFiltered:
    """A codec with `filter` (H, W, 3) -> (H, W, 3) after its decoder."""

    def __init__(self, codec, filter: Callable[[np.ndarray], np.ndarray]):
        self.codec, self.filter, self.encode = codec, filter, codec.encode

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        decoded = self.codec.decode(bitstream).clamp(0, 1).permute(1, 2, 0).numpy()
        filtered = self.filter(np.ascontiguousarray(decoded))
        return torch.from_numpy(filtered).permute(2, 0, 1).clamp(0, 1)


def gaussian(codec, sigma: float) -> PostFiltered:
    """Gaussian blur of `sigma` px after decoding."""
    return PostFiltered(codec, lambda x: cv2.GaussianBlur(x, (0, 0), sigma))


def bilateral(codec, sigma: float) -> PostFiltered:
    """Bilateral filter after decoding: spatial `sigma` px, colours within 0.2, summed over the
    three channels in [0, 1] (Tomasi & Manduchi 1998)."""
    width = 2 * math.ceil(3 * sigma) + 1
    return PostFiltered(codec, lambda x: cv2.bilateralFilter(x, width, 0.2, sigma))


FILTERS = {"gaussian": gaussian, "bilateral": bilateral}
