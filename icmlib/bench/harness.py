"""Time two ways in turns, compare what they make, and say what bounds the time."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.profiler import DeviceType, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from icmlib import device
from icmlib.training import Journal


@dataclass
class Pair:
    """Two ways to one result: each call does the work once (some steps) and returns its result."""

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


def where() -> str:
    """What both sides run on."""
    threads = f"{torch.get_num_threads()} threads"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else threads


def seconds_a_step(work: Callable[[int], object], steps: int) -> float:
    """Of `work(steps)`, without what happens once; never 0, whatever the noise."""
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


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every operation's inputs and outputs; views move none."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view:
            moved = [each for each in tree_leaves((args, kwargs, out)) if torch.is_tensor(each)]
            self.total += sum(each.nbytes for each in moved)
        return out


def ceilings(precision: str) -> tuple[float, float]:
    """What this device reaches: operations of a large matrix product and bytes of a large copy,
    each per second. On a GPU a float32 product is in TF32, as PyTorch has it for convolutions."""
    side, length = (8192, 2**28) if torch.cuda.is_available() else (1024, 2**24)
    a, b = (torch.randn(n, device=device.current()) for n in (side**2, length))
    a = a.reshape(side, side).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    product = min(clocked(lambda: a @ a) for _ in range(10))
    torch.backends.cuda.matmul.allow_tf32 = tf32
    copy = min(clocked(b.clone) for _ in range(10))
    return 2 * side**3 / product, 2 * b.nbytes / copy


def bound(work: Callable[[], object], precision: str, steps: int = 20) -> dict[str, float]:
    """What bounds a step's time, in seconds: `measured`; the floors of its `arithmetic`
    (operations) and `memory` (bytes of all inputs and outputs), at this device's `ceilings`; on a
    GPU the time that its `kernels` run, and their number, `launches`."""
    work()
    with _Traffic() as traffic:
        work()
    flops, bandwidth = ceilings(precision)
    row = {
        "measured": np.median([clocked(work) for _ in range(steps)]),
        "arithmetic": operations(work) / flops,
        "memory": traffic.total / bandwidth,
    }
    if torch.cuda.is_available():
        with profile() as trace:
            for _ in range(steps):
                work()
            torch.cuda.synchronize()
        on_gpu = [e for e in trace.events() if e.device_type == DeviceType.CUDA]
        kernels = [e for e in on_gpu if not e.is_user_annotation]
        row["kernels"] = sum(e.device_time for e in kernels) / steps / 1e6
        row["launches"] = len(kernels) / steps
    return row


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest difference of tensors, each relative to the largest value of theirs."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)
