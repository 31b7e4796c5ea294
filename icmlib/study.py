"""Study 1 as tables: the rows of all runs, the paper's beside them, what is chosen on val, and
whether the aims hold on test."""

import json

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from icmlib import codecs, datasets, plots, processes
from icmlib.config import FinetuneConfig, Profile, project_root, replace
from icmlib.evaluate import compare, load_evaluation
from icmlib.io import written
from icmlib.runs import read_summary, run_folder

AP_LIMIT = -1.6  # %, what the paper's finetuning costs the machine
GONE = 0.1  # of the base codec's excess pattern may remain
LPP_LIMIT = 5.0  # dB


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
    """A row's name in tables, from its settings."""
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
    """One row a run (base codec, every finetuning, the post-filters), indexed by name."""
    runs = {"base": run_folder(profile, "base_codec", "base")}
    runs |= {name: run_folder(profile, "finetune", name) for name in profile.rows}
    filters = sorted(run_folder(profile, "post_filter", "x").parent.glob("*/summary.json"))
    runs |= {path.parent.name: path.parent for path in filters}
    rows = {}
    for name, folder in runs.items():
        summary = json.loads((folder / "summary.json").read_text())
        kept = ("label", "trained_parameters", "seconds")
        rows[name] = {key: summary.get(key) for key in kept} | summary[split]
    table = pd.DataFrame.from_dict(rows, orient="index")
    return _relative(table.rename_axis("row"))


def _relative(table: pd.DataFrame) -> pd.DataFrame:
    """Adds AP's change in % of the base codec's, with interval, and the pattern removed."""
    base, ap = table.loc["base"], task_measure(table)
    for end in ("", "_low", "_high"):
        table[f"{ap}_change{end}"] = 100 * table[f"{ap}_difference{end}"] / base[ap]
    table["removed"] = 100 * (1 - table["excess_prms"] / base["excess_prms"])
    table["gone"] = (table["removed"] >= 100 * (1 - GONE)) & (
        table[["lpp2", "lpp4", "lpp8"]].max(axis=1) < LPP_LIMIT
    )
    table["fidelity_up"] = (table["psnr_difference"] > 0) & (table["ssim_difference"] > 0)
    return table


def choose(profile: Profile, val: pd.DataFrame) -> dict[str, str | None]:
    """Rows chosen on val, each the one of highest AP among those that qualify.

    finetuned    the paper's loss alone (L2 and adversarial): pattern gone, PSNR and SSIM up
    low_impact   any loss: PSNR, SSIM and feature distance all better
    beyond       any loss: pattern gone, PSNR and SSIM up
    """
    configs = {name: replace(profile.finetune, row) for name, row in profile.rows.items()}
    paper = [n for n, c in configs.items() if _papers_loss(c)]
    qualified = {
        "finetuned": val.loc[paper].query("gone and fidelity_up"),
        "low_impact": val.loc[list(configs)].query("fidelity_up and feature_difference < 0"),
        "beyond": val.loc[list(configs)].query("gone and fidelity_up"),
    }
    return {
        role: None if rows.empty else rows[task_measure(rows)].idxmax()
        for role, rows in qualified.items()
    }


def _papers_loss(config: FinetuneConfig) -> bool:
    return config.adversarial != "none" and not _extra_terms(config)


def _extra_terms(config: FinetuneConfig) -> bool:
    return bool(config.lambda_feature or config.lambda_lattice or config.lambda_task)


def aims(test: pd.DataFrame, chosen: dict[str, str | None]) -> pd.DataFrame:
    """Each aim with its figure on test and whether it holds."""
    checks, ap = [], task_measure(test)
    machine = ap.replace("_", " ")

    def check(role: str, aim: str, figure: str, holds) -> None:
        checks.append(
            {
                "role": role,
                "row": chosen[role],
                "aim": aim,
                "figure": figure,
                "holds": bool(holds),
            }
        )

    for role, name in chosen.items():
        if name is None:
            check(role, "a row qualifies on val", "none does", False)
            continue
        row = test.loc[name]
        lpp = [row["lpp2"], row["lpp4"], row["lpp8"]]
        if role != "low_impact":
            check(
                role,
                f"pattern down by {100 * (1 - GONE):.0f} %",
                f"{row['removed']:.1f} %",
                row["removed"] >= 100 * (1 - GONE),
            )
            figure = " / ".join(f"{v:.1f}" for v in lpp) + " dB"
            check(role, "LPP below 5 dB at every S", figure, max(lpp) < LPP_LIMIT)
        change, low, high = (row[f"{ap}_change{end}"] for end in ("", "_low", "_high"))
        interval = f"{change:+.2f} % [{low:+.2f}, {high:+.2f}]"
        if np.isnan(change):
            interval = "n/a: the base codec leaves the machine nothing"
        if role == "finetuned":
            check(role, f"{machine} at most 1.6 % down", interval, change >= AP_LIMIT)
        else:
            check(role, f"{machine} not below base", interval, high >= 0)
        if role == "low_impact":
            feature = f"{row['feature_difference']:+.4f}"
            check(role, "feature distance down", feature, row["feature_difference"] < 0)
        fidelity = f"{row['psnr_difference']:+.2f} dB, {row['ssim_difference']:+.3f}"
        check(role, "PSNR and SSIM up", fidelity, row["fidelity_up"])
    return pd.DataFrame(checks)


