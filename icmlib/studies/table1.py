"""Study 1 as tables: the rows that were run, the paper's beside them, what is chosen on val, and
whether the aims hold on test."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from icmlib import codecs, datasets
from icmlib.config import FinetuneConfig, replace
from icmlib.evaluate import Evaluation, compare, load_evaluation
from icmlib.io import project_root
from icmlib.metrics import detection
from icmlib.studies.profile import Profile
from icmlib.studies.runs import read_summary, run_folder
from icmlib.studies.verdicts import FINDING, finding, interval_text, with_interval

MAIN, LOW_IMPACT = "p3x64", "low_impact"  # the paper's: its main row, and the one for the machine


# --- rows --------------------------------------------------------------------------------------


def finetuning(profile: Profile, row: str, changes: dict) -> FinetuneConfig:
    """Settings of a row of the profile, or of a new row: those that all rows share, changed.

    Raises:
        ValueError: a row that the profile does not have, without changes; changes to a row that it
            has, whose results they would replace.
    """
    if row in profile.rows and changes:
        raise ValueError(f"row {row!r} is the profile's; give the changes a name of their own")
    if row not in profile.rows and not changes:
        raise ValueError(
            f"unknown row {row!r}; the profile has: {', '.join(profile.rows) or 'none'}"
        )
    return replace(profile.finetune, profile.rows.get(row, changes))


def label(config: FinetuneConfig) -> str:
    """What a row is, below its name in tables and pictures: its settings."""
    words = [f"{config.patches}x{config.patch_size}"]
    if config.layers != 2:
        words.append(f"{config.layers} layer" + ("s" if config.layers > 1 else ""))
    if config.adversarial == "none":
        words.append("L2 only")
    else:
        words.append(f"{config.adversarial.replace('_', ' ')} {config.lambda_adversarial:g}")
    words.append(f"lr {config.lr:g}{'' if config.schedule == 'cosine' else ' ' + config.schedule}")
    for name in ("feature", "lattice", "task"):
        if getattr(config, f"lambda_{name}"):
            words.append(f"{name} {getattr(config, f'lambda_{name}'):g}")
    return ", ".join(words)


def task_measure(scores) -> str:
    """What the machine is scored by: `mask_AP`, or `box_AP` where network or data have no masks."""
    return "mask_AP" if "mask_AP" in scores else "box_AP"


def read_rows(profile: Profile, split: str) -> pd.DataFrame:
    """One row for each finished run on the present base codec, indexed by name: the base codec, the
    finetunings in the profile's order, the post-filters. With the columns of `relative`."""
    base = read_summary(profile, "base_codec", "base")
    runs = {"base": base}
    for stage, names in (("finetune", profile.rows), ("post_filter", codecs.FILTERS)):
        for name in names:
            if _on(base["weights"], run_folder(profile, stage, name)):
                runs[name] = read_summary(profile, stage, name)
    facts = ("label", "trained_parameters", "seconds")
    rows = {
        name: {key: summary.get(key) for key in facts} | summary[split]
        for name, summary in runs.items()
    }
    return relative(pd.DataFrame.from_dict(rows, orient="index").rename_axis("row"))


def _on(base: str, folder: Path) -> bool:
    """Whether a run is finished, and was made from the base codec of this fingerprint."""
    if not (folder / "summary.json").exists():
        return False
    return json.loads((folder / "run.json").read_text())["inputs"]["base"] == base


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """Adds what rows change against the row `base`, each with `_low` and `_high`.

    `mask_AP_change`, `box_AP_change`: in % of the base codec's; `removed`: % of its excess pattern
    (excess PRMS); `peak`: the highest LPP in dB, and its `period` in px.
    """
    table = table.copy()
    base, periods = table.loc["base"], [2, 4, 8]
    for end in ("", "_low", "_high"):
        for ap in [name for name in ("mask_AP", "box_AP") if name in table]:
            table[f"{ap}_change{end}"] = 100 * table[f"{ap}_difference{end}"] / base[ap]
        table[f"peak{end}"] = table[[f"lpp{period}{end}" for period in periods]].max(axis=1)
    table["period"] = np.take(periods, table[[f"lpp{p}" for p in periods]].to_numpy().argmax(1))
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        table[f"removed{end}"] = 100 * (1 - table[f"excess_prms{other}"] / base["excess_prms"])
    return table


