"""What every loop needs: which items a step sees, its random numbers, and a check of its loss."""

import contextlib
import math
from collections.abc import Iterator

import torch

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


def checkpoint_due(step: int, steps: int) -> bool:
    """Whether a run is to be resumable from after this step."""
    return (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps


def learning_rate(schedule: str, progress: float) -> float:
    """Factor on the learning rate over progress 0..1."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    raise ValueError(f"unknown schedule {schedule!r}; known: constant, cosine")


def late_decay(progress: float) -> float:
    """Learning rate over progress 0..1: constant, then a cosine to a hundredth from half way."""
    if progress < 0.5:
        return 1.0
    return 0.01 + 0.99 * (1 + math.cos(2 * math.pi * (progress - 0.5))) / 2
