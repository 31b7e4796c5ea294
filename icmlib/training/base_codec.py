"""Training a codec from scratch: rate, MSE and, for a machine, its feature distance."""

import random
from functools import partial

import torch
from torch import nn
from torch.nn.functional import interpolate, mse_loss, pad
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from icmlib import device, losses
from icmlib.codecs import LearnedCodec
from icmlib.config import BaseTrainingConfig
from icmlib.metrics.fidelity import feature_distance
from icmlib.tasks import TaskNetwork
from icmlib.training.journal import Journal
from icmlib.training.steps import average_gradients, batches, item_rng, late_decay, seeded


def train_base_codec(
    codec: LearnedCodec,
    task: TaskNetwork | None,
    dataset: Dataset,
    config: BaseTrainingConfig,
    journal: Journal,
) -> None:
    """Train a codec by rate + lambda_mse * MSE + lambda_feature * feature distance on random crops
    of `dataset.image(index)`; weights and entropy tables go to `journal`. `task` is the frozen
    machine, or a proxy of `icmlib.tasks.proxies`; none if lambda_feature is 0."""
    frozen = [task.to(device.current()).requires_grad_(False)] if task is not None else []
    codec.to(device.current()).train().requires_grad_(True)
    quantiles, weights = split_quantiles(codec)
    optimizer = Adam(weights, config.lr, fused=True)
    aux_optimizer = Adam(quantiles, config.aux_lr)  # without it real files outgrow the estimate
    schedule = LambdaLR(optimizer, lambda step: late_decay(step / config.steps))
    parts = {"codec": codec, "optimizer": optimizer, "aux": aux_optimizer, "schedule": schedule}

    with device.channels_last(codec, *frozen):
        start = journal.resume(**parts)
        read = partial(read_crop, dataset, config)
        for step, batch in batches(read, len(dataset), config, start, "base codec"):
            x = torch.stack([crop for _, crop in batch]).to(codec.device)  # (B, 3, crop, crop)
            with seeded(config.seed, step):
                with device.autocast(x.device, config.precision):
                    out = codec(x)
                rate = losses.rate(out["likelihoods"], x[:, 0].numel())
                mse = mse_loss(out["x_hat"], x)
                loss, terms = rate + config.lambda_mse * mse, {"rate": rate, "mse": mse}
                if config.lambda_feature:
                    moved = shifted([x, out["x_hat"]], config.shift)
                    feature = task_feature_distance(task, *moved, config.precision)
                    ramp = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
                    loss = loss + config.lambda_feature * ramp * feature
                    terms["feature"] = feature
            optimizer.zero_grad()
            loss.backward()
            average_gradients(weights)
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            terms |= {"loss": loss, "aux": train_quantiles(codec, aux_optimizer)}
            journal.step(step, config.steps, terms, parts)
    codec.eval().requires_grad_(False).update()
    journal.save_weights(codec)


def split_quantiles(codec: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The entropy bottleneck's quantiles, which have their own loss, and all other weights."""
    named = list(codec.named_parameters())
    quantiles = [weight for name, weight in named if name.endswith("quantiles")]
    return quantiles, [weight for name, weight in named if not name.endswith("quantiles")]


def train_quantiles(codec: LearnedCodec, optimizer: Adam) -> torch.Tensor:
    """One step of the quantiles towards the tails of z; returns their loss."""
    loss = codec.model.aux_loss()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def read_crop(dataset, config: BaseTrainingConfig, index: int, step: int) -> torch.Tensor:
    """The random crop (3, crop, crop) of an image in a step."""
    rng = item_rng(config.seed, step, index)
    return random_crop(dataset.image(index), config.crop, rng, config.scale)


def random_crop(image: torch.Tensor, size: int, rng: random.Random, scale=1.0) -> torch.Tensor:
    """(3, H, W) -> (3, size, size), flipped at random; smaller images repeat their last row and
    column. Below 1, `scale` is the smallest factor by which the image is made smaller before."""
    side = size if scale == 1 else round(size / rng.uniform(scale, 1))
    side = max(size, min(side, *image.shape[-2:]))
    below, right = (max(0, side - extent) for extent in image.shape[-2:])
    image = pad(image[None], (0, right, 0, below), mode="replicate")
    top, left = (rng.randrange(extent - side + 1) for extent in image.shape[-2:])
    image = image[..., top : top + side, left : left + side]
    if side > size:
        image = interpolate(image, (size, size), mode="bilinear", antialias=True)
    return image[0].flip([axis for axis in (-1, -2) if rng.random() < 0.5])


def shifted(images: list[torch.Tensor], limit: int) -> list[torch.Tensor]:
    """Images (B, 3, H, W) moved down and right by the same random 0..`limit` px, which their first
    row and column fill."""
    if not limit:
        return images
    down, right = torch.randint(limit + 1, (2,)).tolist()
    return [pad(x, (right, 0, down, 0), mode="replicate") for x in images]


def task_feature_distance(
    task: TaskNetwork, x: torch.Tensor, x_hat: torch.Tensor, precision: str = "float32"
) -> torch.Tensor:
    """`feature_distance` of x and x_hat (B, 3, H, W); scalar, mean over images."""
    with device.autocast(x.device, precision):
        with torch.no_grad():
            features = task.features(x)
        features_hat = task.features(x_hat)
    return feature_distance(features, features_hat).mean()
