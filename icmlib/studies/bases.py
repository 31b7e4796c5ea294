"""Base codecs beside study 1's (notebook 04b), and what finetuning makes of them: codecs of other
architectures (the zoo), where the pattern comes from (origin), and ever longer training (depth).

Runs of stage `zoo_base` are the base codecs, of `zoo` the finetuned ones, `<codec>-<row>`.
"""

from collections.abc import Iterable
from itertools import pairwise, product

import numpy as np
import pandas as pd

from icmlib.config import BaseTrainingConfig, CodecConfig, FinetuneConfig, replace
from icmlib.evaluate import compare, load_evaluation
from icmlib.studies import table1
from icmlib.studies.curves import Curve, at_rate, interval, lowest_common_rate
from icmlib.studies.profile import Profile, lookup
from icmlib.studies.runs import read_summary, run_folder
from icmlib.studies.verdicts import FINDING, finding, with_interval


def settings(
    profile: Profile, codec: str
) -> tuple[CodecConfig, BaseTrainingConfig, dict[str, FinetuneConfig], str | None]:
    """Architecture, base training, finetunings by row and given weights of one of the profile's
    codecs; raises ValueError: it has no such codec."""
    chosen = lookup("codec", codec, profile.codecs)
    rows = {row: replace(profile.finetune, profile.rows[row]) for row in chosen.rows}
    return chosen.codec, replace(profile.base, chosen.base), rows, chosen.weights


def read_runs(profile: Profile, names: Iterable[str]) -> pd.DataFrame:
    """What was measured on test of these codecs, indexed by `run` and `row` (`base`, then the
    finetunings), with the columns of `table1.relative`; `given`: the base codec's file, or that it
    was trained here. Raises FileNotFoundError: a run is not finished."""
    tables = {}
    for name in names:
        codec = lookup("codec", name, profile.codecs)
        found = {"base": read_summary(profile, "zoo_base", name)}
        found |= {row: read_summary(profile, "zoo", f"{name}-{row}") for row in codec.rows}
        given = codec.weights or "trained here"
        tables[name] = table1.from_summaries(found, "test").assign(given=given)
    return pd.concat(tables, names=["run", "row"])


def split_names(table: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """With columns for what hyphens join in the names of its runs, as `codec`, `grid`, `rate`."""
    names = [run.rsplit("-", len(parts) - 1) for run in table.index.get_level_values(0)]
    return pd.DataFrame(names, table.index, parts).join(table)


def at_equal_rate(one: Curve, other: Curve, ap: str) -> dict:
    """How much the other's AP (%) and PSNR (dB) differ from one's in the middle of their common
    rates, each with `value`, `low` and `high`, nan where they have none; `bpp` is that rate."""
    low = lowest_common_rate(one, other)
    high = min(np.quantile(each["bpp"].max(0), 0.01) for each in (one, other))
    rate = float(np.sqrt(low * high)) if low <= high else float("nan")
    scores, psnr = ([at_rate(each, name, rate) for each in (one, other)] for name in (ap, "psnr"))
    change, difference = 100 * (scores[1] / scores[0] - 1), psnr[1] - psnr[0]
    return {"bpp": rate, ap: interval(change), "psnr": interval(difference)}


def origin_findings(rows: pd.DataFrame, curves: dict[str, Curve], ap: str) -> pd.DataFrame:
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
    """PRMS after over PRMS before; the interval is of unpaired codecs, and rather too wide."""
    ends = (("value", "", ""), ("low", "_low", "_high"), ("high", "_high", "_low"))
    return {name: after[f"prms{a}"] / (before[f"prms{b}"] or np.nan) for name, a, b in ends}


def depth_findings(profile: Profile, rows: pd.DataFrame, ap: str) -> pd.DataFrame:
    """Is the longest training the end: does AP rise by less than half a percent against the one
    before, of the same weights of the loss? Their bits differ; how much is said. And of each row,
    after the shortest and after the longest training: the aims of Table 1."""
    steps, found = profile.depth.steps, []
    for rate, (one, other) in product(profile.depth.rates, pairwise(steps)):
        folders = [run_folder(profile, "zoo_base", f"{each}-{rate}") for each in (one, other)]
        pair = [load_evaluation(folder, "test") for folder in folders]
        change = compare(*pair, profile.evaluation.resamples)
        before, after = (rows.loc[f"{each}-{rate}", "base"] for each in (one, other))
        text = f"{rate} rate, {other:,} steps for {one:,}: {table1.MACHINE[ap]} at most half a % up"
        figures = with_interval(change, f"{ap}_difference", 100 / (before[ap] or np.nan))
        bits = f"%, at {100 * after['bpp'] / before['bpp']:.1f} % of the bits"
        found.append(finding(text, bits, figures, at_most=0.5))
    for rate, place in product(profile.depth.rates, dict.fromkeys((steps[0], steps[-1]))):
        table = rows.loc[f"{place}-{rate}"]
        aims = table1.aims(table, *profile.depth.rows, removed=90, peak=5, change=-1.6)
        text = f"{place:,} steps, {rate} rate, "
        found += aims.assign(finding=text + aims["finding"]).to_dict("records")
    return pd.DataFrame(found, columns=FINDING)
