"""`make publish`: results become the committed reference, from which pages are written."""

import json
import re
import shutil
from datetime import date
from pathlib import Path

from icmlib.io import InputError, project_root, read_json
from icmlib.studies.profile import Profile
from icmlib.studies.tables import LEGEND, TABLES, main_rows, markdown
from icmlib.tool.report import answers, first_page

ANSWERS = "answers.json"  # in a reference: notebook -> its answer, commit, date
ANSWERED = (  # runs whose answers are published
    "task_network/given", "base_codec/base", "finetune/p3x64", "post_filter/bilateral",
    "ablations/table1", "zoo_table/all", "origin/all", "rate_task/curves", "figures/photographs",
    "speed/side_by_side", "depth/all",
)  # fmt: skip
MARKED = re.compile(r"(<!-- table1:.*?-->\n).*?(\n<!-- /table1 -->)", re.DOTALL)  # in README.md
HEAD = """# Results

These pages are written by `make publish` from the tables in [`reference/`](reference): do not edit
them. A run writes to `results/<profile>/`, which git ignores; none reads the reference.

Intervals bound 95 % of a bootstrap over the test images. They do not cover the spread between
trainings: without seeds listed, a finding rests on one training. Another processor or number of
threads also gives another training, because sums are rounded in another order. Tables of a profile
may come from different runs: `git log results/reference` says when each was published.
"""


def publish(profile: Profile) -> list[Path]:
    """Copy tables and pictures of `results/<profile>` to `results/reference/<profile>`, and write
    the pages, and nothing else. Raises FileNotFoundError: the profile has no results; ValueError:
    its numbers mean nothing."""
    root = project_root()
    source, target = root / "results" / profile.name, root / "results" / "reference" / profile.name
    if profile.meaningless:
        raise InputError(f"profile {profile.name} is a trial: its numbers mean nothing")
    files = sorted([*source.glob("*.csv"), *source.glob("*.png")])
    if not files:
        raise FileNotFoundError(f"no tables in {source}; run make reproduce PROFILE={profile.name}")
    target.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copyfile(file, target / file.name)) for file in files]
    runs = (*ANSWERED, f"knob/{profile.human}")
    found = answers([source / run / "notebook.ipynb" for run in runs])
    found = {run: each | {"date": date.today().isoformat()} for run, each in found.items()}
    kept = {run: each for run, each in read_json(target / ANSWERS).items() if run in runs}
    (target / ANSWERS).write_text(json.dumps(kept | found, indent=1), "utf-8")
    return [*copies, target / ANSWERS, *write_pages(root)]


def write_pages(root: Path) -> list[Path]:
    """A REPORT.md in each reference, results/README.md, which lists them, and the table in
    README.md: from `results/reference` alone."""
    index, reference = [HEAD], root / "results" / "reference"
    pages = [root / "results" / "README.md"]
    for folder in sorted(path for path in reference.iterdir() if path.is_dir()):
        index.append(f"\n## [Profile {folder.name}](reference/{folder.name}/REPORT.md)\n")
        for file in sorted(folder.glob("*.csv")):
            title = TABLES.get(file.stem, file.stem)
            index.append(f"- [{title}](reference/{folder.name}/{file.name})")
        pages.append(folder / "REPORT.md")
        pages[-1].write_text(first_page(folder, read_json(folder / ANSWERS)), "utf-8")
    pages[0].write_text("\n".join(index) + "\n", "utf-8")
    if (file := reference / "quick" / "table1.csv").exists():
        pages.append(root / "README.md")
        table = f"{markdown(main_rows(file))}\n\n{LEGEND}"
        page = MARKED.sub(lambda marks: marks[1] + table + marks[2], pages[-1].read_text("utf-8"))
        pages[-1].write_text(page, "utf-8")
    return pages
