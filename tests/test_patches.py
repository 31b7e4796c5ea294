"""A patch decode equals the full decode, whatever the decoder and wherever the patch."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compressai.layers import (
    GDN,
    AttentionBlock,
    ResidualBlock,
    ResidualBlockUpsample,
    subpel_conv3x3,
)
from compressai.models import (
    Cheng2020Anchor,
    Cheng2020Attention,
    FactorizedPrior,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from icmlib import training
from icmlib.codecs import cached_latents
from icmlib.codecs.graph import NotLocalError
from icmlib.codecs.learned import ScaleHyperpriorS8
from icmlib.codecs.patches import (
    PatchDecoder,
    Windows,
    decode_whole,
    decoder_layers,
    patch_decoder,
)
from icmlib.config import FinetuneConfig

ZOO = {
    "scale_hyperprior_s8": lambda: ScaleHyperpriorS8(4, 6),
    "bmshj2018_factorized": lambda: FactorizedPrior(4, 6),
    "bmshj2018_hyperprior": lambda: ScaleHyperprior(4, 6),
    "mbt2018_mean": lambda: MeanScaleHyperprior(4, 6),
    "mbt2018": lambda: JointAutoregressiveHierarchicalPriors(4, 6),
    "cheng2020_anchor": lambda: Cheng2020Anchor(6),
    "cheng2020_attn": lambda: Cheng2020Attention(6),
}

# --- random decoders ---------------------------------------------------------------------


class Join(nn.Module):
    """Two branches from one map, brought together in one of the ways that decoders know."""

    KINDS = ("sum", "gate", "concat", "in place")

    def __init__(self, kind: str, width: int, a: nn.Module, b: nn.Module):
        super().__init__()
        self.kind, self.a, self.b = kind, a, b
        self.scale = nn.Parameter(torch.rand(width, 1, 1))
        self.merge = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.a(x), self.b(x)
        if self.kind == "gate":
            return a * torch.sigmoid(b)
        if self.kind == "concat":
            return self.merge(torch.cat((b, a), dim=1))
        if self.kind == "in place":
            total = kept = self.scale.exp() * a
            total += b
            F.leaky_relu(total, 0.2, inplace=True)
            return 1 - kept
        return torch.tanh(self.scale) * a + b / 2


class Enlarge(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2)


class ReluIsKept(nn.Module):
    """An activation in place changes what the shortcut adds, too."""

    def __init__(self, width: int):
        super().__init__()
        self.same, self.relu = nn.Identity(), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1
        self.relu(self.same(x))
        return x + self.conv(x)


def span(draw) -> tuple[int, int]:
    """A kernel's size and dilation."""
    return draw(st.integers(1, 5)), draw(st.integers(1, 2))


