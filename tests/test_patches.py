import random
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from compressai.layers import GDN, AttentionBlock, subpel_conv3x3
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from icmlib import codecs
from icmlib.codecs import MODELS
from icmlib.codecs.patches import decoder_layers, patch_decoder
from icmlib.config import CodecConfig


def zoo_decoder(name: str) -> nn.Module:
    return codecs.create(CodecConfig(name, N=6, M=6)).g_s


class Join(nn.Module):
    """Two branches from one map, brought together, in place too."""

    def __init__(self, a: nn.Module, b: nn.Module):
        super().__init__()
        self.a, self.b, self.scale = a, b, nn.Parameter(torch.rand(4, 1, 1))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.tanh(self.scale)
        self.relu(x)
        total = self.a(x)
        total += torch.cat([self.b(x)[:, 2:], self.b(x)[:, :2]], 1)
        F.leaky_relu(total, 0.2, inplace=True)
        return total * torch.sigmoid(self.b(x))


def same_size() -> list[nn.Module]:
    """Of four channels each, as all that follows."""
    return [
        nn.Conv2d(4, 4, (4, 3), padding="same", dilation=(1, 2)),
        nn.Conv2d(4, 4, 5, padding=2, padding_mode="reflect"),
        nn.LeakyReLU(inplace=True),
        nn.BatchNorm2d(4).eval(),
        GDN(4, inverse=True),
        AttentionBlock(4),
        Join(nn.Conv2d(4, 4, 3, padding=1), nn.Identity()),
    ]


def enlarging() -> list[nn.Module]:
    deconv = partial(nn.ConvTranspose2d, 4, 4)
    return [
        subpel_conv3x3(4, 4, 2),
        deconv(4, 2, 1),
        deconv(5, 2, 2, output_padding=1),
        deconv((5, 3), 3, (1, 0)),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        Join(subpel_conv3x3(4, 4, 2), nn.Sequential(nn.Conv2d(4, 4, 1), deconv(2, 2))),
    ]


def randomize(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Double precision, biases that are not zero, outputs near 1."""
    for layer in module.double().modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            scale = (layer.in_channels * layer.weight[0, 0].numel() / 3) ** -0.5
            nn.init.normal_(layer.weight, std=scale, generator=generator)
            nn.init.normal_(layer.bias, std=0.5, generator=generator)
    return module


def random_case(seed: int):
    """A decoder, latents of two sizes, patches of one size, borders and corners among them."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    parts = [rng.choice(enlarging()), *rng.sample(same_size() + enlarging(), rng.randrange(3))]
    parts = rng.sample(parts, len(parts))
    decoder = randomize(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), *parts), generator)
    height, width = rng.randint(3, 8), rng.randint(3, 8)
    sizes = (height, width), (height, width), (height + rng.randint(0, 2), width + 1)
    given = {"generator": generator, "dtype": torch.float64}
    latents = [torch.randn(4, *size, **given).mul(3).round() for size in sizes]
    with torch.no_grad():
        extents = [decoder(y_hat[None].clone()).shape[-2:] for y_hat in latents]
    patch = [rng.choice([side, rng.randint(1, side)]) for side in map(min, *extents)]
    which = rng.choices(range(3), k=rng.randint(2, 12))
    rooms = [[side - part for side, part in zip(extents[i], patch)] for i in which]
    corners = [[rng.choice([0, room, rng.randint(0, room)]) for room in each] for each in rooms]
    return decoder, [latents[i] for i in which], torch.tensor(corners), tuple(patch)


def full_decode(decoder, latents, corners, size) -> torch.Tensor:
    images = [decoder(y_hat[None].clone())[0] for y_hat in latents]
    places = zip(images, corners.tolist())
    return torch.stack([x[:, r : r + size[0], c : c + size[1]] for x, (r, c) in places])


