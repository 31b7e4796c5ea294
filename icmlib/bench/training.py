"""Base training: `train_base_codec` beside the loop of CompressAI's examples."""

from functools import partial

from compressai.losses import RateDistortionLoss
from compressai.optimizers import net_aux_optimizer
from torch import nn

from icmlib import codecs, device, training
from icmlib.bench.harness import Pair, Scenes, alone, compared, seconds_a_step, trained
from icmlib.config import BaseTrainingConfig, CodecConfig, replace


def base_training(size: int, N: int, M: int, batch: int = 8, seed: int = 0) -> Pair:
    """Base training (rate and MSE) in float32: `train_base_codec` beside the loop of CompressAI's
    examples/train.py, with the same model, optimisers and images. Each side takes the number of
    steps and returns the loss of each."""
    scenes, architecture = Scenes(2 * batch, size), CodecConfig("bmshj2018_hyperprior", N, M)
    config = BaseTrainingConfig(
        batch=batch,
        crop=size,
        lr=1e-4,  # that example's default; ten times as much diverges in the first steps
        lambda_mse=0.01 * 255**2,
        lambda_feature=0.0,
        precision="float32",
        seed=seed,
    )

    def ours(steps: int) -> list[float]:
        codec, settings = codecs.create(architecture, seed), replace(config, {"steps": steps})
        return trained(training.train_base_codec, codec, None, scenes, settings)["loss"].tolist()

    def theirs(steps: int) -> list[float]:
        model, criterion = codecs.create(architecture, seed).model.train(), RateDistortionLoss(0.01)
        rates = {"net": config.lr, "aux": config.aux_lr}
        adams = {part: {"type": "Adam", "lr": lr} for part, lr in rates.items()}
        optimizer, aux_optimizer = net_aux_optimizer(model, adams).values()
        history = []
        for step in range(steps):
            with training.seeded(seed, step):
                indices = training.batch_indices(step, len(scenes), batch, seed)
                x = training.base_codec.crops([(i, scenes[i]) for i in indices], config, step)
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

    return Pair(ours, theirs)


def base_step(size: int, steps: int, N: int, M: int, repeats: int) -> dict[str, float]:
    """Seconds of one step of base training, as `compared` gives them. Each side runs in its own
    processes, in turns: only ours keeps freed memory."""
    seconds = partial(alone, _seconds_a_step, size, steps, N, M)
    return compared([(seconds("ours"), seconds("theirs")) for _ in range(repeats)])


def _seconds_a_step(size: int, steps: int, N: int, M: int, side: str) -> float:
    if side == "ours":
        device.keep_freed_memory()
    return seconds_a_step(getattr(base_training(size, N, M), side), steps)
