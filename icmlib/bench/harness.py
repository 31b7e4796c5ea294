"""Time two ways in turns, compare what they make, and find how much memory each needs."""

import contextlib
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from icmlib.datasets import deadleaves


@dataclass
class Pair:
    """Two ways to the same result: each call does the work once and returns what it made."""

    ours: Callable[[], object]
    theirs: Callable[[], object]
    difference: Callable[[object, object], float] = lambda ours, theirs: float("nan")


def measure(pair: Pair, repeats: int = 5, warmup: int = 1) -> dict[str, float]:
    """Medians in seconds of `ours` and `theirs`, timed in turns, their ratio with its lowest and
    highest of all turns, and how far apart the results of their first calls are."""
    difference = pair.difference(pair.ours(), pair.theirs())
    times = {"ours": [], "theirs": []}
    for repeat in range(warmup + repeats):
        for side, taken in times.items():
            seconds = clocked(getattr(pair, side))
            if repeat >= warmup:
                taken.append(seconds)
    return {**compared(**times), "difference": difference}


def compared(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Medians, their ratio, and the lowest and the highest ratio of one turn."""
    turns = [b / a for a, b in zip(ours, theirs)]
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    extremes = {"ratio_low": min(turns), "ratio_high": max(turns)}
    return {"ours": ours, "theirs": theirs, "ratio": theirs / ours, **extremes}


def clocked(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(case: Callable[..., Pair], side: str, **options) -> float:
    """MB that one call of a side needs beyond what lay there before it; nan but on Linux."""
    return alone(_peak, case, side, options)


def alone(work: Callable, *arguments):
    """The result of `work(*arguments)` in a process of its own, without progress bars."""
    with mock.patch.dict(os.environ, TQDM_DISABLE="1"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()


def _peak(case: Callable[..., Pair], side: str, options: dict) -> float:
    work = getattr(case(**options), side)
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return float("nan")
    with contextlib.suppress(OSError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset.write_text("5")  # the high-water mark starts again from here
    before = _kilobytes(status, "VmRSS")
    work()
    return (_kilobytes(status, "VmHWM") - before) / 1024


def _kilobytes(status: Path, field: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of one call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest absolute difference of tensors, each relative to the largest value of theirs."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


class Scenes:
    """Dead-leaves scenes of size x size px held in memory, as a data set without annotations."""

    def __init__(self, count: int, size: int):
        self.images = [scene(size, size, index) for index in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> torch.Tensor:
        return self.images[index]


def scene(height: int, width: int, index: int = 0) -> torch.Tensor:
    """(3, height, width): a dead-leaves scene."""
    pixels, _ = deadleaves.scene(0, "test", index, max(height, width))
    return torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1).float() / 255
