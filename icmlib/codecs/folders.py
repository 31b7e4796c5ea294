"""Many images to bitstreams and back, on all cores: one process a core, one thread a process."""

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
        workers: processes; by default as many as PyTorch has threads, 0 for none but this one.

    Raises:
        ValueError: the codec is on a GPU, which processes cannot share.
    """
    return _all(_Encoded(codec, images), workers)


def decode_all(codec, files: list[bytes], workers: int | None = None) -> Iterator[torch.Tensor]:
    """The image (3, H, W) of each bitstream, in order; raises as `codec.decode`."""
    return _all(_Decoded(codec, files), workers)


def _all(items: Dataset, workers: int | None) -> Iterator:
    device = getattr(items.codec, "device", torch.device("cpu"))
    if device.type != "cpu":
        raise ValueError(f"codec is on {device}; move it to the CPU to code on all cores")
    workers = torch.get_num_threads() if workers is None else workers
    for result in DataLoader(items, batch_size=None, num_workers=min(workers, len(items))):
        # a copy: what a process shares holds a file open
        yield result.clone() if isinstance(result, torch.Tensor) else result
