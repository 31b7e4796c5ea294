"""The report: a first page (pictures, findings, tables, contents), then the executed notebooks.
And the committed reference: results, and pages that are written from them."""

import json
import re
import shutil
from datetime import date
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from icmlib.io import InputError, project_root, read_json, write
from icmlib.studies.profile import Profile, load_profile
from icmlib.studies.runs import git_state
from icmlib.studies.tables import FACTS, LEGEND, TABLES, markdown, readable
from icmlib.tool.notebooks import read_notebook

WIDGET = "application/vnd.jupyter.widget-view+json"
STYLE = "position: sticky; top: 0; z-index: 9; padding: 6px; color: #fff; background: #b00"
TRIAL = f'<div style="{STYLE}">A trial of the machinery: these numbers mean nothing.</div>\n\n'
PICTURES = {  # of a study -> caption
    "photograph": "One photograph that the codec was not trained on. All but the original are "
    "decoded from the same bits; below, the same crop enlarged.",
    "headline": "A test image, likewise, by the decoders of Table 1.",
    "knob": "One bitstream, two decoders, and the way from the machine's to the human one.",
    "origin": "Where the pattern comes from: base codecs by grid and decoder, not finetuned.",
    "depth": "Base codecs trained ever longer, and what rows of Table 1 make of each.",
    "curves": "Photographs by the given codecs and by conventional ones, over the rate.",
    "rate_task": "Rate against task: every curve of study 2.",
    "rate_task_pictures": "A test image by the codecs of study 2; below, the same crop enlarged.",
}
ANSWERS = "answers.json"  # in a reference: notebook -> its answer, commit, date
ANSWERED = (  # runs whose answers are published
    "task_network/given", "base_codec/base", "finetune/p3x64", "post_filter/bilateral",
    "ablations/table1", "zoo_table/all", "origin/all", "rate_task/curves", "figures/photographs",
    "speed/side_by_side", "depth/all",
)  # fmt: skip
MAIN_ROWS = ("base", "p3x64", "low_impact", "l2", "bilateral")  # in README.md, with the chosen one
BESIDE = ("rate_distortion.csv", "bd.csv", "curves.png")  # of `icm evaluate`, in folder evaluate
MARKED = re.compile(r"(<!-- table1:.*?-->\n).*?(\n<!-- /table1 -->)", re.DOTALL)  # in README.md
HEAD = """# Results

These pages are written by `make publish` from the tables in [`reference/`](reference): do not edit
them. A run writes to `results/<profile>/`, which git ignores; none reads the reference.

Intervals bound 95 % of a bootstrap over the test images. They do not cover the spread between
trainings: without seeds listed, a finding rests on one training. Another processor or number of
threads also gives another training, because sums are rounded in another order. Tables of a profile
may come from different runs: `git log results/reference` says when each was published.
"""


def build_report(html: Path, notebooks: list[Path], profile_name: str | None = None) -> Path:
    """One self-contained HTML page of executed notebooks, in order: text, tables and pictures, no
    code. A profile, in whose run folders they lie, adds a first page. Raises as `read_notebook`."""
    cells = [cell for number, path in enumerate(notebooks) for cell in _chapter(path, number)]
    title, folder = "icmlib", project_root() / "results" / (profile_name or "")
    if profile_name:
        profile = load_profile(profile_name)
        title += f", profile {profile.name}"
        page = TRIAL * profile.meaningless + first_page(folder, answers(notebooks))
        links = [f"1. [{heading(path)}](#chapter-{i})" for i, path in enumerate(notebooks)]
        commit = git_state()["commit"] or "unknown"
        page += "\n".join(["\n## Contents\n", *links, f"\ncommit {commit:.10}, {date.today()}"])
        cells.insert(0, nbformat.v4.new_markdown_cell(page))
    report = nbformat.v4.new_notebook(cells=cells, metadata={"title": title})
    code = ("exclude_input", "exclude_input_prompt", "exclude_output_prompt")
    addresses = ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url")
    options = dict.fromkeys(code, True) | dict.fromkeys(addresses, "")
    exporter = HTMLExporter(embed_images=True, **options)
    body, _ = exporter.from_notebook_node(report, {"metadata": {"path": str(folder)}})
    write(html, body)
    return html.resolve()


def heading(notebook: Path) -> str:
    titles = (re.match("# (.*)", cell.source) for cell in read_notebook(notebook).cells)
    return next((each[1] for each in titles if each), notebook.stem)


def _chapter(path: Path, number: int) -> list:
    """The cells of an executed notebook that a reader of results wants: without progress bars,
    warnings, and links to notebooks, which do not lie beside the report."""
    cells = [nbformat.v4.new_markdown_cell(f'<a id="chapter-{number}"></a>')]
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^\]]*)\]\([^)]*\.ipynb\)", r"\1", cell.source)
        else:
            said = [each for each in cell.outputs if each.get("name") != "stderr"]
            cell.outputs = [each for each in said if WIDGET not in each.get("data", {})]
        if cell.cell_type == "markdown" or cell.outputs:
            cells.append(cell)
    return cells


