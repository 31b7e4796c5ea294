"""Conventional codecs and post-filters behind the same encode / decode."""

import io
import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from PIL import Image

from icmlib.codecs.bitstream import Bitstream, BitstreamError, check_image
from icmlib.runs import fingerprint

cv2.setNumThreads(1)  # it has a pool of its own, beside PyTorch's threads


class PillowCodec:
    """A still image format of Pillow, e.g. `PillowCodec("JPEG", quality=50)`; PNG is lossless."""

    def __init__(self, format: str, **options):
        self.format, self.options = format, options
        self.fingerprint = fingerprint({"format": format})

    def encode(self, image: torch.Tensor) -> Bitstream:
        """image (3, H, W) RGB in [0, 1], rounded to 8 bits -> Bitstream; raises ValueError for
        anything else."""
        check_image(image)
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, self.format, **self.options)
        return Bitstream(self.fingerprint, *image.shape[-2:], 0, (buffer.getvalue(),))

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        """Raises BitstreamError: written by another codec."""
        if bitstream.codec != self.fingerprint:
            raise BitstreamError(f"bitstream of codec {bitstream.codec} is not {self.format}")
        pixels = np.array(Image.open(io.BytesIO(bitstream.strings[0])).convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


class PostFiltered:
    """A codec whose decoded images pass a filter; the bits stay as they are."""

    def __init__(self, codec, filter: Callable[[np.ndarray], np.ndarray]):
        self.codec, self.filter = codec, filter

    def encode(self, image: torch.Tensor) -> Bitstream:
        return self.codec.encode(image)

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
