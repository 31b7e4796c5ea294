"""Decode only what given patches need.

Walk the decoder backwards to find the input window of each layer, cut the latents there, run the
layers, and trim after each. A window that meets the border of a map ends exactly there, so that a
layer's own zero padding is the full decode's; elsewhere the window holds all a patch sees. So the
patches equal those cut from the full decode, at a cost that does not grow with the image.
"""

from dataclasses import dataclass

import torch
from torch import nn

POINTWISE = ("GDN", "GDN1", "ReLU", "LeakyReLU", "Identity")


@dataclass(frozen=True)
class Windows:
    """One window per patch on one map: all of the same size, each with its own corner."""

    corners: torch.Tensor  # (P, 2) row and column
    size: tuple[int, int]

    def cut(self, maps: list[torch.Tensor], offset: torch.Tensor) -> torch.Tensor:
        """maps: P tensors (C, h, w) whose top left corners lie at `offset` (P, 2)."""
        height, width = self.size
        pieces = [
            map_[:, r : r + height, c : c + width]
            for map_, (r, c) in zip(maps, (self.corners - offset).tolist())
        ]
        return torch.stack(pieces)


def flatten(decoder: nn.Module) -> list[nn.Module]:
    """The decoder as a flat list of layers, Sequentials opened."""
    if isinstance(decoder, nn.Sequential):
        return [layer for child in decoder for layer in flatten(child)]
    return [decoder]


def output_size(layer: nn.Module, size: int, axis: int) -> int:
    """Rows (axis 0) or columns (axis 1) that a layer makes of `size`."""
    if isinstance(layer, nn.ConvTranspose2d):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        grown = (size - 1) * layer.stride[axis] - 2 * layer.padding[axis]
        return grown + span + layer.output_padding[axis]
    if isinstance(layer, nn.Conv2d):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        return size + 2 * layer.padding[axis] - span
    return size * layer.upscale_factor if isinstance(layer, nn.PixelShuffle) else size


def input_range(
    layer: nn.Module, first: torch.Tensor, length: int, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The input positions [low, high) that the outputs [first, first + length) see."""
    last = first + length - 1
    if isinstance(layer, nn.ConvTranspose2d):
        stride, padding = layer.stride[axis], layer.padding[axis]
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        low = -((-(first + padding - span)) // stride)
        high = (last + padding) // stride + 1
        # run on a window, the layer must also reach from the first output to the last
        reach = stride + 2 * padding - span - layer.output_padding[axis]
        return torch.minimum(low, first // stride), torch.maximum(
            high, -(-(last + reach) // stride)
        )
    if isinstance(layer, nn.Conv2d):
        padding = layer.padding[axis]
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        return first - padding, last - padding + span + 1
    if isinstance(layer, nn.PixelShuffle):
        return first // layer.upscale_factor, last // layer.upscale_factor + 1
    return first, last + 1


def check_supported(layers: list[nn.Module]) -> None:
    """Raises ValueError naming the first layer whose patches cannot be decoded by themselves."""
    for layer in layers:
        known = isinstance(layer, nn.ConvTranspose2d | nn.PixelShuffle)
        known |= (
            isinstance(layer, nn.Conv2d)
            and layer.stride == (1, 1)
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
        )
        if not known and type(layer).__name__ not in POINTWISE:
            raise ValueError(f"decoder layer {layer} cannot be decoded in patches")


def plan(layers: list[nn.Module], latent_size: tuple[int, int], patches: Windows) -> list[Windows]:
    """The windows on each layer's input, the latents' first."""
    sizes = [latent_size]
    for layer in layers:
        sizes.append(tuple(output_size(layer, sizes[-1][axis], axis) for axis in (0, 1)))
    low, high = patches.corners.amin(0), patches.corners.amax(0) + torch.tensor(patches.size)
    if (low < 0).any() or (high > torch.tensor(sizes[-1])).any():
        raise ValueError(
            f"patches reach from {low.tolist()} to {high.tolist()}; "
            f"the decoded image is {sizes[-1][0]}x{sizes[-1][1]} px"
        )
    windows = [patches]
    for layer, size in zip(reversed(layers), reversed(sizes[:-1])):
        after, corners, extent = windows[0], [], []
        for axis in (0, 1):
            low, high = input_range(layer, after.corners[:, axis], after.size[axis], axis)
            low = low.clamp(0, size[axis] - 1)  # one at least, where a patch sees only padding
            high = torch.maximum(high.clamp(max=size[axis]), low + 1)
            length = int((high - low).max())
            corners.append(low.clamp(max=size[axis] - length))
            extent.append(length)
        windows.insert(0, Windows(torch.stack(corners, 1), tuple(extent)))
    return windows


def decode_patches(
    decoder: nn.Module, latents: list[torch.Tensor], corners: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Patches of the decoded images, equal to those cut from the full decode.

    Args:
        decoder: `g_s`, from latents to pixels.
        latents: for each patch, its image's y_hat (M, h, w); all images of the same size.
        corners: (P, 2) top and left of each patch in px.
        size: height and width of the patches in px.

    Returns:
        (P, 3, height, width), not clamped; differentiable in the decoder's weights.
    """
    layers = flatten(decoder)
    check_supported(layers)
    windows = plan(layers, tuple(latents[0].shape[-2:]), Windows(corners, size))
    x = windows[0].cut(latents, torch.zeros_like(corners))
    for layer, before, after in zip(layers, windows, windows[1:]):
        scale = _scale(layer)
        x = after.cut(list(layer(x)), before.corners * torch.tensor(scale))
    return x


def _scale(layer: nn.Module) -> tuple[int, int]:
    """Output positions per input position."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.stride
    factor = layer.upscale_factor if isinstance(layer, nn.PixelShuffle) else 1
    return factor, factor


def decoder_layers(decoder: nn.Sequential) -> list[nn.Sequential]:
    """The decoder's layers counted from the latents: each an up-sampling stage with what follows
    it; what comes before the first up-sampling belongs to the first layer."""
    groups, upsampled = [[]], False
    for module in decoder:
        grows = any(_scale(layer) != (1, 1) for layer in flatten(module))
        if grows and upsampled:
            groups.append([])
        upsampled |= grows
        groups[-1].append(module)
    return [nn.Sequential(*group) for group in groups]
