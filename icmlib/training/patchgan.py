"""PatchGAN finetuning of a decoder's first layers (Le et al. 2022). The bits stay as they are.

    x (original) ------> random patches of x ---------------------+--> L2, ...
                                                                  |
    y_hat (given) -----> the same patches, decoded: x_hat --------+--> discriminator

Encoder and entropy model are frozen, so y_hat of an image never changes: it is read, not computed.
Of the decoder g_s only the first `config.layers` layers are trained, those next to the latents.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from icmlib import device, losses
from icmlib.codecs import LearnedCodec
from icmlib.codecs.latents import Latents
from icmlib.codecs.patches import decoder_layers, patch_decoder
from icmlib.config import FinetuneConfig
from icmlib.discriminator import PatchDiscriminator
from icmlib.io import InputError
from icmlib.tasks import TaskNetwork
from icmlib.training.base_codec import task_feature_distance
from icmlib.training.journal import Journal
from icmlib.training.steps import average_gradients, batches, item_rng, learning_rate, seeded


def finetune_decoder(
    codec: LearnedCodec,
    latents: Latents,
    task: TaskNetwork,
    dataset: Dataset,
    config: FinetuneConfig,
    journal: Journal,
    decode: Callable | None = None,
) -> None:
    """Finetune the first layers of the codec's decoder, in place; its weights go to `journal`.
    `latents` has y_hat (M, h, w) of every image. `task`, frozen, gives features or its own loss
    (which needs targets; a proxy has none). `decode` is by default that of `patch_decoder`."""
    generator, discriminator, parts = set_up(codec, task, config)
    g_optimizer, d_optimizer = parts["g_optimizer"], parts["d_optimizer"]
    autocast = device.autocast(codec.device, config.precision)
    decode, score = autocast(decode or patch_decoder(codec.g_s)), autocast(discriminator.forward)
    read, start = (lambda index, _: dataset.image(index)), journal.resume(**parts)
    for step, batch in batches(read, len(dataset), config, start, "finetuning"):
        with seeded(config.seed, step):
            x, y_hat, corners = sample_patches(batch, latents, config, step)  # x: (P, 3, s, s)
            x_hat = decode(y_hat, corners, x.shape[-2:]).float()  # (P, 3, s, s)
            d_loss = g_loss = feature = lattice = task_term = 0.0  # those that are off

            # discriminator step: tell patches of originals from decoded ones
            if config.adversarial != "none":
                discriminator.requires_grad_(True)
                real, fake = score(x), score(x_hat.detach())
                d_loss = losses.discriminator_loss(config.adversarial, real, fake)
                d_optimizer.zero_grad()
                d_loss.backward()
                average_gradients(discriminator.parameters())
                d_optimizer.step()
                discriminator.requires_grad_(False)

            # generator step: close to the original, taken for an original, good for the machine
            mse = mse_loss(x_hat, x)
            if config.adversarial != "none":
                g_loss = losses.generator_loss(config.adversarial, score(x_hat))
            if config.lambda_feature:
                feature = task_feature_distance(task, x, x_hat, config.precision)
            if config.lambda_lattice:
                lattice = losses.lattice_prominence(x_hat)
            if config.lambda_task:
                task_term = task_loss(codec, task, latents, dataset, batch)
            loss = (
                config.lambda_mse * mse
                + config.lambda_adversarial * g_loss
                + config.lambda_feature * feature
                + config.lambda_lattice * lattice
                + config.lambda_task * task_term
            )
            g_optimizer.zero_grad()
            loss.backward()
            average_gradients(generator.parameters())
            g_optimizer.step()
            parts["g_schedule"].step()
        terms = {"loss": loss, "mse": mse, "discriminator": d_loss, "adversarial": g_loss}
        terms |= {"feature": feature, "lattice": lattice, "task": task_term}
        journal.step(step, config.steps, terms, parts)
    journal.save_weights(codec.requires_grad_(False))


def set_up(
    codec: LearnedCodec, task: TaskNetwork, config: FinetuneConfig
) -> tuple[nn.ModuleList, PatchDiscriminator, dict]:
    """The decoder layers that are trained, a new discriminator, and what a checkpoint holds."""
    if config.lambda_task and not hasattr(task, "loss"):
        raise InputError("lambda_task is on the task network's own loss, and there is no network")
    codec.to(device.current()).eval().requires_grad_(False)
    task.to(codec.device).requires_grad_(False)
    generator = nn.ModuleList(decoder_layers(codec.g_s)[: config.layers]).requires_grad_(True)
    with seeded(config.seed, -1):
        discriminator = PatchDiscriminator().to(codec.device)
    g_optimizer = Adam(generator.parameters(), config.lr, (0.5, 0.99), fused=True)
    d_optimizer = Adam(discriminator.parameters(), config.lr_discriminator, (0.5, 0.99), fused=True)
    schedule = LambdaLR(g_optimizer, lambda s: learning_rate(config.schedule, s / config.steps))
    parts = {"g_s": codec.g_s, "discriminator": discriminator, "g_schedule": schedule}
    parts |= {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer}
    return generator, discriminator, parts


def sample_patches(
    batch: list[tuple[int, torch.Tensor]], latents: Latents, config: FinetuneConfig, step: int
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Random patches of images (3, H, W), at different places: originals (P, 3, s, s), y_hat
    (M, h, w) of the image of each, corners (P, 2): top and left in px. Their centres are anywhere
    in the image; a patch that reaches beyond is moved inside, or borders would hardly be seen, and
    those that fall on one place are taken once."""
    here, patches, y_hat, corners = device.current(), [], [], []
    extents = zip(*(image.shape[-2:] for _, image in batch))
    size = torch.tensor([min(config.patch_size, *each) for each in extents])  # the smallest image's
    for index, image in batch:
        height, width = image.shape[-2:]
        sampled = item_rng(config.seed, step, index).sample(range(height * width), config.patches)
        centres = torch.tensor([divmod(each, width) for each in sampled])
        highest = torch.tensor([height, width]) - size
        places = torch.minimum((centres - size // 2).clamp_min(0), highest).unique(dim=0)
        for top, left in places.tolist():
            patches.append(image[:, top : top + size[0], left : left + size[1]])
        y_hat += [latents[index].to(here, torch.float32)] * len(places)
        corners.append(places)
    return torch.stack(patches).to(here), y_hat, torch.cat(corners)


def task_loss(
    codec: LearnedCodec, task: TaskNetwork, latents: Latents, dataset: Dataset, batch: list
) -> torch.Tensor:
    """The task network's loss on whole decoded images; scalar, differentiable in the decoder."""
    decoded = []
    for index, image in batch:
        y_hat = latents[index].to(codec.device, torch.float32)[None]
        decoded += codec.synthesize(y_hat, *image.shape[-2:])
    return sum(task.loss(decoded, [dataset[index][1] for index, _ in batch]).values())
