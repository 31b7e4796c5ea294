"""PatchGAN finetuning: patches from cached latents beside encode, decode and crop."""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from icmlib import codecs, losses, training
from icmlib.bench import harness
from icmlib.bench.harness import Pair, Scenes, largest_difference, scene, trained
from icmlib.codecs.patches import decode_whole, decoder_layers, patch_decoder
from icmlib.config import CodecConfig, FinetuneConfig, replace
from icmlib.discriminator import PatchDiscriminator


def generator_step(
    height: int, width: int, patches: int = 3, patch_size: int = 64, N: int = 128, M: int = 192
) -> Pair:
    """One generator step of the PatchGAN finetuning on one image; results are the gradients. Ours
    decodes patches from cached latents; theirs encodes and decodes the image, then crops."""
    x, (ours, theirs) = scene(height, width), (untrained(N, M), untrained(N, M))
    config = FinetuneConfig(patches=patches, patch_size=patch_size)
    latents = ours.latents(x[None])
    originals, y_hat, corners = training.sample_patches([(0, x)], latents, config, step=0)
    where = (corners, originals.shape[-2:])
    patched = partial(patch_decoder(ours.g_s), y_hat, *where)
    cropped = partial(coded_whole(theirs), [x] * len(corners), *where)
    ours_step = _update(ours, patched, originals, fused=True)
    return Pair(ours_step, _update(theirs, cropped, originals), largest_difference)


def coded_whole(codec: codecs.LearnedCodec) -> Callable[..., torch.Tensor]:
    """`decode(images, corners, size)`: images (3, H, W) are encoded, decoded, and cropped."""
    return partial(decode_whole, lambda x: codec.model(codec.pad(x))["x_hat"])


def _update(codec, decode: Callable, x: torch.Tensor, fused: bool = False) -> Callable:
    with training.seeded(0, 0):
        discriminator = PatchDiscriminator().requires_grad_(False)
    layers = decoder_layers(codec.g_s)[:2]
    weights = [p.requires_grad_() for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.Adam(weights, 1e-4, fused=fused)

    def step() -> list[torch.Tensor]:
        x_hat = decode()
        adversarial = losses.generator_loss("hinge", discriminator(x_hat))
        loss = 100 * nn.functional.mse_loss(x_hat, x) + 0.01 * adversarial
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [p.grad.clone() for p in weights]

    return step


def untrained(N: int, M: int) -> codecs.LearnedCodec:
    """A scale hyperprior; scaled up, since an untrained one rounds every latent to zero."""
    codec = codecs.create(CodecConfig("bmshj2018_hyperprior", N, M)).eval()
    with torch.no_grad():
        codec.model.g_a[-1].weight.mul_(300)
    codec.update()
    return codec.requires_grad_(False)


def finetunings(config: FinetuneConfig, size: int, N: int, M: int) -> Pair:
    """`finetune_decoder` on scenes of size x size px, in float32 and without a task network; theirs
    encodes every image and decodes it whole. Each side takes the number of steps and returns the
    decoder's weights."""
    images, encoder = Scenes(config.batch, size), untrained(N, M)
    latents = [encoder.latents(x[None])[0].to(torch.int16) for x in images]

    def finetuned(whole: bool, steps: int) -> list:
        codec, settings = untrained(N, M), replace(config, {"steps": steps, "precision": "float32"})
        loop = partial(training.finetune_decoder, decode=coded_whole(codec) if whole else None)
        trained(loop, codec, images if whole else latents, nn.Identity(), images, settings)
        return list(codec.g_s.parameters())

    return Pair(partial(finetuned, False), partial(finetuned, True), largest_difference)


def finetuning(config: FinetuneConfig, size: int, N: int, M: int) -> dict[str, float]:
    """Seconds of one step of a row's finetuning, `ours` and `theirs`, and how far apart the weights
    are after three."""
    pair = finetunings(config, size, N, M)
    difference = pair.difference(pair.ours(3), pair.theirs(3))
    ours, theirs = (harness.seconds_a_step(side, 2) for side in (pair.ours, pair.theirs))
    return {"ours": ours, "theirs": theirs, "difference": difference}


def latents_seconds(size: int, N: int, M: int) -> float:
    """What it costs to cache the latents of one image of size x size px."""
    codec, x = untrained(N, M), scene(size, size)[None]
    return statistics.median(harness.clocked(lambda: codec.latents(x)) for _ in range(5))
