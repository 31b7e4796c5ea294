"""Training a codec from scratch: rate, MSE and, for a machine, its feature distance."""

import random
from functools import partial

import torch
from torch import nn, optim
from torch.nn.functional import interpolate, mse_loss, pad

from icmlib import device, losses
from icmlib.codecs import LearnedCodec
from icmlib.config import BaseTrainingConfig
from icmlib.metrics.fidelity import feature_distance
from icmlib.tasks import TaskNetwork
from icmlib.training.journal import Journal
from icmlib.training.steps import Recorded, average_gradients, batches, item_rng, late_decay, seeded


def train_base_codec(
    codec: LearnedCodec,
    task: TaskNetwork | None,
    dataset,
    config: BaseTrainingConfig,
    journal: Journal,
) -> None:
    """Train a codec by rate + lambda_mse * MSE + lambda_feature * feature distance on random crops
    of `dataset.image(index)`; weights and entropy tables go to `journal`. `task` is the frozen
    machine, or a proxy of `icmlib.tasks.proxies`; none if lambda_feature is 0."""
    frozen = [task.to(device.current()).requires_grad_(False)] if task is not None else []
    codec.to(device.current()).train().requires_grad_(True)
    weights, quantiles = without_quantiles(codec), codec.model.entropy_bottleneck.quantiles
    optimizer = optim.Adam(weights, config.lr, fused=True)
    aux_optimizer = optim.Adam([quantiles], config.aux_lr)  # without it real files are larger
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: late_decay(step / config.steps))
    parts = {"codec": codec, "optimizer": optimizer, "aux": aux_optimizer, "schedule": schedule}
    record = task is None or getattr(task, "recordable", False)
    step_backward = Recorded(partial(backward, codec, task, config), record)
    quantiles_backward = Recorded(partial(aux_backward, codec), record)

    with device.channels_last(codec, *frozen):
        start = journal.resume(**parts)
        read = partial(read_crop, dataset, config)
        for step, batch in batches(read, len(dataset), config, start, "base codec"):
            x = torch.stack([crop for _, crop in batch])  # (B, 3, crop, crop)
            ramp = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
            rng = item_rng(config.seed, step, -1)
            place = [rng.randint(0, config.shift) for _ in "yx"]
            inputs = (x, torch.tensor(ramp), torch.tensor(place))
            with seeded(config.seed, step):
                terms = step_backward(*(each.to(codec.device) for each in inputs))
            average_gradients(weights)
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            terms |= quantiles_backward()
            aux_optimizer.step()
            journal.step(step, config.steps, terms, parts)
    codec.eval().requires_grad_(False).update()
    journal.save_weights(codec)


def backward(
    codec: LearnedCodec,
    task: TaskNetwork | None,
    config: BaseTrainingConfig,
    x: torch.Tensor,
    ramp: torch.Tensor,
    place: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Gradients of the loss on crops x (B, 3, H, W), and its terms; `ramp` (scalar) is on the
    feature term, whose images lie at `place` (2,)."""
    codec.zero_grad()
    with device.autocast(x.device, config.precision):
        out = codec(x)
    rate = losses.rate(out["likelihoods"], x[:, 0].numel())
    mse = mse_loss(out["x_hat"], x)
    loss, terms = rate + config.lambda_mse * mse, {"rate": rate, "mse": mse}
    if config.lambda_feature:
        images = (moved_images(each, place) if config.shift else each for each in (x, out["x_hat"]))
        feature = task_feature_distance(task, *images, config.precision)
        loss = loss + config.lambda_feature * ramp * feature
        terms["feature"] = feature
    loss.backward()
    return {name: term.detach() for name, term in {**terms, "loss": loss}.items()}


def without_quantiles(module: nn.Module) -> list[nn.Parameter]:
    """All weights but the entropy bottleneck's quantiles, which have their own loss."""
    return [w for name, w in module.named_parameters() if not name.endswith("quantiles")]


def aux_backward(codec: LearnedCodec) -> dict[str, torch.Tensor]:
    """Gradients of the quantiles towards the tails of z, and their loss, `aux`."""
    codec.model.entropy_bottleneck.quantiles.grad = None
    loss = codec.model.aux_loss()
    loss.backward()
    return {"aux": loss.detach()}


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


def moved_images(x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) moved down and right by `place` (2,) px; their first edges repeat."""
    for axis, by in zip((-2, -1), place):
        source = torch.arange(x.shape[axis], device=x.device) - by
        x = x.index_select(axis, source.clamp_min(0))
    return x


def task_feature_distance(
    task: TaskNetwork, x: torch.Tensor, x_hat: torch.Tensor, precision: str = "float32"
) -> torch.Tensor:
    """`feature_distance` of x and x_hat (B, 3, H, W); scalar, mean over images."""
    with device.autocast(x.device, precision):
        with torch.no_grad():
            features = task.features(x)
        features_hat = task.features(x_hat)
    return feature_distance(features, features_hat).mean()
