"""PatchGAN finetuning: patches from cached latents beside encode, decode and crop."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import nn

from icmlib import codecs, losses, training
from icmlib.bench.harness import Pair, largest_difference, measure, operations, scene
from icmlib.codecs.patches import PatchDecoder, decoder_layers
from icmlib.config import CodecConfig
from icmlib.discriminator import PatchDiscriminator


def generator_step(
    height: int,
    width: int,
    patches: int = 3,
    patch_size: int = 64,
    N: int = 128,
    M: int = 192,
    discriminate: bool = False,
    device: str = "cpu",
) -> Pair:
    """One generator step of the PatchGAN finetuning on one image, with `discriminate` after one of
    the discriminator; results are the gradients.

    Ours decodes the patches from cached latents. Theirs encodes and decodes the image, then crops.
    """
    x = scene(height, width)[None].to(device)
    rng = np.random.default_rng(0)
    reach = (height - patch_size + 1, width - patch_size + 1)
    corners = np.stack([rng.integers(0, extent, patches) for extent in reach], 1)
    ours, theirs = (untrained(N, M).to(device) for _ in range(2))
    y_hat, decode = ours.latents(x)[0], PatchDecoder(ours.g_s)

    def cropped():
        x_hat = theirs.model(theirs.pad(x))["x_hat"]
        return _crops(x_hat, corners, patch_size)

    def patched():
        size = (patch_size, patch_size)
        return decode([y_hat] * patches, torch.from_numpy(corners), size)

    originals = _crops(x, corners, patch_size)
    return Pair(
        _update(ours, patched, originals, discriminate, fused=True),
        _update(theirs, cropped, originals, discriminate),
        largest_difference,
    )


def _crops(images: torch.Tensor, corners: np.ndarray, size: int) -> torch.Tensor:
    return torch.cat([images[..., r : r + size, c : c + size] for r, c in corners.tolist()])


def _update(
    codec, decode: Callable, x: torch.Tensor, discriminate: bool, fused: bool = False
) -> Callable:
    with training.seeded(0, 0):
        discriminator = PatchDiscriminator().to(x.device)
    layers = decoder_layers(codec.g_s)[:2]
    trained = [p.requires_grad_() for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.Adam(trained, 1e-4, fused=fused)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, fused=fused)

    def step() -> list[torch.Tensor]:
        x_hat = decode()
        if discriminate:
            discriminator.requires_grad_(True)
            real, fake = discriminator(x), discriminator(x_hat.detach())
            d_optimizer.zero_grad()
            losses.discriminator_loss("hinge", real, fake).backward()
            d_optimizer.step()
        discriminator.requires_grad_(False)
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


def latents_seconds(size: int, N: int, M: int) -> float:
    """What it costs to cache the latents of one image of size x size px."""
    codec, x = untrained(N, M), scene(size, size)[None]
    return measure(Pair(lambda: codec.latents(x), lambda: None), repeats=3)["ours"]


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
