"""Every training loop on tiny networks: `python every_training.py FOLDER SCENES`.

Run by test_processes.py, by one process or under `accelerate launch`.
"""

import sys
from pathlib import Path

from icmlib import codecs, device, tasks, training
from icmlib.config import BaseTrainingConfig, ChainConfig, CodecConfig, FinetuneConfig, TaskConfig
from icmlib.datasets import CocoDataset, deadleaves

SHARED = {"steps": 2, "batch": 32}
TASK = TaskConfig(**SHARED, lr=1e-4, seed=1)
BASE = BaseTrainingConfig(**SHARED, crop=48)
FINETUNE = FinetuneConfig(
    **SHARED, patches=2, patch_size=32, lr=1e-3, lambda_feature=1.0, lambda_task=0.5
)
CHAIN = ChainConfig(["encoder", "decoder", "entropy", "task"], **SHARED)


def main(folder: Path, scenes: Path) -> None:
    data = CocoDataset(scenes / "train", deadleaves.annotation_file(scenes, "train"))
    codec = codecs.create(CodecConfig(N=8, M=12))
    task = tasks.create(TASK)
    codec.update()  # the file of an untrained codec has tables, too
    latents = codecs.cached_latents(codec, data, scenes / str(folder.name))
    finetuning = training.Journal(folder / "finetune")
    training.finetune_decoder(codec, latents, task, data, FINETUNE, finetuning)
    codec.requires_grad_(True)
    network = task.requires_grad_(True)
    training.train_task_network(network, data, TASK, training.Journal(folder / "task"))
    training.train_base_codec(codec, task, data, BASE, training.Journal(folder / "base"))
    training.finetune_chain(codec, task, data, CHAIN, training.Journal(folder / "chain"))
    if device.main():
        (folder / "processes.txt").write_text(str(device.state().num_processes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