def transposed(draw, width: int) -> nn.Module:
    """ConvTranspose2d of any geometry, each axis with its own."""
    axes = []
    for _ in range(2):
        (kernel, dilation), stride = span(draw), draw(st.integers(1, 4))
        extra = draw(st.integers(0, stride - 1))
        padding = draw(st.integers(0, (dilation * (kernel - 1) + extra) // 2))
        axes.append((kernel, stride, padding, extra, dilation))
    kernel, stride, padding, extra, dilation = (tuple(pair) for pair in zip(*axes))
    return nn.ConvTranspose2d(
        width, width, kernel, stride, padding, output_padding=extra, dilation=dilation
    )


def convolution(draw, width: int) -> nn.Module:
    """Any stride; with stride 1 the map keeps its size or grows."""
    axes = []
    for _ in range(2):
        kernel, dilation = span(draw)
        half = -(-dilation * (kernel - 1) // 2)
        axes.append((kernel, draw(st.integers(1, 3)), draw(st.integers(half, half + 1)), dilation))
    return nn.Conv2d(width, width, *(tuple(pair) for pair in zip(*axes)))


def same_size(draw, width: int, depth: int = 1) -> nn.Module:
    """From a map to one of the same size: a layer, a block, or a join of two such chains."""
    kernel, dilation = span(draw)
    kinds = [
        lambda: nn.Conv2d(width, width, kernel, padding="same", dilation=dilation),
        lambda: nn.ConvTranspose2d(width, width, 3, padding=1),
        lambda: draw(st.sampled_from([nn.LeakyReLU, nn.Identity, nn.Sigmoid]))(),
        lambda: GDN(width, inverse=draw(st.booleans())),
        lambda: ReluIsKept(width),
        lambda: ResidualBlock(width, width),
        lambda: AttentionBlock(width),
    ]
    if depth:
        joined = [lambda: join(draw, width, same_size, depth - 1)] * 4
        return draw(st.sampled_from(kinds + joined))()
    return draw(st.sampled_from(kinds))()


def twice_size(draw, width: int, depth: int = 1) -> nn.Module:
    """As `same_size`, up-sampling by two in the ways of CompressAI and by nearest neighbours."""
    kinds = [
        lambda: subpel_conv3x3(width, width, 2),
        lambda: nn.ConvTranspose2d(width, width, 4, 2, 1),
        lambda: nn.ConvTranspose2d(width, width, 5, 2, 2, output_padding=1),
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)),
        lambda: nn.Sequential(Enlarge(), nn.Conv2d(width, width, 3, padding=1)),
        lambda: ResidualBlockUpsample(width, width, 2),
    ]
    if depth:
        joined = [lambda: join(draw, width, twice_size, depth - 1)] * 3
        return draw(st.sampled_from(kinds + joined))()
    return draw(st.sampled_from(kinds))()


def join(draw, width: int, branch, depth: int) -> nn.Module:
    a, b = (nn.Sequential(same_size(draw, width, 0), branch(draw, width, depth)) for _ in range(2))
    shortcut = branch is same_size and draw(st.booleans())
    return Join(draw(st.sampled_from(Join.KINDS)), width, a, nn.Identity() if shortcut else b)


def hourglass(draw, width: int) -> nn.Module:
    """Strided convolution and back, around a shortcut; on a map of even size."""
    down, up = nn.Conv2d(width, width, 3, 2, 1), nn.ConvTranspose2d(width, width, 4, 2, 1)
    body = nn.Sequential(down, same_size(draw, width, 0), up)
    return nn.Sequential(
        twice_size(draw, width, 0), Join("sum", width, body, same_size(draw, width, 0))
    )


def randomize(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Double precision, biases that are not zero, outputs near 1."""
    for layer in module.double().modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            scale = (layer.in_channels * layer.weight[0, 0].numel() / 3) ** -0.5
            nn.init.normal_(layer.weight, std=scale, generator=generator)
            nn.init.normal_(layer.bias, std=0.5, generator=generator)
    return module


@st.composite
def cases(draw):
    """A decoder of one to four random parts, latents of two sizes, and two to twelve patches of one
    size, borders and corners among them; sometimes a patch is the whole image."""
    width = draw(st.sampled_from([2, 4]))
    kinds = [transposed, convolution, convolution, same_size, twice_size, hourglass]
    parts = [kind(draw, width) for kind in draw(st.lists(st.sampled_from(kinds), max_size=3))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    decoder = nn.Sequential(*parts, draw(st.sampled_from([transposed, twice_size]))(draw, width))
    randomize(decoder, generator)
    size = (draw(st.integers(3, 8)), draw(st.integers(3, 8)))
    latents = [
        torch.randn(width, *shape, generator=generator, dtype=torch.float64).mul(3).round()
        for shape in (size, size, (size[0] + draw(st.integers(0, 2)), size[1] + 1))
    ]
    with torch.no_grad():
        images = [decoder(y_hat[None].clone())[0] for y_hat in latents]
    extent = [min(image.shape[axis] for image in images) for axis in (1, 2)]
    patch = [draw(st.sampled_from([e, draw(st.integers(1, e))])) for e in extent]
    which = draw(st.lists(st.integers(0, 2), min_size=2, max_size=12))
    corners = []
    for i in which:
        room = [images[i].shape[axis + 1] - patch[axis] for axis in (0, 1)]
        corners.append([draw(st.sampled_from([0, r, draw(st.integers(0, r))])) for r in room])
    return decoder, [latents[i] for i in which], torch.tensor(corners), tuple(patch)


# --- exact -------------------------------------------------------------------------------


def full_decode(decoder, latents, corners, size) -> torch.Tensor:
    """Decode the whole image of each patch, then cut."""
    images = {y_hat: decoder(y_hat[None].clone())[0] for y_hat in set(latents)}
    return torch.stack(
        [
            images[y_hat][:, r : r + size[0], c : c + size[1]]
            for y_hat, (r, c) in zip(latents, corners.tolist())
        ]
    )


def gradients(decoder: nn.Module, patches: torch.Tensor) -> list[torch.Tensor]:
    """Of a loss in which every pixel weighs differently."""
    weights = torch.linspace(-1, 1, patches.numel(), dtype=patches.dtype).reshape(patches.shape)
    loss = (weights * patches).sum() / patches.numel()
    parameters = list(decoder.parameters())
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


def assert_equals_full_decode(decoder, latents, corners, size) -> None:
    before = [y_hat.clone() for y_hat in latents]
    patches = PatchDecoder(decoder)(latents, corners, size)
    assert all(torch.equal(y_hat, old) for y_hat, old in zip(latents, before))
    expected = full_decode(decoder, latents, corners, size)
    assert expected.abs().max() > 1e-3
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(patches, expected, atol=1e-9 * scale, rtol=1e-9)
    for ours, theirs in zip(gradients(decoder, patches), gradients(decoder, expected)):
        torch.testing.assert_close(ours, theirs, atol=1e-9 * scale**2, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(deadline=None, max_examples=60, derandomize=True)
@given(cases())
def test_patches_and_gradients_equal_the_full_decode(case):
    """The heart of finetuning: nothing is lost by decoding only the patches."""
    assert_equals_full_decode(*case)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(deadline=None, max_examples=300, derandomize=True)
@given(cases())
def test_patches_and_gradients_of_many_more_decoders(case):
    assert_equals_full_decode(*case)


@pytest.mark.parametrize("name", ZOO)
def test_patches_of_the_real_decoders(name):
    """CompressAI's and the study's: corners, borders, an odd place."""
    generator = torch.Generator().manual_seed(0)
    decoder = randomize(ZOO[name]().g_s, generator)
    y_hat = torch.randn(6, 5, 7, generator=generator, dtype=torch.float64).mul(4).round()
    height, width = decoder(y_hat[None]).shape[-2:]
    corners = torch.tensor([[0, 0], [height - 21, width - 17], [0, 13], [19, 11]])
    assert_equals_full_decode(decoder, [y_hat] * 4, corners, (21, 17))


@pytest.mark.parametrize("size", [(45, 61), (33, 64), (40, 40)])
def test_patches_at_the_cropped_edge(codec, size):
    """The codec pads the image and crops what it decodes: the last patch of the visible image
    sees what the full decode has beyond."""
    y_hat = codec.latents(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    decoded = codec.synthesize(y_hat, *size)
    corner = torch.tensor([[size[0] - 24, size[1] - 24]])
    patch = PatchDecoder(codec.g_s)([y_hat[0]], corner, (24, 24)).clamp(0, 1)
    torch.testing.assert_close(patch, decoded[..., -24:, -24:], atol=1e-6, rtol=1e-5)


def test_decoder_follows_the_weights():
    """Traced once, it runs on what training makes of the weights."""
    decoder = ScaleHyperpriorS8(4, 6).g_s
    latents, corners = [torch.randn(6, 4, 4)], torch.tensor([[5, 6]])
    patches = PatchDecoder(decoder)
    before = patches(latents, corners, (8, 8))
    decoder.load_state_dict({k: v * 1.1 for k, v in decoder.state_dict().items()})
    after = patches(latents, corners, (8, 8))
    assert not torch.allclose(before, after)
    expected = full_decode(decoder, latents, corners, (8, 8))
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_cost_does_not_grow_with_the_image(name):
    """Of the latents, a patch in the middle takes what has a gradient to it and nothing else;
    every window is the same whatever lies around."""
    g_s = randomize(ZOO[name]().g_s, torch.Generator().manual_seed(0))
    decoder, stride = PatchDecoder(g_s), 2 ** len(decoder_layers(g_s))
    top, left = 14 * stride + 5, 13 * stride + 3
    patch = Windows(np.array([[top, left]]), np.array([16, 20]))
    (_, near), (_, far) = (decoder.plan(np.array([n, n]), patch) for n in (30, 3000))
    y_hat = torch.randn(1, 6, 30, 30, dtype=torch.float64, requires_grad=True)
    pixels = g_s(y_hat)[..., top : top + 16, left : left + 20]
    (seen,) = torch.autograd.grad(pixels.abs().sum(), y_hat)
    low, high = (f(seen.abs().sum((0, 1)).nonzero(), 0) for f in (torch.amin, torch.amax))
    latents = near[decoder.nodes[0]]
    assert latents.corners.tolist() == [low.tolist()]
    assert latents.size.tolist() == (high - low + 1).tolist()
    assert all((near[node].corners == far[node].corners).all() for node in near)
    assert all((near[node].size == far[node].size).all() for node in near)


# --- what cannot be decoded in patches ---------------------------------------------------


class Squeeze(nn.Module):
    """Weighs channels by their means over the whole map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


class LooksAtValues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.max() > 0 else -x


class Position(nn.Module):
    """Adds something that differs from place to place."""

    def __init__(self):
        super().__init__()
        self.ramp = nn.Parameter(torch.linspace(0, 1, 13))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ramp


class Reflected(nn.Conv2d):
    """A convolution only by its class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flip(-1))


NOT_LOCAL = [
    (nn.Upsample(scale_factor=2, mode="bilinear"), r"1\.1 \(Upsample\("),
    (nn.Upsample(scale_factor=1.5), r"1\.1 \(Upsample\("),
    (nn.BatchNorm2d(2), r"1\.1 \(BatchNorm2d\("),
    (nn.LayerNorm(13), r"1\.1 \(LayerNorm\("),
    (nn.Linear(13, 13), r"1\.1 \(Linear\("),
    (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), r"1\.1 \(Conv2d\("),
    (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 13, 13))), r"1\.1\.0 \(Flatten\("),
    (nn.AvgPool2d(1), r"1\.1 \(AvgPool2d\("),
    (Squeeze(), r"1\.1\.mean"),
    (Position(), r"1\.1\.\w*ramp"),
    (Reflected(2, 2, 1), r"1\.1\.flip"),
    (LooksAtValues(), r"1\.1 \(LooksAtValues\)"),
]


@pytest.mark.parametrize("layer, name", NOT_LOCAL, ids=lambda value: type(value).__name__)
def test_unsupported_layer_is_named_and_whole_images_are_decoded(layer, name):
    """Never a patch that differs from the full decode; one warning."""
    decoder = nn.Sequential(nn.ConvTranspose2d(2, 2, 3, 2), nn.Sequential(nn.ReLU(), layer)).eval()
    with pytest.raises(NotLocalError, match=f"decoder layer {name}.* cannot be decoded in patches"):
        PatchDecoder(decoder)
    with pytest.warns(UserWarning, match=f"{name}.*whole images are decoded") as warned:
        decode = patch_decoder(decoder)
    assert len(warned) == 1
    latents = [*torch.randn(2, 2, 6, 6)]
    latents.insert(1, latents[0])
    corners = torch.tensor([[0, 0], [4, 3], [9, 1]])
    patches = decode(latents, corners, (4, 5))
    torch.testing.assert_close(patches, full_decode(decoder, latents, corners, (4, 5)))


def test_decoder_of_more_than_latents_is_refused():
    class Scaled(nn.Module):
        def forward(self, y_hat, scale=None):
            return y_hat if scale is None else y_hat * scale

    with pytest.raises(NotLocalError, match="it takes more than latents"):
        PatchDecoder(Scaled())


@pytest.mark.parametrize("corner", [(-1, 0), (0, 8), (14, 0)])
@pytest.mark.parametrize("whole", [False, True])
def test_patch_outside_the_image_is_an_error(corner, whole):
    """The image is 16x16, the patch 9x9."""
    decoder = nn.Sequential(nn.ConvTranspose2d(2, 3, 4, 2, 1))
    latents, corners = [torch.randn(2, 8, 8)], torch.tensor([corner])
    with pytest.raises(ValueError, match="16x16"):
        if whole:
            decode_whole(decoder, latents, corners, (9, 9))
        else:
            PatchDecoder(decoder)(latents, corners, (9, 9))


@pytest.mark.parametrize("layer", [None, nn.LayerNorm(64)])
def test_finetuning_of_any_decoder(make_codec, scenes, task, new_run, tmp_path, layer):
    """A layer over the whole map is named once, and changes nothing but the time: the loss of the
    first step is that of the full decode."""
    codec = make_codec()
    latents = cached_latents(codec, scenes("train"), tmp_path)
    if layer:
        codec.model.g_s.append(layer)
    config = FinetuneConfig(
        steps=1, batch=2, patches=2, patch_size=24, adversarial="none", precision="float32"
    )
    with training.seeded(config.seed, 0), torch.no_grad():
        indices = training.batch_indices(0, len(latents), config.batch, config.seed)
        pairs = [(scenes("train").image(i), latents[i]) for i in indices]
        x, y_hat, corners = training.sample_patches(pairs, config, codec.device)
        expected = F.mse_loss(full_decode(codec.g_s, y_hat, corners, x.shape[-2:]), x)
    run = new_run()
    expected = pytest.approx(float(expected), rel=1e-5)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        training.finetune_decoder(codec, latents, task, scenes("train"), config, run)
    messages = [str(w.message) for w in warned if "decoder layer" in str(w.message)]
    assert len(messages) == (layer is not None)
    assert all(m.startswith("decoder layer 5 (LayerNorm((64,)") for m in messages)
    assert run.logged()["mse"][0] == expected


# --- the decoder's layers ----------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_decoder_layers_are_counted_from_the_latents(name):
    """Each up-samples by two; together they are the decoder, in its order."""
    decoder = ZOO[name]().g_s
    layers = decoder_layers(decoder)
    assert len(layers) == (3 if name == "scale_hyperprior_s8" else 4)
    assert [m for layer in layers for m in layer] == list(decoder)
    x = torch.randn(1, 6, 3, 5)
    for layer in layers:
        grown = layer(x)
        assert grown.shape[-2:] == (2 * x.shape[-2], 2 * x.shape[-1])
        x = grown


def test_layers_of_the_attention_decoder():
    """Its residual blocks hold their up-sampling inside."""
    kinds = [
        [type(m).__name__ for m in layer] for layer in decoder_layers(Cheng2020Attention(6).g_s)
    ]
    assert kinds == [
        ["AttentionBlock", "ResidualBlock", "ResidualBlockUpsample", "ResidualBlock"],
        ["ResidualBlockUpsample", "AttentionBlock", "ResidualBlock"],
        ["ResidualBlockUpsample", "ResidualBlock"],
        ["Sequential"],
    ]


def test_what_precedes_the_first_upsampling_is_the_first_layer():
    decoder = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), subpel_conv3x3(4, 4, 2), nn.ConvTranspose2d(4, 3, 2, 2)
    )
    assert [len(layer) for layer in decoder_layers(decoder)] == [3, 1]
