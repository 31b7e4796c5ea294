"""Where the pattern comes from: base codecs whose machine sees the decoder's lattice on the grid of
its own strides or on one that moves, by how their decoders enlarge maps."""

from pathlib import Path

import numpy as np
import pandas as pd

from icmlib.studies.curves import Curve, at_rate, interval, lowest_common_rate
from icmlib.studies.profile import Profile
from icmlib.studies.rate_task import resampled_curves
from icmlib.studies.verdicts import FINDING, finding


def curves(profile: Profile, folders: dict[str, Path], ap: str) -> dict[str, Curve]:
    """Of runs `<codec>-<grid>-<rate>` each codec and grid, from the lowest rate; `ap` is `mask_AP`
    or `box_AP`."""
    runs = ((name.rpartition("-")[0], folder, "test") for name, folder in folders.items())
    return resampled_curves(profile, runs, ap.removesuffix("_AP"))


def at_equal_rate(one: Curve, other: Curve, ap: str) -> dict:
    """How much the other's AP (%) and PSNR (dB) differ from one's in the middle of their common
    rates, each with `value`, `low` and `high`, nan where they have none; `bpp` is that rate."""
    low = lowest_common_rate(one, other)
    high = min(np.quantile(each["bpp"].max(0), 0.01) for each in (one, other))
    rate = float(np.sqrt(low * high)) if low <= high else float("nan")
    scores, psnr = ([at_rate(each, name, rate) for each in (one, other)] for name in (ap, "psnr"))
    change, difference = 100 * (scores[1] / scores[0] - 1), psnr[1] - psnr[0]
    return {"bpp": rate, ap: interval(change), "psnr": interval(difference)}


def findings(rows: pd.DataFrame, curves: dict[str, Curve], ap: str) -> pd.DataFrame:
    """What the second grid does to each codec, and what each other way to enlarge does on the first
    grid: less than half of the pattern; AP (at most 1 % down) and PSNR at equal rate."""
    codecs, (first, second) = rows["codec"].unique(), rows["grid"].unique()
    pairs = {f"{c}, {second} grid": (f"{c}-{first}", f"{c}-{second}") for c in codecs}
    others = {f"{c} for {codecs[0]}": (f"{codecs[0]}-{first}", f"{c}-{first}") for c in codecs[1:]}
    found, machine = [], ap.replace("_", " ")
    for name, (one, other) in (pairs | others).items():
        for rate in rows["rate"].unique():
            before, after = (rows.loc[f"{curve}-{rate}"] for curve in (one, other))
            text = f"{name}: less than half of the pattern, {rate} rate"
            found.append(finding(text, "of its PRMS", share(before, after), at_most=0.5))
        change = at_equal_rate(curves[one], curves[other], ap)
        at = f"at {change['bpp']:.3f} bpp"
        text = f"{name}: {machine} at most 1 % down at equal rate"
        found.append(finding(text, f"%, {at}", change[ap], at_least=-1.0))
        found.append(finding(f"{name}: PSNR up at equal rate", f"dB, {at}", change["psnr"]))
    return pd.DataFrame(found, columns=FINDING)


def share(before: pd.Series, after: pd.Series) -> dict[str, float]:
    """PRMS after over PRMS before; its interval is that of two codecs which are not paired, so it
    is too wide rather than too narrow."""
    ends = (("value", "", ""), ("low", "_low", "_high"), ("high", "_high", "_low"))
    return {name: after[f"prms{a}"] / (before[f"prms{b}"] or np.nan) for name, a, b in ends}
