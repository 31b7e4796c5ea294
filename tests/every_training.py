"""Every training loop on tiny networks: `python every_training.py FOLDER SCENES [launch]`.

Run by test_processes.py, by one process or under `accelerate launch`; with `launch`, as a notebook
does it: the finetuning of a decoder alone.
"""

import sys
from pathlib import Path

from icmlib import codecs, processes, tasks, training
from icmlib.config import BaseTrainingConfig, ChainConfig, CodecConfig, FinetuneConfig, TaskConfig
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.io import save_weights
from icmlib.runs import Run

SHARED = {"steps": 3, "batch": 4, "shards": 2}
TASK = TaskConfig(**SHARED, seed=1)
BASE = BaseTrainingConfig(**SHARED, crop=48)
FINETUNE = FinetuneConfig(
    **SHARED, patches=2, patch_size=32, lr=1e-3, lambda_feature=1.0, lambda_task=0.5
)
CHAIN = ChainConfig(["encoder", "decoder", "entropy", "task"], **SHARED)


def main(folder: Path, scenes: Path, from_a_notebook: bool) -> None:
    data = CocoDataset(scenes / "train", deadleaves.annotation_file(scenes, "train"))
    codec = codecs.create(CodecConfig(N=8, M=12))
    task = tasks.create(TASK)
    codec.update()  # the file of an untrained codec has tables, too
    latents = codecs.cached_latents(codec, data, scenes / str(folder.name))
    finetuning = (codec, latents, task, data, FINETUNE, run(folder, "finetune"))
    if from_a_notebook:
        training.launch(finetune, *finetuning)
        codec.update()  # the trained weights have come back
        save_weights(folder / "finetune" / "returned.safetensors", codec)
        return
    note_processes(finetuning[-1])
    training.finetune_decoder(*finetuning)
    codec.requires_grad_(True)
    training.train_task_network(task.requires_grad_(True), data, TASK, run(folder, "task"))
    training.train_base_codec(codec, task, data, BASE, run(folder, "base"))
    training.finetune_chain(codec, task, data, CHAIN, run(folder, "chain"))


def finetune(*args) -> None:
    """In a process of its own, which can go on from any step."""
    note_processes(args[-1])
    training.steps.CHECKPOINT_EVERY = 1
    training.finetune_decoder(*args)


def note_processes(run: Run) -> None:
    """Says how many of them share the training."""
    if processes.main():
        run.path("processes.txt").write_text(str(processes.state().num_processes))


def run(folder: Path, name: str) -> Run:
    return Run(folder / name, {}, {}, {"profile": "t"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), bool(sys.argv[3:]))
