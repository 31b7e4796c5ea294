"""Checkerboard measures: how visible and how strong a periodic grid stands in decoded images.

A decoder that upsamples by S leaves a pattern of period S: lines in the power spectrum at multiples
of 1/S. The spectrum around each line says how much power the picture itself would have there.

    P(f)      Welch power of the luma (BT.601, in [0, 1]): tiles of N x N from the top left corner,
              hop N/2, mean removed, periodic Hann window, scaled so that sum P / N^2 is the
              variance
    Lambda_S  the lattice points (k/S, l/S), without DC and without those of Lambda_{S/2}
    B(f)      median of P over the 11x11 neighbourhood without its inner 3x3; on an axis (k = 0 or
              l = 0) only the neighbours along that axis, where pictures have most of their power
    LPP_S     lattice-peak prominence (dB): mean over Lambda_S of 10 log10(P / B).
              How detectable the pattern is; pooled photographs read 0 +- 0.5 dB
    PRMS      pattern RMS (grey levels of 255): 255 sqrt(sum over Lambda_2, 4, 8 of
              2.25 max(P - B, 0) / N^2). How strong it is; 2.25 is what the Hann window takes off
              the peak of a sinusoid

Report both: blurring lowers PRMS and leaves LPP. Average P over tiles and images, then read: one
noisy tile alone reads about 1 grey level. Pooled floors are 0.07 for white noise of 8 grey levels
and 0.2 to 0.4 on photographs; `excess_prms` takes the originals' off. Below N = 64 neighbourhoods
of the S = 8 lattice hold lines of their own: compare such readings only with each other.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from torch import Tensor

from icmlib.io import LUMA, InputError

SCALES = (2, 4, 8)
# Far under the power of 8-bit rounding (1.3e-6): keeps a flat tile at 0 dB, changes no picture.
POWER_FLOOR = 1e-12


def luma(image: Tensor) -> np.ndarray:
    """BT.601 luma (H, W), float64, of an RGB image (3, H, W); ValueError: not in [0, 1]."""
    image = image.detach().cpu().double().numpy()
    if not (image.min() >= 0 and image.max() <= 1):  # so phrased, NaN fails too
        raise ValueError(f"values run from {image.min():.4g} to {image.max():.4g}; need [0, 1]")
    return np.tensordot(LUMA, image, axes=1)


def tile_size(shapes: Iterable[tuple[int, int]]) -> int:
    """Tile side for images of these (height, width): 128 px, or the largest multiple of 16 that
    fits the smallest. Raises ValueError under 16 px."""
    height, width = min(shapes, key=min)
    if min(height, width) < 16:
        raise InputError(f"image is {width}x{height} px; the spectrum needs at least 16x16")
    return min(128, min(height, width) // 16 * 16)


def welch_spectrum(plane: np.ndarray, tile: int) -> np.ndarray:
    """Welch power spectrum P of a luma, or of a difference of two, (H, W): (tile, tile), float64,
    DC at [0, 0]; the tile has to fit."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(tile) / tile)
    window = np.outer(hann, hann) / (hann**2).sum()
    windows = np.lib.stride_tricks.sliding_window_view(plane, (tile, tile))
    windows = windows[:: tile // 2, :: tile // 2]  # (rows, columns, N, N)
    power = np.zeros((tile, tile))
    for row in windows:  # all tiles of a large photograph at once would fill the memory
        row = row - row.mean(axis=(-2, -1), keepdims=True)
        power += (np.abs(np.fft.fft2(row * window)) ** 2).sum(axis=0)
    return power / np.prod(windows.shape[:2])


def read_pattern(spectra: np.ndarray, counts: np.ndarray | None = None) -> dict:
    """The reading of the pooled spectra (n, N, N) of n images: "lpp2", "lpp4", "lpp8" in dB and
    "prms" in grey levels of 255.

    With `counts` (R, n), how often each image is drawn in each resample, values are (R,). Noise
    raises PRMS near its floor, where an interval can lie above the reading itself. With equal
    counts, `excess_prms` of decoded and original "prms" is the bootstrap of the excess.
    """
    if counts is None:
        return {k: float(v[0]) for k, v in _read(spectra, np.ones((1, len(spectra)))).items()}
    return _read(spectra, counts)


def excess_prms(decoded, original):
    """What the codec added: sqrt(max(decoded^2 - original^2, 0)) of two PRMS (floats or arrays);
    patterns of different origin are uncorrelated."""
    return np.sqrt(np.maximum(np.square(decoded) - np.square(original), 0))


def _read(spectra: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Of spectra (n, N, N), pooled by how often each counts (R, n); each value is (R,)."""
    images, tile, _ = spectra.shape
    flat, weights = spectra.reshape(images, -1), counts / images
    reading, power = {}, 0.0
    for scale in SCALES:
        peak, background = [], []
        for points, neighbours in _lattice(tile, scale):  # only these frequencies are pooled
            around = np.tensordot(weights, flat[:, neighbours], axes=1)
            peak.append(np.maximum(weights @ flat[:, points], POWER_FLOOR))
            background.append(np.median(np.maximum(around, POWER_FLOOR), axis=-1))
        peak, background = np.concatenate(peak, axis=1), np.concatenate(background, axis=1)
        reading[f"lpp{scale}"] = 10 * np.log10(peak / background).mean(axis=1)
        power = power + 2.25 * np.maximum(peak - background, 0).sum(axis=1) / tile**2
    return reading | {"prms": 255 * np.sqrt(power)}


@lru_cache
def _lattice(tile: int, scale: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Lambda_S as flat indices into an (N, N) spectrum: pairs (points, their neighbours).

    Points off the axes have 112 neighbours, points on an axis 8, hence one pair for each kind.
    """
    near = [(i, j) for i in range(-5, 6) for j in range(-5, 6) if max(abs(i), abs(j)) > 1]
    kinds = {
        (True, True): near,
        (False, True): [(0, j) for i, j in near if i == 0],
        (True, False): [(i, 0) for i, j in near if j == 0],
    }
    steps = [(k, m) for k in range(scale) for m in range(scale)]
    steps = [(k, m) for k, m in steps if k % 2 or m % 2]  # both even: in Lambda_{S/2}, or DC
    pairs = []
    for kind, offsets in kinds.items():
        points = np.array([(k, m) for k, m in steps if (k > 0, m > 0) == kind]) * tile // scale
        around = (points[:, None] + np.array(offsets)) % tile  # (points, neighbours, 2)
        pairs.append((points @ (tile, 1), around @ (tile, 1)))
    return tuple(pairs)
