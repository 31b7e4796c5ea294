"""`icm reproduce`: what it says while Snakemake works, on a study whose notebooks cost nothing."""

import logging
import os
import subprocess
import sys

import pytest

from icmlib.tool.reproduce import Progress

# as the project's own: a notebook's output is its executed copy, its log the unfinished one
SNAKEFILE = """
OUT = f"results/{config['profile']}"
rule all:
    input: f"{OUT}/report.html"
rule data:
    input: notebook="notebooks/00_data.ipynb"
    output: f"{OUT}/data/scenes/notebook.ipynb"
    shell: "cp {input.notebook} {output}"
rule finetune:
    input: rules.data.output, notebook="notebooks/03_finetuning.ipynb"
    output: f"{OUT}/finetune/{{row}}/notebook.ipynb"
    shell: "test {wildcards.row} != broken && cp {input.notebook} {output}"
rule report:
    input: expand(rules.finetune.output, row=config["study"].split("+"))
    output: f"{OUT}/report.html"
    shell: "touch {output}"
"""


@pytest.fixture
def reproduce(tmp_path):
    """`reproduce("a+b")`: the command for these rows, in a project of its own."""
    (tmp_path / "notebooks").mkdir()
    for name in ("00_data", "03_finetuning"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("{}")
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    reference = tmp_path / "results" / "reference" / "tiny"
    reference.mkdir(parents=True)
    times = "rule,run,minutes,threads\ndata,scenes,2,1\nfinetune,a,20,1\nreport,tiny,0,1\n"
    (reference / "times.csv").write_text(times)

    def run(rows: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-m", "icmlib.tool.cli", "reproduce", "tiny", "--study", rows]
        environment, words = os.environ | {"ICM_ROOT": str(tmp_path)}, [*words, "--cores", "1"]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_a_line_for_each_notebook_that_ends(reproduce, tmp_path):
    """How long all takes is known from the reference; a second call does nothing."""
    done = reproduce("a+b")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("4 to run, about 42 min left")
    ended = ["1/4] 00_data", "2/4] 03_finetuning", "3/4] 03_finetuning", "4/4] report"]
    assert [line.split("  ")[0] for line in lines] == [f"[{each}" for each in ended]
    assert {line.split("  ")[1] for line in lines[1:3]} == {"a", "b"}
    times = (tmp_path / "results" / "tiny" / "times.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in times[:2]] == [["rule", "run"], ["data", "scenes"]]
    again = reproduce("a+b")
    assert again.returncode == 0 and "to run" not in again.stdout and "[1/" not in again.stdout


@pytest.mark.slow
def test_a_notebook_that_fails_is_named_and_the_rest_is_kept(reproduce, tmp_path):
    done = reproduce("broken")
    assert done.returncode != 0
    assert "failed: 03_finetuning  broken: see " in done.stderr
    assert f"{tmp_path}/results/tiny/finetune/broken/notebook.unfinished.ipynb" in done.stderr
    assert "snakemake.log" in done.stderr
    assert (tmp_path / "results/tiny/data/scenes/notebook.ipynb").exists()
    assert "2 to run" in reproduce("a").stdout  # the data are there


def test_what_is_left_is_estimated_from_what_it_took_before(tmp_path, capsys):
    """Once every kind of notebook has run; some use all cores, whatever their number."""
    stats = {"data": 1, "finetune": 4, "total": 5, "all": 1}
    started = logging.makeLogRecord({"event": "run_info", "stats": stats})
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    Progress(folder, 2).emit(started)
    times = "rule,run,minutes,threads\ndata,scenes,10,2\nfinetune,a,6,1\n"
    (folder / "times.csv").write_text(times)
    for cores in (1, 2):
        Progress(folder, cores).emit(started)
    said = [line.split(";")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["5 to run", "5 to run, about 34 min left", "5 to run, about 22 min left"]