def answers(notebooks: list[Path]) -> dict[str, dict]:
    """By run (`finetune/p3x64`), if it has one: `answer`, `commit`, `notebook` (its title)."""
    found = {}
    for path in filter(Path.exists, notebooks):
        answer = read_json(path.parent / "summary.json").get("answer")
        if answer:
            commit = read_json(path.parent / "run.json").get("git", {}).get("commit")
            run = f"{path.parent.parent.name}/{path.parent.name}"
            found[run] = {"notebook": heading(path), "answer": answer, "commit": commit}
    return found


def first_page(folder: Path, answers: dict[str, dict]) -> str:
    """Markdown beside the tables and pictures of a study, which are all it needs: pictures,
    findings, and the tables as far as they are readable."""
    parts = [f"# Image coding for machines, and for people: profile {folder.name}"]
    for name, caption in PICTURES.items():
        if (folder / f"{name}.png").exists():
            parts.append(f"![{name}]({name}.png)\n\n*{caption}*")
    said = sorted(answers.values(), key=lambda each: each["notebook"])
    lines = [f"- **{each['notebook']}** {each['answer']}" for each in said]
    parts += ["\n".join(["## Findings\n", *lines])] * bool(lines)
    for name, title in TABLES.items():
        if (file := folder / f"{name}.csv").exists():
            table = pd.read_csv(file, nrows=1)
            if table.empty:
                continue
            facts = ", ".join(f"{fact} {table[fact][0]}" for fact in FACTS if fact in table)
            parts += [f"## {title}", f"{facts} ([{file.name}]({file.name}))"]
            parts += [markdown(readable(file))] + [LEGEND] * (name == "table1")
    return "\n\n".join(parts) + "\n"


def publish(profile: Profile) -> list[Path]:
    """Copy tables and pictures of `results/<profile>`, and those that `icm evaluate` wrote to its
    folder `evaluate`, to `results/reference/<profile>`; write the pages, and nothing else. Raises
    FileNotFoundError: the profile has no results; ValueError: its numbers mean nothing."""
    root = project_root()
    source, target = root / "results" / profile.name, root / "results" / "reference" / profile.name
    if profile.meaningless:
        raise InputError(f"profile {profile.name} is a trial: its numbers mean nothing")
    files = sorted([*source.glob("*.csv"), *source.glob("*.png")])
    beside = [name for name in BESIDE if (source / "evaluate" / name).exists()]
    files += [source / "evaluate" / name for name in beside]
    if not files:
        raise FileNotFoundError(f"no tables in {source}; run make reproduce PROFILE={profile.name}")
    target.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copyfile(file, target / file.name)) for file in files]
    for table in (target / name for name in beside if name.endswith(".csv")):
        text = pd.read_csv(table, dtype=str, keep_default_na=False)  # which knows no profile
        text.assign(**profile.provenance).to_csv(table, index=False)
    runs = (*ANSWERED, f"knob/{profile.human}")
    found = answers([source / run / "notebook.ipynb" for run in runs])
    found = {run: each | {"date": date.today().isoformat()} for run, each in found.items()}
    kept = {run: each for run, each in read_json(target / ANSWERS).items() if run in runs}
    write(target / ANSWERS, json.dumps(kept | found, indent=1))
    return [*copies, target / ANSWERS, *write_pages(root)]


def write_pages(root: Path) -> list[Path]:
    """A REPORT.md in each reference, results/README.md, which lists them, and the table in
    README.md: from `results/reference` alone."""
    index, reference = [HEAD], root / "results" / "reference"
    pages = [root / "results" / "README.md"]
    for folder in sorted(path for path in reference.iterdir() if path.is_dir()):
        index.append(f"\n## [Profile {folder.name}](reference/{folder.name}/REPORT.md)\n")
        for file in sorted(folder.glob("*.csv")):
            title = TABLES.get(file.stem, f"`{file.name}`")
            index.append(f"- [{title}](reference/{folder.name}/{file.name})")
        pages.append(folder / "REPORT.md")
        write(pages[-1], first_page(folder, read_json(folder / ANSWERS)))
    write(pages[0], "\n".join(index) + "\n")
    if (file := reference / "quick" / "table1.csv").exists():
        pages.append(root / "README.md")
        rows = pd.read_csv(file, dtype={"row": str})
        main = rows["row"].isin(MAIN_ROWS) | rows["chosen"]
        table = f"{markdown(readable(file)[main])}\n\n{LEGEND}"
        page = pages[-1].read_text("utf-8")
        write(pages[-1], MARKED.sub(lambda marks: marks[1] + table + marks[2], page))
    return pages