def beside_paper(test: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 1 as changes against its own base codec, beside ours: AP in %, PSNR in
    dB, SSIM; and whether the signs agree (a change within 0.5 % of AP counts as none)."""
    paper = pd.read_csv(project_root() / "data" / "le2022_table1.csv", index_col="row")
    base = paper.loc["base"]
    rows = []
    for name in paper.index.drop("base").intersection(test.index):
        row = {
            "row": name,
            "label": paper.loc[name, "label"],
            "AP": test.loc[name, f"{task_measure(test)}_change"],
            "AP_paper": 100 * (paper.loc[name, "mAP"] / base["mAP"] - 1),
        }
        for measure in ("psnr", "ssim"):
            row[measure] = test.loc[name, f"{measure}_difference"]
            row[f"{measure}_paper"] = paper.loc[name, measure] - base[measure]
        signs = {m: _sign(row[m], m) == _sign(row[f"{m}_paper"], m) for m in ("AP", "psnr", "ssim")}
        differing = [m for m, same in signs.items() if not same]
        row["agrees"] = "yes" if not differing else "not in " + ", ".join(differing)
        rows.append(row)
    columns = None if rows else ["row", "label", "agrees"]
    return pd.DataFrame(rows, columns=columns).set_index("row")


def _sign(value: float, measure: str) -> float:
    return 0.0 if measure == "AP" and abs(value) < 0.5 else float(np.sign(value))


def l2_and_adversarial(profile: Profile) -> tuple[str | None, list[str]]:
    """The row trained with L2 alone, and those that differ from it only in the adversarial term."""
    configs = {name: replace(profile.finetune, row) for name, row in profile.rows.items()}
    neutral = {"adversarial": "none", "lambda_adversarial": 0.0}
    alone = [n for n, c in configs.items() if c.adversarial == "none" and not _extra_terms(c)]
    if not alone:
        return None, []
    rest = {name: replace(config, neutral) for name, config in configs.items()}
    same = [name for name in configs if rest[name] == rest[alone[0]]]
    return alone[0], [name for name in same if name not in alone]


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


def load_variants(profile: Profile, chosen: dict[str, str | None]) -> dict:
    """Codecs by name: base, the chosen finetuned ones, and the post-filters on the base codec."""
    base = codecs.load(
        profile.codec, run_folder(profile, "base_codec", "base") / "final.safetensors"
    )
    variants = {"base": base}
    for role, row in chosen.items():
        if row is not None:
            path = run_folder(profile, "finetune", row) / "final.safetensors"
            variants[role.replace("_", " ")] = codecs.load(profile.codec, path)
    for name, build in codecs.FILTERS.items():
        variants[name] = build(base, read_summary(profile, "post_filter", name)["sigma"])
    return variants


def headline(dataset, variants: dict, scores: pd.DataFrame, chosen: dict, index: int) -> Figure:
    """One scene by every codec: same bits, same crop, with bpp and AP of the whole split."""
    x = dataset.image(index)
    bits = variants["base"].encode(x)
    images = {"original": x} | {name: codec.decode(bits) for name, codec in variants.items()}
    rows = {role.replace("_", " "): row for role, row in chosen.items()}
    captions = {}
    for name in variants:
        score = scores.loc[rows.get(name, name)]
        captions[name] = f"{score['bpp']:.2f} bpp, AP {score[task_measure(score)]:.3f}"
    size = x.shape[-1] // 3
    return plots.crops(images, captions, (x.shape[-2] // 3, x.shape[-1] // 3, size))


@processes.main_only
def write_table(table: pd.DataFrame, profile: Profile, name: str) -> None:
    """A table of the study, `results/<profile>/<name>.csv`, with profile, seed and data in it."""
    path = project_root() / "results" / profile.name / f"{name}.csv"
    with written(path) as half:
        table.assign(**profile.provenance).to_csv(half, float_format="%.6g")


@processes.main_only
def write_figure(figure: Figure, profile: Profile, name: str) -> None:
    """A figure of the study, `results/<profile>/<name>.png`."""
    path = project_root() / "results" / profile.name / f"{name}.png"
    with written(path) as half:
        figure.savefig(half, format="png", dpi=150, bbox_inches="tight")
