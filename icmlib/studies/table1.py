"""Study 1 as tables: its rows, whether the aims hold on test, and the paper's rows beside them."""

from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd
import torch

from icmlib import codecs
from icmlib.config import FinetuneConfig, replace
from icmlib.evaluate import Evaluation, compare, load_evaluation
from icmlib.io import InputError, project_file, read_json
from icmlib.studies.profile import Profile, lookup
from icmlib.studies.runs import load_codec, read_summary, run_folder
from icmlib.studies.tables import MACHINE, task_measure
from icmlib.studies.verdicts import FINDING, finding, interval_text, with_interval

ENDS = ("", "_low", "_high")
# rows: the paper's main one, its one for the machine, and the one without adversarial loss
MAIN, LOW_IMPACT, L2 = "p3x64", "low_impact", "l2"


def finetuning(profile: Profile, row: str, changes: dict) -> FinetuneConfig:
    """Settings of a row of the profile, or with `changes` of a new row. Raises ValueError: unknown
    without changes, or changes to a row of the profile."""
    if row in profile.rows and changes:
        raise InputError(f"row {row!r} is the profile's; give the changes a name of their own")
    return replace(profile.finetune, changes or lookup("row", row, profile.rows))


def label(config: FinetuneConfig) -> str:
    """A row's settings in a few words, for tables and pictures."""
    loss = f"{config.adversarial.replace('_', ' ')} {config.lambda_adversarial:g}"
    extra = {name: getattr(config, f"lambda_{name}") for name in ("feature", "lattice", "task")}
    words = [
        f"{config.patches}x{config.patch_size}",
        f"{config.layers} layer{'s' * (config.layers > 1)}" if config.layers != 2 else "",
        "L2 only" if config.adversarial == "none" else loss,
        f"lr {config.lr:g}" + " constant" * (config.schedule == "constant"),
        *(f"{name} {weight:g}" for name, weight in extra.items() if weight),
    ]
    return ", ".join(filter(None, words))


def read_rows(profile: Profile, split: str) -> pd.DataFrame:
    """One row for each finished run on the present base codec, indexed by name: the base codec, the
    finetunings in the profile's order, the post-filters. With the columns of `relative`."""
    runs = {"base": read_summary(profile, "base_codec", "base")}
    stages = dict.fromkeys(profile.rows, "finetune") | dict.fromkeys(codecs.FILTERS, "post_filter")
    for name, stage in stages.items():
        folder = run_folder(profile, stage, name)
        inputs = read_json(folder / "run.json").get("inputs", {})
        if inputs.get("base") == runs["base"]["weights"] and (folder / "summary.json").exists():
            runs[name] = read_summary(profile, stage, name)
    return from_summaries(runs, split)


def from_summaries(runs: dict[str, dict], split: str) -> pd.DataFrame:
    """What runs measured on a split, by the names of their rows, with the columns of `relative`."""
    facts = pd.DataFrame(runs.values(), [*runs], ["label", "trained_parameters", "seconds"])
    measured = pd.DataFrame({name: run[split] for name, run in runs.items()}).T
    return relative(facts.join(measured).rename_axis("row"))


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """Adds what rows change against the row `base`, each with `_low` and `_high`: `mask_AP_change`,
    `box_AP_change`, `vgg_change`, in % of the base codec's; `removed`: % of its excess pattern
    (excess PRMS); `peak`: the highest LPP in dB, and its `period` in px."""
    table = table.copy()
    base, periods = table.loc["base"], [2, 4, 8]
    for end, opposite in zip(ENDS, ("", "_high", "_low")):
        for name in MACHINE:
            if f"{name}_difference" in table:
                table[f"{name}_change{end}"] = 100 * table[f"{name}_difference{end}"] / base[name]
        table[f"peak{end}"] = table[[f"lpp{period}{end}" for period in periods]].max(axis=1)
        left = table[f"excess_prms{opposite}"] / base["excess_prms"]
        table[f"removed{end}"] = 100 * (1 - left)
    table["period"] = np.take(periods, table[[f"lpp{p}" for p in periods]].to_numpy().argmax(1))
    return table


