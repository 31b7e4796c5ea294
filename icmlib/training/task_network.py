"""Training a task network from scratch."""

import random

import torch

from icmlib import device
from icmlib.config import TaskConfig
from icmlib.training.journal import Journal
from icmlib.training.steps import average_gradients, batches, item_rng, seeded


def train_task_network(
    network: torch.nn.Module, dataset, config: TaskConfig, journal: Journal
) -> None:
    """Train a task network from scratch: AdamW, one cycle, flips; weights go to `journal`."""
    network.to(device.current())
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    start = journal.resume(**parts)
    items = batches(lambda i, _: dataset[i], len(dataset), config, start, "task network")
    for step, batch in items:
        images, targets = flipped(batch, config.seed, step)
        with seeded(config.seed, step):
            terms = network.loss(images, targets)
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        average_gradients(weights)
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        schedule.step()
        journal.step(step, config.steps, {"loss": loss, **terms}, parts)
    journal.save_weights(network.eval().requires_grad_(False))


def flipped(batch: list, seed: int, step: int) -> tuple[list[torch.Tensor], list[dict]]:
    """The images and the targets of a batch, flipped at random."""
    items = [flip(*item, item_rng(seed, step, index)) for index, item in batch]
    return [image for image, _ in items], [target for _, target in items]


def flip(image: torch.Tensor, target: dict, rng: random.Random) -> tuple[torch.Tensor, dict]:
    """Image, boxes and masks, if any, mirrored left-right and top-bottom, each in half of cases."""
    boxes, axes = target["boxes"].clone(), []
    for axis, sides in ((-1, [0, 2]), (-2, [1, 3])):
        if rng.random() < 0.5:
            axes.append(axis)
            boxes[:, sides] = image.shape[axis] - boxes[:, sides[::-1]]
    masks = {"masks": target["masks"].flip(axes)} if "masks" in target else {}
    return image.flip(axes), {**target, "boxes": boxes, **masks}
