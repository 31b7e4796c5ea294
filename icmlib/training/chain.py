"""Finetuning of the chain: image -> codec -> task network, by task loss + beta * rate."""

import torch
from torch import nn
from torch.nn.functional import pad
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from icmlib import device, losses
from icmlib.codecs import LearnedCodec
from icmlib.config import ChainConfig
from icmlib.tasks import TaskNetwork
from icmlib.training.base_codec import aux_backward, without_quantiles
from icmlib.training.journal import Journal
from icmlib.training.steps import average_gradients, batches, learning_rate, seeded
from icmlib.training.task_network import flipped


def finetune_chain(
    codec: LearnedCodec, task: TaskNetwork, dataset, config: ChainConfig, journal: Journal
) -> None:
    """Finetune codec and task network together, or parts of them (Chamain et al. 2020). Without the
    parts "encoder" and "entropy" the bits stay; without "decoder" and "entropy" decoders that are
    in use read the new bits. To `journal` go the weights of the codec, `final`, and `task`."""
    codec.to(device.current())
    task.to(device.current()).requires_grad_("task" in config.parts)
    groups = [
        {"params": trained_weights(codec, config.parts), "lr": config.lr},
        {"params": [w for w in task.parameters() if w.requires_grad], "lr": config.lr_task},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = Adam(groups, fused=True)
    aux_optimizer = Adam([codec.model.entropy_bottleneck.quantiles], config.aux_lr)
    schedule = LambdaLR(optimizer, lambda s: learning_rate(config.schedule, s / config.steps))
    parts = {"codec": codec, "task": task, "schedule": schedule}
    parts |= {"optimizer": optimizer, "aux": aux_optimizer}

    with device.channels_last(codec, task):
        start = journal.resume(**parts)
        for step, batch in batches(lambda i, _: dataset[i], len(dataset), config, start, "chain"):
            # noise in place of rounding, if what is rounded is trained
            codec.train(not {"encoder", "entropy"}.isdisjoint(config.parts))
            images, targets = flipped(batch, config.seed, step)
            with seeded(config.seed, step):
                terms = chain_terms(codec, task, images, targets, config)
            loss = terms["task"] + config.beta * terms["rate"]
            codec.zero_grad()
            task.zero_grad()
            loss.backward()
            for group in groups:  # each by its own norm: neither slows the other
                average_gradients(group["params"])
                nn.utils.clip_grad_norm_(group["params"], config.clip)
            optimizer.step()
            schedule.step()
            if "entropy" in config.parts:  # the tables' quantiles follow the latents
                aux_backward(codec)
                aux_optimizer.step()
            journal.step(step, config.steps, {"loss": loss, **terms}, parts)
    codec.eval().requires_grad_(False)
    if "entropy" in config.parts:
        codec.update()
    journal.save_weights(codec)
    journal.save_weights(task.eval().requires_grad_(False), "task")


def trained_weights(codec: LearnedCodec, parts: list[str]) -> list[nn.Parameter]:
    """The weights of these parts, without quantiles; no others require gradients."""
    codec.requires_grad_(False)
    modules = nn.ModuleList(m for name, ms in codec.parts.items() if name in parts for m in ms)
    return without_quantiles(modules.requires_grad_(True))


def chain_terms(
    codec: LearnedCodec, task: TaskNetwork, images: list, targets: list, config: ChainConfig
) -> dict[str, torch.Tensor]:
    """Of images (3, H, W) of any sizes: `task`, the sum of the task network's own losses on the
    decoded images, and `rate`, in bits per pixel of all of them."""
    decoded, bits = {}, 0.0
    for shape in dict.fromkeys(image.shape for image in images):  # one size together
        indices = [i for i, image in enumerate(images) if image.shape == shape]
        x = torch.stack([images[i] for i in indices]).to(codec.device)
        with device.autocast(x.device, config.precision):
            out = codec(x)
        bits = bits + losses.rate(out["likelihoods"], 1)
        decoded |= dict(zip(indices, out["x_hat"].clamp(0, 1)))
    pixels = sum(image.shape[-2] * image.shape[-1] for image in images)
    if config.shift:
        decoded, targets = moved_with_targets(decoded, targets, config.shift)
    found = task.loss([decoded[i] for i in range(len(images))], targets)
    return {"task": sum(found.values()), "rate": bits / pixels}


def moved_with_targets(images: dict, targets: list[dict], limit: int) -> tuple[dict, list[dict]]:
    """Images (3, H, W) by index and their targets, moved down and right by the same random
    0..`limit` px; the first row and column fill what is new, and masks are empty there."""
    down, right = torch.randint(limit + 1, (2,)).tolist()
    images = {i: pad(x[None], (right, 0, down, 0), mode="replicate")[0] for i, x in images.items()}
    by = torch.tensor([right, down, right, down])
    targets = [each | {"boxes": each["boxes"] + by} for each in targets]
    for each in targets:
        if "masks" in each:
            each["masks"] = pad(each["masks"], (right, 0, down, 0))
    return images, targets
