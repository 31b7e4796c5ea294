"""Every training loop on tiny networks, each in its run folder, and an evaluation: in one process,
or as `python every_training.py FOLDER SCENES` under `accelerate launch`."""

import contextlib
import sys
from pathlib import Path

import pytest
from conftest import scenes_of

from icmlib import codecs, device, tasks, training
from icmlib.config import BaseTrainingConfig, ChainConfig, CodecConfig, FinetuneConfig, TaskConfig
from icmlib.evaluate import evaluate, save_evaluation, summarize
from icmlib.studies.runs import Run


def train_one(
    loop: str, codec, task, data, config, journal: training.Journal, latents: Path
) -> None:
    """`loop` is task, base, chain or finetune; the codec's latents are kept in a folder."""
    if loop == "task":
        training.train_task_network(task, data, config, journal)
    elif loop == "base":
        training.train_base_codec(codec, task, data, config, journal)
    elif loop == "chain":
        training.finetune_chain(codec, task, data, config, journal)
    else:
        y_hat = codecs.cached_latents(codec, data, latents)
        training.finetune_decoder(codec, y_hat, task, data, config, journal)


@contextlib.contextmanager
def stopped_after(last: int):
    """A training inside stops when it has logged this step."""
    log = training.Journal.log

    def log_and_stop(self, step, terms):
        log(self, step, terms)
        if step == last:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(training.Journal, "log", log_and_stop)
        yield


def train(folder: Path, scenes: Path, steps: int = 2, batch: int = 32) -> None:
    def run(name: str) -> Run:
        return Run(folder / name, {"steps": steps}, {}, {"profile": "t"})

    data, val = (scenes_of(scenes, split) for split in ("train", "val"))
    shared = {"steps": steps, "batch": batch}
    codec, network = codecs.create(CodecConfig(N=8, M=12)), tasks.create(TaskConfig())
    codec.update()  # the file of an untrained codec has tables, too
    configs = {
        "finetune": FinetuneConfig(**shared, patches=2, patch_size=32, lr=1e-3, lambda_feature=1.0),
        "task": TaskConfig(**shared, lr=1e-4, seed=1),
        "base": BaseTrainingConfig(**shared, crop=48),
        "chain": ChainConfig(["encoder", "decoder", "entropy", "task"], **shared),
    }
    for loop, config in configs.items():
        journal = run(loop)
        network.requires_grad_(True)
        train_one(loop, codec, network, data, config, journal, journal.folder)
        if loop == "finetune":
            evaluation = evaluate(codec, None, val)
            save_evaluation(evaluation, journal.folder, "val")
            journal.finish(summarize(evaluation, resamples=5))
    if device.state().is_main_process:
        (folder / "processes.txt").write_text(str(device.state().num_processes))


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
