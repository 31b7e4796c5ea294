"""What Snakemake would run: on a cluster, by default, after an edit; nothing is submitted. And what
`icm reproduce` says while it works, on a study whose notebooks cost nothing."""

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import icm_process

from icmlib.studies.profile import load_profile
from icmlib.tool.reproduce import Progress

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks/profiles/slurm"
PROFILE = yaml.safe_load((FOLDER / "config.yaml").read_text())
STUDY1 = {"base_codec", "finetune", "post_filter", "ablations", "figures"}
STUDY2 = {"mse_codec", "chain", "anchor", "bridge", "rate_task"}
ALWAYS = {"data", "task_network", "report", "all"}
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


def notebook_rules() -> set[str]:
    text = (ROOT / "Snakefile").read_text()
    return set(re.findall(r"^use rule notebook as (\w+) with:", text, re.M))


@pytest.fixture
def folder(tmp_path) -> Path:
    """The profile's folder; without the plugin, one of the same profile but what is Slurm's."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        return FOLDER
    rest = {key: value for key, value in PROFILE.items() if not key.startswith("slurm")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(rest | {"executor": "local"}))
    return tmp_path


def dry_run(profile: str, study: str, *options, root: Path = ROOT) -> list[tuple[str, str]]:
    """Rule and description of each job that Snakemake would start."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--dry-run"]
    command += ["--directory", root, "--nolock", *options]
    command += ["--config", f"profile={profile}", f"study={study}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", done.stdout + done.stderr, re.M)


def test_every_notebook_rule_has_its_resources_and_no_other_rule_has():
    rules = notebook_rules()
    assert PROFILE["set-resources"].keys() == PROFILE["set-threads"].keys() == rules != set()
    for resources in PROFILE["set-resources"].values():
        assert {"gpu", "runtime", "mem"} <= {*resources, *PROFILE["default-resources"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "study", "rules"),
    [("coco", "rate_task", STUDY2), ("openimages", "finetuning", STUDY1 | {"knob"})],
)
def test_every_run_of_a_study_is_a_job_with_the_profiles_resources(folder, profile, study, rules):
    jobs = dry_run(profile, study, "--profile", folder, "--forceall")
    assert {name for name, _ in jobs} == rules | ALWAYS
    for name, job in jobs:
        if name in notebook_rules():
            threads = re.search(r"threads: (\d+)", job) or ["", 1]  # one is not mentioned
            assert int(threads[1]) == PROFILE["set-threads"][name]
            assert f"gpu={PROFILE['set-resources'][name]['gpu']}" in job
            assert "mem_mb=" in job and "runtime=" in job
            assert re.search(r"output: \S+/notebook.ipynb\b", job)
            assert re.search(r"log: \S+/notebook.unfinished.ipynb\n", job)


@pytest.mark.slow
def test_by_default_a_study_is_short(folder):
    """Study 1 with the profile's main rows; with every row, when it is asked for."""
    profile = load_profile("quick")
    for study, rows in (("main", profile.main_rows), ("finetuning", list(profile.rows))):
        jobs = dry_run("quick", study, "--profile", folder, "--forceall")
        finetuned = [job for name, job in jobs if name == "finetune"]
        assert len(finetuned) == len(rows) > 0
        for row in rows:
            assert any(f"finetune/{row}/notebook.ipynb" in job for job in finetuned)
        assert ("knob" in {name for name, _ in jobs}) == (study != "main")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project in which every notebook of the profile `smoke` was run; all files are as old."""
    root = tmp_path_factory.mktemp("project")
    for name in ("icmlib", "notebooks", "data"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("deadleaves*"))
    for _, job in dry_run("smoke", "all", "--cores", "1", root=root):
        for output in re.findall(r"output: (\S+?)(?: \(update\))?\n", job):
            (root / output).parent.mkdir(parents=True, exist_ok=True)
            (root / output).touch()
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edited", "again", "stay"),
    [
        ("studies/figures.py", {"ablations", "rate_task", "figures"}, {"base_codec", "finetune"}),
        ("evaluate.py", {"base_codec", "finetune", "mse_codec", "ablations"}, {"data"}),
        ("config.py", set(), notebook_rules()),
    ],
)
def test_an_edit_runs_again_what_depends_on_it(finished, edited, again, stay):
    os.utime(finished / "icmlib" / edited, (1.1e9, 1.1e9))
    rules = {name for name, _ in dry_run("smoke", "all", "--cores", "1", root=finished)}
    os.utime(finished / "icmlib" / edited, (1e9, 1e9))
    assert again <= rules and not stay & rules


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

    def run(rows: str):
        words = ("reproduce", "tiny", "--study", rows, "--cores", 1)
        return icm_process(*words, ICM_ROOT=str(tmp_path))

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
    """Once every kind of notebook has run; work is in minutes of one core."""
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
    assert said == ["5 to run", "5 to run, about 44 min left", "5 to run, about 22 min left"]
