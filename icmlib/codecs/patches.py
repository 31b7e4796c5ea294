"""Decode only what given patches need.

The decoder is traced once (`torch.fx`). For given patches its graph is walked backwards, to find
the window of each map that the patches see; then it is run forwards on those windows, each map
trimmed to its own. A window that meets the border of a map ends exactly there, so that a layer's
own zero padding is the full decode's; elsewhere the window holds all a patch sees. So the patches
equal those cut from the full decode, at a cost that does not grow with the image.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import fx, nn

from icmlib.codecs.graph import (
    POINTWISE,
    NotLocalError,
    Sampling,
    call,
    layer_name,
    node_sampling,
    trace,
    upsamples,
)

# --- windows -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """One window per patch on one map: all of the same size, each with its own corner."""

    corners: np.ndarray  # (P, 2) row and column
    size: np.ndarray  # (2,)


def union(windows: list[Windows], size: np.ndarray) -> Windows:
    """What holds all of these, on a map of this size (2,)."""
    first, *others = windows
    if all(other is first for other in others):
        return first
    low = np.min([w.corners for w in windows], 0)
    high = np.max([w.corners + w.size for w in windows], 0)
    return covering(low, high, size)


def covering(low: np.ndarray, high: np.ndarray, size: np.ndarray, step=1) -> Windows:
    """Windows of one size that hold [low, high) (P, 2), with corners at multiples of `step`. What
    is left of the map beyond the last window that fits is no whole step."""
    length = (high - low // step * step).max(0)
    length += (size - length) % step
    return Windows(np.minimum(low // step * step, size - length), length)


def input_windows(layer: Sampling, after: Windows, size: np.ndarray) -> Windows:
    """What the layer must be given to make `after`; its input map is of this size (2,)."""
    if layer is POINTWISE:
        return after
    low, high = layer.input_range(after.corners, after.corners + after.size - 1)
    low = low.clip(0, size - 1)  # one at least, where a patch sees only padding
    return covering(low, np.maximum(high.clip(max=size), low + 1), size, layer.down)


def check_inside(windows: Windows, size: np.ndarray) -> None:
    """Raises ValueError, where a window reaches beyond a map of this size (2,)."""
    low, high = windows.corners.min(0), windows.corners.max(0) + windows.size
    if (low < 0).any() or (high > size).any():
        raise ValueError(
            f"patches reach from {low.tolist()} to {high.tolist()}; "
            f"the decoded image is {size[0]}x{size[1]} px"
        )


def cut(maps: torch.Tensor | list[torch.Tensor], at: np.ndarray, size: np.ndarray) -> torch.Tensor:
    """Of each map (C, h, w) the window at its corner `at` (P, 2) -> (P, C, *size)."""
    height, width = size.tolist()
    if not at.any() and isinstance(maps, torch.Tensor) and maps.shape[-2:] == (height, width):
        return maps
    pieces = zip(maps, at.tolist())
    return torch.stack([map_[:, r : r + height, c : c + width] for map_, (r, c) in pieces])


# --- decoding ----------------------------------------------------------------------------


class PatchDecoder:
    """Patches of decoded images, equal to those cut from the full decode.

    Knows convolutions (any stride, padded with zeros), transposed and sub-pixel ones, nearest
    enlarging, GDN, activations, arithmetic between maps, and concatenation along channels,
    however the decoder connects them. Made once, it follows the decoder's weights.

    Args:
        decoder: `g_s`, from latents (B, M, h, w) to images (B, 3, H, W).

    Raises:
        NotLocalError: a layer may look at the whole map, or is unknown; the message names it.
    """

    def __init__(self, decoder: nn.Module):
        self.decoder = decoder
        self.nodes = list(trace(decoder).nodes)
        self.inputs = {}  # of each node the maps among its inputs; a constant has none
        for node in self.nodes:
            self.inputs[node] = [
                n for n in node.all_input_nodes if n.op == "placeholder" or self.inputs[n]
            ]
        self.samplings = {node: node_sampling(decoder, node) for node in self.nodes}

    def __call__(
        self, latents: list[torch.Tensor], corners: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """
        Args:
            latents: for each patch, its image's y_hat (M, h, w).
            corners: (P, 2) top and left of each patch in px.
            size: height and width of the patches in px.

        Returns:
            (P, 3, height, width), not clamped; differentiable in the decoder's weights.

        Raises:
            ValueError: a patch reaches beyond its image.
        """
        decoded, order = [], []
        for shape in dict.fromkeys(y_hat.shape for y_hat in latents):
            group = [index for index, y_hat in enumerate(latents) if y_hat.shape == shape]
            patches = Windows(corners[group].cpu().numpy(), np.array(size))
            taken, made = self.plan(np.array(shape[-2:]), patches)
            decoded.append(self._run([latents[index] for index in group], taken, made))
            order += group
        return decoded[0] if len(decoded) == 1 else torch.cat(decoded)[np.argsort(order)]

    def plan(
        self, latent_size: np.ndarray, patches: Windows
    ) -> tuple[dict[fx.Node, Windows], dict[fx.Node, Windows]]:
        """The windows that each node takes of its inputs, and those that it makes for its users."""
        latents, output = self.nodes[0], self.nodes[-1]
        sizes = {latents: latent_size}
        for node in self.nodes:
            if maps := self.inputs[node]:
                sizes[node] = self.samplings[node].output_size(sizes[maps[0]])
                if any((sizes[other] != sizes[maps[0]]).any() for other in maps[1:]):
                    raise ValueError(
                        f"decoder layer {layer_name(self.decoder, node)}: its inputs differ in size"
                    )
        check_inside(patches, sizes[output])
        taken, made, wanted = {}, {}, {node: [] for node in sizes}
        wanted[output] = [patches]
        for node in reversed(sizes):
            made[node] = union(wanted[node], sizes[node])
            if node is not latents:
                before = sizes[self.inputs[node][0]]
                taken[node] = input_windows(self.samplings[node], made[node], before)
            for source in self.inputs[node]:
                wanted[source].append(taken[node])
        return taken, made

    def _run(
        self,
        latents: list[torch.Tensor],
        taken: dict[fx.Node, Windows],
        made: dict[fx.Node, Windows],
    ) -> torch.Tensor:
        first, output = self.nodes[0], self.nodes[-1]
        values = {first: cut(latents, made[first].corners, made[first].size)}

        def fetch(source: fx.Node, node: fx.Node) -> object:
            if node not in taken or source not in made:
                return values[source]
            at = taken[node].corners - made[source].corners
            return cut(values[source], at, taken[node].size)

        for node in self.nodes[1:-1]:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), partial(fetch, node=node))
            values[node] = call(self.decoder, node, args, kwargs)
            if node in made:
                sampling = self.samplings[node]
                start = taken[node].corners * sampling.up // sampling.down
                values[node] = cut(values[node], made[node].corners - start, made[node].size)
        return fetch(output.args[0], output)


def decode_whole(
    decoder: nn.Module, latents: list[torch.Tensor], corners: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """What a PatchDecoder gives, of any decoder: whole images are decoded, then cut."""
    images = {id(y_hat): y_hat for y_hat in latents}
    images = {key: decoder(y_hat[None])[0] for key, y_hat in images.items()}
    patches = []
    for y_hat, corner in zip(latents, corners.cpu().numpy()):
        image = images[id(y_hat)]
        check_inside(Windows(corner[None], np.array(size)), np.array(image.shape[-2:]))
        patches.append(cut([image], corner[None], np.array(size)))
    return torch.cat(patches)


def patch_decoder(decoder: nn.Module) -> Callable[..., torch.Tensor]:
    """A PatchDecoder of the decoder; where it can be none, a warning that names the layer which
    prevents it, and `decode_whole`."""
    try:
        return PatchDecoder(decoder)
    except NotLocalError as error:
        warnings.warn(f"{error}; whole images are decoded, which is slow", stacklevel=2)
        return partial(decode_whole, decoder)


def decoder_layers(decoder: nn.Module) -> list[nn.Sequential]:
    """The decoder's layers counted from the latents: each an up-sampling stage with what follows
    it; what comes before the first up-sampling belongs to the first layer.

    A stage is a child of the decoder with an up-sampling layer anywhere inside it (a transposed or
    sub-pixel convolution, a residual block that holds one).
    """
    groups, upsampled = [[]], False
    for child in decoder.children():
        grows = any(upsamples(module) for module in child.modules())
        if grows and upsampled:
            groups.append([])
        upsampled |= grows
        groups[-1].append(child)
    return [nn.Sequential(*group) for group in groups]
