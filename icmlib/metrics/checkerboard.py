"""Checkerboard measures: how visible and how strong a periodic grid stands in decoded images.

A decoder that upsamples by S leaves a pattern of period S: lines in the power spectrum at multiples
of 1/S. The spectrum around each line says how much power the picture itself would have there.

    planes    R, G, B and BT.601's Y, Cb, Cr of the picture; the pattern may be in any of them
    P(f)      Welch power of a plane in [0, 1]: tiles of N x N from the top left corner, hop N/2,
              mean removed, periodic Hann window, scaled so that sum P / N^2 is the variance
    Lambda_S  the lattice points (k/S, l/S), without DC and without those of Lambda_{S/2}
    B(f)      median of P over the 11x11 neighbourhood without its inner 3x3; on an axis (k = 0 or
              l = 0) only the neighbours along that axis, where pictures have most of their power
    LPP_S     lattice-peak prominence (dB): mean over Lambda_S of 10 log10(P / B).
              How detectable the pattern is; pooled photographs read 0 +- 0.5 dB
              (Kodak's, stored with chroma of half the resolution, 16 dB at period 2 in Cb and Cr)
    PRMS      pattern RMS (grey levels of 255): 255 sqrt(sum over Lambda_2, 4, 8 of
              2.25 max(P - B, 0) / N^2). How strong it is; 2.25 is what the Hann window takes off
              the peak of a sinusoid

The headline is of the RGB picture: `lpp<S>` is the largest of R, G and B, `prms` the root of the
mean of their squares. `lpp<S>_<plane>` and `prms_<plane>` are those of one plane. Report LPP and
PRMS: blurring lowers PRMS and leaves LPP. Average P over the tiles of an image and over the images,
then read: one noisy tile alone reads about 1 grey level. Pooled floors are 0.07 for white noise of
8 grey levels and 0.2 to 0.4 on photographs; `excess_prms` takes the originals' off.

Below N = 64 the neighbourhoods of the S = 8 lattice hold lines of their own: compare such readings
only with each other.
"""

import itertools
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import scipy.fft
from torch import Tensor

from icmlib.io import InputError
from icmlib.metrics.fidelity import check_range

SCALES = (2, 4, 8)
PLANES = ("R", "G", "B", "Y", "Cb", "Cr")
HEADLINE = ("lpp2", "lpp4", "lpp8", "prms")  # of the RGB picture
# Far under the power of 8-bit rounding (1.3e-6): keeps a flat tile at 0 dB, changes no picture.
POWER_FLOOR = 1e-12
_Y, (_R, _, _B) = np.array([0.299, 0.587, 0.114]), np.eye(3)
FROM_RGB = np.array([*np.eye(3), _Y, (_B - _Y) / 1.772, (_R - _Y) / 1.402])  # (6, 3)


def planes(image: Tensor) -> np.ndarray:
    """`PLANES` of an RGB image (3, H, W) in [0, 1]: (6, H, W) float64; Cb, Cr are 0 for grey."""
    check_range("image", image)
    return np.tensordot(FROM_RGB, image.detach().cpu().double().numpy(), axes=1)


