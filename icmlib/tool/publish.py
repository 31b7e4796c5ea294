"""`make publish`: results become the committed reference, from which READMEs are written."""

import json
import re
import shutil
from datetime import date
from pathlib import Path

import pandas as pd

from icmlib.io import InputError, project_root, read_json, written
from icmlib.studies.profile import Profile
from icmlib.tool.report import LEGEND, heading, main_rows

ANSWERS = "answers.json"  # in a reference: notebook -> its answer, commit, date
ANSWERED = (  # runs whose answers are published
    "task_network/given", "base_codec/base", "finetune/p3x64", "post_filter/bilateral",
    "ablations/table1", "zoo_table/all", "origin/all", "rate_task/curves", "figures/photographs",
    "speed/side_by_side", "knob/p3x64",
)  # fmt: skip
TABLES = {  # file of a reference -> its title in results/README.md
    "table1.csv": "Table 1: decoder finetuning, test split",
    "aims.csv": "Aims of study 1",
    "aims_seeds.csv": "Aims of study 1 by seed",
    "photographs.csv": "Photographs",
    "knob_findings.csv": "One bitstream, two decoders: beside the low-impact model",
    "rate_task_anchors.csv": "Conventional codecs: encoder, preset, chroma format",
    "zoo.csv": "Other codecs",
    "zoo_aims.csv": "Aims for other codecs",
    "origin.csv": "Where the pattern comes from",
    "origin_findings.csv": "Where the pattern comes from: findings",
    "rate_task_equal_rate.csv": "Rate against task: every curve at one rate",
    "rate_task_findings.csv": "Rate against task: findings",
    "rate_task_seeds.csv": "Rate against task: findings by seed",
    "rate_task_bridge.csv": "The bridge: a C-FT codec's decoder finetuned for people",
    "speed.csv": "Speed, side by side",
    "bound.csv": "What bounds a finetuning step, in seconds",
}
MARKED = re.compile(r"(<!-- table1:.*?-->\n).*?(\n<!-- /table1 -->)", re.DOTALL)  # in README.md
FACTS = ["profile", "seed", "data"]  # columns of every table
PICTURES = ("photograph", "headline", "origin", "knob", "rate_task_pictures", "rate_task")
HEAD = """# Results

This page is written by `make publish` from the tables in [`reference/`](reference): do not edit it.
A run writes to `results/<profile>/`, which git ignores. Nothing reads the reference as an answer.

Intervals bound 95 % of a bootstrap over the test images. They do not cover the spread between
trainings: without seeds listed, a finding rests on one training. Another processor or number of
threads also gives another training, because sums are rounded in another order. Tables of a profile
may come from different runs: `git log results/reference` says when each was published.
"""


def publish(profile: Profile) -> list[Path]:
    """Copy tables and pictures of `results/<profile>` to `results/reference/<profile>`, and write
    results/README.md, the table in README.md, and nothing else. Raises FileNotFoundError: the
    profile has no results; ValueError: its numbers mean nothing."""
    root = project_root()
    source, target = root / "results" / profile.name, root / "results" / "reference" / profile.name
    if profile.meaningless:
        raise InputError(f"profile {profile.name} is a trial: its numbers mean nothing")
    files = sorted([*source.glob("*.csv"), *source.glob("*.png")])
    if not files:
        raise FileNotFoundError(f"no tables in {source}; run make reproduce PROFILE={profile.name}")
    target.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copyfile(file, target / file.name)) for file in files]
    answers = read_json(target / ANSWERS)
    for run in ANSWERED:
        path = source / run / "notebook.ipynb"
        answer = read_json(path.parent / "summary.json").get("answer")
        if answer and path.exists():
            commit = read_json(path.parent / "run.json")["git"]["commit"]
            facts = {"commit": commit, "date": date.today().isoformat()}
            answers[run] = {"notebook": heading(path), "answer": answer, **facts}
    _write(target / ANSWERS, json.dumps(answers, indent=1))
    _write(root / "results" / "README.md", _results_page(target.parent))
    if profile.name == "quick":
        table = f"{_markdown(main_rows(target / 'table1.csv').reset_index())}\n\n{LEGEND}"
        page = (root / "README.md").read_text("utf-8")
        _write(root / "README.md", MARKED.sub(lambda marks: marks[1] + table + marks[2], page))
    return [*copies, target / ANSWERS]


def _write(path: Path, text: str) -> None:
    with written(path) as half:
        half.write_text(text, "utf-8")


def _results_page(reference: Path) -> str:
    parts = [HEAD]
    for folder in sorted(path for path in reference.iterdir() if path.is_dir()):
        parts.append(f"## Profile {folder.name}\n")
        answers = read_json(folder / ANSWERS)
        order = sorted(answers.items(), key=lambda each: each[1]["notebook"])
        parts += [f"- **{each['notebook']}** ({run}): {each['answer']}" for run, each in order]
        for picture in PICTURES:
            if (folder / f"{picture}.png").exists():
                parts.append(f"\n![{picture}](reference/{folder.name}/{picture}.png)")
        parts += [_section(folder / name) for name in TABLES if (folder / name).exists()]
    return "\n".join(parts) + "\n"


def _section(path: Path) -> str:
    """A published table, with columns that fit a page and an interval beside its value."""
    table = pd.read_csv(path, dtype={"row": str})
    facts = ", ".join(f"{name} {table[name].iloc[0]}" for name in FACTS if name in table)
    link = f"[{path.name}](reference/{path.parent.name}/{path.name})"
    head = f"\n### {TABLES[path.name]}\n\n{facts} ({link})"
    if path.name == "table1.csv":
        return f"{head}\n\n{_markdown(main_rows(path, all_rows=True).reset_index())}\n\n{LEGEND}\n"
    table = table.drop(columns=FACTS, errors="ignore")
    for name in [each for each in table if f"{each}_low" in table]:
        ends = [table.pop(f"{name}{end}") for end in ("_low", "_high")]
        rows = zip(table[name].astype(float), *ends)
        table[name] = ["{:.3g} [{:.3g}, {:.3g}]".format(*row) for row in rows]
    return f"{head}\n\n{_markdown(table)}\n"


def _markdown(table: pd.DataFrame) -> str:
    table = table.map(lambda each: f"{each:.3g}" if isinstance(each, float) else str(each))
    table = table.replace({"^nan$": "", r"\|": r"\|", "\n": " "}, regex=True)
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
