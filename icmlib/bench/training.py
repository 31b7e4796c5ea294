"""Base training: `train_base_codec` beside the loop of CompressAI's examples."""

import tempfile

import torch
from compressai.losses import RateDistortionLoss
from torch import nn

from icmlib import codecs, training
from icmlib.bench.harness import Pair, scene
from icmlib.config import BaseTrainingConfig, CodecConfig
from icmlib.runs import Run


class Scenes:
    """Dead-leaves scenes held in memory, as a data set."""

    def __init__(self, count: int, size: int):
        self.images = [scene(size, size, index) for index in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> torch.Tensor:
        return self.images[index]


def base_training(
    size: int, steps: int, batch: int = 8, N: int = 128, M: int = 192, seed: int = 0
) -> Pair:
    """So many steps of base training (rate and MSE), from start to end; results are the losses,
    which differ by what the last ones do, relatively.

    Ours is `train_base_codec`. Theirs is the loop of CompressAI's examples/train.py: the same
    model, optimisers and images, its own loss function, float32.
    """
    scenes, lambda_mse = Scenes(2 * batch, size), 0.01 * 255**2
    architecture = CodecConfig("bmshj2018_hyperprior", N, M)
    config = BaseTrainingConfig(
        steps=steps, batch=batch, crop=size, lambda_mse=lambda_mse, lambda_feature=0.0, seed=seed
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
