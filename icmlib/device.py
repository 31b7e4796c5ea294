"""The device and its processes: which GPU, which process of several, which precision.

What makes it fast: freed memory kept, channels-last maps, bf16, fused optimisers. All but the first
are for the training loops alone: evaluation is always float32 in PyTorch's own layout. Trainings
are float32, too, unless their config asks for bf16, so results do not depend on what the processor
can do. Threads are PyTorch's: OMP_NUM_THREADS, which Snakefile sets to the cores that a run has for
itself.
"""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def state() -> PartialState:
    """Which of the processes that share a training this is (Accelerate); alone by default."""
    return PartialState(cpu=not torch.cuda.is_available())


def current() -> torch.device:
    """This process's GPU; the CPU, where there is none."""
    return state().device


def main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return state().is_main_process


def main_only(method: Callable) -> Callable:
    """The method, of no effect in all processes but the main one."""

    @functools.wraps(method)
    def called(*args, **kwargs):
        return method(*args, **kwargs) if main() else None

    return called


@torch.no_grad()
def average(tensor: torch.Tensor) -> None:
    """The tensor becomes its mean over all processes, in place."""
    tensor.copy_(reduce(tensor, "mean"))


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, in this process from here on: handing it
    back and faulting it in again takes up to half of a step's time."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, -1)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Inside, convolutions and matrix products run in `precision`, a config's: `float32` or
    `bf16` (emulated, and slow, on a processor without instructions for it)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Inside (or in a function so decorated), all is float32, whatever autocast the caller has on,
    and a GPU convolves the same way each time: sender and receiver must compute the same
    probabilities."""
    cudnn = torch.backends.cudnn
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        )
        for device in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, PyTorch computes with one thread. Several cut sums in other ways, and now and then a
    latent is then rounded to another integer: the same image would have other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def channels_last(*modules: nn.Module, optimizers: tuple = ()) -> Iterator[None]:
    """Inside, the modules convolve channels-last maps; after, their weights lie as before. Those
    stay as they are that hold a layer which would write past its memory (`_overruns`).

    Args:
        optimizers: those whose state is laid out as the weights are. Fused ones walk through both
            side by side, and a resume point may come from another device, with another layout.
    """
    for module in modules:
        if not any(map(_overruns, module.modules())):
            module.to(memory_format=torch.channels_last)
    for optimizer in optimizers:
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if value.shape == weight.shape:
                    state[name] = torch.empty_like(weight).copy_(value)
    try:
        yield
    finally:
        for module in modules:
            module.to(memory_format=torch.contiguous_format)


def _overruns(layer: nn.Module) -> bool:
    """Whether oneDNN's gradient of the weights overruns its workspace in this layout, and crashes
    or is wrong: https://github.com/uxlfoundation/oneDNN/issues/6035. cheng2020 begins with one."""
    if not isinstance(layer, nn.Conv2d) or layer.weight.device.type != "cpu":
        return False
    return layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < 16
