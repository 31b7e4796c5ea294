"""Time two ways in turns, and compare what they make."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

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
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds_a_step(work: Callable[[int], object], steps: int) -> float:
    """Of `work(steps)`, without what happens once; never 0, which noise could make of a few short
    steps."""
    work(1)
    more, first = clocked(lambda: work(1 + steps)), clocked(lambda: work(1))
    return max(more - first, 0.01 * more) / steps


def trained(loop: Callable, *inputs) -> pd.DataFrame:
    """The log of a training loop, whose weights are thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(folder)
        loop(*inputs, journal)
        return journal.logged()


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of one call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest difference of tensors, each relative to the largest value of theirs."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)
