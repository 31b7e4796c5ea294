"""The training loops, in the order of the study. Each is plain PyTorch and resumes from its run.

    train_task_network    the machine
    train_base_codec      rate + MSE + task-feature distance
    finetune_decoder      PatchGAN on the first decoder layers; the bits stay as they are
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from icmlib.config import TaskConfig
from icmlib.runs import Run

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
    bad = {name: float(value) for name, value in terms.items() if not torch.isfinite(value)}
    if bad:
        raise FloatingPointError(
            f"step {step}: loss is not finite: {bad}; lower the learning rate or that term's "
            f"weight and run again"
        )


def train_task_network(network: nn.Module, dataset: Dataset, config: TaskConfig, run: Run) -> None:
    """Train a task network from scratch: AdamW, one cycle, flips; weights to `run`."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-4)
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
