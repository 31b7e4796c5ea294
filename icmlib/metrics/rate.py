"""Rate, from the bytes that were really written: bits per pixel of the coded image."""

from collections.abc import Sequence


def bpp(n_bytes: int, height: int, width: int) -> float:
    """Bits per pixel of one coded image of `height` x `width` pixels stored in `n_bytes`."""
    return total_bpp([n_bytes], [height * width])


def total_bpp(n_bytes: Sequence[int], pixels: Sequence[int]) -> float:
    """Bits per pixel of a set: total bits over total pixels, one entry an image in each list.

    This, not the mean of per-image values, is the rate of a set: a large image weighs more.
    Raises ValueError for lists of different lengths, no images, or an image without pixels.
    """
    if len(n_bytes) != len(pixels) or len(pixels) == 0:
        raise ValueError(
            f"got {len(n_bytes)} byte counts and {len(pixels)} pixel counts; need one of each "
            "for every image, and at least one image"
        )
    if min(pixels) <= 0 or min(n_bytes) < 0:
        raise ValueError(
            f"fewest pixels {min(pixels)}, fewest bytes {min(n_bytes)}; an image has at least "
            "one pixel and no fewer than zero bytes"
        )
    return 8 * float(sum(n_bytes)) / float(sum(pixels))
