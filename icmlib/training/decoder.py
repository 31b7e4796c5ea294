"""PatchGAN finetuning of a decoder's first layers; the bits stay as they are."""

import random
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.data import Dataset

from icmlib import losses, performance, processes
from icmlib.codecs import LearnedCodec
from icmlib.codecs.latents import Latents
from icmlib.codecs.patches import decoder_layers, patch_decoder
from icmlib.config import FinetuneConfig
from icmlib.discriminator import PatchDiscriminator
from icmlib.runs import Run
from icmlib.tasks import TaskNetwork
from icmlib.training.base_codec import task_feature_distance
from icmlib.training.steps import Shards, checkpoint_due, learning_rate, progress, seeded


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
    codec.to(processes.device()).eval().requires_grad_(False)
    task.to(processes.device()).requires_grad_(False)
    decode = decode or patch_decoder(codec.g_s)
    trained = decoder_layers(codec.g_s)[: config.layers]
    generator = [p.requires_grad_() for layer in trained for p in layer.parameters()]
    with seeded(config.seed, -1):
        discriminator = PatchDiscriminator().to(codec.device)
    adam = partial(torch.optim.Adam, betas=(0.5, 0.99), fused=True)
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
    shards = Shards(config, len(dataset))
    images = shards.reader(dataset.image)
    patches: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of each part: x and x_hat

    def discriminator_loss(part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, x_hat = patches[part]
        with performance.autocast(codec.device, config.precision):
            scores = discriminator(x), discriminator(x_hat.detach())
        loss = losses.discriminator_loss(config.adversarial, *scores)
        return loss, {"discriminator": loss}

    def generator_loss(part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = generator_terms(config, task, discriminator, *patches[part])
        if config.lambda_task:
            indices = shards.indices(step, part)
            terms["task"] = task_loss(codec, task, dataset, latents, indices)
        return sum(getattr(config, f"lambda_{name}") * terms[name] for name in terms), terms

    for step in progress(start, config.steps, "finetuning"):
        for part in shards.parts:
            with shards.seeded(step, part):
                y_hat = (latents[i] for i in shards.indices(step, part))
                pairs = list(zip(images(step, part), y_hat))
                x, y_hat, corners = sample_patches(pairs, config, codec.device)
            with performance.autocast(codec.device, config.precision):
                patches[part] = x, decode(y_hat, corners, x.shape[-2:]).float()
        terms = {}
        if config.adversarial != "none":  # tell patches of originals and of decoded images apart
            discriminator.requires_grad_(True)
            weights = list(discriminator.parameters())
            terms = shards.backward(step, weights, discriminator_loss, discriminator)
            d_optimizer.step()
        discriminator.requires_grad_(False)
        terms |= shards.backward(step, generator, generator_loss, discriminator)
        g_optimizer.step()
        g_schedule.step()
        run.log(step, terms)
        if checkpoint_due(step, config.steps):
            run.checkpoint(step + 1, **parts)
    codec.requires_grad_(False)
    run.save_weights(codec)


def generator_terms(
    config: FinetuneConfig,
    task: TaskNetwork,
    discriminator: PatchDiscriminator,
    x: torch.Tensor,
    x_hat: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """What the decoder's first layers are held to on patches (P, 3, s, s), by the names of the
    config's lambdas: L2, and what else has a weight."""
    terms = {"mse": nn.functional.mse_loss(x_hat, x)}
    if config.adversarial != "none":
        with performance.autocast(x.device, config.precision):
            scores = discriminator(x_hat)
        terms["adversarial"] = losses.generator_loss(config.adversarial, scores)
    if config.lambda_feature:
        terms["feature"] = task_feature_distance(task, x, x_hat, config.precision)
    if config.lambda_lattice:
        terms["lattice"] = losses.lattice_power(x, x_hat)
    return terms


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


def sample_patches(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], config: FinetuneConfig, device: torch.device
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Random patches of images (3, H, W) and their latents (M, h, w): originals (P, 3, s, s),
    y_hat of each, corners (P, 2) in px.

    An image's patches lie at different places; a patch as large as the image is taken once.
    """
    patches, y_hat, corners = [], [], []
    for image, y in pairs:
        y = y.to(device, torch.float32)
        height, width = (min(config.patch_size, extent) for extent in image.shape[-2:])
        rows, columns = image.shape[-2] - height + 1, image.shape[-1] - width + 1
        draw = random.Random(int(torch.randint(2**31, ())))
        for place in draw.sample(range(rows * columns), min(config.patches, rows * columns)):
            top, left = divmod(place, columns)
            patches.append(image[:, top : top + height, left : left + width])
            y_hat.append(y)
            corners.append((top, left))
    return torch.stack(patches).to(device), y_hat, torch.tensor(corners)
