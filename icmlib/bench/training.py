"""Base training: `train_base_codec` beside the loop of CompressAI's examples."""

import tempfile

import torch
from compressai.losses import RateDistortionLoss
from torch import nn

from icmlib import codecs, performance, training
from icmlib.bench.harness import Pair, Scenes, alone, clocked, compared
from icmlib.config import BaseTrainingConfig, CodecConfig
from icmlib.runs import Run


def base_training(size: int, steps: int, N: int, M: int, batch: int = 8, seed: int = 0) -> Pair:
    """So many steps of base training (rate and MSE), from start to end; results are the losses,
    which differ by what the last ones do, relatively.

    Ours is `train_base_codec`. Theirs is the loop of CompressAI's examples/train.py: the same
    model, optimisers and images, its own loss function, float32.
    """
    scenes, lambda_mse = Scenes(2 * batch, size), 0.01 * 255**2
    architecture = CodecConfig("bmshj2018_hyperprior", N, M)
    config = BaseTrainingConfig(
        steps=steps,
        batch=batch,
        crop=size,
        lr=1e-4,  # that example's default; ten times as much diverges in the first steps
        lambda_mse=lambda_mse,
        lambda_feature=0.0,
        seed=seed,
    )

    def ours() -> list[float]:
        codec = codecs.create(architecture, seed)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(folder, {}, {}, {})
            training.train_base_codec(codec, None, scenes, config, run)
            return run.logged()["loss"].tolist()

    def theirs() -> list[float]:
        codec = codecs.create(architecture, seed)
        return compressai_training(codec.model, scenes, config)

    return Pair(ours, theirs, lambda ours, theirs: abs(ours[-1] / theirs[-1] - 1))


def base_step(size: int, steps: int, N: int, M: int, repeats: int) -> dict[str, float]:
    """Seconds of one step of base training, as `measure` gives them. Each side runs in processes of
    its own, in turns: memory is kept for ours alone."""
    times = {"ours": [], "theirs": []}
    for _ in range(repeats):
        for side, taken in times.items():
            taken.append(alone(_seconds_a_step, side, size, steps, N, M))
    return compared(**times)


def _seconds_a_step(side: str, size: int, steps: int, N: int, M: int) -> float:
    """So many steps more less the first one: what happens once is left out."""
    if side == "ours":
        performance.keep_freed_memory()
    one, more = (getattr(base_training(size, n, N, M), side) for n in (1, 1 + steps))
    one()
    return (clocked(more) - clocked(one)) / steps


def compressai_training(model: nn.Module, scenes: Scenes, config: BaseTrainingConfig) -> list:
    """The loss of each step of CompressAI's own training loop."""
    criterion = RateDistortionLoss(lmbda=config.lambda_mse / 255**2)
    quantiles = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
    weights = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam(weights, config.lr)
    aux_optimizer = torch.optim.Adam(quantiles, config.aux_lr)
    history = []
    for step in range(config.steps):
        indices = training.batch_indices(step, len(scenes), config.batch, config.seed)
        model.train()
        with training.seeded(config.seed, step):
            x = [training.random_crop(scenes.image(i), config.crop) for i in indices]
            x = torch.stack(x)
            out = criterion(model(x), x)
        optimizer.zero_grad()
        aux_optimizer.zero_grad()
        out["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.aux_loss().backward()
        aux_optimizer.step()
        history.append(out["loss"].item())
    return history
