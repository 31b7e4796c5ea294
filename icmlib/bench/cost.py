"""What a profile costs: hours, from steps of its own loops measured here."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd

from icmlib import codecs, tasks, training
from icmlib.bench import harness
from icmlib.config import CodecConfig, replace
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.evaluate import evaluate
from icmlib.studies import bases, rate_task
from icmlib.studies.profile import Profile
from icmlib.tasks import proxies


def cost(profile: Profile, size: int = 554, batch: int = 1, tflops: float = 15.0) -> pd.DataFrame:
    """One row per stage: images that go through it, seconds and GFLOP for the most expensive
    of them, hours on this device and on a GPU that sustains so many TFLOP/s.

    Measured with untrained networks on dead leaves; reading a data set's own images comes on top.

    Args:
        size: height and width in px; 554x554 are as many pixels as COCO's usual 640x480.
        batch: images of a measured step; on a GPU take the profile's.
    """
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": batch, "val": 0, "test": 0}
        scenes = deadleaves.generate(Path(folder), size, counts, seed=0, workers=0)
        data = CocoDataset(scenes / "train", deadleaves.annotation_file(scenes, "train"))
        if profile.task:  # whatever is found has a category
            data.category_ids = [*range(1, profile.task.num_classes + 1)]
        table = pd.DataFrame(_rows(profile, data))
    gpu = f"hours at {tflops:g} TFLOP/s"
    table["hours here"] = table["s per image"] * table["images"] / 3600
    table[gpu] = table["GFLOP per image"] * table["images"] / tflops / 3.6e6
    how = {"images": "sum", "s per image": "max", "GFLOP per image": "max"}
    return table.groupby("stage", sort=False).agg(how | {"hours here": "sum", gpu: "sum"})


def _rows(profile: Profile, data: CocoDataset) -> Iterator[dict]:
    task = profile.task and tasks.create(replace(profile.task, {"weights": None}))
    proxy = task or proxies.VGG16(profile.base.vgg16_layers)
    measured, evaluated = {}, Counter()

    def row(stage: str, images: int, work: Callable[[int], None], *like) -> dict:
        """Of stages that cost the same per image, one is measured."""
        if (key := str(like)) not in measured:
            gflop = harness.operations(lambda: work(1)) / len(data) / 1e9
            seconds = harness.seconds_a_step(work, 2) / len(data)
            measured[key] = {"s per image": seconds, "GFLOP per image": gflop}
        return {"stage": stage, "images": images, **measured[key]}

    for stage, architecture, loop, config in trainings(profile):
        like = {k: v for k, v in asdict(config).items() if k not in ("steps", "beta")}
        work = partial(_train, loop, _inputs(architecture, loop, proxy, data, config), config)
        yield row(stage, config.steps * config.batch, work, stage, architecture, like)
        evaluated[architecture] += bool(architecture)
    if profile.rows:
        evaluated[profile.codec] += 2  # post-filters
    images, sets = profile.data.val + profile.data.test, profile.data.splits
    if sets:  # 5,000 of a split without a limit (COCO's val2017)
        images = sum(sets[split].get("limit", 5000) for split in ("val", "test"))
    for architecture, times in (+evaluated).items():
        codec = codecs.create(architecture).eval()
        codec.update()
        yield row("evaluation", times * images, partial(_evaluate, codec, task, data), architecture)


def _inputs(architecture: CodecConfig | None, loop: Callable, task, data, config) -> list:
    """What a training loop is given before its config."""
    task = proxies.create(config, task) if hasattr(config, "proxy") else task
    codec = [codecs.create(architecture).eval()] if architecture else []
    if loop is training.finetune_decoder:
        codec[0].update()
        codec.append([codec[0].latents(data.image(i)[None])[0] for i in range(len(data))])
    return [*codec, task, data]


def _train(loop: Callable, inputs: list, config, steps: int) -> None:
    inputs[-2].requires_grad_(True)  # the machine was frozen when the last training ended
    harness.trained(loop, *inputs, replace(config, {"steps": steps, "batch": len(inputs[-1])}))


def _evaluate(codec, task, data: CocoDataset, times: int) -> None:
    for _ in range(times):
        evaluate(codec, task, data, progress=False)


def trainings(profile: Profile) -> Iterator[tuple]:
    """All trainings of a profile: stage, codec, loop, config."""
    if profile.task and not profile.task.weights:
        yield "task network", None, training.train_task_network, profile.task
    if profile.rows and not profile.base_weights:
        yield "base codec", profile.codec, training.train_base_codec, profile.base
    for changes in profile.rows.values():
        config = replace(profile.finetune, changes)
        yield "decoder finetuning", profile.codec, training.finetune_decoder, config
    for name in profile.codecs:
        codec, base, finetunings, given = bases.settings(profile, name)
        if given is None:
            yield "codec zoo", codec, training.train_base_codec, base
        for finetune in finetunings.values():
            yield "codec zoo", codec, training.finetune_decoder, finetune
    study = profile.rate_task
    for point in study.points:
        codec = rate_task.codec_config(profile, point)
        if study.points[point].lambda_mse:
            yield "MSE codec", codec, training.train_base_codec, study.base
        for name in study.configurations:
            if point in study.points_of(name):
                config = rate_task.chain(profile, point, name)
                yield "chain finetuning", codec, training.finetune_chain, config
    for point, row in study.bridges():
        config = rate_task.bridge_config(profile, point, row)
        yield "bridge", rate_task.codec_config(profile, point), training.finetune_decoder, config
