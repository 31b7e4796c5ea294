"""Many images to bitstreams and back, on all cores: one process a core, one thread a process."""

import os
from collections.abc import Iterator

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

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.codec.decode(Bitstream.from_bytes(self.files[index]))


def encode_all(codec, images, workers: int | None = None) -> Iterator[bytes]:
    """The bitstream of each image of a data set, in order.

    Args:
        codec: on the CPU.
        images: anything with a length and `image(index)`, e.g. a `CocoDataset`.
        workers: processes; all cores by default, 0 for none but this one.
    """
    return _all(_Encoded(codec, images), workers)


def decode_all(codec, files: list[bytes], workers: int | None = None) -> Iterator[torch.Tensor]:
    """The image (3, H, W) of each bitstream, in order; raises as `codec.decode`."""
    return _all(_Decoded(codec, files), workers)


def _all(items: Dataset, workers: int | None) -> Iterator:
    workers = os.cpu_count() if workers is None else workers
    return iter(DataLoader(items, batch_size=None, num_workers=min(workers, len(items))))
