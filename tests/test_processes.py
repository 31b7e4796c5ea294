"""Two processes that share a training (`accelerate launch`) do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import every_training
import pandas as pd
import pytest
import torch

from icmlib import device, training
from icmlib.config import ChainConfig

# with --cpu in place of --multi_gpu, Accelerate starts one, whatever the number
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def train(folder: Path, scenes: Path, *launch) -> Path:
    words = [sys.executable, *launch, every_training.__file__, folder, scenes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, words)), env=environment, check=True, timeout=600)
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one_does(scenes_folder, tmp_path):
    """The same global batches: losses within a percent, though each draws its own noise."""
    one = train(tmp_path / "one", scenes_folder)
    two = train(tmp_path / "two", scenes_folder, *LAUNCH)
    assert [(each / "processes.txt").read_text() for each in (one, two)] == ["1", "2"]
    for run in ("task", "finetune", "base", "chain"):
        logs = [pd.read_csv(folder / run / "log.csv") for folder in (one, two)]
        assert len(logs[0]) == 2 and logs[0].columns.equals(logs[1].columns)
        assert logs[1]["loss"].to_list() == pytest.approx(logs[0]["loss"].to_list(), rel=0.01), run


@pytest.mark.slow
def test_two_processes_share_a_notebook(notebook, tmp_path):
    """Both run it to its end, in one run folder; the copy of the first is kept."""
    assert notebook("shared", *LAUNCH).wait(timeout=600) == 0
    copies = {str(file.parent) for file in tmp_path.rglob("shared.ipynb")}
    assert len(copies) == 2 and str(tmp_path) in copies
    (log,) = tmp_path.rglob("log.csv")
    assert pd.read_csv(log)["step"].to_list() == list(range(7))


class FirstOfTwo:
    num_processes, process_index, device, is_main_process = 2, 0, torch.device("cpu"), True


def test_each_process_has_its_part_of_a_batch(monkeypatch):
    config = ChainConfig(steps=3, batch=4)
    whole = [[i for i, _ in items] for _, items in training.steps.batches(max, 10, config, 1, "")]
    monkeypatch.setattr(device, "state", FirstOfTwo)
    mine = [[i for i, _ in items] for _, items in training.steps.batches(max, 10, config, 1, "")]
    assert mine == [batch[::2] for batch in whole] and len(whole) == 2
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3"):
        training.steps.batches(max, 10, ChainConfig(batch=3), 0, "")
