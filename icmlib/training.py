"""The training loops, in the order of the study. Each is plain PyTorch and resumes from its run.

train_task_network    the machine
train_base_codec      rate + MSE + task-feature distance
finetune_decoder      PatchGAN on the first decoder layers; the bits stay as they are
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from icmlib import losses, performance
from icmlib.codecs import LearnedCodec
from icmlib.codecs.latents import Latents
from icmlib.codecs.patches import decoder_layers, patch_decoder
from icmlib.config import BaseTrainingConfig, FinetuneConfig, TaskConfig
from icmlib.discriminator import PatchDiscriminator
from icmlib.metrics.fidelity import feature_distance
from icmlib.runs import Run
from icmlib.tasks import TaskNetwork

CHECKPOINT_EVERY = 250  # steps


def batch_indices(step: int, size: int, batch: int, seed: int) -> list[int]:
    """Which items make the batch of a step: a fresh permutation each epoch, known from the step
    alone, so that a resumed run sees what an undisturbed one would have seen."""
    indices = []
    for position in range(step * batch, (step + 1) * batch):
        generator = torch.Generator().manual_seed(seed * 100_003 + position // size)
        indices.append(int(torch.randperm(size, generator=generator)[position % size]))
    return indices


@contextlib.contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Inside, torch's global generator depends on seed and step alone; outside it is untouched.
    CompressAI and torchvision draw their training noise and samples from it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1_000_003 + step)
        yield


def check_finite(terms: dict[str, torch.Tensor], step: int) -> None:
    """Raises FloatingPointError that names the terms which are not finite."""
    bad = {name: value.item() for name, value in terms.items() if not torch.isfinite(value)}
    if bad:
        raise FloatingPointError(
            f"step {step}: loss is not finite: {bad}; lower the learning rate or that term's "
            f"weight and run again"
        )


def train_task_network(network: nn.Module, dataset: Dataset, config: TaskConfig, run: Run) -> None:
    """Train a task network from scratch: AdamW, one cycle, flips; weights to `run`."""
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    start = run.resume(**parts)
    for step in tqdm(range(start, config.steps), "task network"):
        indices = batch_indices(step, len(dataset), config.batch, config.seed)
        with seeded(config.seed, step):
            images, targets = zip(*(flip(*dataset[i]) for i in indices))
            losses = network.loss(images, targets)
        check_finite(losses, step)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        run.log(step, {"loss": loss, **losses})
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == config.steps:
            run.checkpoint(step + 1, **parts)
    run.save_weights(network)


def flip(image: torch.Tensor, target: dict) -> tuple[torch.Tensor, dict]:
    """Image, boxes and masks mirrored left-right and top-bottom, each with probability 1/2."""
    height, width = image.shape[-2:]
    boxes, masks = target["boxes"].clone(), target["masks"]
    if torch.rand(()) < 0.5:
        image, masks = image.flip(-1), masks.flip(-1)
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    if torch.rand(()) < 0.5:
        image, masks = image.flip(-2), masks.flip(-2)
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    return image, {**target, "boxes": boxes, "masks": masks}


def train_base_codec(
    codec: LearnedCodec,
    task: TaskNetwork | None,
    dataset: Dataset,
    config: BaseTrainingConfig,
    run: Run,
) -> None:
    """Train the base ICM codec for a frozen task network; weights and entropy tables to `run`.

    The loss is rate + lambda_mse * MSE + lambda_feature * task-feature distance, the last ramped
    up over the warm-up. The entropy bottleneck's quantiles have an optimiser of their own:
    without it the real files are larger than the estimate. Without lambda_feature no task network
    is needed.
    """
    frozen = [task.requires_grad_(False)] if task else []
    quantiles = [p for name, p in codec.named_parameters() if name.endswith("quantiles")]
    weights = [p for name, p in codec.named_parameters() if not name.endswith("quantiles")]
    fused = performance.enabled()
    optimizer = torch.optim.Adam(weights, config.lr, fused=fused)
    aux_optimizer = torch.optim.Adam(quantiles, config.aux_lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: late_decay(s / config.steps))
    parts = {
        "codec": codec,
        "optimizer": optimizer,
        "aux": aux_optimizer,
        "schedule": schedule,
    }
    start = run.resume(**parts)
    with performance.channels_last(codec, *frozen):
        for step in tqdm(range(start, config.steps), "base codec"):
            indices = batch_indices(step, len(dataset), config.batch, config.seed)
            codec.train()
            with seeded(config.seed, step):
                x = torch.stack([random_crop(dataset.image(i), config.crop) for i in indices])
                terms = base_terms(codec, task, x.to(codec.device), config)
            aux_loss = codec.model.aux_loss()
            check_finite({**terms, "aux": aux_loss}, step)
            ramp = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
            loss = terms["rate"] + config.lambda_mse * terms["mse"]
            if config.lambda_feature:
                loss = loss + config.lambda_feature * ramp * terms["feature"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            aux_optimizer.zero_grad()
            aux_loss.backward()
            aux_optimizer.step()
            run.log(step, {"loss": loss, **terms, "aux": aux_loss})
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == config.steps:
                run.checkpoint(step + 1, **parts)
    codec.eval().update()
    run.save_weights(codec)


def base_terms(
    codec: LearnedCodec, task: TaskNetwork | None, x: torch.Tensor, config: BaseTrainingConfig
) -> dict[str, torch.Tensor]:
    """The named terms of the base codec's loss on a batch x (B, 3, H, W): rate (bpp), mse and,
    where it has a weight, feature."""
    with performance.autocast(x.device):
        out = codec(x)
    terms = {
        "rate": losses.rate(out["likelihoods"], x.shape[0] * x.shape[2] * x.shape[3]),
        "mse": nn.functional.mse_loss(out["x_hat"], x),
    }
    if config.lambda_feature:
        terms["feature"] = task_feature_distance(task, x, out["x_hat"])
    return terms


def late_decay(progress: float) -> float:
    """Learning rate over progress 0..1: constant, then a cosine to a hundredth from half way."""
    if progress < 0.5:
        return 1.0
    return 0.01 + 0.99 * (1 + math.cos(2 * math.pi * (progress - 0.5))) / 2


def random_crop(image: torch.Tensor, size: int) -> torch.Tensor:
    """(3, H, W) -> (3, size, size) at a random place, flipped at random; smaller images are
    repeated at their far edges."""
    short = [max(0, size - extent) for extent in image.shape[-2:]]
    image = nn.functional.pad(image[None], (0, short[1], 0, short[0]), mode="replicate")[0]
    top, left = (int(torch.randint(extent - size + 1, ())) for extent in image.shape[-2:])
    image = image[:, top : top + size, left : left + size]
    axes = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
    return image.flip(axes) if axes else image


def task_feature_distance(task: TaskNetwork, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """How far the task network's maps of x_hat are from those of x; scalar, mean over images."""
    with performance.autocast(x.device):
        with torch.no_grad():
            features = task.features(x)
        features_hat = task.features(x_hat)
    return feature_distance(features, features_hat).mean()