def choose(val: pd.DataFrame, criterion: str) -> str | None:
    """The row of highest AP on val among the finetuned ones that are not the paper's and meet the
    criterion, a query of the table; None where no row does."""
    theirs = ["base", *codecs.FILTERS, *paper().index]
    rows = val.drop(index=theirs, errors="ignore").query(criterion).dropna(subset=task_measure(val))
    return None if rows.empty else rows[task_measure(val)].idxmax()


def aims(
    test: pd.DataFrame,
    row: str | None,
    change: float,
    removed: float | None = None,
    peak: float | None = None,
    feature: float | None = None,
) -> pd.DataFrame:
    """Whether a row reaches its aims on test: `verdicts.finding`; none where the table lacks it.
    PSNR and SSIM up are always among them.

    Args:
        change: the least change of AP, in %.
        removed: the least share of the excess pattern that is to go, in %.
        peak: the highest lattice peak (LPP) that may be left, in dB.
        feature: the most that the feature distance may grow.
    """
    found, ap = [], task_measure(test)
    machine = ap.replace("_", " ")

    def check(aim: str, measure: str, column: str, **bound: float) -> None:
        found.append(
            finding(f"{row}: {aim}", measure, with_interval(test.loc[row], column), **bound)
        )

    if row in test.index:
        if removed is not None:
            aim = f"at least {removed:g} % of the excess pattern removed"
            check(aim, "% of excess PRMS", "removed", at_least=removed)
        if peak is not None:
            check(f"no lattice peak above {peak:g} dB", "highest LPP (dB)", "peak", at_most=peak)
        aim = f"{machine} at most {-change:g} % down" if change else f"{machine} not down"
        check(aim, f"% of {machine}", f"{ap}_change", at_least=change)
        if feature is not None:
            check("feature distance not up", "difference", "feature_difference", at_most=feature)
        check("PSNR up", "dB", "psnr_difference")
        check("SSIM up", "difference", "ssim_difference")
    return pd.DataFrame(found, columns=FINDING)


def paper() -> pd.DataFrame:
    """Table 1 of Le et al., by the names that its rows have here."""
    return pd.read_csv(project_root() / "data" / "le2022_table1.csv", index_col="row")


