"""The metrics room: what a decoded image costs, how it looks, and what a machine sees in it.

    rate.py          real bytes -> bits per pixel
    fidelity.py      x, x_hat -> PSNR, SSIM, VGG distance (LPIPS), task-feature distance
    checkerboard.py  luma -> pooled Welch spectrum -> LPP (dB) and PRMS (grey levels)
    detection.py     ground truth, detections -> the COCO figures; AP on any resample of images
    bd.py            two rate-quality curves -> BD-rate, BD-quality, with overlap and interval

Images are RGB floats in [0, 1]; a decoded image is rounded to 8 bits (`fidelity.to_8bit`) once,
before any metric sees it. Nothing here knows a codec or a task network.
"""

import numpy as np


def resample_counts(n: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `n` images is drawn in each bootstrap resample: (resamples, n) integers.

    Drawing n images with replacement is a multinomial draw of n over equal chances, so every row
    sums to n. Metrics take the counts as image weights and never copy an image.
    """
    if n < 1:
        raise ValueError(f"a bootstrap needs at least one image; got {n}")
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)
