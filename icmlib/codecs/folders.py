"""Many images to bitstreams and back, on all cores: one process a core, one thread a process."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from icmlib.codecs.bitstream import Bitstream


class _Calls(Dataset):
    def __init__(self, function: Callable, items: Sequence):
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.function(self.items[index])


def encode_all(codec, images, workers: int | None = None) -> Iterator[bytes]:
    """The bitstream of each image of a data set, in order.

    Args:
        codec: on the CPU.
        images: anything with a length and `image(index)`, e.g. a `CocoDataset`.
        workers: processes; by default as many as PyTorch has threads, 0 for none but this one.

    Raises:
        ValueError: the codec is on a GPU, which processes cannot share.
    """
    return on_all_cores(codec, partial(_encoded, codec, images), range(len(images)), workers)


def decode_all(codec, files: list[bytes], workers: int | None = None) -> Iterator[torch.Tensor]:
    """The image (3, H, W) of each bitstream, in order; raises as `codec.decode`."""
    yield from map(torch.from_numpy, on_all_cores(codec, partial(_decoded, codec), files, workers))


def on_all_cores(
    codec, function: Callable, items: Sequence, workers: int | None = None
) -> Iterator:
    """`function` of each item, in order, where the codec is part of the function; `workers` and
    errors as `encode_all`."""
    device = getattr(codec, "device", torch.device("cpu"))
    if device.type != "cpu":
        raise ValueError(f"codec is on {device}; move it to the CPU to code on all cores")
    workers = torch.get_num_threads() if workers is None else workers
    calls = _Calls(function, items)
    return iter(
        DataLoader(calls, batch_size=None, num_workers=min(workers, len(items)), collate_fn=_as_is)
    )


def _encoded(codec, images, index: int) -> bytes:
    return bytes(codec.encode(images.image(index)))


def _decoded(codec, file: bytes) -> np.ndarray:  # whose bytes a pipe carries fastest
    return codec.decode(Bitstream.from_bytes(file)).numpy()


def _as_is(item):
    return item
