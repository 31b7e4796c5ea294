"""Curves of quality over rate, each with a bootstrap: what lies between them, and whether the
findings of Chamain et al. 2020 hold on them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from icmlib.metrics import bd

ANCHOR = "HEVC"  # what the learned codec is held against off the shelf


@dataclass
class Curve:
    """One configuration or anchor over its rates, on test.

    Attributes:
        rates: payload bits per pixel, (points, 1 + R): the whole set, then R resamples of images.
        measures: `box_AP` and `psnr`, each (points, 1 + R), of the same resamples.
    """

    rates: np.ndarray
    measures: dict[str, np.ndarray]


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
    return pd.DataFrame(rows)


def readable(deltas: pd.DataFrame) -> pd.DataFrame:
    """`deltas` as a page shows them: a line a curve, a column a figure; `value [low, high]`, or why
    there is none."""
    figures = [
        row["reason"] or f"{row['value']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
        for row in deltas.to_dict("records")
    ]
    table = deltas.assign(figure=figures)
    return table.pivot(index=["against", "curve"], columns="what", values="figure")


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
    draws = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(draws, (0.025, 0.975)) if len(draws) else (np.nan, np.nan)
    return {"value": scale * values[0], "low": scale * low, "high": scale * high}


def findings(curves: dict[str, Curve]) -> pd.DataFrame:
    """The paper's findings on these curves: the figure, its interval, whether it holds.

    A finding whose figure cannot be had (the curves' ranges do not overlap enough) has no `holds`,
    and the reason in its place.
    """
    rows = []
    if ANCHOR in curves:
        found = _delta(curves, ANCHOR, "baseline")
        text = f"off the shelf, the learned codec is at least as good for the machine as {ANCHOR}"
        rows.append(_finding(text, f"BD-mAP against {ANCHOR}", found, found["high"] >= 0))
    finetuned = [name for name in ("T-FT", "C-FT", "J-FT") if name in curves]
    for name in finetuned:
        found = _delta(curves, "baseline", name)
        rows.append(
            _finding(
                f"{name} beats the baseline",
                "BD-mAP against the baseline",
                found,
                found["low"] > 0,
            )
        )
    if len(finetuned) == 3:
        rows += _at_lowest_rate(curves)
    return pd.DataFrame(rows)


def _at_lowest_rate(curves: dict[str, Curve]) -> list[dict]:
    """J-FT against the others where all begin, and what the picture pays."""
    others = ["baseline", "T-FT", "C-FT"]
    rate = lowest_common_rate(curves, [*others, "J-FT"])
    ap = {name: at_rate(curves[name], "box_AP", rate) for name in [*others, "J-FT"]}
    best = np.max([ap[name] for name in others], axis=0)
    over_best = interval(ap["J-FT"] - best, 100)
    over_t = interval(ap["J-FT"] / ap["T-FT"] - 1, 100)
    where = f"at {rate:.3f} bpp"
    rows = [
        _finding(
            "J-FT is best at the lowest rates",
            f"mAP over the best other, {where}",
            over_best,
            over_best["low"] > 0,
        ),
        _finding(
            "J-FT beats T-FT at the lowest rates (the paper: +4.6 %)",
            f"% of mAP, {where}",
            over_t,
            over_t["low"] > 0,
        ),
    ]
    for name in ("C-FT", "J-FT"):
        drop = interval(
            at_rate(curves[name], "psnr", rate) - at_rate(curves["baseline"], "psnr", rate)
        )
        what = f"dB against the baseline, {where}"
        rows.append(_finding(f"PSNR falls as the task gains, {name}", what, drop, drop["high"] < 0))
    return rows


def _delta(curves: dict[str, Curve], reference: str, name: str) -> dict:
    pair = [(curves[each].rates, curves[each].measures["box_AP"]) for each in (reference, name)]
    found = bd.resampled_delta(*pair, "quality")
    figures = {end: 100 * getattr(found, end) for end in ("value", "low", "high")}
    return figures | {"reason": found.reason}


def _finding(finding: str, measure: str, found: dict, holds: bool) -> dict:
    figures = {end: found[end] for end in ("value", "low", "high")}
    said = verdict(found["value"] + found["low"], holds)
    reason = found.get("reason", "")
    return {"finding": finding, "measure": measure, **figures, "verdict": said, "reason": reason}


def verdict(figure: float, holds: bool) -> str:
    """`cannot be said` where there is no figure (nan)."""
    return ("holds" if holds else "does not hold") if np.isfinite(figure) else "cannot be said"