def local_decoder(decoder: nn.Module):
    """Its patch decoder, which is to decode nothing but patches."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*whole images are decoded")
        return patch_decoder(decoder)


def gradients(decoder: nn.Module, patches: torch.Tensor) -> list[torch.Tensor]:
    """Of a loss in which every pixel weighs differently."""
    weights = torch.linspace(-1, 1, patches.numel(), dtype=patches.dtype).reshape(patches.shape)
    loss = (weights * patches).sum() / patches.numel()
    parameters = list(decoder.parameters())
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


def assert_equals_full_decode(decoder, latents, corners, size) -> None:
    before, decode = [y_hat.clone() for y_hat in latents], local_decoder(decoder)
    with torch.no_grad():  # it follows the weights
        next(decoder.parameters()).mul_(1.1)
    patches = decode(latents, corners, size)
    assert all(torch.equal(y_hat, old) for y_hat, old in zip(latents, before))
    expected = full_decode(decoder, latents, corners, size)
    assert expected.abs().max() > 1e-3
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(patches, expected, atol=1e-9 * scale, rtol=1e-9)
    for ours, theirs in zip(gradients(decoder, patches), gradients(decoder, expected)):
        torch.testing.assert_close(ours, theirs, atol=1e-9 * scale**2, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("seed", range(100))
def test_patches_and_gradients_equal_the_full_decode(seed):
    assert_equals_full_decode(*random_case(seed))


@pytest.mark.parametrize("name", MODELS)
def test_patches_of_the_real_decoders(name):
    generator = torch.Generator().manual_seed(0)
    decoder = randomize(zoo_decoder(name), generator)
    y_hat = torch.randn(6, 5, 7, generator=generator, dtype=torch.float64).mul(4).round()
    height, width = decoder(y_hat[None]).shape[-2:]
    corners = torch.tensor([[0, 0], [height - 21, width - 17], [0, 13], [19, 11]])
    assert_equals_full_decode(decoder, [y_hat] * 4, corners, (21, 17))


@pytest.mark.parametrize("name", MODELS)
def test_cost_does_not_grow_with_the_image(name):
    """Nor is it much more than a full decode of what the deepest decoder sees."""
    g_s = zoo_decoder(name)
    decode, stride = local_decoder(g_s), 2 ** len(decoder_layers(g_s))

    def operations(function, *arguments) -> int:
        with FlopCounterMode(display=False) as counter:
            function(*arguments)
        return counter.get_total_flops()

    near, far = torch.randn(6, 30, 30), torch.randn(6, 90, 90)
    patch = torch.tensor([[14 * stride + 5, 13 * stride + 3]]), (4 * stride, 4 * stride)
    cost = operations(decode, [near], *patch)
    assert cost == operations(decode, [far], *patch)
    assert cost < operations(g_s, torch.randn(1, 6, 7, 7))


class Position(nn.Module):
    """Adds something that differs from place to place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)


NOT_LOCAL = [  # of two channels
    nn.Upsample(scale_factor=1.5),
    nn.ConvTranspose2d(2, 2, 3, 2),
    nn.BatchNorm2d(2),
    nn.LayerNorm(12),
    nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
    Position(),
    nn.Sequential(nn.Conv2d(2, 2, 3, 2, 1), nn.ConvTranspose2d(2, 2, 4, 2, 1)),  # steps of two
]
JOIN = Join(nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Upsample(scale_factor=2))  # of four


@pytest.mark.parametrize("layer", [*NOT_LOCAL, JOIN], ids=lambda layer: type(layer).__name__)
def test_unsupported_decoder_is_named_and_decodes_whole_images(layer):
    """Never a patch that differs from the full decode; one warning."""
    decoder, channels, why = JOIN, 4, "Join is no nn.Sequential"
    if layer is not JOIN:
        decoder = nn.Sequential(nn.ConvTranspose2d(2, 2, 4, 2, 1), nn.ReLU(), layer)
        channels, why = 2, rf"decoder layer 2 \({type(layer).__name__}\)"
    with pytest.warns(UserWarning, match=f"{why}.*whole images are decoded") as warned:
        decode = patch_decoder(decoder)
    assert len(warned) == 1
    latents = [*torch.randn(2, channels, 6, 6)]
    case = [latents[0], *latents], torch.tensor([[0, 0], [2, 1], [1, 0]]), (4, 5)
    torch.testing.assert_close(decode(*case), full_decode(decoder, *case))


@pytest.mark.parametrize("corner", [(-1, 0), (0, 8)])
def test_patch_outside_the_image_is_an_error(corner):
    """The image is 16x16, the patch 9x9."""
    decode = local_decoder(nn.Sequential(nn.ConvTranspose2d(2, 3, 4, 2, 1)))
    with pytest.raises(ValueError, match=r"\[16, 16\]"):
        decode([torch.randn(2, 8, 8)], torch.tensor([corner]), (9, 9))


@pytest.mark.parametrize("name", MODELS)
def test_decoder_layers_are_counted_from_the_latents(name):
    decoder = zoo_decoder(name)
    layers, x = decoder_layers(decoder), torch.randn(1, 6, 3, 5)
    assert len(layers) == (3 if "_s8" in name else 4)
    assert [m for layer in layers for m in layer] == list(decoder)
    for i, layer in enumerate(layers):
        x = layer(x)
        assert x.shape[-2:] == (3 * 2 ** (i + 1), 5 * 2 ** (i + 1))


def test_what_precedes_the_first_upsampling_is_the_first_layer():
    first = nn.Conv2d(2, 4, 1), nn.ReLU(), subpel_conv3x3(4, 4, 2)
    decoder = nn.Sequential(*first, nn.ConvTranspose2d(4, 3, 2, 2))
    assert [len(layer) for layer in decoder_layers(decoder)] == [3, 1]
