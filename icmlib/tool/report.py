"""The report: a first page (question, picture, Table 1, findings, contents), then notebooks."""

import base64
import re
from datetime import date
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from icmlib.io import project_root, read_json, written
from icmlib.studies.profile import Profile, load_profile
from icmlib.studies.runs import git_state
from icmlib.studies.table1 import MACHINE, task_measure
from icmlib.tool.notebooks import read_notebook

WIDGET = "application/vnd.jupyter.widget-view+json"
GIVEN = ("data", "task_network")  # stages whose answers are no findings
ASKED = ("ablations", "rate_task", "zoo_table")  # stages whose questions are those of the report
STYLE = "position: sticky; top: 0; z-index: 9; padding: 6px; color: #fff; background: #b00"
TRIAL = f'<div style="{STYLE}">A trial of the machinery: these numbers mean nothing.</div>'


def build_report(html: Path, notebooks: list[Path], profile_name: str | None = None) -> Path:
    """One self-contained HTML page of executed notebooks, in order: text, tables and pictures, no
    code. A profile, in whose run folders they lie, adds a first page. Raises as `read_notebook`."""
    cells = [cell for number, path in enumerate(notebooks, 1) for cell in _chapter(path, number)]
    title = "icmlib"
    if profile_name:
        profile = load_profile(profile_name)
        title += f", profile {profile.name}"
        cells.insert(0, nbformat.v4.new_markdown_cell(_first_page(profile, notebooks)))
    report = nbformat.v4.new_notebook(cells=cells, metadata={"title": title})
    code = ("exclude_input", "exclude_input_prompt", "exclude_output_prompt")
    addresses = ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url")
    options = dict.fromkeys(code, True) | dict.fromkeys(addresses, "")
    exporter = HTMLExporter(embed_images=True, **options)
    body, _ = exporter.from_notebook_node(report)
    with written(html) as half:
        half.write_text(body, encoding="utf-8")
    return html.resolve()


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


def heading(notebook: Path, pattern: str = r"^# (.*)$") -> str:
    """The first heading of a notebook, or the first match of another pattern."""
    cells = read_notebook(notebook).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = re.search(pattern, text, re.M)
    return found[1] if found else notebook.stem


def _first_page(profile: Profile, notebooks: list[Path]) -> str:
    folder = project_root() / "results" / profile.name
    stages = [path.parent.parent.name for path in notebooks]
    git = git_state()
    commit = (git["commit"] or "unknown")[:10] + " and changes" * bool(git["dirty"])
    facts = profile.provenance | {"commit": commit, "date": date.today().isoformat()}
    page = ["# Image coding for machines, and for the people who look at the same bits"]
    page += [" · ".join(f"{name} {value}" for name, value in facts.items())]
    question = r"^\*\*Question\.\*\* (.*)$"
    page += [heading(path, question) for path, stage in zip(notebooks, stages) if stage in ASKED]
    if profile.meaningless:
        page.insert(0, TRIAL)
    if (picture := folder / "photograph.png").exists() and "figures" in stages:
        data = base64.b64encode(picture.read_bytes()).decode()
        page += [f'<img alt="photograph" src="data:image/png;base64,{data}">', f"*{CAPTION}*"]
    if (table := folder / "table1.csv").exists() and "ablations" in stages:
        page += ["## Table 1, main rows, test split", main_rows(table).to_html(), LEGEND]
    findings, contents = ["## Findings\n"], ["## Contents\n"]
    for number, (path, stage) in enumerate(zip(notebooks, stages), 1):
        link = f"[{heading(path)}](#chapter-{number})"
        contents.append(f"{number}. {link}")
        answer = read_json(path.parent / "summary.json").get("answer")
        if answer and stage not in GIVEN:
            findings.append(f"- **{link}** {answer}")
    return "\n\n".join([*page, "\n".join(findings), "\n".join(contents)])


CAPTION = (
    "One photograph that the codec was not trained on. All but the original are decoded from the "
    "same bits; below, the same crop enlarged."
)
LEGEND = (
    "Intervals bound 95 % of a bootstrap over the test images; changes are paired with the base "
    "codec. They say nothing about another training. PRMS is the amplitude of the checkerboard "
    "pattern in grey levels, LPP how far it stands out of the spectrum around it (dB; originals "
    "read about 0 on average); both are of the RGB picture. *removed*: the share of the excess "
    "over the originals' PRMS that is gone."
)


def main_rows(file: Path, all_rows: bool = False) -> pd.DataFrame:
    """A table1.csv as text: its rows that matter most (base, the paper's main row and low impact,
    L2 alone, the best beyond the paper, a filter), or all."""
    table = pd.read_csv(file, index_col="row", dtype={"row": str})
    ap, base = task_measure(table), table.index == "base"
    main = table.index.isin(["base", "p3x64", "low_impact", "l2", "bilateral"])
    changes = table[[f"{ap}_change{end}" for end in ("", "_low", "_high")]].to_numpy()
    lpp = table[["lpp2", "lpp4", "lpp8"]].to_numpy()
    prms = table[["prms_Y", "prms_Cb", "prms_Cr"]].to_numpy()
    columns = {
        "": table["label"],
        MACHINE[ap]: table[ap].map("{:.3f}".format),
        "against base (%)": ["{:+.1f} [{:+.1f}, {:+.1f}]".format(*each) for each in changes],
        "PSNR (dB)": table["psnr"].map("{:.2f}".format),
        "SSIM": table["ssim"].map("{:.3f}".format),
        "VGG": table["vgg"].map("{:.3f}".format).replace("nan", "n/a"),
        "LPP 2/4/8 (dB)": ["{:.1f} / {:.1f} / {:.1f}".format(*each) for each in lpp],
        "PRMS": table["prms"].map("{:.2f}".format),
        "PRMS Y/Cb/Cr": ["{:.2f} / {:.2f} / {:.2f}".format(*each) for each in prms],
        "removed (%)": table["removed"].map("{:.0f}".format),
        "bpp": table["bpp"].map("{:.3f}".format),
    }
    text = pd.DataFrame(columns)
    text.loc[base, ["against base (%)", "removed (%)"]] = ""
    if ap == "vgg":
        del text["VGG"]
    return text if all_rows else text[main | table.get("chosen", False)]
