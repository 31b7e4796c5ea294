"""What makes this machine fast: freed memory kept, channels-last maps, bf16, fused optimisers.

On by default where it helps; ICMLIB_FAST=0 switches all of it off. All but the first are for the
training loops alone: evaluation is always float32 in PyTorch's own layout. Trained weights do
depend on bf16, in the last digits, so each run states what was on (`settings`), and starts anew
with others. Threads are PyTorch's: OMP_NUM_THREADS, which Snakefile sets to the cores that a run
has for itself.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import torch
from torch import nn

from icmlib import processes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def enabled() -> bool:
    return os.environ.get("ICMLIB_FAST", "1") != "0"


def settings() -> dict:
    """What is on here."""
    return {"fast": enabled(), "bf16": enabled() and has_bf16(processes.device())}


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, in this process from here on: handing it
    back and faulting it in again takes up to half of a step's time."""
    if enabled() and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, -1)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 inside, where the device multiplies it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled() and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


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
def channels_last(*modules: nn.Module) -> Iterator[None]:
    """Inside, the modules convolve channels-last maps; after, their weights lie as before. Those
    stay as they are that hold a layer which would write past its memory (`_overruns`)."""
    modules = [each for each in modules if not any(map(_overruns, each.modules()))]
    if enabled():
        for module in modules:
            module.to(memory_format=torch.channels_last)
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