def finetune_decoder(
    codec: LearnedCodec,
    latents: Latents,
    task: TaskNetwork,
    dataset: Dataset,
    config: FinetuneConfig,
    run: Run,
    decode: Callable | None = None,
) -> None:
    """PatchGAN finetuning (Le et al. 2022) of the first decoder layers; weights to `run`.

    Encoder and entropy model are frozen: y_hat of each image is given, and the bits stay exactly
    as they are. A step decodes only the patches, or, of a decoder that cannot, whole images; a
    warning then names the layer which prevents it. `decode`, where given, does it instead.
    """
    codec.eval().requires_grad_(False)
    task.requires_grad_(False)
    decode = decode or patch_decoder(codec.g_s)
    trained = decoder_layers(codec.g_s)[: config.layers]
    generator = [p.requires_grad_() for layer in trained for p in layer.parameters()]
    with seeded(config.seed, -1):
        discriminator = PatchDiscriminator().to(codec.device)
    adam = partial(torch.optim.Adam, betas=(0.5, 0.99), fused=performance.enabled())
    g_optimizer = adam(generator, config.lr)
    d_optimizer = adam(discriminator.parameters(), config.lr_discriminator)
    g_schedule = torch.optim.lr_scheduler.LambdaLR(
        g_optimizer, lambda step: learning_rate(config.schedule, step / config.steps)
    )
    parts = {
        "g_s": codec.g_s,
        "discriminator": discriminator,
        "g_optimizer": g_optimizer,
        "d_optimizer": d_optimizer,
        "g_schedule": g_schedule,
    }
    start = run.resume(**parts)
    for step in tqdm(range(start, config.steps), "finetuning"):
        indices = batch_indices(step, len(dataset), config.batch, config.seed)
        with seeded(config.seed, step):
            x, y_hat, corners = sample_patches(dataset, latents, indices, config, codec.device)
        with performance.autocast(codec.device):
            x_hat = decode(y_hat, corners, x.shape[-2:]).float()
        terms = {}

        # discriminator: tell the patches of originals and of decoded images apart
        if config.adversarial != "none":
            discriminator.requires_grad_(True)
            terms["discriminator"] = losses.discriminator_loss(
                config.adversarial, discriminator(x), discriminator(x_hat.detach())
            )
            check_finite(terms, step)
            d_optimizer.zero_grad()
            terms["discriminator"].backward()
            d_optimizer.step()

        # generator: the decoder's first layers, against L2 and the discriminator
        discriminator.requires_grad_(False)
        loss = config.lambda_mse * terms.setdefault("mse", nn.functional.mse_loss(x_hat, x))
        if config.adversarial != "none":
            terms["adversarial"] = losses.generator_loss(config.adversarial, discriminator(x_hat))
            loss = loss + config.lambda_adversarial * terms["adversarial"]
        if config.lambda_feature:
            terms["feature"] = task_feature_distance(task, x, x_hat)
            loss = loss + config.lambda_feature * terms["feature"]
        if config.lambda_lattice:
            terms["lattice"] = losses.lattice_power(x, x_hat)
            loss = loss + config.lambda_lattice * terms["lattice"]
        if config.lambda_task:
            with seeded(config.seed, step):
                terms["task"] = task_loss(codec, task, dataset, latents, indices)
            loss = loss + config.lambda_task * terms["task"]
        check_finite(terms, step)
        g_optimizer.zero_grad()
        loss.backward()
        g_optimizer.step()
        g_schedule.step()

        run.log(step, {"loss": loss, **terms})
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == config.steps:
            run.checkpoint(step + 1, **parts)
    codec.requires_grad_(False)
    run.save_weights(codec)


