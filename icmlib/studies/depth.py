"""How much is training, how much the method: base codecs trained ever longer, and what some rows of
Table 1 make of each."""

from itertools import pairwise

import pandas as pd

from icmlib.studies import table1, zoo
from icmlib.studies.curves import Curve
from icmlib.studies.origin import at_equal_rate
from icmlib.studies.profile import Profile
from icmlib.studies.runs import read_summary
from icmlib.studies.verdicts import FINDING, finding


def read_rows(profile: Profile) -> pd.DataFrame:
    """One line for each base codec (row `base`) and each of its finetunings, on test, indexed by
    steps of base training, rate and row, with the columns of `table1.relative`."""
    tables = {}
    for name, chosen in profile.depth.runs().items():
        runs = {"base": read_summary(profile, zoo.BEFORE, name)}
        runs |= {r: read_summary(profile, zoo.AFTER, zoo.after(name, r)) for r in chosen.rows}
        steps, rate = name.split("-")
        table = pd.DataFrame({row: run["test"] for row, run in runs.items()}).T
        tables[int(steps), rate] = table1.relative(table)
    return pd.concat(tables, names=["steps", "rate", "row"])


def findings(rows: pd.DataFrame, curves: dict[str, Curve], ap: str) -> pd.DataFrame:
    """Is the longest training the end: does AP at equal rate rise by less than half a percent
    against the one before? And of each row, after the shortest and after the longest training: the
    aims of Table 1."""
    steps, found = sorted(rows.index.unique("steps")), []
    for one, other in pairwise(steps):
        change = at_equal_rate(curves[f"{one}"], curves[f"{other}"], ap)
        text = f"{other:,} steps for {one:,}: {table1.MACHINE[ap]} at most half a percent up"
        found.append(finding(text, f"%, at {change['bpp']:.3f} bpp", change[ap], at_most=0.5))
    for place in dict.fromkeys((steps[0], steps[-1])):
        for rate, table in rows.loc[place].groupby("rate", sort=False):
            table = table.droplevel("rate")
            aims = table1.aims(table, *table.index.drop("base"), removed=90, peak=5, change=-1.6)
            text = f"{place:,} steps, {rate} rate, "
            found += aims.assign(finding=text + aims["finding"]).to_dict("records")
    return pd.DataFrame(found, columns=FINDING)
