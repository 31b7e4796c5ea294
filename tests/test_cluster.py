"""The Slurm profile: what every notebook run would ask of a cluster. Nothing is submitted."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks/profiles/slurm"
PROFILE = yaml.safe_load((FOLDER / "config.yaml").read_text())


def notebook_rules() -> set[str]:
    """The rules of the Snakefile that run a notebook."""
    rules = re.split(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), flags=re.M)[1:]
    return {name for name, body in zip(rules[::2], rules[1::2]) if "notebook=" in body}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The profile's folder; without the plugin, one of the same profile but what is Slurm's."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        return FOLDER
    rest = {key: value for key, value in PROFILE.items() if not key.startswith("slurm")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(rest | {"executor": "local"}))
    return tmp_path


def dry_run(folder: Path, profile: str) -> str:
    """What Snakemake would do with the profile in that folder, from nothing."""
    command = [sys.executable, "-m", "snakemake", "--profile", folder, "--dry-run", "--forceall"]
    command += ["--config", f"profile={profile}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_notebook_rule_has_its_resources_and_no_other_rule_has():
    assert PROFILE["set-resources"].keys() == PROFILE["set-threads"].keys() == notebook_rules()
    for resources in PROFILE["set-resources"].values():
        assert {"gpu", "runtime", "mem"} <= {*resources, *PROFILE["default-resources"]}


@pytest.mark.parametrize(
    "profile, rules",
    [
        ("coco", {"mse_codec", "chain", "anchor", "bridge", "rate_task"}),
        ("openimages", {"base_codec", "finetune", "post_filter", "ablations", "figures", "knob"}),
    ],
)
def test_every_run_of_a_study_is_a_job_with_the_profiles_resources(folder, profile, rules):
    jobs = re.findall(r"^rule (\w+):\n((?: {4}.*\n)+)", dry_run(folder, profile), re.M)
    assert {name for name, _ in jobs} == rules | {"data", "task_network", "report", "all"}
    for name, job in jobs:
        if name in notebook_rules():
            threads = re.search(r"threads: (\d+)", job) or ["", 1]  # one is not mentioned
            assert int(threads[1]) == PROFILE["set-threads"][name]
            assert f"gpu={PROFILE['set-resources'][name]['gpu']}" in job
            assert "mem_mb=" in job and "runtime=" in job
            assert re.search(r"log: \S+/notebook.ipynb\n", job)