def task_loss(
    codec: LearnedCodec, task: TaskNetwork, dataset: Dataset, latents: Latents, indices: list[int]
) -> torch.Tensor:
    """The task network's loss on whole decoded images; scalar, differentiable in the decoder."""
    images, targets = zip(*(dataset[i] for i in indices))
    decoded = [
        codec.synthesize(latents[i].to(codec.device, torch.float32)[None], *x.shape[-2:])[0]
        for i, x in zip(indices, images)
    ]
    return sum(task.loss(decoded, targets).values())


def learning_rate(schedule: str, progress: float) -> float:
    """Factor on the learning rate over progress 0..1."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    raise ValueError(f"unknown schedule {schedule!r}; known: constant, cosine")


def sample_patches(
    dataset: Dataset,
    latents: Latents,
    indices: list[int],
    config: FinetuneConfig,
    device: torch.device,
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Random patches of a batch: originals (P, 3, s, s), y_hat of each, corners (P, 2) in px.

    An image's patches lie at different places; a patch as large as the image is taken once.
    """
    patches, y_hat, corners = [], [], []
    for index in indices:
        image = dataset.image(index)
        y = latents[index].to(device, torch.float32)
        height, width = (min(config.patch_size, extent) for extent in image.shape[-2:])
        rows, columns = image.shape[-2] - height + 1, image.shape[-1] - width + 1
        draw = random.Random(int(torch.randint(2**31, ())))
        for place in draw.sample(range(rows * columns), min(config.patches, rows * columns)):
            top, left = divmod(place, columns)
            patches.append(image[:, top : top + height, left : left + width])
            y_hat.append(y)
            corners.append((top, left))
    return torch.stack(patches).to(device), y_hat, torch.tensor(corners)
