"""Which of the processes that share a training this is, as Accelerate has it; alone by default."""

import functools
from collections.abc import Callable

import torch
from accelerate import PartialState
from accelerate.utils import reduce


def state() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available())


def device() -> torch.device:
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
