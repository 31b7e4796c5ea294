"""Every training loop on tiny networks, each in its run folder, and an evaluation.

Run by test_kill.py, and by test_processes.py as `python every_training.py FOLDER SCENES`, by one
process or under `accelerate launch`.
"""

import sys
from pathlib import Path

from icmlib import codecs, device, tasks, training
from icmlib.config import BaseTrainingConfig, ChainConfig, CodecConfig, FinetuneConfig, TaskConfig
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.evaluate import evaluate, save_evaluation, summarize
from icmlib.studies.runs import Run


def train(folder: Path, scenes: Path, steps: int = 2, batch: int = 32) -> None:
    def run(name: str) -> Run:
        return Run(folder / name, {"steps": steps}, {}, {"profile": "t"})

    data, val = (
        CocoDataset(scenes / split, deadleaves.annotation_file(scenes, split))
        for split in ("train", "val")
    )
    shared = {"steps": steps, "batch": batch}
    codec, network = codecs.create(CodecConfig(N=8, M=12)), tasks.create(TaskConfig())
    codec.update()  # the file of an untrained codec has tables, too

    finetune = FinetuneConfig(**shared, patches=2, patch_size=32, lr=1e-3, lambda_feature=1.0)
    finetune_run = run("finetune")
    latents = codecs.cached_latents(codec, data, finetune_run.folder)
    training.finetune_decoder(codec, latents, network, data, finetune, finetune_run)
    evaluation = evaluate(codec, None, val)
    save_evaluation(evaluation, finetune_run.folder, "val")
    finetune_run.finish(summarize(evaluation, resamples=5))

    task = TaskConfig(**shared, lr=1e-4, seed=1)
    training.train_task_network(network.requires_grad_(True), data, task, run("task"))
    base = BaseTrainingConfig(**shared, crop=48)
    training.train_base_codec(codec, network, data, base, run("base"))
    chain = ChainConfig(["encoder", "decoder", "entropy", "task"], **shared)
    training.finetune_chain(codec, network, data, chain, run("chain"))
    if device.main():
        (folder / "processes.txt").write_text(str(device.state().num_processes))


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
