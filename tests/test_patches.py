"""A patch decode equals the full decode, whatever the decoder and wherever the patch."""

import itertools

import pytest
import torch
from compressai.layers import GDN
from compressai.models import ScaleHyperprior
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from icmlib.codecs.learned import ScaleHyperpriorS8
from icmlib.codecs.patches import (
    Windows,
    decode_patches,
    decoder_layers,
    flatten,
    output_size,
    plan,
)


def upsampling(draw, narrow: int, wide: int) -> nn.Module:
    """ConvTranspose2d of any geometry, each axis with its own."""
    axes = []
    for _ in range(2):
        kernel, stride = draw(st.integers(2, 5)), draw(st.integers(1, 3))
        padding, dilation = draw(st.integers(0, (kernel - 1) // 2)), draw(st.integers(1, 2))
        axes.append((kernel, stride, padding, draw(st.integers(0, stride - 1)), dilation))
    kernel, stride, padding, extra, dilation = (tuple(pair) for pair in zip(*axes))
    return nn.ConvTranspose2d(
        narrow, wide, kernel, stride, padding, output_padding=extra, dilation=dilation
    )


def convolution(draw, narrow: int, wide: int) -> nn.Module:
    """Stride 1; the map keeps its size or grows."""
    kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    span = dilation * (kernel - 1)
    padding = draw(st.integers(span // 2, span + 1))
    return nn.Conv2d(narrow, wide, kernel, 1, padding, dilation)


def pixel_shuffle(draw, narrow: int, wide: int) -> nn.Module:
    """Sub-pixel convolution, as newer decoders up-sample."""
    return nn.Sequential(nn.Conv2d(narrow, 4 * wide, 3, 1, 1), nn.PixelShuffle(2))


def activation(draw, width: int) -> nn.Module:
    kinds = [nn.ReLU, nn.LeakyReLU, nn.Identity, lambda: GDN(width, inverse=True)]
    return draw(st.sampled_from(kinds))()


@st.composite
def decoders(draw) -> nn.Sequential:
    """One to four random layers from 2 channels to 3, with weights that keep outputs near 1."""
    widths = [2, *draw(st.lists(st.integers(2, 4), min_size=0, max_size=3)), 3]
    layers = []
    for narrow, wide in itertools.pairwise(widths):
        kind = draw(st.sampled_from([upsampling, upsampling, convolution, pixel_shuffle]))
        layers += [kind(draw, narrow, wide), activation(draw, wide)]
    decoder = nn.Sequential(*layers[:-1])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            scale = (module.in_channels * module.weight[0, 0].numel() / 4) ** -0.5
            nn.init.normal_(module.weight, std=scale, generator=generator)
            nn.init.normal_(module.bias, std=0.5, generator=generator)
    return decoder


@st.composite
def cases(draw):
    """A decoder, two latents, and two to four patches of one size, borders and corners among
    them; sometimes a patch is the whole image."""
    decoder = draw(decoders())
    size = (draw(st.integers(3, 9)), draw(st.integers(3, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    latents = torch.randn(2, 2, *size, generator=generator).mul(3).round()
    image = list(size)
    for layer in flatten(decoder):
        image = [output_size(layer, image[axis], axis) for axis in (0, 1)]
    patch = [draw(st.sampled_from([extent, draw(st.integers(1, extent))])) for extent in image]
    count = draw(st.integers(2, 4))
    places = [
        st.sampled_from([0, e - p, draw(st.integers(0, e - p))]) for e, p in zip(image, patch)
    ]
    corners = [[draw(place) for place in places] for _ in range(count)]
    which = [draw(st.integers(0, 1)) for _ in range(count)]
    return decoder, latents, which, torch.tensor(corners), tuple(patch)


def full_decode(decoder, latents, which, corners, size) -> torch.Tensor:
    """Decode the whole images, then cut."""
    images = decoder(latents)
    return torch.stack(
        [
            images[i, :, r : r + size[0], c : c + size[1]]
            for i, (r, c) in zip(which, corners.tolist())
        ]
    )


def gradients(decoder: nn.Module, patches: torch.Tensor) -> list[torch.Tensor]:
    """Of a loss in which every pixel weighs differently."""
    weights = torch.linspace(-1, 1, patches.numel()).reshape(patches.shape)
    loss = (weights * patches).sum() / patches.numel()
    return torch.autograd.grad(loss, list(decoder.parameters()), allow_unused=True)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(cases())
def test_patches_and_gradients_equal_the_full_decode(case):
    """The heart of finetuning: nothing is lost by decoding only the patches."""
    decoder, latents, which, corners, size = case
    patches = decode_patches(decoder, [latents[i] for i in which], corners, size)
    expected = full_decode(decoder, latents, which, corners, size)
    assert expected.abs().max() > 1e-3
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(patches, expected, atol=1e-5 * scale, rtol=1e-5)
    for ours, theirs in zip(gradients(decoder, patches), gradients(decoder, expected)):
        torch.testing.assert_close(ours, theirs, atol=2e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("model", [ScaleHyperpriorS8, ScaleHyperprior])
def test_patches_of_the_real_decoders(model):
    """The study's decoder and CompressAI's: corners, borders, an odd place."""
    torch.manual_seed(0)
    decoder = model(8, 12).g_s
    y_hat = torch.randn(1, 12, 16, 12).mul(8).round()
    image = decoder(y_hat)
    height, width = image.shape[-2:]
    corners = torch.tensor([[0, 0], [height - 33, width - 33], [0, 37], [51, 17]])
    patches = decode_patches(decoder, [y_hat[0]] * 4, corners, (33, 33))
    expected = full_decode(decoder, y_hat, [0] * 4, corners, (33, 33))
    assert expected.std() > 1e-2
    torch.testing.assert_close(patches, expected, atol=1e-5, rtol=1e-5)


def test_cost_does_not_grow_with_the_image():
    """A patch in the middle needs the same window of latents whatever lies around it."""
    layers = flatten(ScaleHyperpriorS8(8, 12).g_s)
    windows = [
        plan(layers, (extent, extent), Windows(torch.tensor([[200, 200]]), (64, 64)))
        for extent in (40, 400)
    ]
    assert windows[0][0].size == windows[1][0].size
    assert max(windows[0][0].size) <= 64 // 8 + 4


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, stride=2),
        nn.Upsample(scale_factor=2),
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding="same"),
    ],
    ids=lambda layer: str(layer)[:24],
)
def test_unsupported_layer_is_named(layer):
    """Never a patch that differs from the full decode."""
    decoder = nn.Sequential(nn.ConvTranspose2d(2, 2, 3, 2), nn.Sequential(nn.ReLU(), layer))
    y_hat = torch.randn(2, 6, 6)
    with pytest.raises(ValueError, match=f"decoder layer {type(layer).__name__}.*cannot"):
        decode_patches(decoder, [y_hat], torch.tensor([[2, 2]]), (4, 4))


@pytest.mark.parametrize("corner", [(-1, 0), (0, 8), (14, 0)])
def test_patch_outside_the_image_is_an_error(corner):
    """The image is 16x16, the patch 9x9."""
    decoder = nn.Sequential(nn.ConvTranspose2d(2, 3, 4, 2, 1))
    with pytest.raises(ValueError, match="16x16"):
        decode_patches(decoder, [torch.randn(2, 8, 8)], torch.tensor([corner]), (9, 9))


def test_decoder_layers_are_counted_from_the_latents():
    """A layer is an up-sampling stage with its activation; together they are the decoder."""
    for model, count in ((ScaleHyperpriorS8, 3), (ScaleHyperprior, 4)):
        decoder = model(8, 12).g_s
        layers = decoder_layers(decoder)
        assert len(layers) == count
        assert [m for layer in layers for m in layer] == list(decoder)
        assert [type(m).__name__ for m in layers[0]] == ["ConvTranspose2d", "GDN"]
        assert len(layers[-1]) == 1


def test_what_precedes_the_first_upsampling_is_the_first_layer():
    shuffle = nn.Sequential(nn.Conv2d(4, 16, 3, 1, 1), nn.PixelShuffle(2))
    decoder = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), shuffle, nn.ConvTranspose2d(4, 3, 2, 2))
    assert [len(layer) for layer in decoder_layers(decoder)] == [3, 1]
