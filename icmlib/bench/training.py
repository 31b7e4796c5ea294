"""Training beside the plain way: a decoder finetuned on patches from cached latents, beside encode,
decode and crop; `train_base_codec` beside the loop of CompressAI's examples."""

from collections.abc import Callable
from functools import partial

import torch
from compressai.losses import RateDistortionLoss
from compressai.optimizers import net_aux_optimizer
from torch import nn
from torch.nn.functional import mse_loss
from torchvision.transforms.functional import to_tensor

from icmlib import codecs, device, losses, training
from icmlib.bench import harness
from icmlib.bench.harness import Pair, largest_difference
from icmlib.codecs.patches import decode_whole, patch_decoder
from icmlib.config import BaseTrainingConfig, CodecConfig, FinetuneConfig, replace
from icmlib.datasets import deadleaves
from icmlib.training.patchgan import set_up


class Scenes(list):
    """Dead leaves (3, H, W) in memory, as a data set without annotations."""

    image = list.__getitem__


def scenes(count: int, height: int, width: int) -> Scenes:
    drawn = (deadleaves.scene(0, "test", i, max(height, width))[0] for i in range(count))
    return Scenes(to_tensor(each[:height, :width]) for each in drawn)


def untrained(N: int, M: int) -> codecs.LearnedCodec:
    """A scale hyperprior; scaled up, since an untrained one rounds every latent to zero."""
    codec = codecs.create(CodecConfig("bmshj2018_hyperprior", N, M)).eval().requires_grad_(False)
    codec.model.g_a[-1].weight.mul_(300)
    codec.update()
    return codec.to(device.current())


def generator_step(
    height: int, width: int, N: int, M: int, precision: str = "float32", **patches: int
) -> Pair:
    """One generator step of the PatchGAN finetuning on one image; results are the gradients. Ours
    decodes patches from cached latents; theirs encodes and decodes the image, then crops.
    `patches` and `patch_size` are FinetuneConfig's."""
    config = FinetuneConfig(**patches, precision=precision)
    x = scenes(1, height, width)[0].to(device.current())
    ours, theirs = untrained(N, M), untrained(N, M)
    latents = ours.latents(x[None])
    originals, y_hat, corners = training.sample_patches([(0, x)], latents, config, step=0)
    where = (corners, originals.shape[-2:])
    patched = partial(patch_decoder(ours.g_s), y_hat, *where)
    cropped = partial(coded_whole(theirs), [x] * len(corners), *where)
    steps = (_step(ours, patched, originals, config), _step(theirs, cropped, originals, config))
    return Pair(*steps, largest_difference)


def coded_whole(codec: codecs.LearnedCodec) -> Callable[..., torch.Tensor]:
    """`decode(images, corners, size)`: images (3, H, W) are encoded, decoded, and cropped."""
    return partial(decode_whole, lambda x: codec.model(codec.pad(x))["x_hat"])


def _step(codec, decode: Callable, x: torch.Tensor, config: FinetuneConfig) -> Callable:
    generator, discriminator, parts = set_up(codec, nn.Identity(), config)
    autocast, optimizer = device.autocast(codec.device, config.precision), parts["g_optimizer"]
    decode, score = autocast(decode), autocast(discriminator.requires_grad_(False).forward)

    def step() -> list[torch.Tensor]:
        x_hat = decode().float()
        adversarial = losses.generator_loss("hinge", score(x_hat))
        loss = config.lambda_mse * mse_loss(x_hat, x) + config.lambda_adversarial * adversarial
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [p.grad.clone() for p in generator.parameters()]

    return step


def finetuning(config: FinetuneConfig, size: int, N: int, M: int) -> Pair:
    """`finetune_decoder` on scenes of size x size px, in float32 and without a task network; theirs
    encodes and decodes whole images. From a number of steps, each makes the decoder's weights."""
    images, encoder = scenes(config.batch, size, size), untrained(N, M)
    latents = [encoder.latents(x[None])[0].to(torch.int16) for x in images]

    def finetuned(whole: bool, steps: int) -> list:
        codec, settings = untrained(N, M), replace(config, {"steps": steps, "precision": "float32"})
        loop = partial(training.finetune_decoder, decode=coded_whole(codec) if whole else None)
        given = images if whole else latents
        harness.trained(loop, codec, given, nn.Identity(), images, settings)
        return list(codec.g_s.parameters())

    return Pair(partial(finetuned, False), partial(finetuned, True), largest_difference)


def finetuning_step(config: FinetuneConfig, size: int, N: int, M: int) -> dict[str, float]:
    """Seconds of one step of a row's finetuning, `ours` and `theirs`; how far apart the weights
    are after three; seconds to cache the `latents` of one image."""
    pair, codec, (x,) = finetuning(config, size, N, M), untrained(N, M), scenes(1, size, size)
    difference = pair.difference(pair.ours(3), pair.theirs(3))
    ours, theirs = (harness.seconds_a_step(side, 2) for side in (pair.ours, pair.theirs))
    latents = harness.clocked(lambda: codec.latents(x[None]))
    return {"ours": ours, "theirs": theirs, "difference": difference, "latents": latents}


def base_training(size: int, N: int, M: int, batch: int = 8, seed: int = 0) -> Pair:
    """Base training (rate and MSE) in float32 beside the loop of CompressAI's examples/train.py,
    with the same model, optimisers and images. From a number of steps, each gives their losses."""
    images, architecture = scenes(2 * batch, size, size), CodecConfig("bmshj2018_hyperprior", N, M)
    # lr is that example's default; ten times as much diverges in the first steps
    options = {"batch": batch, "crop": size, "lr": 1e-4, "precision": "float32", "seed": seed}
    config = BaseTrainingConfig(lambda_mse=0.01 * 255**2, lambda_feature=0.0, **options)

    def ours(steps: int) -> list[float]:
        codec, settings = codecs.create(architecture, seed), replace(config, {"steps": steps})
        log = harness.trained(training.train_base_codec, codec, None, images, settings)
        return log["loss"].tolist()

    def theirs(steps: int) -> list[float]:
        model, criterion = codecs.create(architecture, seed).model.train(), RateDistortionLoss(0.01)
        model.to(device.current())
        rates = {"net": config.lr, "aux": config.aux_lr}
        adams = {part: {"type": "Adam", "lr": lr} for part, lr in rates.items()}
        optimizer, aux_optimizer = net_aux_optimizer(model, adams).values()
        history = []
        for step in range(steps):
            with training.seeded(seed, step):
                indices = training.batch_indices(step, len(images), batch, seed)
                read = partial(training.base_codec.read_crop, images, config)
                x = torch.stack([read(i, step) for i in indices]).to(device.current())
                out = criterion(model(x), x)
            optimizer.zero_grad()
            aux_optimizer.zero_grad()
            out["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.aux_loss().backward()
            aux_optimizer.step()
            history.append(out["loss"].item())
        return history

    return Pair(ours, theirs)
