"""Bjøntegaard deltas: how far apart two rate-quality curves lie, on average.

    rate     % of bits that the test codec needs more than the anchor at equal quality
    quality  how much better the test codec is at equal rate, in the unit of quality (dB, mAP)

Rates are logarithmic (Bjøntegaard, VCEG-M33, 2001). The library `bjontegaard` interpolates the
curves with `pchip`, which is monotone between monotone points; Akima and the cubic can overshoot.
"""

from dataclasses import dataclass, replace

import numpy as np

from icmlib.metrics import bootstrap

MIN_POINTS = 3  # Bjøntegaard's own cubic needs four
MIN_OVERLAP = 0.5  # of the narrower range
MIN_VALID = 0.95  # of the resamples, for an interval

Points = tuple[np.ndarray, np.ndarray]  # rates and qualities


@dataclass(frozen=True)
class Delta:
    """A Bjøntegaard delta; nan where there is none."""

    value: float
    reason: str  # why there is no delta or no interval, else ""
    overlap: float = np.nan  # of the narrower range of qualities (BD-rate) or log rates, 0 to 1
    low: float = np.nan  # 95 % bootstrap interval over images
    high: float = np.nan


def delta(anchor: Points, test: Points, of: str = "rate") -> Delta:
    """The BD-rate ("rate") or BD-quality ("quality") of `test` against `anchor`, each (rates,
    qualities), arrays (points,) in any order. A reason is in place of a number where a curve has
    under three points, is not finite or not monotone, or where the ranges overlap too little."""
    anchor, test = (np.array(curve)[:, np.argsort(curve[0])] for curve in (anchor, test))
    if unfit := _unfit("anchor", *anchor) or _unfit("test", *test):
        return Delta(np.nan, unfit)
    a, b = (qualities if of == "rate" else np.log10(rates) for rates, qualities in (anchor, test))
    common = min(a[-1], b[-1]) - max(a[0], b[0])
    overlap = float(max(common, 0) / min(a[-1] - a[0], b[-1] - b[0]))
    if overlap < MIN_OVERLAP:
        axis = "quality" if of == "rate" else "rate"
        reason = f"the {axis} ranges overlap by {overlap:.0%}; need {MIN_OVERLAP:.0%}"
        return Delta(np.nan, reason, overlap)
    import bjontegaard  # here, since it loads pyplot

    function = bjontegaard.bd_rate if of == "rate" else bjontegaard.bd_psnr
    options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
    return Delta(float(function(*anchor, *test, **options)), "", overlap)


def resampled_delta(anchor: Points, test: Points, of: str = "rate") -> Delta:
    """`delta` of the whole set, with its 95 % interval over images. Rates and qualities are
    (points, 1 + R): the whole set, then the same R resamples of images for both curves. If more
    than 5 % of the resamples have no delta, there is no interval."""
    anchor, test = np.array(anchor), np.array(test)  # (2, points, 1 + R)
    draws = range(anchor.shape[-1])
    whole, *resamples = [delta(anchor[..., i], test[..., i], of) for i in draws]
    draws = np.array([each.value for each in resamples])
    valid = np.isfinite(draws).mean() if len(draws) else 1
    if whole.reason or valid < MIN_VALID:
        reason = whole.reason or f"no interval: {valid:.0%} of the resamples have a delta"
        return replace(whole, reason=reason)
    low, high = bootstrap.interval(draws)
    return replace(whole, low=low, high=high)


def _unfit(name: str, rates: np.ndarray, qualities: np.ndarray) -> str:
    """Why no delta can stand on this curve, or ""."""
    if len(rates) < MIN_POINTS:
        return f"{name} has {len(rates)} points; need {MIN_POINTS}"
    if not (np.isfinite(rates).all() and np.isfinite(qualities).all() and rates[0] > 0):
        return f"{name} has a point that is not finite, or no rate"
    if (np.diff(rates) <= 0).any() or (np.diff(qualities) <= 0).any():
        return f"{name} is not monotone"
    return ""
