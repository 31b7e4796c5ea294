"""One rule for what an interval says of a claim, and the sentences of an answer."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from icmlib.io import project_root
from icmlib.studies.profile import Profile
from icmlib.studies.runs import Run

FINDING = ["finding", "measure", "value", "low", "high", "verdict", "reason"]  # columns


def with_interval(row, column: str, scale: float = 1.0) -> dict[str, float]:
    """`value`, `low` and `high` of a table's row: a column, and its `_low` and `_high`."""
    ends = {"value": "", "low": "_low", "high": "_high"}
    return {end: scale * float(row[f"{column}{suffix}"]) for end, suffix in ends.items()}


def finding(
    text: str, measure: str, found: dict, at_least: float = 0.0, at_most: float | None = None
) -> dict:
    """One row with the columns FINDING: a claim on value, low and high of `found`. It `holds` where
    the whole 95 % interval lies beyond the bound, `does not hold` where all of it lies on the other
    side, else it is `undecided`, also at the bound itself; without figures it `cannot be said`."""
    low, high = found["low"], found["high"]
    if at_most is not None:
        low, high, at_least = -high, -low, -at_most
    said = "holds" if low > at_least else "does not hold" if high < at_least else "undecided"
    if not np.isfinite([found["value"], low, high]).all():
        said = "cannot be said"
    return {"finding": text, "measure": measure, "verdict": said, "reason": ""} | found


def across_seeds(profile: Profile, found: pd.DataFrame, name: str) -> pd.DataFrame:
    """Each finding's value by seed, in how many of the seeds that have it it `holds` (`2 of 3`),
    and the `spread` of the values: their standard deviation. `found` are this profile's; those of
    other seeds are in the table `name` that the same notebook wrote, where it ran here."""
    tables = {f"seed {profile.seed}": found.set_index("finding")}
    for path in sorted((project_root() / "results").glob(f"{profile.name}-seed*[0-9]/{name}.csv")):
        seed = path.parent.name.rpartition("-seed")[2]
        tables[f"seed {seed}"] = pd.read_csv(path, index_col="finding")
    each = pd.concat(tables, axis=1).reindex(found["finding"])
    said = each.xs("verdict", axis=1, level=1)
    held, known = (said == "holds").sum(axis=1), said.notna().sum(axis=1)
    seeds = each.xs("value", axis=1, level=1)
    seeds.insert(0, "spread", seeds.std(axis=1))
    seeds.insert(0, "holds", [f"{count} of {of}" for count, of in zip(held, known)])
    return seeds.reset_index()


def answer(run: Run, *sentences: str, trained: bool = True, seeds: Iterable[str] = ()) -> str:
    """The sentences as a paragraph; a trial says so first. If something was `trained`, the last
    one names the trainings: those of `seeds`, or the run's own."""
    trial = "A trial: these numbers mean nothing." if "numbers" in run.provenance else ""
    seeds = list(seeds) or [f"seed {run.provenance['seed']}"]
    count = "One training" if len(seeds) == 1 else f"{len(seeds)} trainings"
    basis = f"{count} ({', '.join(seeds)})." if trained else ""
    return " ".join(filter(None, [trial, *sentences, basis]))


def interval_text(row, measure: str, unit: str = "") -> str:
    """`-0.9 % [-1.9, +0.1]`: a measure of a table's row with its `_low` and `_high`, changes with
    their signs; `n/a` where there is none."""
    sign = "+" if measure.endswith(("_change", "_difference")) else ""
    form = sign + {"%": ".1f", "dB": ".2f", "points": ".1f"}.get(unit, ".3f")
    figures = with_interval(row, measure).values()
    if not np.isfinite([*figures]).all():
        return "n/a"
    value, low, high = (format(figure, form) for figure in figures)
    return " ".join(filter(None, [value, unit, f"[{low}, {high}]"]))


def spread(values: pd.Series, unit: str = "") -> str:
    """`-2 to -0.1 %`: the lowest and the highest of a column."""
    return f"{values.min():.3g} to {values.max():.3g} {unit}".strip()


def claim(found) -> str:
    """A finding as a clause: what is claimed, the verdict, and the figure or why there is none."""
    figure = "{value:+.3g} {measure} [{low:+.3g}, {high:+.3g}]".format(**found)
    why = found["reason"] or (figure if np.isfinite(found["value"]) else "no figure")
    return f"{found['finding']}: {found['verdict']} ({why})"


def listed(found: pd.DataFrame) -> str:
    """`Holds: PSNR up, SSIM up. Undecided: mask AP not down.` Without their row's name."""
    claims = found["finding"].str.split(": ").str[-1]
    said = claims.groupby(found["verdict"], sort=False).agg(", ".join)
    return " ".join(f"{verdict.capitalize()}: {text}." for verdict, text in said.items())


def tally(found: pd.DataFrame, what: str, seeds: pd.DataFrame) -> str:
    """`3 of 4 aims hold, 2 of them in every training.` The latter if there are several."""
    trainings = seeds.filter(like="seed ").shape[1]
    always = (seeds["holds"] == f"{trainings} of {trainings}").sum()
    held = (found["verdict"] == "holds").sum()
    every = f", {always} of them in every training" if trainings > 1 else ""
    return f"{held} of {len(found)} {what} hold{every}."
