"""What every loop needs: the items of a step, its random numbers, means over processes."""

import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterable, Iterator

import torch
from tqdm.auto import tqdm

from icmlib import device
from icmlib.io import InputError


def batch_indices(step: int, size: int, batch: int, seed: int) -> list[int]:
    """The items of a step's batch, of the epoch's permutation; a resumed run sees the same."""
    positions = range(step * batch, (step + 1) * batch)
    return [_order(position // size, size, seed)[position % size] for position in positions]


@functools.lru_cache(2)
def _order(epoch: int, size: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()


def batches(
    read: Callable[[int, int], object], size: int, config, start: int, what: str
) -> Iterable[tuple[int, list[tuple[int, object]]]]:
    """`(step, [(index, item), ...])` for each step from `start`, behind a progress bar. Items are
    `read(index, step)` of `size` indices; each process has an equal part of a batch (raises
    ValueError if there is none). On a GPU, workers read ahead."""
    state = device.state()
    if config.batch % state.num_processes:
        raise InputError(f"{state.num_processes} processes cannot share a batch of {config.batch}")

    def items(step: int) -> list[tuple[int, object]]:
        indices = batch_indices(step, size, config.batch, config.seed)
        return [(i, read(i, step)) for i in indices[state.process_index :: state.num_processes]]

    left = range(start, config.steps)
    workers = min(8, device.cores()) if state.device.type == "cuda" else 0
    progress = tqdm(left, what, disable=not state.is_main_process)
    return zip(progress, device.in_processes(items, left, workers))


def item_rng(seed: int, step: int, index: int) -> random.Random:
    """Random numbers for one item of a step, the same in any process."""
    return random.Random(f"{seed}/{step}/{index}")


@contextlib.contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Inside, torch's global generator (from which CompressAI and torchvision draw) is seeded by
    seed, step and process; after, it is as before."""
    state = device.state()
    with torch.random.fork_rng([state.device] if state.device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + step + state.process_index * 1_000_000_007)
        yield


class Recorded:
    """A function of tensors that leaves gradients and returns a dict of tensors without any. On a
    GPU, its fourth call is recorded as a CUDA graph, which all later ones replay: a small network's
    hundreds of kernels then start at once. The inputs keep their shapes; random numbers follow
    `seeded`. What waits for the GPU, or depends on values of the CPU, cannot be recorded: `record`
    is False then. Several processes record none."""

    def __init__(self, function: Callable[..., dict[str, torch.Tensor]], record: bool):
        state = device.state()
        self.record = record and state.device.type == "cuda" and state.num_processes == 1
        self.function, self.calls, self.graph = function, 0, None
        self.stream = torch.cuda.Stream() if self.record else None

    def __call__(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.record:
            return self.function(*inputs)
        self.calls += 1
        if self.calls <= 3:  # libraries choose their kernels, on a stream as that of the recording
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                terms = self.function(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return terms
        if self.graph is None:
            self.inputs, self.graph = [x.clone() for x in inputs], torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.terms = self.function(*self.inputs)
        for own, x in zip(self.inputs, inputs):
            own.copy_(x)
        self.graph.replay()
        return dict(self.terms)


def average_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    """Each gradient becomes its mean over all processes."""
    if device.state().num_processes > 1:
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            device.average(weight.grad)


def learning_rate(schedule: str, progress: float) -> float:
    """Factor on the learning rate over progress 0..1."""
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * progress)) / 2


def late_decay(progress: float) -> float:
    """Learning rate over progress 0..1: constant, then a cosine to a hundredth from half way."""
    return 1.0 if progress < 0.5 else 0.01 + 0.99 * learning_rate("cosine", 2 * progress - 1)
