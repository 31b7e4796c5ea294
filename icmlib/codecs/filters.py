"""Post-filters: a codec's decoded images are smoothed, its bits stay as they are."""

import math
from functools import partial

import cv2
import numpy as np
import torch

from icmlib.codecs.bitstream import Bitstream

cv2.setNumThreads(1)  # it has a pool of its own, beside PyTorch's threads


class PostFiltered:
    """A codec with `filter`, (H, W, 3) and `sigma` -> (H, W, 3), after its decoder."""

    def __init__(self, filter, codec, sigma: float):
        self.codec, self.filter, self.sigma, self.encode = codec, filter, sigma, codec.encode

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        return self.smooth(self.codec.decode(bitstream))

    def smooth(self, decoded: torch.Tensor) -> torch.Tensor:
        """A decoded image (3, H, W)."""
        pixels = np.ascontiguousarray(decoded.clamp(0, 1).permute(1, 2, 0).numpy())
        return torch.from_numpy(self.filter(pixels, self.sigma)).permute(2, 0, 1).clamp(0, 1)


_SMOOTH = {  # (H, W, 3), sigma in px -> (H, W, 3)
    "gaussian": lambda x, sigma: cv2.GaussianBlur(x, (0, 0), sigma),
    # colours within 0.2, summed over channels (Tomasi & Manduchi 1998)
    "bilateral": lambda x, sigma: cv2.bilateralFilter(x, 2 * math.ceil(3 * sigma) + 1, 0.2, sigma),
}
FILTERS = {name: partial(PostFiltered, each) for name, each in _SMOOTH.items()}