def beside_paper(test: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 1 as changes against its own base codec, beside ours: AP in %, PSNR in
    dB, SSIM; and whether the signs agree (a change within 0.5 % of AP counts as none)."""
    published = paper()
    base, rows = published.loc["base"], []
    for name in published.index.drop("base").intersection(test.index):
        row = {
            "row": name,
            "label": published.loc[name, "label"],
            "AP": test.loc[name, f"{task_measure(test)}_change"],
            "AP_paper": 100 * (published.loc[name, "mAP"] / base["mAP"] - 1),
        }
        for measure in ("psnr", "ssim"):
            row[measure] = test.loc[name, f"{measure}_difference"]
            row[f"{measure}_paper"] = published.loc[name, measure] - base[measure]
        signs = {m: _sign(row[m], m) == _sign(row[f"{m}_paper"], m) for m in ("AP", "psnr", "ssim")}
        differing = [m for m, same in signs.items() if not same]
        row["agrees"] = "yes" if not differing else "not in " + ", ".join(differing)
        rows.append(row)
    columns = None if rows else ["row", "label", "agrees"]
    return pd.DataFrame(rows, columns=columns).set_index("row")


def _sign(value: float, measure: str) -> float:
    return 0.0 if measure == "AP" and abs(value) < 0.5 else float(np.sign(value))


def one_change(configs: dict[str, FinetuneConfig], reference: str) -> dict[str, str]:
    """The rows that differ from the reference in one setting, and in which: `layers 3`."""
    settings = {name: asdict(config) for name, config in configs.items()}
    own = settings.get(reference, {})
    changes = {
        name: [f"{key} {value}" for key, value in each.items() if value != own.get(key)]
        for name, each in settings.items()
    }
    return {name: each[0] for name, each in changes.items() if len(each) == 1}


def l2_and_adversarial(profile: Profile, rows: Iterable[str]) -> tuple[str | None, list[str]]:
    """Of these rows, the one trained with L2 alone, and those that differ from it only in the
    adversarial term."""
    extra = {"lambda_feature": 0.0, "lambda_lattice": 0.0, "lambda_task": 0.0}
    neutral = {"adversarial": "none", "lambda_adversarial": 0.0}
    configs = {n: replace(profile.finetune, profile.rows[n]) for n in rows if n in profile.rows}
    alone = [n for n, c in configs.items() if c == replace(c, extra | {"adversarial": "none"})]
    if not alone:
        return None, []
    rest = {name: replace(config, neutral) for name, config in configs.items()}
    return alone[0], [n for n in configs if rest[n] == rest[alone[0]] and n not in alone]


def paired_rows(profile: Profile, reference: str, names: list[str]) -> pd.DataFrame:
    """Paired differences on test of finetuned rows against another finetuned row."""
    if not names:
        return pd.DataFrame()
    truth = datasets.create(profile.data, "test").ground_truth
    folders = {n: run_folder(profile, "finetune", n) for n in [reference, *names]}
    runs = {name: load_evaluation(folder, "test", truth) for name, folder in folders.items()}
    base = read_summary(profile, "base_codec", "base")["test"]
    ap = task_measure(base)
    scale = 100 / base[ap] if base[ap] else float("nan")
    rows = {}
    for name in names:
        row = compare(runs[reference], runs[name], profile.evaluation.resamples)
        for end in ("", "_low", "_high"):
            row[f"{ap}_change{end}"] = scale * row[f"{ap}_difference{end}"]
        rows[name] = {"label": read_summary(profile, "finetune", name)["label"], **row}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")


def kept(profile: Profile, evaluation: Evaluation, kind: str) -> dict[str, float]:
    """How much of the AP on uncompressed test images is left, in %: `kept`, with its paired 95 %
    interval.

    Args:
        kind: `mask` or `box`.
    """
    folder = run_folder(profile, "task_network", "given")
    before = load_evaluation(folder, "test", evaluation.ground_truth)
    matches = before.matches[kind], evaluation.matches[kind]
    whole = detection.average_precision(matches[0])["AP"]
    rng = np.random.default_rng(0)
    paired = detection.paired_bootstrap(*matches, profile.evaluation.resamples, rng=rng)
    scale = 100 / whole if whole else np.nan
    ends = {"kept": "difference", "kept_low": "low", "kept_high": "high"}
    return {name: scale * (whole + paired[end]) for name, end in ends.items()}


def effect(row) -> str:
    """What a row of `relative` does to pattern, machine (where it looked) and picture: a clause."""
    pattern = f"removes {interval_text(row, 'removed', '%')} of the excess pattern"
    if not np.isfinite(row["removed"]):
        pattern = "finds no excess pattern to remove"
    elif row["removed"] < 0:
        pattern = f"leaves {100 - row['removed']:.0f} % of the excess pattern"
    ap, machine = task_measure(row), ""  # where none looked, or it never saw a thing
    if np.isfinite(row.get(f"{ap}_change", np.nan)):
        machine = f"{ap.replace('_', ' ')} by {interval_text(row, f'{ap}_change', '%')}, "
    return (
        f"{pattern} (highest peak left: {row['peak']:.1f} dB at period {row['period']:.0f}) and "
        f"changes {machine}PSNR by {interval_text(row, 'psnr_difference', 'dB')} "
        f"and SSIM by {interval_text(row, 'ssim_difference')}"
    )


# --- pictures ----------------------------------------------------------------------------------


def load_variants(profile: Profile, rows: Iterable[str]) -> dict:
    """Codecs by the names of their rows: the base codec, finetuned ones, filters after the base."""
    base = codecs.load(
        profile.codec, run_folder(profile, "base_codec", "base") / "final.safetensors"
    )
    variants = {"base": base}
    for row in rows:
        if row in codecs.FILTERS:
            sigma = read_summary(profile, "post_filter", row)["sigma"]
            variants[row] = codecs.FILTERS[row](base, sigma)
        elif row != "base":
            path = run_folder(profile, "finetune", row) / "final.safetensors"
            variants[row] = codecs.load(profile.codec, path)
    return variants


def pictures(x: torch.Tensor, variants: dict) -> dict[str, torch.Tensor]:
    """An image (3, H, W), and what each codec makes of the base codec's bits of it."""
    bits = variants["base"].encode(x)
    return {"original": x} | {name: codec.decode(bits) for name, codec in variants.items()}
