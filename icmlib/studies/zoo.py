"""The codec zoo: what PatchGAN finetuning does to codecs of other architectures. Runs of
stage `zoo_base` are the base codecs, of `zoo` the finetuned ones, `<codec>-<row>`."""

from collections.abc import Iterable

import pandas as pd

from icmlib.config import BaseTrainingConfig, CodecConfig, FinetuneConfig, replace
from icmlib.studies.profile import Profile, lookup
from icmlib.studies.runs import read_summary
from icmlib.studies.table1 import from_summaries


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
        codec, found = profile.codecs[name], {"base": read_summary(profile, "zoo_base", name)}
        found |= {row: read_summary(profile, "zoo", f"{name}-{row}") for row in codec.rows}
        tables[name] = from_summaries(found, "test").assign(given=codec.weights or "trained here")
    return pd.concat(tables, names=["run", "row"])


def split_names(table: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """With columns for what hyphens join in the names of its runs, as `codec`, `grid`, `rate`."""
    names = [run.rsplit("-", len(parts) - 1) for run in table.index.get_level_values(0)]
    return pd.DataFrame(names, table.index, parts).join(table)
