"""The codec zoo: what PatchGAN finetuning does to codecs of other architectures."""

import pandas as pd

from icmlib.config import BaseTrainingConfig, CodecConfig, FinetuneConfig, replace
from icmlib.studies import table1
from icmlib.studies.profile import Profile, lookup
from icmlib.studies.runs import read_summary, run_folder

BEFORE, AFTER = "zoo_base", "zoo"  # stages of the runs: the base codec, and the finetuned one
FINETUNED = "finetuned"  # the row of a codec that names none
BOTH = ("box_AP", "mask_AP", "psnr", "ssim", "lpp2", "lpp4", "lpp8", "prms", "excess_prms")


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


def read_rows(profile: Profile, split: str) -> pd.DataFrame:
    """One row for each codec whose runs are finished, indexed by name: rate, AP, PSNR, SSIM and
    pattern (dB, grey levels) before and after, with the columns of `table1.relative`."""
    rows = {}
    for name in profile.zoo.codecs:
        if (run_folder(profile, AFTER, name) / "summary.json").exists():
            before, tuned = (read_summary(profile, stage, name) for stage in (BEFORE, AFTER))
            table = table1.relative(pd.DataFrame({"base": before[split], name: tuned[split]}).T)
            layers = settings(profile, name)[2][FINETUNED].layers
            row = {"label": before["label"], "layers": layers}
            row |= {f"{each}_before": before[split][each] for each in BOTH if each in table}
            row |= table.loc[name].to_dict() | {"seconds_base": before["seconds"]}
            rows[name] = row | {fact: tuned[fact] for fact in ("seconds", "trained_parameters")}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("codec")