def aims(test: pd.DataFrame, *rows: str | None, **limits: float) -> pd.DataFrame:
    """Findings on the aims of rows; none for rows that the table lacks. PSNR and SSIM rise, and
    within `limits`: AP changes by at least `change` % (where there is none, the VGG distance does
    not grow); at least `removed` % of the excess pattern goes; no lattice peak is above `peak` dB;
    the distance `feature` or `vgg` grows by no more."""
    ap, found = task_measure(test), []
    if ap == "vgg" and "change" in limits:
        limits["vgg"] = 0.0
        del limits["change"]
    down = "at most {:g} % down" if limits.get("change") else "not down"
    machine = MACHINE[ap]
    checks = {  # aim, of what, column
        "removed": ("at least {:g} % of the excess pattern removed", "% of excess PRMS", "removed"),
        "peak": ("no lattice peak above {:g} dB", "highest LPP (dB)", "peak"),
        "change": (f"{machine} {down}", f"% of {machine}", f"{ap}_change"),
        "feature": ("feature distance not up", "difference", "feature_difference"),
        "vgg": ("VGG distance not up", "difference", "vgg_difference"),
        "psnr": ("PSNR up", "dB", "psnr_difference"),
        "ssim": ("SSIM up", "difference", "ssim_difference"),
    }
    limits |= {"psnr": 0.0, "ssim": 0.0}
    for row, (name, limit) in product(test.index.intersection(rows, sort=False), limits.items()):
        aim, measure, column = checks[name]
        if column in test:
            bound = "at_most" if name in ("peak", "feature", "vgg") else "at_least"
            figures, text = with_interval(test.loc[row], column), aim.format(abs(limit))
            found.append(finding(f"{row}: {text}", measure, figures, **{bound: limit}))
    return pd.DataFrame(found, columns=FINDING)


def beside_paper(test: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 1 as changes against its own base codec, beside ours: AP in %, PSNR in dB,
    SSIM, VGG where it was measured; and whether the signs agree (half a % of AP has none)."""
    paper = pd.read_csv(project_file("data/le2022_table1.csv"), index_col="row")
    base, names = paper.loc["base"], paper.index.intersection(test.index, sort=False).drop("base")
    rows, ours, pairs, ap = paper.loc[names], test.loc[names], {}, task_measure(test)
    if ap != "vgg":
        pairs["AP"] = ours[f"{ap}_change"], 100 * (rows["mAP"] / base["mAP"] - 1)
    for name in ("psnr", "ssim", "vgg"):
        if f"{name}_difference" in ours:
            pairs[name] = ours[f"{name}_difference"], rows[name] - base[name]
    table, differ = rows[["label"]].copy(), pd.Series("", names)
    for name, pair in pairs.items():
        table[name], table[f"{name}_paper"] = pair
        least = 0.5 if name == "AP" else 0.0
        here, there = (np.sign(change.where(change.abs() >= least, 0.0)) for change in pair)
        differ += np.where(here == there, "", f", {name}")
    return table.assign(agrees=[f"not in {each[2:]}" if each else "yes" for each in differ])


def changes(configs: dict[str, FinetuneConfig], reference: str) -> dict[str, dict]:
    """The settings in which each other row differs from the reference, as `{"layers": 3}`."""
    own = asdict(configs[reference]).items() if reference in configs else ()
    rows = {name: dict(asdict(config).items() - own) for name, config in configs.items() if own}
    return {name: each for name, each in rows.items() if name != reference}


def kept(profile: Profile, evaluation: Evaluation, kind: str) -> dict[str, float]:
    """How much of the AP on uncompressed test images is left, in %: `kept`, with its paired 95 %
    interval; `kind` is `mask` or `box`."""
    before = load_evaluation(run_folder(profile, "task_network", "given"), "test")
    whole = read_summary(profile, "task_network", "given")["test"][f"{kind}_AP"]
    paired = compare(before, evaluation, profile.evaluation.resamples)
    scale, name = 100 / whole if whole else np.nan, f"{kind}_AP_difference"
    return {f"kept{end}": scale * (whole + paired[f"{name}{end}"]) for end in ENDS}


def effect(row) -> str:
    """What a row of `relative` does to pattern, machine (where it looked) and picture: a clause."""
    ap, machine = task_measure(row), ""
    if np.isfinite(row.get(f"{ap}_change", np.nan)):
        machine = f"{MACHINE[ap]} by {interval_text(row, f'{ap}_change', '%')}, "
    return (
        f"removes {interval_text(row, 'removed', '%')} of the excess pattern and changes "
        f"{machine}PSNR by {interval_text(row, 'psnr_difference', 'dB')} "
        f"and SSIM by {interval_text(row, 'ssim_difference')}"
    )


def load_variants(profile: Profile, rows: list[str]) -> dict:
    """Codecs by the names of their rows: the base codec, finetuned ones, filters after the base."""
    base = load_codec(profile, "base_codec", "base")
    variants = {"base": base}
    for row in rows:
        if row in codecs.FILTERS:
            sigma = read_summary(profile, "post_filter", row)["sigma"]
            variants[row] = codecs.FILTERS[row](base, sigma)
        elif row != "base":
            variants[row] = load_codec(profile, "finetune", row)
    return variants


def pictures(x: torch.Tensor, variants: dict) -> dict[str, torch.Tensor]:
    """An image (3, H, W), and what each codec makes of the base codec's bits of it."""
    bits = variants["base"].encode(x)
    return {"original": x} | {name: codec.decode(bits) for name, codec in variants.items()}
