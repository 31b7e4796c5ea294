"""How much is training, how much the method: base codecs trained ever longer, and what some rows of
Table 1 make of each."""

from itertools import pairwise, product

import numpy as np
import pandas as pd

from icmlib.evaluate import compare, load_evaluation
from icmlib.studies import table1
from icmlib.studies.profile import Profile
from icmlib.studies.runs import run_folder
from icmlib.studies.verdicts import FINDING, finding, with_interval


def findings(profile: Profile, rows: pd.DataFrame, ap: str) -> pd.DataFrame:
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
