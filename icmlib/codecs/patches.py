"""Decode only what given patches need.

    y_hat ─ child 0 ─ map ─ child 1 ─ map ─ ... ─ image      the decoder g_s, a Sequential
    window  <───────  window  <───────  ... <───  patch

First the window of each map that the patch sees, then each child on its window alone. Windows end
at the borders of their maps, so padding is as in the full decode.
"""

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

SIDE = 16  # px, of the maps on which children are measured


class Layer(NamedTuple):
    """A child of g_s; its outputs from scale q - before to scale q + after see its input q."""

    run: nn.Module
    scale: int
    before: int
    after: int


def patch_decoder(g_s: nn.Module) -> Callable[..., Tensor]:
    """`decode(y_hats, corners, size)`: patches of decoded images, as cut from the full decode.
    `y_hats` holds the latents (M, h, w) of each patch's image, `corners` (P, 2) top and left in
    px, `size` height and width of all. Returns (P, 3, *size), not clamped. Raises ValueError: a
    patch reaches beyond its image. A decoder that cannot run on windows decodes whole images; a
    warning says why."""
    try:
        return partial(_decode_patches, _layers(g_s))
    except ValueError as error:
        warnings.warn(f"{error}; whole images are decoded, which is slow", stacklevel=2)
        return partial(decode_whole, g_s)


def decode_whole(g_s: Callable, y_hats: list[Tensor], corners: Tensor, size: tuple) -> Tensor:
    """The same by the full decode, of each image once."""
    images = {y_hat: g_s(y_hat[None])[0] for y_hat in dict.fromkeys(y_hats)}
    return _cut([images[y_hat] for y_hat in y_hats], corners, torch.tensor(size))


def decoder_layers(g_s: nn.Module) -> list[nn.Sequential]:
    """The decoder's layers, from the latents on: each is a child that upsamples and those after it;
    children before the first upsampling belong to the first layer."""
    children = list(g_s.children())
    starts = [i for i, child in enumerate(children) if any(map(_upsamples, child.modules()))]
    ends = [0, *starts[1:], len(children)]
    return [nn.Sequential(*children[a:b]) for a, b in itertools.pairwise(ends)]


def _upsamples(layer: nn.Module) -> bool:
    transposed = isinstance(layer, nn.ConvTranspose2d) and max(layer.stride) > 1
    return transposed or isinstance(layer, nn.PixelShuffle | nn.Upsample)


@torch.no_grad()
def _layers(g_s: nn.Module) -> list[Layer]:
    """Raises ValueError: the decoder cannot run on windows."""
    if type(g_s).forward is not nn.Sequential.forward:
        raise ValueError(f"decoder {type(g_s).__name__} is no nn.Sequential")
    channels = next((m.in_channels for m in g_s.modules() if hasattr(m, "in_channels")), 1)
    x = torch.arange(channels * SIDE**2).double().sin().view(1, channels, SIDE, SIDE)  # no period
    layers = []
    for index, child in enumerate(g_s):
        try:
            layer, x = _measured(copy.deepcopy(child).cpu().double(), x[..., :SIDE, :SIDE])
        except Exception as error:  # any, of any layer
            name = f"{index} ({type(child).__name__})"
            raise ValueError(f"decoder layer {name} cannot run on windows: {error}") from error
        layers.append(layer._replace(run=child))
    return layers


def _measured(child: nn.Module, x: Tensor) -> tuple[Layer, Tensor]:
    """The child as a layer, checked at borders and neighbouring places, and its output."""
    middle, marked = SIDE // 2, x.clone()
    marked[..., middle, middle] = math.nan  # which spreads to every output that sees it
    y, seen = child(x.clone()), child(marked)[0].isnan().any(0).nonzero()
    scale = y.shape[-1] // SIDE
    if y.shape[-2:] != (scale * SIDE, scale * SIDE) or not seen.all():
        raise ValueError("it sees the whole map, or does not enlarge it by a whole factor")
    before, after = middle * scale - seen.min(), seen.max() - middle * scale
    layer = Layer(child, scale, int(before), int(after))
    at = torch.tensor([0, *range(middle * scale, (middle + 1) * scale + 1), SIDE * scale - 1])
    pixels = _decode([layer], [x[0]] * len(at), at[:, None].expand(-1, 2), at.new_ones(2))
    if not (pixels[..., 0, 0] - y[0, :, at, at].T).abs().max() <= 1e-9 * y.abs().max():
        raise ValueError("its output depends on the place of the window")
    return layer, y


def _decode_patches(layers: list[Layer], y_hats: list, corners: Tensor, size: tuple) -> Tensor:
    patches = {}
    for shape in {y_hat.shape for y_hat in y_hats}:
        group = [i for i, y_hat in enumerate(y_hats) if y_hat.shape == shape]
        latents = [y_hats[i] for i in group]
        patches |= zip(group, _decode(layers, latents, corners[group], torch.tensor(size)))
    return torch.stack([patches[i] for i in range(len(y_hats))])


def _decode(layers: list[Layer], y_hats: list[Tensor], corners: Tensor, size: Tensor) -> Tensor:
    """Patches of images of one size."""
    extent = torch.tensor(y_hats[0].shape[-2:]) * math.prod(layer.scale for layer in layers)
    if (corners < 0).any() or (corners + size > extent).any():
        at, image = corners.tolist(), extent.tolist()
        raise ValueError(f"patches of {size.tolist()} px at {at} reach beyond images of {image}")
    windows = [(corners, size)]
    for layer in reversed(layers):
        extent = extent // layer.scale
        low = -((layer.after - corners) // layer.scale).clamp(max=0)
        high = (corners + size - 1 + layer.before) // layer.scale + 1
        size = (torch.minimum(high, extent) - low).amax(0)
        corners = torch.minimum(low, extent - size)
        windows.append((corners, size))
    x = _cut(y_hats, *windows.pop())
    for layer in layers:
        start = corners * layer.scale
        corners, size = windows.pop()
        x = _cut(layer.run(x), corners - start, size)
    return x


def _cut(maps: Tensor | list[Tensor], corners: Tensor, size: Tensor) -> Tensor:
    """Of each map (C, h, w) the window at its corner -> (P, C, *size)."""
    height, width = size.tolist()
    if isinstance(maps, Tensor) and maps.shape[-2:] == (height, width):
        return maps
    pieces = zip(maps, corners.tolist(), strict=True)
    return torch.stack([map_[:, r : r + height, c : c + width] for map_, (r, c) in pieces])
