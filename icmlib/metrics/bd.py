"""Bjøntegaard deltas: how far apart two rate-quality curves lie, on average.

    rate     % of bits that the test codec needs more than the anchor at equal quality
    quality  how much better the test codec is at equal rate, in the unit of quality (dB, mAP)

Rates are logarithmic (Bjøntegaard, VCEG-M33, 2001); curves are interpolated by the library
`bjontegaard` with `pchip`: through every point, and monotone between monotone points, so never
above or below what was measured. Akima can overshoot, the classic cubic even between four points.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from icmlib.metrics import resample_counts

METHOD = "pchip"
MIN_POINTS = 4  # as Bjøntegaard's own
MIN_OVERLAP = 0.5  # of the narrower range
MIN_VALID = 0.95  # of the resamples, for an interval
NAN = float("nan")

Quality = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Delta:
    """A Bjøntegaard delta, and what it stands on.

    Attributes:
        value: the delta; nan where there is none.
        reason: why there is none, else "".
        rate_overlap, quality_overlap: share of the narrower of the two curves' ranges that both
            curves cover, 0 to 1; of rates, by their logarithm.
        rates, qualities: that common range, (from, to); nan where there is none.
        low, high: 95 % bootstrap interval over images; nan where there is none.
        valid: share of the resamples that have a delta.
    """

    value: float
    reason: str
    rate_overlap: float
    quality_overlap: float
    rates: tuple[float, float]
    qualities: tuple[float, float]
    low: float = NAN
    high: float = NAN
    valid: float = NAN


def delta(
    anchor: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    of: str = "rate",
    min_overlap: float = MIN_OVERLAP,
    min_points: int = MIN_POINTS,
) -> Delta:
    """The BD-rate ("rate") or BD-quality ("quality") of `test` against `anchor`.

    Each is (rates, qualities), arrays (points,) in any order; rates in any unit, the same for
    both. There is no number, and a reason, where a curve has fewer than `min_points` points, is
    not finite or not monotone, or where less than `min_overlap` of the narrower range is common:
    of the qualities for BD-rate, of the rates for BD-quality.
    Raises ValueError for arrays that do not belong together and for an unknown `of`.
    """
    if of not in ("rate", "quality"):
        raise ValueError(f"of is {of!r}; need 'rate' or 'quality'")
    curves = {"anchor": _curve("anchor", *anchor), "test": _curve("test", *test)}
    (rates_a, qualities_a), (rates_b, qualities_b) = curves.values()
    reasons = [_unfit(name, *curve, min_points) for name, curve in curves.items()]
    if any(reasons):
        reason = "; ".join(filter(None, reasons))
        return Delta(NAN, reason, NAN, NAN, (NAN, NAN), (NAN, NAN))
    rate_overlap, rates = _overlap(np.log10(rates_a), np.log10(rates_b))
    quality_overlap, qualities = _overlap(qualities_a, qualities_b)
    rates = (float(10 ** rates[0]), float(10 ** rates[1]))
    stated = (rate_overlap, quality_overlap, rates, qualities)
    share, axis = (quality_overlap, "quality") if of == "rate" else (rate_overlap, "rate")
    if share == 0 or share < min_overlap:
        reason = f"the {axis} ranges overlap by {share:.0%}; need {min_overlap:.0%}"
        return Delta(NAN, reason, *stated)
    return Delta(_library(rates_a, qualities_a, rates_b, qualities_b, of), "", *stated)


def bootstrap(
    anchor: tuple[np.ndarray, Quality],
    test: tuple[np.ndarray, Quality],
    of: str = "rate",
    resamples: int = 1000,
    *,
    rng: np.random.Generator,
    **limits,
) -> Delta:
    """`delta` of the whole set, with its 95 % interval over images, the same drawn for both.

    Args:
        anchor, test: bits (points, images) and the quality: an array (points, images) that is
            averaged over images, or, for what is no mean (mAP), a callable: counts (R, images), how
            often each image is drawn -> qualities (points, R), as
            `lambda counts: np.stack([average_precision(m, counts)["AP"] for m in matches])`.
        of, limits: as in `delta`.

    Resamples without a delta are left out; where they are more than 5 %, there is no interval,
    and `reason` says so. Both codecs code the same images, so total bits stand for the rate.
    """
    images = {np.shape(bits)[-1] for bits, _ in (anchor, test)}
    if len(images) != 1:
        raise ValueError(f"anchor and test have {sorted(images)} images; need the same ones")
    counts = whole_and_resamples(images.pop(), resamples, rng)
    curves = [_resampled(bits, quality, counts) for bits, quality in (anchor, test)]
    return resampled_delta(*curves, of, **limits)


def whole_and_resamples(n: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n images counts, (1 + resamples, n): once each, then as drawn."""
    return np.concatenate([np.ones((1, n), int), resample_counts(n, resamples, rng)])


