"""Training a task network from scratch."""

import torch
from torch import nn
from torch.utils.data import Dataset

from icmlib import processes
from icmlib.config import TaskConfig
from icmlib.runs import Run
from icmlib.training.steps import Shards, checkpoint_due, progress


def train_task_network(network: nn.Module, dataset: Dataset, config: TaskConfig, run: Run) -> None:
    """Train a task network from scratch: AdamW, one cycle, flips; weights to `run`."""
    network.to(processes.device())
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    start = run.resume(**parts)
    shards = Shards(config, len(dataset), network)
    items = shards.reader(dataset.__getitem__)

    def terms_of(part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, targets = zip(*(flip(*item) for item in items(step, part)))
        losses = network.loss(images, targets)
        return sum(losses.values()), losses

    for step in progress(start, config.steps, "task network"):
        losses = shards.backward(step, weights, terms_of)
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        schedule.step()
        run.log(step, losses)
        if checkpoint_due(step, config.steps):
            run.checkpoint(step + 1, **parts)
    run.save_weights(network)


def flip(image: torch.Tensor, target: dict) -> tuple[torch.Tensor, dict]:
    """Image, boxes and masks, where there are any, mirrored left-right and top-bottom, each with
    probability 1/2."""
    boxes = target["boxes"].clone()
    axes = []
    for axis, sides in ((-1, [0, 2]), (-2, [1, 3])):
        if torch.rand(()) < 0.5:
            axes.append(axis)
            boxes[:, sides] = image.shape[axis] - boxes[:, sides[::-1]]
    masks = {"masks": target["masks"].flip(axes)} if "masks" in target else {}
    return image.flip(axes), {**target, "boxes": boxes, **masks}
