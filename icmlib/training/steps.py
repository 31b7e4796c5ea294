"""What every loop needs: which items a step sees, its random numbers, gradients, and a check."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import nn
from tqdm.auto import tqdm

from icmlib import processes

CHECKPOINT_EVERY = 250  # steps
READ_AHEAD = 2  # steps
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def batch_indices(step: int, size: int, batch: int, seed: int) -> list[int]:
    """Which items make the batch of a step: a fresh permutation each epoch, known from the step
    alone, so that a resumed run sees what an undisturbed one would have seen."""
    indices = []
    for position in range(step * batch, (step + 1) * batch):
        generator = torch.Generator().manual_seed(seed * 100_003 + position // size)
        indices.append(int(torch.randperm(size, generator=generator)[position % size]))
    return indices


@contextlib.contextmanager
def seeded(seed: int, step: int, part: int = 0) -> Iterator[None]:
    """Inside, torch's global generator depends on seed, step and part alone; outside it is
    untouched. CompressAI and torchvision draw their training noise and samples from it."""
    device = processes.device()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + step + part * 1_000_000_007)
        yield


class Shards:
    """The parts of every step's batch that this process works through.

    A batch has `config.shards` parts, each with its own random numbers; a step's losses and
    gradients are means over them. Several processes (see `icmlib.processes`) share the parts: how
    many they are changes the result of a training by the rounding of sums alone.

    Raises:
        ValueError: the batch cannot be cut so, or the processes cannot share the parts evenly, or
            a trained module has batch norm, whose statistics are those of a whole batch.
    """

    def __init__(self, config, items: int, *trained: nn.Module):
        self.config, self.items = config, items
        self.state = processes.state()
        if config.batch % config.shards:
            raise ValueError(f"a batch of {config.batch} has no {config.shards} equal shards")
        if config.shards % (count := self.state.num_processes):
            raise ValueError(
                f"{count} processes cannot share {config.shards} shards of a batch evenly; set "
                f"shards to a multiple of {count}"
            )
        norms = [m for each in trained for m in each.modules() if isinstance(m, BATCH_NORM)]
        if config.shards > 1 and any(p.requires_grad for m in norms for p in m.parameters()):
            raise ValueError(
                f"{config.shards} shards would each have their own batch statistics; set shards "
                f"to 1, or give the network published weights, around which batch norm is frozen"
            )
        self.parts = range(self.state.process_index, config.shards, count)

    def indices(self, step: int, part: int) -> list[int]:
        """The items of a part."""
        batch, size = self.config.batch, self.config.batch // self.config.shards
        indices = batch_indices(step, self.items, batch, self.config.seed)
        return indices[part * size : (part + 1) * size]

    def reader(self, read: Callable[[int], object]) -> Callable[[int, int], list]:
        """`reader(read)(step, part)`: what `read` makes of each item of the part. Threads read
        those of the next steps meanwhile: a GPU would wait for them."""
        pool = ThreadPoolExecutor(min(8, torch.get_num_threads()))
        coming: dict[tuple[int, int], list[Future]] = {}

        def items(step: int, part: int) -> list:
            for key in [(later, p) for later in range(step, step + READ_AHEAD) for p in self.parts]:
                if key not in coming and key >= (step, part) and key[0] < self.config.steps:
                    coming[key] = [pool.submit(read, index) for index in self.indices(*key)]
            return [future.result() for future in coming.pop((step, part))]

        return items

    def seeded(self, step: int, part: int):
        return seeded(self.config.seed, step, part)

    def backward(
        self,
        step: int,
        weights: list[nn.Parameter],
        terms_of: Callable[[int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
        stateful: nn.Module | None = None,
    ) -> dict[str, torch.Tensor]:
        """Gradients into `weights`.

        Args:
            terms_of: part -> its loss and the named terms of it, computed under `seeded`.
            stateful: its buffers, which a forward changes, are the same before every part.

        Returns:
            `loss` and the terms; scalars, means over all parts.

        Raises:
            FloatingPointError: a term is not finite; see `check_finite`.
        """
        for weight in weights:
            weight.grad = None
        before = [buffer.clone() for buffer in stateful.buffers()] if stateful else []
        sums: dict[str, torch.Tensor] = {}
        for part in self.parts:
            for buffer, value in zip(stateful.buffers() if stateful else [], before):
                buffer.copy_(value)
            with self.seeded(step, part):
                loss, terms = terms_of(part)
            check_finite(terms, step)
            (loss / self.config.shards).backward()
            for name, value in {"loss": loss, **terms}.items():
                value = value.detach().float() / self.config.shards
                sums[name] = sums[name] + value if name in sums else value
        if self.state.num_processes > 1:
            self._add_up(weights, sums)
        return sums

    def _add_up(self, weights: list[nn.Parameter], sums: dict[str, torch.Tensor]) -> None:
        """Gradients and sums over all processes; a weight has none where no process has one."""
        have = [weight.new_tensor(weight.grad is not None) for weight in weights]
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        processes.add_up([*(weight.grad for weight in weights), *sums.values(), *have])
        for weight, count in zip(weights, have):
            if not count:
                weight.grad = None


def progress(start: int, steps: int, what: str) -> Iterable[int]:
    """The steps that are left, behind a bar."""
    left = range(start, steps)
    return tqdm(left, what) if processes.main() else left


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
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * progress)) / 2


def late_decay(progress: float) -> float:
    """Learning rate over progress 0..1: constant, then a cosine to a hundredth from half way."""
    if progress < 0.5:
        return 1.0
    return 0.01 + 0.99 * (1 + math.cos(2 * math.pi * (progress - 0.5))) / 2
