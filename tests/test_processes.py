"""Two processes that share a training give what one gives: `accelerate launch`, and `launch`."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import every_training
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from icmlib import processes
from icmlib.config import ChainConfig
from icmlib.training.steps import Shards

WEIGHTS = ("task/final", "finetune/final", "base/final", "chain/final", "chain/task")
SCRIPT = every_training.__file__
# with --cpu in place of --multi_gpu, Accelerate starts one, whatever the number
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def start(*words, **variables) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def python(*words, **variables) -> None:
    process = start(*words, **variables)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, scenes_folder) -> Path:
    """What one process gives."""
    folder = tmp_path_factory.mktemp("alone")
    python(SCRIPT, folder, scenes_folder)
    return folder


def assert_same(ours: Path, theirs: Path, weights=WEIGHTS) -> None:
    """What two processes made is what one made."""
    shared = [(folder / "finetune" / "processes.txt").read_text() for folder in (ours, theirs)]
    assert shared == ["2", "1"]
    for name in weights:
        mine, other = (load_file(folder / f"{name}.safetensors") for folder in (ours, theirs))
        assert mine.keys() == other.keys()
        for key in mine:
            if key.endswith("_cdf"):  # an entry of the tables may round the other way
                assert (mine[key] - other[key]).abs().max() <= 2, (name, key)
            else:
                torch.testing.assert_close(mine[key], other[key], rtol=1e-4, atol=1e-5)
    for run in {name.split("/")[0] for name in weights}:
        mine, other = (pd.read_csv(folder / run / "log.csv") for folder in (ours, theirs))
        assert len(mine) == 3
        pd.testing.assert_frame_equal(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_of_accelerate_launch_give_what_one_gives(alone, scenes_folder, tmp_path):
    python(*LAUNCH, SCRIPT, tmp_path, scenes_folder)
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_two_processes_of_a_notebook_give_what_one_gives(alone, scenes_folder, tmp_path):
    """Killed after their first checkpoint, and started again."""
    words, both = (SCRIPT, tmp_path, scenes_folder, "launch"), {"ICM_PROCESSES": "2"}
    killed = start(*words, **both)
    while killed.poll() is None and not (tmp_path / "finetune" / "last.pt").exists():
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    python(*words, **both)
    assert_same(tmp_path, alone, ["finetune/final"])
    trained, returned = (tmp_path / "finetune" / f"{n}.safetensors" for n in ("final", "returned"))
    assert trained.read_bytes() == returned.read_bytes()


# --- shards --------------------------------------------------------------------------------------


def test_shards_cut_the_batch():
    whole, half = Shards(ChainConfig(batch=4), 10), Shards(ChainConfig(batch=4, shards=2), 10)
    assert list(half.parts) == [0, 1]
    assert whole.indices(3, 0) == half.indices(3, 0) + half.indices(3, 1)


def test_batches_that_cannot_be_shared_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="batch of 4 has no 3 equal shards"):
        Shards(ChainConfig(batch=4, shards=3), 10)
    state = type("State", (), {"num_processes": 4, "process_index": 1})
    monkeypatch.setattr(processes, "state", lambda: state)
    with pytest.raises(ValueError, match="set shards to a multiple of 4"):
        Shards(ChainConfig(batch=4, shards=2), 10)
    assert list(Shards(ChainConfig(batch=8, shards=8), 10).parts) == [1, 5]


def test_gradients_are_means_over_the_shards():
    weight = torch.nn.Parameter(torch.ones(()))
    shards = Shards(ChainConfig(batch=4, shards=2), 10)
    terms = shards.backward(0, [weight], lambda part: (weight * (part + 1), {"a": weight + part}))
    assert weight.grad == 1.5
    assert terms == {"loss": 1.5, "a": 1.5}


@pytest.mark.parametrize(("asked", "shards", "count"), [(1, 4, 1), (2, 4, 2), (3, 4, 2), (8, 4, 4)])
def test_as_many_processes_as_share_evenly(monkeypatch, asked, shards, count):
    monkeypatch.setenv("ICM_PROCESSES", str(asked))
    assert importlib.import_module("icmlib.training.launch")._count(shards) == count


def test_batch_norm_that_is_trained_has_one_shard():
    """Frozen, as around published weights, it may have any number."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="their own batch statistics; set shards to 1"):
        Shards(ChainConfig(batch=4, shards=2), 10, network)
    Shards(ChainConfig(batch=4), 10, network)
    Shards(ChainConfig(batch=4, shards=2), 10, network.requires_grad_(False))
