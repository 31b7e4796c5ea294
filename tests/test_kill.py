"""Killed at any moment, a run that goes on ends as one that nobody disturbed; and two processes
that share a training (`accelerate launch`) do what one does."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import every_training
import pandas as pd
import pytest
import torch
from conftest import contents

from icmlib import training
from icmlib.datasets import deadleaves

pytestmark = pytest.mark.slow
OWN = {".lock", "run.json", "last.pt"}  # hold times and process numbers
# with --cpu in place of --multi_gpu, Accelerate starts one, whatever the number
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["icmlib.training", "icmlib.evaluate", "torchvision", "pytest"])


def work(folder: Path, scenes: Path, last: int = -1, survived: set[str] | None = None) -> None:
    """Every training, killed before its event `last`, or before a new file takes its name."""
    torch.set_num_threads(1)
    training.journal.CHECKPOINT_EVERY = 2
    number = itertools.count()

    def die(event: str, args: tuple) -> None:
        path = str(args[event == "os.rename"]) if event in ("open", "os.rename") else ""
        if not path.startswith(str(folder)):
            return
        now = ("log.csv" in path or "last.pt" in path) and next(number) == last
        new = event == "os.rename" and survived is not None and Path(path).name not in survived
        if now or new:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    every_training.train(folder, scenes, steps=5, batch=2)  # the last checkpoint is no multiple's


@pytest.fixture(scope="module")
def ended(scenes_folder):
    """`ended(folder, ...)`: the process of a run that has come to its end."""

    def run(folder: Path, *arguments) -> multiprocessing.Process:
        process = SERVER.Process(target=work, args=(folder, scenes_folder, *arguments))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process

    return run


def assert_same(folder: Path, undisturbed: Path) -> None:
    found, expected = contents(folder, OWN), contents(undisturbed, OWN)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture(scope="module")
def whole(ended, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert ended(folder).exitcode == 0
    return folder


def test_killed_at_random_moments(ended, whole, tmp_path):
    seed = random.randrange(1000)
    print(f"seed {seed}")  # pytest shows it if the test fails
    moments = random.Random(seed).choices(range(25), k=10)
    kills = [ended(tmp_path, moment).exitcode for moment in moments]
    print(f"moments {moments}, exit codes {kills}")
    assert any(kills) and ended(tmp_path).exitcode == 0
    assert_same(tmp_path, whole)


def test_killed_in_the_middle_of_every_file(ended, whole, tmp_path):
    """Once in each kind of file, half-written: none ever counts as one, or is left behind."""
    survived: set[str] = set()
    while (process := ended(tmp_path, -1, survived)).exitcode:
        (half,) = tmp_path.rglob(".*.half")
        half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
        name = half.name.removeprefix(".").removesuffix(f".{process.pid}.half")
        assert name not in survived
        survived.add(name)
    files = {Path(name).name for name in contents(whole, OWN)} - {"processes.txt"}
    assert survived == files | {"run.json", "last.pt"}
    assert_same(tmp_path, whole)


def make_scenes(root: Path, _) -> None:
    deadleaves.generate(root, 64, {"train": 10_000, "val": 1, "test": 1}, seed=0, workers=2)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    ended, end = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=make_scenes, args=(tmp_path, end))
    process.start()
    end.close()
    while process.is_alive() and not list(tmp_path.rglob("000016.png")):  # both are at work
        time.sleep(0.01)
    assert process.is_alive() and not ended.poll()
    process.kill()
    process.join()
    assert ended.poll(timeout=60)


def test_killed_notebook(notebook, tmp_path):
    """While it trains, and while it measures: then nothing is trained again."""
    whole = notebook("whole")
    folder = tmp_path / "killed" / "results" / "tiny" / "task_network" / "given"
    for file in ("last.pt", "val_per_image.csv"):
        process = notebook("killed")
        while process.poll() is None and not (folder / file).exists():
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (folder / "summary.json").exists()
    trained = (folder / "last.pt").stat().st_mtime_ns
    assert notebook("killed").wait() == 0 and whole.wait() == 0
    assert (folder / "last.pt").stat().st_mtime_ns == trained
    assert_same(folder, tmp_path / "whole" / folder.relative_to(tmp_path / "killed"))


def train(folder: Path, scenes: Path, *launch) -> Path:
    words = [sys.executable, *launch, every_training.__file__, folder, scenes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, words)), env=environment, check=True, timeout=600)
    return folder


def test_two_processes_train_as_one_does(scenes_folder, tmp_path):
    """The same global batches: losses within a percent, though each draws its own noise."""
    one = train(tmp_path / "one", scenes_folder)
    two = train(tmp_path / "two", scenes_folder, *LAUNCH)
    assert [(each / "processes.txt").read_text() for each in (one, two)] == ["1", "2"]
    for run in ("task", "finetune", "base", "chain"):
        logs = [pd.read_csv(folder / run / "log.csv") for folder in (one, two)]
        assert len(logs[0]) == 2 and logs[0].columns.equals(logs[1].columns)
        assert logs[1]["loss"].to_list() == pytest.approx(logs[0]["loss"].to_list(), rel=0.01), run


def test_two_processes_share_a_notebook(notebook, tmp_path):
    """Both run it to its end, in one run folder; the copy of the first is kept."""
    assert notebook("shared", *LAUNCH).wait(timeout=600) == 0
    copies = {str(file.parent) for file in tmp_path.rglob("shared.ipynb")}
    assert len(copies) == 2 and str(tmp_path) in copies
    (log,) = tmp_path.rglob("log.csv")
    assert pd.read_csv(log)["step"].to_list() == list(range(7))
