import json
import re
from base64 import b64encode

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from icmlib.studies.profile import load_profile
from icmlib.tool.report import build_report, publish

ROWS = {  # label, mask AP, its change and interval, removed
    "base": ("base codec", 0.625, 0.0, 0.0, 0.0, 0.0),
    "p3x64": ("3x64, hinge 0.01", 0.6141, -1.65, -2.6, -0.63, 99.6),
    "other": ("another | one", 0.5, -20.0, -30.0, -10.0, 50.0),
    "best": ("the best", 0.63, 1.0, 0.5, 1.5, 98.0),
    "bilateral": ("bilateral filter", 0.51, -18.0, -19.0, -17.0, 33.0),
}
README = "# Title\n\n<!-- table1: by make publish -->\nold\n<!-- /table1 -->\n\nThe rest.\n"


def table1() -> pd.DataFrame:
    """As notebook 04 leaves it: the row that was chosen beyond the paper's is marked."""
    names = ["label", "mask_AP", "mask_AP_change", "mask_AP_change_low", "mask_AP_change_high"]
    table = pd.DataFrame.from_dict(ROWS, orient="index", columns=[*names, "removed"])
    same = {"psnr": 22.751, "ssim": 0.6363, "vgg": 0.4, "prms": 1.563, "bpp": 0.4685}
    same |= {"lpp2": 20.1, "lpp4": 15.2, "lpp8": 1.0, "profile": "tiny", "seed": 0, "data": "made"}
    return table.assign(**same, chosen=table.index == "best").rename_axis("row")


