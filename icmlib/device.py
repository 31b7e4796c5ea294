"""The device and its processes: which GPU, which process of several, which precision."""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import torch
from torch.utils.data import DataLoader


def state():
    """Which process of a training this is. One that makes data for all has up to ten days."""
    from accelerate import PartialState  # here: `icm encode` does without

    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=10))


def current() -> torch.device:
    """This process's GPU, or the CPU if there is none."""
    return state().device


def main_only(method: Callable) -> Callable:
    """The method; in processes other than the main one it does nothing."""
    return functools.wraps(method)(
        lambda *args, **kwargs: state().on_main_process(method)(*args, **kwargs)
    )


@torch.no_grad()
def average(tensor: torch.Tensor) -> None:
    """The tensor becomes its mean over all processes, in place."""
    from accelerate.utils import reduce

    tensor.copy_(reduce(tensor, "mean"))


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count()


def in_processes(function: Callable, items: Sequence, workers: int | None = None) -> Iterator:
    """`function(item)` of each item, in order, in `workers` processes (as many as PyTorch has
    threads; 0: in this one). The function must not use a GPU."""
    workers = min(torch.get_num_threads(), len(items)) if workers is None else workers
    own = {"generator": torch.Generator()}  # else it draws from the global one
    return iter(DataLoader(items, batch_size=None, num_workers=workers, collate_fn=function, **own))


def keep_freed_memory(large: bool = True) -> None:
    """From here on glibc keeps what a step frees: to get it anew takes up to half of its time.
    Without `large`, what has more than 32 MiB is given back, so that the peak stays low."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(*((-4, 0) if large else (-3, 2**25)))  # M_MMAP_MAX, M_MMAP_THRESHOLD
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Inside, convolutions and matrix products run in a config's precision: `float32` or `bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Inside (or in a function so decorated), gradients and autocast are off and a GPU convolves
    the same way each time: sender and receiver must compute the same probabilities."""
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside (or in a function so decorated), PyTorch computes with one thread, in the whole
    process. Several threads add in another order; a latent may then round to another integer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def channels_last(*modules: torch.nn.Module) -> Iterator[None]:
    """Inside, the modules convolve channels-last maps, which is faster; after, their weights lie in
    memory as before. Modules with a layer that `_overruns` are left alone."""
    for module in modules:
        if not any(map(_overruns, module.modules())):
            module.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for module in modules:
            module.to(memory_format=torch.contiguous_format)


def _overruns(layer: torch.nn.Module) -> bool:
    """Whether oneDNN writes past its memory in this layer's gradient if maps are channels-last
    (github.com/uxlfoundation/oneDNN/issues/6035; cheng2020 has one). On a GPU too, so that a
    checkpoint's moments have the layout of their weights wherever it is resumed."""
    pointwise = isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1)
    return pointwise and max(layer.stride) > 1 and layer.in_channels < 16
