"""The codec zoo: what PatchGAN finetuning does to codecs of other architectures."""

from collections.abc import Iterable

import pandas as pd

from icmlib.config import BaseTrainingConfig, CodecConfig, FinetuneConfig, replace
from icmlib.studies import table1
from icmlib.studies.profile import Profile, lookup
from icmlib.studies.runs import read_summary

BEFORE, AFTER = "zoo_base", "zoo"  # stages of the runs: the base codec, and the finetuned one
FINETUNED = "finetuned"  # the row of a codec that names none


def settings(
    profile: Profile, codec: str
) -> tuple[CodecConfig, BaseTrainingConfig, dict[str, FinetuneConfig], str | None]:
    """Architecture, base training, finetunings by row and given weights of one of the profile's
    codecs; raises ValueError: it has no such codec."""
    chosen = lookup("codec", codec, profile.codecs)
    changes = {row: profile.rows[row] for row in chosen.rows} or {FINETUNED: profile.zoo.finetune}
    rows = {row: replace(profile.finetune, each) for row, each in changes.items()}
    return chosen.codec, replace(profile.base, chosen.base), rows, chosen.weights


def after(codec: str, row: str) -> str:
    """The name of a finetuning's run."""
    return codec if row == FINETUNED else f"{codec}-{row}"


def read_runs(profile: Profile, names: Iterable[str]) -> pd.DataFrame:
    """What was measured on test of these codecs, indexed by `run` and `row` (`base`, then the
    finetunings), with the columns of `table1.relative`; `given`: the base codec's file, or that it
    was trained here. Raises FileNotFoundError: a run is not finished."""
    tables = {}
    for name in names:
        *_, rows, weights = settings(profile, name)
        found = {"base": read_summary(profile, BEFORE, name)}
        found |= {row: read_summary(profile, AFTER, after(name, row)) for row in rows}
        tables[name] = table1.from_summaries(found, "test").assign(given=weights or "trained here")
    return pd.concat(tables, names=["run", "row"])


def split_names(table: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """With columns for what hyphens join in the names of its runs, as `codec`, `grid`, `rate`."""
    names = [run.rsplit("-", len(parts) - 1) for run in table.index.get_level_values(0)]
    return pd.DataFrame(names, table.index, parts).join(table)
