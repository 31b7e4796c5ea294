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
def add_up(tensors: list[torch.Tensor]) -> None:
    """Each becomes its sum over all processes, in place."""
    sums = reduce(torch.cat([each.flatten() for each in tensors]), "sum")
    for each, part in zip(tensors, sums.split([each.numel() for each in tensors])):
        each.copy_(part.view_as(each))
