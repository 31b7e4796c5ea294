"""PatchGAN finetuning: patches from cached latents beside encode, decode and crop."""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from icmlib import codecs, losses, training
from icmlib.bench.harness import (
    Pair,
    Scenes,
    clocked,
    largest_difference,
    measure,
    operations,
    scene,
)
from icmlib.codecs.patches import decode_whole, decoder_layers, patch_decoder
from icmlib.config import CodecConfig, FinetuneConfig, replace
from icmlib.discriminator import PatchDiscriminator
from icmlib.runs import Run


def generator_step(
    height: int,
    width: int,
    patches: int = 3,
    patch_size: int = 64,
    N: int = 128,
    M: int = 192,
    device: str = "cpu",
) -> Pair:
    """One generator step of the PatchGAN finetuning on one image; results are the gradients.

    Ours decodes the patches from cached latents. Theirs encodes and decodes the image, then crops.
    """
    x = scene(height, width)[None].to(device)
    rng = np.random.default_rng(0)
    reach = (height - patch_size + 1, width - patch_size + 1)
    corners = np.stack([rng.integers(0, extent, patches) for extent in reach], 1)
    ours, theirs = (untrained(N, M).to(device) for _ in range(2))
    y_hat, decode = ours.latents(x)[0], patch_decoder(ours.g_s)

    def cropped():
        x_hat = theirs.model(theirs.pad(x))["x_hat"]
        return _crops(x_hat, corners, patch_size)

    def patched():
        size = (patch_size, patch_size)
        return decode([y_hat] * patches, torch.from_numpy(corners), size)

    originals = _crops(x, corners, patch_size)
    return Pair(
        _update(ours, patched, originals, fused=True),
        _update(theirs, cropped, originals),
        largest_difference,
    )


def _crops(images: torch.Tensor, corners: np.ndarray, size: int) -> torch.Tensor:
    return torch.cat([images[..., r : r + size, c : c + size] for r, c in corners.tolist()])


def _update(codec, decode: Callable, x: torch.Tensor, fused: bool = False) -> Callable:
    with training.seeded(0, 0):
        discriminator = PatchDiscriminator().to(x.device).requires_grad_(False)
    layers = decoder_layers(codec.g_s)[:2]
    trained = [p.requires_grad_() for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.Adam(trained, 1e-4, fused=fused)

    def step() -> list[torch.Tensor]:
        x_hat = decode()
        adversarial = losses.generator_loss("hinge", discriminator(x_hat))
        loss = 100 * nn.functional.mse_loss(x_hat, x) + 0.01 * adversarial
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [p.grad.clone() for p in trained]

    return step


def untrained(N: int, M: int) -> codecs.LearnedCodec:
    """A scale hyperprior whose latents are not all zero, as an untrained one's would be."""
    codec = codecs.create(CodecConfig("bmshj2018_hyperprior", N, M)).eval()
    with torch.no_grad():
        codec.model.g_a[-1].weight.mul_(300)
    codec.update()
    return codec.requires_grad_(False)


class EncodedEachTime:
    """The latents of images, by the encoder, whenever they are asked for."""

    def __init__(self, codec: codecs.LearnedCodec, images: Scenes):
        self.codec, self.images = codec, images

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.codec.latents(self.images.image(index)[None])[0]


def finetuning_step(config: FinetuneConfig, size: int, N: int, M: int, steps: int) -> Pair:
    """So many steps of `finetune_decoder` on scenes of size x size px, with a row's settings and no
    task network; results are the decoder's weights.

    Theirs is the same loop, but it encodes every image of the batch and decodes it whole.
    """
    images, config = Scenes(config.batch, size), replace(config, {"steps": steps})
    encoded = EncodedEachTime(untrained(N, M), images)
    cached = [encoded[index].to(torch.int16) for index in range(len(images))]

    def finetuned(latents, decode: Callable | None, codec) -> list[torch.Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(folder, {}, {}, {})
            training.finetune_decoder(codec, latents, nn.Identity(), images, config, run, decode)
        return list(codec.g_s.parameters())

    def theirs() -> list[torch.Tensor]:
        codec = untrained(N, M)
        return finetuned(EncodedEachTime(codec, images), partial(decode_whole, codec.g_s), codec)

    return Pair(lambda: finetuned(cached, None, untrained(N, M)), theirs, largest_difference)


def finetuning(config: FinetuneConfig, size: int, N: int, M: int) -> dict[str, float]:
    """Seconds of one step of a row's finetuning, `ours` and `theirs`, and how far apart the weights
    are after three: three steps' time less one step's, so that what happens once is left out."""
    few, one = (finetuning_step(config, size, N, M, steps) for steps in (3, 1))
    difference = few.difference(few.ours(), few.theirs())
    seconds = {
        side: (clocked(getattr(few, side)) - clocked(getattr(one, side))) / 2
        for side in ("ours", "theirs")
    }
    return {**seconds, "difference": difference}


def latents_seconds(size: int, N: int, M: int) -> float:
    """What it costs to cache the latents of one image of size x size px."""
    encoded = EncodedEachTime(untrained(N, M), Scenes(1, size))
    return statistics.median(clocked(lambda: encoded[0]) for _ in range(5))


def growth(size: int, N: int, M: int) -> pd.DataFrame:
    """Seconds and floating-point operations of a generator step, ours and theirs, as the image,
    the number of patches, or their size grows from size x size px, 3 patches, an eighth of it."""
    sides = (size // 4, size // 2, size, 2 * size)
    usual = {"height": size, "width": size, "patches": 3, "patch_size": size // 8}
    grown = {
        "image side (px)": [{"height": side, "width": side} for side in sides],
        "patches": [{"patches": count} for count in (1, 3, 9)],
        "patch side (px)": [{"patch_size": s} for s in (size // 16, size // 8, size // 4)],
    }
    rows = []
    for grows, changes in grown.items():
        for change in changes:
            pair = generator_step(**usual | change, N=N, M=M)
            row = {"grows": grows, "value": next(iter(change.values())), **measure(pair, repeats=2)}
            row |= {f"{s}_operations": operations(getattr(pair, s)) for s in ("ours", "theirs")}
            rows.append(row)
    return pd.DataFrame(rows)
