"""Time two ways in turns, compare what they make, and find how much memory each needs."""

import contextlib
import ctypes
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from icmlib.datasets import deadleaves
from icmlib.training import Journal


@dataclass
class Pair:
    """Two ways to the same result: each call does the work once (a training: a number of steps)
    and returns what it made."""

    ours: Callable
    theirs: Callable
    difference: Callable[[object, object], float] = lambda ours, theirs: float("nan")


def measure(pair: Pair, repeats: int = 5) -> dict[str, float]:
    """`compared` of calls in turns, and the `difference` of the first results."""
    difference = pair.difference(pair.ours(), pair.theirs())
    turns = [(clocked(pair.ours), clocked(pair.theirs)) for _ in range(repeats)]
    return {**compared(turns), "difference": difference}


def compared(turns: list[tuple[float, float]]) -> dict[str, float]:
    """Medians of `ours` and `theirs` in seconds, their ratio, its lowest and highest in a turn."""
    ours, theirs = np.median(turns, 0).tolist()
    ratios = [b / a for a, b in turns]
    extremes = {"ratio_low": min(ratios), "ratio_high": max(ratios)}
    return {"ours": ours, "theirs": theirs, "ratio": theirs / ours, **extremes}


def clocked(work: Callable[[], object]) -> float:
    """Seconds of one call. (`torch.utils.benchmark` knows no turns.)"""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds_a_step(work: Callable[[int], object], steps: int) -> float:
    """Of `work(steps)`, without what happens once."""
    work(1)
    more, first = clocked(lambda: work(1 + steps)), clocked(lambda: work(1))
    return max(more - first, 0.0) / steps


def trained(loop: Callable, *inputs) -> pd.DataFrame:
    """The log of a training loop, whose weights are thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(folder)
        loop(*inputs, journal)
        return journal.logged()


def alone(work: Callable, *arguments):
    """The result of `work(*arguments)` in a process of its own, without progress bars."""
    with mock.patch.dict(os.environ, TQDM_DISABLE="1"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()


def peak_memory(case: Callable[..., Pair], side: str, **options) -> float:
    """MB that one call of a side adds to the memory in use, in a process of its own; nan if the
    system is not Linux."""
    return alone(_peak, case, side, options)


def _peak(case: Callable[..., Pair], side: str, options: dict) -> float:
    work = getattr(case(**options), side)
    if sys.platform != "linux":
        return float("nan")
    with contextlib.suppress(OSError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(field: str) -> int:
    return int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of one call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest difference of tensors, each relative to the largest value of theirs."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


class Scenes(list):
    """Dead-leaves scenes of size x size px in memory, as a data set without annotations."""

    def __init__(self, count: int, size: int):
        super().__init__(scene(size, size, index) for index in range(count))

    def image(self, index: int) -> torch.Tensor:
        return self[index]


def scene(height: int, width: int, index: int = 0) -> torch.Tensor:
    """(3, height, width): a dead-leaves scene."""
    pixels, _ = deadleaves.scene(0, "test", index, max(height, width))
    return torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1).float() / 255
