"""y_hat of every image of a data set, computed once: finetuning never runs the encoder."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from icmlib import device
from icmlib.codecs.learned import LearnedCodec
from icmlib.io import fingerprint, written


class Latents:
    """Cached latents by index: `latents[i]` is y_hat (M, h, w) of the i-th image, just as the
    decoder sees it: int16 where all its values are integers, float32 where the means or medians
    of an entropy model are in them."""

    def __init__(self, path: Path):
        self._path, self._file = path, safe_open(path, framework="pt")

    def __reduce__(self):
        return Latents, (self._path,)

    def __len__(self) -> int:
        return len(self._file.keys())

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._file.get_tensor(str(index))


def cached_latents(codec: LearnedCodec, dataset, folder: str | Path) -> Latents:
    """Compute and store what is not stored yet.

    The file's name is the fingerprint of encoder, entropy model and images: a changed codec or data
    set never meets old latents. Autoregressive models are to be updated before.
    """
    images = [dataset.path(index) for index in range(len(dataset))]  # their bytes, not their names
    content = fingerprint(codec.fingerprint_of("encoder", "entropy"), *images)
    path = Path(folder) / f"latents-{content}.safetensors"
    codec.to(device.current())
    with device.state().main_process_first():
        if not path.exists():
            tensors = {}
            for index in tqdm(range(len(dataset)), "latents"):
                y_hat = codec.latents(dataset.image(index)[None])[0]
                tensors[str(index)] = _lossless(y_hat).cpu().contiguous()
            with written(path) as half:
                save_file(tensors, half)
    return Latents(path)


def _lossless(y_hat: torch.Tensor) -> torch.Tensor:
    """As int16, which takes half the space, where no value changes."""
    integers = y_hat.to(torch.int16)
    return integers if torch.equal(integers.to(y_hat.dtype), y_hat) else y_hat
