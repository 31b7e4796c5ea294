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
    """`latents[i]` is y_hat (M, h, w) of the i-th image: int16 if it is integers, else float32."""

    def __init__(self, path: Path):
        self._file = safe_open(path, framework="pt")

    def __len__(self) -> int:
        return len(self._file.keys())

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._file.get_tensor(str(index))


def cached_latents(codec: LearnedCodec, dataset, folder: str | Path) -> Latents:
    """The stored latents, or new ones: the file's name is the fingerprint of encoder, entropy model
    and images. Call `codec.update()` before for autoregressive models."""
    images = [dataset.path(index) for index in range(len(dataset))]  # their bytes, not their names
    content = fingerprint(codec.fingerprint_of("encoder", "entropy"), *images)
    path = Path(folder) / f"latents-{content}.safetensors"
    codec.to(device.current())
    with device.state().main_process_first():
        if not path.exists():
            tensors = {}
            for index in tqdm(range(len(dataset)), "latents"):
                y_hat = codec.latents(dataset.image(index)[None])[0].cpu().contiguous()
                integers = y_hat.to(torch.int16)  # half the space
                tensors[str(index)] = integers if (integers == y_hat).all() else y_hat
            with written(path) as half:
                half.touch()
                mode = half.stat().st_mode
                save_file(tensors, half)
                half.chmod(mode)  # safetensors makes it for its owner alone
    return Latents(path)
