"""Curves of quality over rate, each with a bootstrap: what lies between them, and whether the
findings of Chamain et al. 2020 hold on them.

A curve is `bpp`, `box_AP` and `psnr` of its points on test, each (points, 1 + R): of the whole set,
then of R resamples of the images, the same for all curves.
"""

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from icmlib.metrics import bd, bootstrap
from icmlib.studies.verdicts import FINDING, finding

Curve = dict[str, np.ndarray]
OFF_THE_SHELF = ("VVC", "HEVC")  # the first that was measured
DELTA = ["curve", "against", "what", "value", "low", "high", "reason", "overlap"]  # columns
KINDS = {  # of a delta -> measure, over what, scale
    "BD-rate (%)": ("box_AP", "rate", 1),
    "BD-mAP": ("box_AP", "quality", 100),
    "BD-PSNR (dB)": ("psnr", "quality", 1),
}


def deltas(curves: dict[str, Curve], reference: str, kinds: dict = KINDS) -> pd.DataFrame:
    """BD-rate (%), BD-mAP (COCO points of 100) and BD-PSNR (dB) of every curve against one, each
    with interval, or the reason why there is none; `overlap` is that of the range that counts."""
    rows = [
        {"curve": name, "against": reference, "what": what} | delta(curves, reference, name, kind)
        for name in curves
        if name != reference
        for what, kind in kinds.items()
    ]
    return pd.DataFrame(rows, columns=DELTA)


def delta(curves: dict[str, Curve], reference: str, name: str, kind=KINDS["BD-mAP"]) -> dict:
    """One of the figures of `deltas`."""
    measure, of, scale = kind
    pair = [(curves[each]["bpp"], curves[each][measure]) for each in (reference, name)]
    found = bd.resampled_delta(*pair, of)
    figures = {end: scale * getattr(found, end) for end in ("value", "low", "high")}
    return figures | {"reason": found.reason, "overlap": found.overlap}


def at_rate(curve: Curve, measure: str, rate: float) -> np.ndarray:
    """A measure at a rate in bpp, (1 + R,), by monotone interpolation over the log of the rate;
    nan outside the curve's own range, of the whole set and of each resample."""
    values = np.full(curve["bpp"].shape[1], np.nan)
    for i, (rates, each) in enumerate(zip(curve["bpp"].T, curve[measure].T)):
        rates, order = np.unique(rates, return_index=True)  # of equal rates, the first point
        if len(rates) > 1 and rates[0] <= rate <= rates[-1]:
            values[i] = PchipInterpolator(np.log(rates), each[order])(np.log(rate))
    return values


def lowest_common_rate(*curves: Curve) -> float:
    """The lowest rate, bpp, that all of these curves reach in nearly every resample."""
    return float(max(np.quantile(each["bpp"].min(0), 0.99) for each in curves))


def interval(values: np.ndarray) -> dict[str, float]:
    """`value` of the whole set and its 95 % interval from (1 + R,); nan resamples are left out."""
    low, high = bootstrap.interval(values[1:])
    return {"value": values[0], "low": low, "high": high}


def findings(curves: dict[str, Curve]) -> pd.DataFrame:
    """The paper's findings on these curves. HEVC stands for VVC where that was not measured."""
    rows = []
    for anchor in [name for name in OFF_THE_SHELF if name in curves][:1]:
        text = f"off the shelf, the learned codec is at least as good for the machine as {anchor}"
        found = delta(curves, anchor, "baseline")
        rows.append(finding(text, f"BD-mAP against {anchor}", found))
    finetuned = [name for name in ("T-FT", "C-FT", "J-FT") if name in curves]
    for name in finetuned:
        found = delta(curves, "baseline", name)
        rows.append(finding(f"{name} beats the baseline", "BD-mAP against the baseline", found))
    if len(finetuned) == 3:
        rows += _at_lowest_rate(curves)
    return pd.DataFrame(rows, columns=FINDING)


def _at_lowest_rate(curves: dict[str, Curve]) -> list[dict]:
    """J-FT against the others where all begin, and what the picture pays."""
    names = ["baseline", "T-FT", "C-FT", "J-FT"]
    rate = lowest_common_rate(*(curves[name] for name in names))
    ap = {name: 100 * at_rate(curves[name], "box_AP", rate) for name in names}
    psnr = {name: at_rate(curves[name], "psnr", rate) for name in names}
    best = np.max([ap[name] for name in names if name != "J-FT"], axis=0)
    beats = "J-FT beats T-FT at the lowest rate (the paper: +4.6 %)"
    falls, below = "PSNR falls as the task gains", "dB below the baseline"
    claims = [
        ("J-FT is best at the lowest rate", "mAP over the best other", ap["J-FT"] - best),
        (beats, "% of mAP", 100 * (ap["J-FT"] / ap["T-FT"] - 1)),
        (f"{falls}, C-FT", below, psnr["baseline"] - psnr["C-FT"]),
        (f"{falls}, J-FT", below, psnr["baseline"] - psnr["J-FT"]),
    ]
    where = f"at {rate:.3f} bpp"
    return [finding(text, f"{what}, {where}", interval(values)) for text, what, values in claims]
