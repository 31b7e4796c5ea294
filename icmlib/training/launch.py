"""A training by several processes, from a notebook; scripts are started by `accelerate launch`."""

import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import patch_environment
from torch import nn
from torch.multiprocessing import start_processes

from icmlib import processes
from icmlib.runs import Run, load_weights, save_weights


def launch(train: Callable, *args) -> None:
    """`train(*args)` by one process a GPU, as many as share the config's `shards` evenly
    (ICM_PROCESSES sets another number than that of the GPUs).

    They are spawned, not forked: a notebook may have used its GPU before. Each has copies of the
    arguments; modules among these hold the trained weights afterwards, frozen.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed; holds its traceback.
    """
    count = _count(next(each.shards for each in args if hasattr(each, "shards")))
    modules = {str(i): arg for i, arg in enumerate(args) if isinstance(arg, nn.Module)}
    if count == 1:
        train(*args)
    else:
        _together(count, train, args, modules)
    for module in modules.values():
        module.to(processes.device()).eval().requires_grad_(False)


def _together(count: int, train: Callable, args: tuple, modules: dict[str, nn.Module]) -> None:
    for module in modules.values():
        module.cpu()
    threads = max(1, torch.get_num_threads() // count)
    address = {"master_addr": "127.0.0.1", "master_port": _free_port()}
    with tempfile.TemporaryDirectory() as folder:
        work = (pickle.dumps((train, args)), count, Path(folder))
        with patch_environment(**address, omp_num_threads=threads):
            start_processes(_work, work, count, start_method="spawn")
        for name, module in modules.items():
            load = getattr(module, "load", partial(load_weights, module))
            load(Path(folder) / f"{name}.safetensors")
    for run in (arg for arg in args if isinstance(arg, Run)):
        run.resume()  # reads how long it took


def _count(shards: int) -> int:
    if processes.state().num_processes > 1:  # started by accelerate launch
        return 1
    most = int(os.environ.get("ICM_PROCESSES", torch.cuda.device_count())) or 1
    return max(count for count in range(1, most + 1) if shards % count == 0)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _work(rank: int, work: bytes, count: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    train, args = pickle.loads(work)  # the parent's, of a moment ago
    train(*args)
    if processes.main():
        for index, arg in enumerate(args):
            if isinstance(arg, nn.Module):
                save_weights(folder / f"{index}.safetensors", arg)
    processes.state().destroy_process_group()
