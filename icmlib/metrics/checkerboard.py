"""Checkerboard measures: how visible and how strong a periodic grid stands in decoded images.

A decoder that upsamples by S leaves a pattern of period S, which is a comb of lines in the power
spectrum, at multiples of 1/S. The spectrum around each line says how much power the picture itself
would have there.

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

Report both: blurring lowers PRMS and leaves LPP. Pool first: average P over the tiles of an image,
then over the images, then read. One tile is so noisy that max(P - B, 0) alone reads about 1 grey
level; pooled floors are 0.07 for white noise of 8 grey levels and 0.2 to 0.4 on photographs, so the
originals' own reading belongs beside every reading, and `excess_prms` takes it off.

Below N = 64 the neighbourhoods of the S = 8 lattice start to hold its own lines, so B rises and the
readings fall short: compare such readings only with each other.

Evidence (tests/test_checkerboard.py): made patterns of known amplitude are recovered, Kodak reads
0 dB, and six published crops of Le et al. (arXiv 2401.10732), each image weighing alike, read
15.5 / 22.2 / 15.4 dB and 3.80 grey levels for their base codec, 12.0 / 8.8 / 6.7 dB and 0.70 after
their finetuning.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from icmlib.io import InputError
from icmlib.metrics import resample_counts

SCALES = (2, 4, 8)
BT601 = (0.299, 0.587, 0.114)
# Far under the power of 8-bit rounding (1.3e-6): keeps a flat tile at 0 dB, changes no picture.
POWER_FLOOR = 1e-12


@dataclass(frozen=True)
class Pattern:
    """One reading: `lpp[S]` in dB for S in 2, 4, 8, and `prms` in grey levels of 255."""

    lpp: dict[int, float]
    prms: float


def luma(image: Tensor | np.ndarray) -> np.ndarray:
    """BT.601 luma (H, W), float64, of an RGB image (3, H, W) in [0, 1]."""
    image = _as_array(image)
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"need an RGB image (3, H, W); got shape {image.shape}")
    _check_range(image, 0, 1)
    return np.tensordot(BT601, image, axes=1)


def tile_size(shapes: Iterable[tuple[int, int]]) -> int:
    """Tile side for a set of images of these (height, width): 128 px, or the largest multiple of
    16 that fits the smallest image. Raises ValueError under 16 px."""
    shapes = [tuple(shape) for shape in shapes]
    if not shapes:
        raise ValueError("no image shapes given; a tile size needs at least one")
    height, width = min(shapes, key=min)
    if min(height, width) < 16:
        raise InputError(f"image is {width}x{height} px; the spectrum needs at least 16x16")
    return min(128, min(height, width) // 16 * 16)


def tile_count(height: int, width: int, tile: int) -> int:
    """How many tiles `welch_spectrum` averages: the image's weight in a pooled reading."""
    return (2 * (height - tile) // tile + 1) * (2 * (width - tile) // tile + 1)


def welch_spectrum(image_or_luma: Tensor | np.ndarray, tile: int) -> np.ndarray:
    """Welch power spectrum P of one image: (tile, tile), float64, mean over its tiles.

    Takes an RGB image (3, H, W) in [0, 1], or a luma or a difference of two lumas (H, W), in
    [-1, 1]. `P.sum() / tile**2` is the (Hann-weighted) variance; DC is at [0, 0]. Raises
    ValueError for other shapes or ranges, a tile that does not fit or is no multiple of 16.
    """
    plane = _as_plane(image_or_luma)
    _check_tile(tile)
    if min(plane.shape) < tile:
        height, width = plane.shape
        raise ValueError(f"image is {width}x{height} px; a tile of {tile}x{tile} does not fit")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(tile) / tile)
    window = np.outer(hann, hann) / (hann**2).sum()
    windows = np.lib.stride_tricks.sliding_window_view(plane, (tile, tile))
    windows = windows[:: tile // 2, :: tile // 2]  # (rows, columns, N, N)
    # A row of tiles at a time: all tiles of a large photograph at once would fill the memory.
    return sum(_power(row, window).sum(axis=0) for row in windows) / np.prod(windows.shape[:2])


def read_pattern(spectra: np.ndarray, weights: np.ndarray | None = None) -> Pattern:
    """Pool the spectra (n, N, N) of n images, then read the lattice peaks.

    `weights` None counts every image alike: the reading of the published figures. Each image's
    tile count (`tile_count`) instead makes the pool the mean over all tiles of all images, so that
    large images weigh more. The two are the same for images of one size.
    """
    spectra, weights = _check_pool(spectra, weights)
    lpp, prms = _read(_pool(spectra, weights[None]))
    return Pattern({S: float(v) for S, v in zip(SCALES, lpp[0], strict=True)}, float(prms[0]))


def bootstrap_pattern(
    spectra: np.ndarray,
    weights: np.ndarray | None = None,
    resamples: int = 200,
    *,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Readings of `resamples` bootstrap samples of the images: "lpp2", "lpp4", "lpp8", "prms".

    Each is a (resamples,) array; take its quantiles for an interval. Arguments as `read_pattern`.
    Near its floor PRMS is biased upwards by noise, and a resample is noisier than the set: there
    the interval can lie above the reading itself.
    Generators of equal seed draw equal images, which pairs decoded images with their originals:
    `excess_prms` of two such "prms" arrays is the bootstrap of the excess.
    """
    spectra, weights = _check_pool(spectra, weights)
    counts = resample_counts(len(spectra), resamples, rng)
    read = _frequencies_read(spectra.shape[-1])  # the others need no pooling
    pooled = np.empty((resamples, spectra[0].size))
    pooled[:, read] = _pool(spectra.reshape(len(spectra), -1)[:, read], counts * weights)
    lpp, prms = _read(pooled.reshape(-1, *spectra.shape[1:]))
    return {**{f"lpp{S}": column for S, column in zip(SCALES, lpp.T, strict=True)}, "prms": prms}


def excess_prms(decoded, original):
    """What the codec added: sqrt(max(decoded^2 - original^2, 0)) of two PRMS (floats or arrays).

    Patterns of different origin are uncorrelated, so powers, not amplitudes, subtract.
    """
    return np.sqrt(np.maximum(np.square(decoded) - np.square(original), 0))


def _power(tiles: np.ndarray, window: np.ndarray) -> np.ndarray:
    tiles = tiles - tiles.mean(axis=(-2, -1), keepdims=True)
    return np.abs(np.fft.fft2(tiles * window)) ** 2


def _pool(spectra: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means (R, ...) of spectra (n, ...) under R rows of weights (R, n)."""
    return np.tensordot(weights / weights.sum(axis=1, keepdims=True), spectra, axes=1)


def _read(pooled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """LPP (R, 3) in dB and PRMS (R,) in grey levels of pooled spectra (R, N, N)."""
    tile = pooled.shape[-1]
    flat = np.maximum(pooled.reshape(len(pooled), -1), POWER_FLOOR)
    lpp, power = [], 0.0
    for scale in SCALES:
        peak, background = [], []
        for points, neighbours in _lattice(tile, scale):
            peak.append(flat[:, points])
            background.append(np.median(flat[:, neighbours], axis=-1))
        peak, background = np.concatenate(peak, axis=1), np.concatenate(background, axis=1)
        lpp.append(10 * np.log10(peak / background).mean(axis=1))
        power = power + 2.25 * np.maximum(peak - background, 0).sum(axis=1) / tile**2
    return np.stack(lpp, axis=1), 255 * np.sqrt(power)


def _frequencies_read(tile: int) -> np.ndarray:
    """Flat indices of all that `_read` looks at: the lattices and their neighbourhoods."""
    pairs = [pair for scale in SCALES for pair in _lattice(tile, scale)]
    return np.unique(np.concatenate([part.ravel() for pair in pairs for part in pair]))


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
    pairs = []
    for kind, offsets in kinds.items():
        points = [
            (k * tile // scale, m * tile // scale)
            for k in range(scale)
            for m in range(scale)
            if (k > 0, m > 0) == kind and (k % 2 or m % 2)  # both even: in Lambda_{S/2}, or DC
        ]
        around = [[(y + i) % tile * tile + (x + j) % tile for i, j in offsets] for y, x in points]
        pairs.append((np.array([y * tile + x for y, x in points]), np.array(around)))
    return tuple(pairs)


def _as_array(image: Tensor | np.ndarray) -> np.ndarray:
    image = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    return image.astype(np.float64)


def _as_plane(image_or_luma: Tensor | np.ndarray) -> np.ndarray:
    plane = _as_array(image_or_luma)
    if plane.ndim != 2:
        return luma(plane)
    _check_range(plane, -1, 1)
    return plane


def _check_range(values: np.ndarray, low: float, high: float) -> None:
    if not (values.min() >= low and values.max() <= high):  # so phrased, NaN fails too
        raise ValueError(
            f"values run from {values.min():.4g} to {values.max():.4g}; need [{low}, {high}]"
        )


def _check_tile(tile: int) -> None:
    if tile < 16 or tile % 16:
        raise ValueError(f"tile is {tile} px; need a multiple of 16, at least 16 (see tile_size)")


def _check_pool(spectra, weights) -> tuple[np.ndarray, np.ndarray]:
    spectra = np.asarray(spectra, dtype=np.float64)
    if spectra.ndim != 3 or spectra.shape[1] != spectra.shape[2] or len(spectra) == 0:
        raise ValueError(f"need spectra of shape (n, N, N), n > 0; got {spectra.shape}")
    _check_tile(spectra.shape[1])
    weights = np.ones(len(spectra)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(spectra),) or not (weights > 0).all():
        raise ValueError(f"need {len(spectra)} positive weights, one an image; got {weights}")
    return spectra, weights
