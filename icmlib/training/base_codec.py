"""Training a codec from scratch: rate, MSE and, for a machine, its feature distance."""

import torch
from torch import nn
from torch.utils.data import Dataset

from icmlib import losses, performance, processes
from icmlib.codecs import LearnedCodec
from icmlib.config import BaseTrainingConfig
from icmlib.metrics.fidelity import feature_distance
from icmlib.runs import Run
from icmlib.tasks import TaskNetwork
from icmlib.training.steps import Shards, check_finite, checkpoint_due, late_decay, progress


def train_base_codec(
    codec: LearnedCodec,
    task: TaskNetwork | None,
    dataset: Dataset,
    config: BaseTrainingConfig,
    run: Run,
) -> None:
    """Train the base ICM codec for a frozen task network; weights and entropy tables to `run`.

    The loss is rate + lambda_mse * MSE + lambda_feature * feature distance, the last ramped up over
    the warm-up; of `task` only the features are asked, so a proxy of `icmlib.proxies` serves, too.
    The entropy bottleneck's quantiles have an optimiser of their own: without it the real files are
    larger than the estimate. Without lambda_feature no task network is needed.
    """
    frozen = [task.to(processes.device()).requires_grad_(False)] if task else []
    codec.to(processes.device())
    quantiles = [p for name, p in codec.named_parameters() if name.endswith("quantiles")]
    weights = [p for name, p in codec.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam(weights, config.lr, fused=True)
    aux_optimizer = torch.optim.Adam(quantiles, config.aux_lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: late_decay(s / config.steps))
    parts = {
        "codec": codec,
        "optimizer": optimizer,
        "aux": aux_optimizer,
        "schedule": schedule,
    }
    start = run.resume(**parts)
    shards = Shards(config, len(dataset))
    images = shards.reader(dataset.image)

    def terms_of(part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x = torch.stack([random_crop(image, config.crop) for image in images(step, part)])
        terms = base_terms(codec, task, x.to(codec.device), config)
        loss = terms["rate"] + config.lambda_mse * terms["mse"]
        if config.lambda_feature:
            ramp = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
            loss = loss + config.lambda_feature * ramp * terms["feature"]
        return loss, terms

    with performance.channels_last(codec, *frozen, optimizers=(optimizer,)):
        for step in progress(start, config.steps, "base codec"):
            codec.train()
            terms = shards.backward(step, weights, terms_of)
            aux_loss = codec.model.aux_loss()
            check_finite({"aux": aux_loss}, step)
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            aux_optimizer.zero_grad()
            aux_loss.backward()
            aux_optimizer.step()
            run.log(step, {**terms, "aux": aux_loss})
            if checkpoint_due(step, config.steps):
                run.checkpoint(step + 1, **parts)
    codec.eval().update()
    run.save_weights(codec)


def base_terms(
    codec: LearnedCodec, task: TaskNetwork | None, x: torch.Tensor, config: BaseTrainingConfig
) -> dict[str, torch.Tensor]:
    """The named terms of the base codec's loss on a batch x (B, 3, H, W): rate (bpp), mse and,
    where it has a weight, feature."""
    with performance.autocast(x.device, config.precision):
        out = codec(x)
    terms = {
        "rate": losses.rate(out["likelihoods"], x.shape[0] * x.shape[2] * x.shape[3]),
        "mse": nn.functional.mse_loss(out["x_hat"], x),
    }
    if config.lambda_feature:
        terms["feature"] = task_feature_distance(task, x, out["x_hat"], config.precision)
    return terms


def random_crop(image: torch.Tensor, size: int) -> torch.Tensor:
    """(3, H, W) -> (3, size, size) at a random place, flipped at random; smaller images are
    repeated at their far edges."""
    short = [max(0, size - extent) for extent in image.shape[-2:]]
    image = nn.functional.pad(image[None], (0, short[1], 0, short[0]), mode="replicate")[0]
    top, left = (int(torch.randint(extent - size + 1, ())) for extent in image.shape[-2:])
    image = image[:, top : top + size, left : left + size]
    axes = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
    return image.flip(axes) if axes else image


def task_feature_distance(
    task: TaskNetwork, x: torch.Tensor, x_hat: torch.Tensor, precision: str = "float32"
) -> torch.Tensor:
    """How far the task network's maps of x_hat are from those of x; scalar, mean over images."""
    with performance.autocast(x.device, precision):
        with torch.no_grad():
            features = task.features(x)
        features_hat = task.features(x_hat)
    return feature_distance(features, features_hat).mean()