def resampled_delta(
    anchor: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    of: str = "rate",
    **limits,
) -> Delta:
    """`bootstrap` of curves that are resampled already: each (rates, qualities), both
    (points, 1 + R), the whole set first, then the same R resamples of images for both."""
    deltas = [
        delta(
            *((rates[:, i], qualities[:, i]) for rates, qualities in (anchor, test)), of, **limits
        )
        for i in range(anchor[0].shape[1])
    ]
    return _with_interval(deltas[0], np.array([each.value for each in deltas[1:]]))


def _with_interval(whole: Delta, draws: np.ndarray) -> Delta:
    finite = draws[np.isfinite(draws)]
    valid = len(finite) / max(1, len(draws))
    if whole.reason or valid < MIN_VALID:
        reason = whole.reason or f"no interval: {valid:.0%} of the resamples have a delta"
        return replace(whole, reason=reason, valid=valid)
    low, high = map(float, np.quantile(finite, (0.025, 0.975)))
    return replace(whole, low=low, high=high, valid=valid)


def _resampled(
    bits: np.ndarray, quality: Quality, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bits an image and quality of each resample, each (points, R)."""
    bits = np.asarray(bits, float)
    rates = bits @ counts.T / counts.shape[1]
    if callable(quality):
        qualities = np.asarray(quality(counts), float)
    else:
        qualities = np.asarray(quality, float) @ counts.T / counts.shape[1]
    if qualities.shape != rates.shape:
        raise ValueError(
            f"quality has shape {qualities.shape}, bits {rates.shape}; need (points, resamples)"
        )
    return rates, qualities


def _curve(name: str, rates, qualities) -> tuple[np.ndarray, np.ndarray]:
    """Both (points,), by rising rate."""
    rates, qualities = np.asarray(rates, float), np.asarray(qualities, float)
    if rates.ndim != 1 or rates.shape != qualities.shape:
        raise ValueError(
            f"{name} has rates {rates.shape} and qualities {qualities.shape}; need (points,) twice"
        )
    order = np.argsort(rates, kind="stable")
    return rates[order], qualities[order]


def _unfit(name: str, rates: np.ndarray, qualities: np.ndarray, min_points: int) -> str:
    """Why no delta can stand on this curve, or ""."""
    if len(rates) < max(2, min_points):
        return f"{name} has {len(rates)} points; need {max(2, min_points)}"
    if not (np.isfinite(rates).all() and np.isfinite(qualities).all() and rates[0] > 0):
        return f"{name} has a point that is not finite, or no rate"
    falls = np.flatnonzero((np.diff(rates) <= 0) | (np.diff(qualities) <= 0))
    if len(falls):
        (i, *_) = falls
        return (
            f"{name} is not monotone: quality {qualities[i]:.4g} at rate {rates[i]:.4g}, "
            f"{qualities[i + 1]:.4g} at {rates[i + 1]:.4g}"
        )
    return ""


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Share of the narrower of two rising axes that is common, and the common range."""
    low, high = float(max(a[0], b[0])), float(min(a[-1], b[-1]))
    if high <= low:
        return 0.0, (NAN, NAN)
    return (high - low) / float(min(a[-1] - a[0], b[-1] - b[0])), (low, high)


def _library(rates_a, qualities_a, rates_b, qualities_b, of: str) -> float:
    import bjontegaard  # here, since it loads pyplot

    function = {"rate": bjontegaard.bd_rate, "quality": bjontegaard.bd_psnr}[of]
    value = function(
        *(rates_a, qualities_a, rates_b, qualities_b),
        method=METHOD,
        require_matching_points=False,
        min_overlap=0,  # judged above
    )
    return float(value)