def tile_size(shapes: Iterable[tuple[int, int]]) -> int:
    """Tile side for images of these (height, width): 128 px, or the largest multiple of 16 that
    fits the smallest. Raises ValueError under 16 px."""
    height, width = min(shapes, key=min)
    if min(height, width) < 16:
        raise InputError(f"image is {width}x{height} px; the spectrum needs at least 16x16")
    return min(128, min(height, width) // 16 * 16)


def welch_spectrum(planes: np.ndarray, tile: int) -> np.ndarray:
    """Welch power spectra P of planes, or of differences of two, (..., H, W): (..., N, N), float64,
    DC at [0, 0]; N is the tile's side. Raises ValueError where the tile does not fit."""
    height, width = planes.shape[-2:]
    if min(height, width) < tile:
        raise ValueError(f"image is {width}x{height} px; a tile of {tile}x{tile} does not fit")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(tile) / tile)
    window = np.outer(hann, hann) / (hann**2).sum()
    windows = np.lib.stride_tricks.sliding_window_view(planes, (tile, tile), axis=(-2, -1))
    tiles = windows[..., :: tile // 2, :: tile // 2, :, :]  # (..., rows, columns, N, N)
    rows, columns = tiles.shape[-4:-2]
    power = np.zeros((*planes.shape[:-2], tile, tile // 2 + 1))
    for *plane, row in np.ndindex(tiles.shape[:-3]):  # all tiles at once would fill the memory
        each = tiles[*plane, row]
        each = each - each.mean(axis=(-2, -1), keepdims=True)
        spectrum = scipy.fft.rfft2(each * window)
        power[*plane] += (spectrum.real**2 + spectrum.imag**2).sum(axis=0)
    mirrored = power[..., -np.arange(tile), :][..., tile // 2 - 1 : 0 : -1]  # P(f) = P(-f)
    return np.concatenate([power, mirrored], axis=-1) / (rows * columns)


def image_spectrum(image: Tensor, tile: int) -> np.ndarray:
    """Of the `PLANES` of an RGB image (3, H, W) in [0, 1], (6, N, N); one row of tiles at a time,
    since all planes of a large photograph take gigabytes. Raises as `welch_spectrum`."""
    tops = range(0, max(1, image.shape[-2] - tile + 1), tile // 2)
    strips = (planes(image[:, top : top + tile]) for top in tops)
    return sum(welch_spectrum(strip, tile) for strip in strips) / len(tops)


def at_lattice(spectra: np.ndarray) -> np.ndarray:
    """Of spectra (..., N, N) what is read, (..., K): the lattice and its neighbours, f or -f."""
    tile = spectra.shape[-1]
    return spectra.reshape(*spectra.shape[:-2], -1)[..., _lattice(tile)[0]]


def read_pattern(spectra: np.ndarray, tile: int, counts: np.ndarray | None = None) -> dict:
    """The reading of the pooled spectra of n images, (n, 6, K) by `at_lattice`: "lpp2", "lpp4",
    "lpp8" in dB and "prms" in grey levels of 255, and the same of each plane ("lpp2_Cb").
    With `counts` (R, n), how often each image is drawn in each resample, values are (R,). Noise
    raises PRMS near its floor, where an interval can lie above the reading itself. With equal
    counts, `excess_prms` of decoded and original "prms" is the bootstrap of the excess."""
    weights = np.ones((1, len(spectra))) if counts is None else counts
    planes = _read(np.tensordot(weights / len(spectra), spectra, axes=1), tile)
    reading = {name: values[:, :3].max(axis=1) for name, values in planes.items()}
    reading["prms"] = np.sqrt((planes["prms"][:, :3] ** 2).mean(axis=1))
    for i, plane in enumerate(PLANES):
        reading |= {f"{name}_{plane}": values[:, i] for name, values in planes.items()}
    return {k: float(v[0]) for k, v in reading.items()} if counts is None else reading


def excess_prms(decoded, original):
    """What the codec added: sqrt(max(decoded^2 - original^2, 0)) of two PRMS (floats or arrays);
    patterns of different origin are uncorrelated."""
    return np.sqrt(np.maximum(np.square(decoded) - np.square(original), 0))


def _read(pooled: np.ndarray, tile: int) -> dict[str, np.ndarray]:
    """Of pooled spectra (R, 6, K); each value is (R, 6)."""
    pooled, reading, power = np.maximum(pooled, POWER_FLOOR), {}, 0.0
    for scale in SCALES:
        points = _lattice(tile)[1][scale]
        peak = np.stack([pooled[..., each[0]] for each in points])
        background = np.stack([np.median(pooled[..., each[1:]], axis=-1) for each in points])
        reading[f"lpp{scale}"] = 10 * np.log10(peak / background).mean(axis=0)
        power = power + 2.25 * np.maximum(peak - background, 0).sum(axis=0) / tile**2
    return reading | {"prms": 255 * np.sqrt(power)}


@lru_cache
def _lattice(tile: int) -> tuple[np.ndarray, dict[int, list]]:
    """The frequencies that are read, sorted; and for each S `_points` as places among them."""
    points = {scale: _points(tile, scale) for scale in SCALES}
    known = np.unique(np.concatenate([each for scale in SCALES for each in points[scale]]))
    return known, {scale: [known.searchsorted(each) for each in points[scale]] for scale in SCALES}


def _points(tile: int, scale: int) -> list[np.ndarray]:
    """Lambda_S: each point and, after it, its neighbours (112, or 8 on an axis), as flat indices
    into an (N, N) spectrum, which is the same at f and -f: of the two, the smaller index."""
    ring = [(i, j) for i in range(-5, 6) for j in range(-5, 6) if max(abs(i), abs(j)) > 1]
    points = []
    for k, m in itertools.product(range(scale), repeat=2):
        if k % 2 or m % 2:  # both even: in Lambda_{S/2}, or DC
            near = [(i, j) for i, j in ring if (k or i == 0) and (m or j == 0)]
            places = np.array([(0, 0), *near]) + np.array([k, m]) * tile // scale
            points.append(np.minimum(*(sign * places % tile @ (tile, 1) for sign in (1, -1))))
    return points
