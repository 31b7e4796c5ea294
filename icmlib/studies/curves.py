"""Curves of quality over rate, each with a bootstrap: what lies between them, and whether the
findings of Chamain et al. 2020 hold on them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from icmlib.metrics import bd, bootstrap
from icmlib.studies.verdicts import FINDING, finding

ANCHORS = ("VVC", "HEVC")  # what the learned codec is held against off the shelf: the first there


@dataclass
class Curve:
    """One configuration or anchor over its rates, on test.

    Attributes:
        rates: payload bits per pixel, (points, 1 + R): the whole set, then R resamples of images.
        measures: `box_AP` and `psnr`, each (points, 1 + R), of the same resamples.
    """

    rates: np.ndarray
    measures: dict[str, np.ndarray]


DELTA = ["curve", "against", "what", "value", "low", "high", "overlap", "reason"]  # columns


def deltas(curves: dict[str, Curve], reference: str) -> pd.DataFrame:
    """BD-rate (%), BD-mAP (COCO points of 100) and BD-PSNR (dB) of every curve against one, each
    with interval, or the reason why there is none; `overlap` is that of the range that counts."""
    base, rows = curves[reference], []
    for name, curve in curves.items():
        if name == reference:
            continue
        for what, measure, of, scale in (
            ("BD-rate (%)", "box_AP", "rate", 1),
            ("BD-mAP", "box_AP", "quality", 100),
            ("BD-PSNR (dB)", "psnr", "quality", 1),
        ):
            pair = [(each.rates, each.measures[measure]) for each in (base, curve)]
            found = bd.resampled_delta(*pair, of)
            row = {"curve": name, "against": reference, "what": what}
            row |= {end: scale * getattr(found, end) for end in ("value", "low", "high")}
            row["overlap"] = found.quality_overlap if of == "rate" else found.rate_overlap
            rows.append(row | {"reason": found.reason})
    return pd.DataFrame(rows, columns=DELTA)


def readable(deltas: pd.DataFrame) -> pd.DataFrame:
    """`deltas` as a page shows them: a line a curve, a column a figure; `value [low, high]`, and
    why one of them is missing."""
    table = deltas.assign(figure=[_figure(**row) for row in deltas.to_dict("records")])
    return table.pivot(index=["against", "curve"], columns="what", values="figure")


def _figure(value: float, low: float, high: float, reason: str, **_) -> str:
    figure = "" if np.isnan(value) else f"{value:+.1f} "
    return figure + (reason or f"[{low:+.1f}, {high:+.1f}]")


def at_rate(curve: Curve, measure: str, rate: float) -> np.ndarray:
    """A measure at a rate in bpp, (1 + R,), by monotone interpolation over the log of the rate;
    nan outside the curve's own range, of the whole set and of each resample."""
    values = np.full(curve.rates.shape[1], np.nan)
    for i, (rates, each) in enumerate(zip(curve.rates.T, curve.measures[measure].T)):
        rates, order = np.unique(rates, return_index=True)  # of equal rates, the first point
        if len(rates) > 1 and rates[0] <= rate <= rates[-1]:
            values[i] = PchipInterpolator(np.log(rates), each[order])(np.log(rate))
    return values


def lowest_common_rate(curves: dict[str, Curve], names: list[str]) -> float:
    """The lowest rate, bpp, that all of these curves reach in nearly every resample."""
    return float(max(np.quantile(curves[name].rates.min(0), 0.99) for name in names))


def interval(values: np.ndarray, scale: float = 1.0) -> dict[str, float]:
    """`value` of the whole set and its 95 % interval from (1 + R,); nan resamples are left out."""
    low, high = bootstrap.interval(values[1:])
    return {"value": scale * values[0], "low": scale * low, "high": scale * high}


def findings(curves: dict[str, Curve]) -> pd.DataFrame:
    """The paper's findings on these curves: the figure, its interval, whether it holds.

    The rule is that of `verdict`. Where there is no figure (the curves do not overlap enough) it
    cannot be said, and the reason is given. The paper's conventional anchor is VVC; where that was
    not measured, HEVC stands for it.
    """
    rows = []
    anchor = next((name for name in ANCHORS if name in curves), None)
    if anchor:
        found = _delta(curves, anchor, "baseline")
        text = f"off the shelf, the learned codec is at least as good for the machine as {anchor}"
        rows.append(finding(text, f"BD-mAP against {anchor}", found))
    finetuned = [name for name in ("T-FT", "C-FT", "J-FT") if name in curves]
    for name in finetuned:
        found = _delta(curves, "baseline", name)
        rows.append(finding(f"{name} beats the baseline", "BD-mAP against the baseline", found))
    if len(finetuned) == 3:
        rows += _at_lowest_rate(curves)
    return pd.DataFrame(rows, columns=FINDING)


def _at_lowest_rate(curves: dict[str, Curve]) -> list[dict]:
    """J-FT against the others where all begin, and what the picture pays."""
    others = ["baseline", "T-FT", "C-FT"]
    rate = lowest_common_rate(curves, [*others, "J-FT"])
    ap = {name: at_rate(curves[name], "box_AP", rate) for name in [*others, "J-FT"]}
    over_best = interval(ap["J-FT"] - np.max([ap[name] for name in others], axis=0), 100)
    over_t = interval(ap["J-FT"] / ap["T-FT"] - 1, 100)
    where = f"at {rate:.3f} bpp"
    text = "J-FT beats T-FT at the lowest rate (the paper: +4.6 %)"
    rows = [
        finding("J-FT is best at the lowest rate", f"mAP over the best other, {where}", over_best),
        finding(text, f"% of mAP, {where}", over_t),
    ]
    before = at_rate(curves["baseline"], "psnr", rate)
    for name in ("C-FT", "J-FT"):
        drop = interval(before - at_rate(curves[name], "psnr", rate))
        text = f"PSNR falls as the task gains, {name}"
        rows.append(finding(text, f"dB below the baseline, {where}", drop))
    return rows


def _delta(curves: dict[str, Curve], reference: str, name: str) -> dict:
    pair = [(curves[each].rates, curves[each].measures["box_AP"]) for each in (reference, name)]
    found = bd.resampled_delta(*pair, "quality")
    figures = {end: 100 * getattr(found, end) for end in ("value", "low", "high")}
    return figures | {"reason": found.reason}