def executed(path, title: str) -> None:
    bar = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "77 %"}
    outputs = [
        new_output("stream", name="stderr", text="noise"),
        new_output("stream", name="stdout", text="said"),
        new_output("display_data", bar),
    ]
    cells = [
        new_markdown_cell(f"# {title}\n\n**Question.** Why {title}?\n\n[Before](03_other.ipynb)."),
        new_code_cell("name * steps", outputs=outputs),
        new_code_cell("silent()"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


@pytest.fixture
def root(project):
    """A project with the results of a profile: a table and two runs, one of which has an answer."""
    root = project(tiny="seed: 0", quick="seed: 0", trial="meaningless: true")
    (root / "README.md").write_text(README)
    results = root / "results" / "tiny"
    for run, title in (("data/scenes", "Scenes"), ("ablations/table1", "Ablations")):
        executed(results / run / "notebook.ipynb", title)
    facts = {"git": {"commit": "c0ffee"}}
    (results / "ablations/table1/run.json").write_text(json.dumps(facts))
    (results / "ablations/table1/summary.json").write_text(json.dumps({"answer": "Yes: 99.6 %."}))
    table1().to_csv(results / "table1.csv")
    (results / "headline.png").write_bytes(b"a picture")
    (results / "notes.txt").write_text("mine")
    return root


@pytest.fixture
def chapters(root):
    runs = ("data/scenes", "ablations/table1")
    return [root / "results" / "tiny" / run / "notebook.ipynb" for run in runs]


def test_report_is_self_contained_without_code_and_progress(chapters, tmp_path):
    html = build_report(tmp_path / "report.html", chapters).read_text()
    assert html.count("said") == 2 and "Ablations" in html and "Before." in html
    assert not [word for word in ("noise", "77 %", "name * steps", "silent()") if word in html]
    for text in ('src="http', "src='http", 'href="http', "@import", ".ipynb"):
        assert text not in html


def test_first_page_has_pictures_findings_table_and_contents(chapters, root):
    html = build_report(root / "report.html", chapters, "tiny").read_text()
    assert "<title>icmlib, profile tiny</title>" in html
    page, _ = html.split('id="chapter-0"', 1)
    assert f"base64,{b64encode(b'a picture').decode()}" in page
    (table,) = re.findall(r"<table.*?</table>", page, re.S)
    lines = [re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in table.split("</tr>")]
    shown = {line[0]: line[1:] for line in lines if line and line[0] in ROWS}
    assert list(shown) == list(ROWS)
    assert shown["p3x64"][:3] == ["3x64, hinge 0.01", "0.6141", "-1.65 [-2.6, -0.63]"]
    assert "33" in shown["bilateral"]
    answers = re.findall(r"<li><strong>(\w+)</strong>\s*(.*?)</li>", page)
    assert answers == [("Ablations", "Yes: 99.6 %.")]
    for link in re.findall(r'href="#(chapter-\d)"', page):
        assert html.count(f'id="{link}"') == 1
    assert len(set(re.findall(r'href="#(chapter-\d)"', page))) == 2


def test_only_a_trial_is_called_one(chapters, root):
    words = "these numbers mean nothing"
    assert words not in build_report(root / "a.html", chapters, "tiny").read_text()
    assert words in build_report(root / "b.html", chapters, "trial").read_text()


def test_published_are_tables_pictures_and_answers(root):
    evaluated = root / "results" / "tiny" / "evaluate" / "bd.csv"
    evaluated.parent.mkdir()
    evaluated.write_text("curve,against\nmine,JPEG\n")
    publish(load_profile("tiny"))
    reference = root / "results" / "reference" / "tiny"
    names = sorted(file.name for file in reference.iterdir())
    assert names == ["REPORT.md", "answers.json", "bd.csv", "headline.png", "table1.csv"]
    assert "mine,JPEG,tiny,0," in (reference / "bd.csv").read_text()  # and the data
    assert (reference / "headline.png").read_bytes() == b"a picture"
    pd.testing.assert_frame_equal(pd.read_csv(reference / "table1.csv", index_col=0), table1())
    answers = json.loads((reference / "answers.json").read_text())
    assert answers.keys() == {"ablations/table1"}
    assert answers["ablations/table1"]["answer"] == "Yes: 99.6 %."
    assert answers["ablations/table1"]["commit"] == "c0ffee"
    page = (reference / "REPORT.md").read_text()
    said = ("Yes: 99.6 %.", "![headline](headline.png)", "profile tiny, seed 0, data made")
    assert not [each for each in said if each not in page]
    assert "| other | another \\| one | 0.5 | -20 [-30, -10] | 22.75 |" in page
    assert "| mask AP | mask AP change (%) | PSNR (dB) |" in page
    assert "| 20.1 / 15.2 / 1.0 |" in page
    assert (root / "README.md").read_text() == README  # of profile quick alone


def test_published_table_stands_in_the_readme(root):
    (root / "results" / "tiny").rename(root / "results" / "quick")
    publish(load_profile("quick"))
    text = (root / "README.md").read_text()
    table = "| p3x64 | 3x64, hinge 0.01 | 0.6141 | -1.65 [-2.6, -0.63] |"
    assert text.startswith(README.split("old")[0])
    assert text.endswith("<!-- /table1 -->\n\nThe rest.\n")
    assert table in text and "old" not in text and "| other |" not in text
    publish(load_profile("quick"))
    assert (root / "README.md").read_text() == text


def test_what_was_published_before_stays(root):
    """Tables of studies that were not run this time, and answers; of runs moved aside, none."""
    publish(load_profile("tiny"))
    reference, results = root / "results" / "reference" / "tiny", root / "results" / "tiny"
    (reference / "zoo.csv").write_text("codec\nm\n")
    (results / "ablations").rename(results / "aside")
    (results / "aside" / "table1").rename(results / "aside" / "table1.old-1")
    publish(load_profile("tiny"))
    assert (reference / "zoo.csv").exists()
    assert json.loads((reference / "answers.json").read_text()).keys() == {"ablations/table1"}
    assert "[Other codecs](reference/tiny/zoo.csv)" in (root / "results" / "README.md").read_text()
    assert "## Other codecs" in (reference / "REPORT.md").read_text()


def test_neither_a_trial_nor_nothing_is_published(root):
    with pytest.raises(ValueError, match="trial is a trial: its numbers mean nothing"):
        publish(load_profile("trial"))
    for file in (root / "results" / "tiny").glob("*.*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="run make reproduce PROFILE=tiny"):
        publish(load_profile("tiny"))
    assert not (root / "results" / "reference").exists()
