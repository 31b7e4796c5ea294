"""Many images to bitstreams and back, on all cores: one process a core, one thread a process."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from icmlib.codecs.bitstream import Bitstream


class _Encoded(Dataset):
    def __init__(self, codec, images):
        self.codec, self.images = codec, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> bytes:
        return bytes(self.codec.encode(self.images.image(index)))


class _Decoded(Dataset):
    def __init__(self, codec, files: list[bytes]):
        self.codec, self.files = codec, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:  # whose bytes a pipe carries fastest
        return self.codec.decode(Bitstream.from_bytes(self.files[index])).numpy()


def encode_all(codec, images, workers: int | None = None) -> Iterator[bytes]:
    """The bitstream of each image of a data set, in order.

    Args:
        codec: on the CPU.
        images: anything with a length and `image(index)`, e.g. a `CocoDataset`.
        workers: processes; by default as many as PyTorch has threads, 0 for none but this one.

    Raises:
        ValueError: the codec is on a GPU, which processes cannot share.
    """
    return _all(_Encoded(codec, images), workers)


def decode_all(codec, files: list[bytes], workers: int | None = None) -> Iterator[torch.Tensor]:
    """The image (3, H, W) of each bitstream, in order; raises as `codec.decode`."""
    yield from map(torch.from_numpy, _all(_Decoded(codec, files), workers))


def _all(items: Dataset, workers: int | None) -> Iterator:
    device = getattr(items.codec, "device", torch.device("cpu"))
    if device.type != "cpu":
        raise ValueError(f"codec is on {device}; move it to the CPU to code on all cores")
    workers = torch.get_num_threads() if workers is None else workers
    return iter(
        DataLoader(items, batch_size=None, num_workers=min(workers, len(items)), collate_fn=_as_is)
    )


def _as_is(item):
    return item
