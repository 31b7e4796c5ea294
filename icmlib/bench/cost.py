"""What a profile costs: hours and disk, from steps of its own loops measured here."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from torch import nn

from icmlib import codec_zoo, codecs, proxies, rate_task, tasks, training
from icmlib.bench.harness import clocked, operations
from icmlib.config import CodecConfig, Profile, replace
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.evaluate import evaluate
from icmlib.runs import Run

FILTERS = 2  # post-filters, evaluated beside the rows
KEPT = 4  # times its weights a run keeps: them, and them with Adam's two moments to resume from


@dataclass
class Work:
    """What so many images go through in one stage: `call(steps)` does some of it."""

    stage: str
    images: int
    call: Callable[[int], None]
    same: str  # of works that cost the same for an image, of which one is measured
    gigabytes: float = 0.0


def cost(
    profile: Profile, size: int = 554, batch: int = 1, repeats: int = 2, tflops: float = 15.0
) -> pd.DataFrame:
    """A row for each stage: images that go through it, seconds and GFLOP for one of them (the
    dearest), hours on this device and on a GPU that sustains so many TFLOP/s, and disk in GB.

    Measured with untrained networks on dead leaves; reading a data set's own images comes on top.
    Operations are those that PyTorch counts, forward and backward.

    Args:
        size: height and width in px; 554x554 are as many pixels as COCO's usual 640x480. Base
            codecs are trained on crops, whose size the profile has.
        batch: images of a measured step; on a GPU take the profile's.
        repeats: steps that are timed, after one that is not.

    Raises:
        ValueError: no image in a batch.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; a step is measured with at least one image")
    gpu, rows, measured = f"hours at {tflops:g} TFLOP/s", [], {}
    with tempfile.TemporaryDirectory() as folder:
        for work in works(profile, Path(folder), size, batch):
            if work.same not in measured:
                measured[work.same] = _measure(work.call, batch, repeats)
            seconds, flop = measured[work.same]
            row = {"stage": work.stage, "images": work.images, "s an image": seconds}
            row |= {"GFLOP an image": flop / 1e9, "hours here": seconds * work.images / 3600}
            rows.append(row | {gpu: flop * work.images / tflops / 3.6e15, "GB": work.gigabytes})
    dearest = dict.fromkeys(("s an image", "GFLOP an image"), "max")
    how = {name: dearest.get(name, "sum") for name in rows[0] if name != "stage"}
    return pd.DataFrame(rows).groupby("stage", sort=False).agg(how)


def _measure(call: Callable[[int], None], batch: int, repeats: int) -> tuple[float, float]:
    """Seconds and floating-point operations for one image."""
    flop = operations(lambda: call(1))
    first, more = (clocked(partial(call, steps)) for steps in (1, 1 + repeats))
    return max(more - first, 0.0) / repeats / batch, flop / batch


def works(profile: Profile, folder: Path, size: int, batch: int) -> Iterator[Work]:
    """Everything that a profile trains and evaluates."""
    scenes = deadleaves.generate(folder, size, {"train": batch, "val": 0, "test": 0}, 0, workers=1)
    data = CocoDataset(scenes / "train", deadleaves.annotation_file(scenes, "train"))
    data.category_ids = [*range(1, profile.task.num_classes + 1)]  # an untrained network finds any
    task = tasks.create(replace(profile.task, {"weights": None}))
    evaluations: list[CodecConfig] = []
    cached: set[tuple[str, CodecConfig]] = set()

    def trains(stage: str, train: Callable, config, codec: CodecConfig | None = None) -> Work:
        modules = [task] if codec is None else [codecs.create(codec), task]
        inputs, latents = [*modules, data], 0.0
        if train is training.train_base_codec and config.proxy == "vgg16":
            inputs[1] = proxies.VGG16(config.vgg16_layers, weights=None)
        if train is training.finetune_decoder:
            modules[0].eval().update()
            inputs.insert(1, codecs.cached_latents(modules[0], data, folder))
            if (stage, codec) not in cached:  # the rows of a stage share them
                cached.add((stage, codec))
                latents = 1e-9 * inputs[1][0].nbytes * count(profile, "train")
        if codec is not None:
            evaluations.append(codec)

        def call(steps: int) -> None:
            task.requires_grad_(codec is None)
            changed = replace(config, {"steps": steps, "batch": batch})
            train(*inputs, changed, Run(tempfile.mkdtemp(dir=folder), {}, {}, {}))

        weights = sum(p.numel() for module in modules for p in module.parameters())
        kept = KEPT * 4e-9 * weights + latents
        same = replace(config, {"steps": 1, **({"beta": 1.0} if hasattr(config, "beta") else {})})
        return Work(stage, config.steps * config.batch, call, f"{stage} {codec} {same}", kept)

    if not profile.task.weights:
        yield trains("task network", training.train_task_network, profile.task)
    if profile.rows:
        yield trains("base codec", training.train_base_codec, profile.base, profile.codec)
        evaluations += FILTERS * [profile.codec]
    for changes in profile.rows.values():
        config = replace(profile.finetune, changes)
        yield trains("decoder finetuning", training.finetune_decoder, config, profile.codec)
    for name in profile.zoo.codecs:
        codec, base, finetune = codec_zoo.settings(profile, name)
        yield trains("codec zoo", training.train_base_codec, base, codec)
        yield trains("codec zoo", training.finetune_decoder, finetune, codec)
    study = profile.rate_task
    for point in study.points:
        codec = rate_task.codec_config(profile, point)
        if study.points[point].lambda_mse:
            yield trains("MSE codec", training.train_base_codec, study.base, codec)
        for name in study.configurations:
            if point in study.points_of(name):
                config = rate_task.chain(profile, point, name)
                yield trains("chain finetuning", training.finetune_chain, config, codec)
    for point, row in study.bridges():
        config = rate_task.bridge_config(profile, point, row)
        codec = rate_task.codec_config(profile, point)
        yield trains("bridge", training.finetune_decoder, config, codec)
    for config in dict.fromkeys(evaluations):
        codec = codecs.create(config).eval()
        codec.update()
        images = evaluations.count(config) * (count(profile, "val") + count(profile, "test"))
        yield Work("evaluation", images, _evaluations(codec, task, data), f"evaluation {config}")


def _evaluations(codec: nn.Module, task: nn.Module, data: CocoDataset) -> Callable[[int], None]:
    def call(steps: int) -> None:
        task.requires_grad_(False)
        for _ in range(steps):
            evaluate(codec, task, data)

    return call


def count(profile: Profile, split: str) -> int:
    """Images of a split, as the profile has them; 5,000 of one without a limit (COCO's val2017)."""
    if profile.data.name == "deadleaves":
        return getattr(profile.data, split)
    return profile.data.splits[split].get("limit", 5000)
