"""Learned codecs: CompressAI models behind encode / decode with real bitstreams."""

import copy
import zlib
from collections.abc import Callable
from functools import cached_property, partial
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from compressai import models
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from compressai.layers import GDN
from torch import Tensor, nn

from icmlib.codecs.bitstream import Bitstream, BitstreamError, check_image
from icmlib.codecs.rans import Tables
from icmlib.device import exact, one_thread
from icmlib.io import InputError, fingerprint

CACHED = ("fingerprint", "_tables", "_h_s")  # computed from the weights at first use
ROWS = 16  # of a map, that GDN sees at once


class LearnedCodec(nn.Module):
    """A CompressAI model as a codec: any image size, real bytes, checked symbols.

    .. code-block:: none

              ┌───┐    y     ┌───┐  z  ┌───┐ bits ┌────┐ z_hat ┌───┐
        x ──►─┤g_a├──►─┬──►──┤h_a├──►──┤ Q ├─·⋯⋯·─┤ EB ├───►───┤h_s├─┐
              └───┘    │     └───┘     └───┘      └────┘       └───┘ │ scales,
                       │               ┌───┐ bits ┌────┐             │ means
                       └───────►───────┤ Q ├─·⋯⋯·─┤ GC ├──────◄──────┘
                  ┌───┐                └───┘      └──┬─┘
        x_hat ──◄─┤g_s├────◄──── y_hat ────◄─────────┘
                  └───┘
        Q = rounded difference from EB's medians, or from the means: the symbols
        EB = Entropy bottleneck, GC = Gaussian conditional: which table codes a symbol

    In `Ballé et al. 2018 <https://arxiv.org/abs/1802.01436>`_ the means are 0; their factorized
    prior has y in the place of z. In `Minnen et al. 2018 <https://arxiv.org/abs/1809.02736>`_ h_s
    makes the means, too; in mbt2018 and cheng2020 they also depend on the y_hat before them.

    The fingerprint in the bitstream is of the entropy model: codecs that share it read each
    other's bits, each with its own encoder and decoder."""

    def __init__(self, model: models.CompressionModel):
        super().__init__()
        self.model = model
        for coder in _entropy_models(model):
            bottleneck = isinstance(coder, EntropyBottleneck)
            forward = partial(_bottleneck_forward, coder) if bottleneck else coder.forward
            coder.forward = partial(_in_float32, forward)
        for before, layer in [*pairwise(model.g_a.children()), *pairwise(model.g_s.children())]:
            if type(layer) is GDN and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
                layer.forward = partial(_gdn, layer)  # nobody else holds what it is given

    def __getstate__(self) -> dict:  # copies and other processes compute the rest again
        return {name: value for name, value in self.__dict__.items() if name not in CACHED}

    @property
    def g_s(self) -> nn.Sequential:
        """The decoder, from y_hat to x_hat."""
        return self.model.g_s

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """What can be trained apart: `encoder`, `decoder` (y_hat to x_hat), `entropy` model."""
        parts = {"encoder": [], "decoder": [], "entropy": []}
        names = {"g_a": "encoder", "h_a": "encoder", "g_s": "decoder"}
        for name, module in self.model.named_children():
            parts[names.get(name, "entropy")].append(module)
        return parts

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def with_decoder(self, weights: dict[str, Tensor]) -> "LearnedCodec":
        """Another codec with these weights in its `g_s`, which shares the memory of all others."""
        tensors = [*self.parameters(), *self.buffers()]
        other = copy.deepcopy(self, {id(tensor): tensor for tensor in tensors})  # copies none
        changed = {f"model.g_s.{name}": weight.to(self.device) for name, weight in weights.items()}
        other.load_state_dict(self.state_dict() | changed, assign=True)
        return other

    def forward(self, x: Tensor) -> dict:
        """x (B, 3, H, W) in [0, 1] -> `x_hat` (B, 3, H, W) and `likelihoods` of y and z."""
        height, width = x.shape[-2:]
        out = self.model(self.pad(x))
        return {**out, "x_hat": out["x_hat"][..., :height, :width].float()}

    def pad(self, x: Tensor) -> Tensor:
        """Repeat the last row and column up to a multiple of the model's stride."""
        (height, width), stride = x.shape[-2:], self.model.downsampling_factor
        if min(height, width) < (least := stride // 4):  # what one latent covers
            needs = f"the codec needs at least {least}x{least}"
            raise InputError(f"image is {width}x{height} px; {needs}")
        return F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")

    def train(self, mode: bool = True) -> "LearnedCodec":
        for name in CACHED:  # the weights are about to change, or just have
            self.__dict__.pop(name, None)
        return super().train(mode)

    def update(self) -> None:
        """Make the entropy coder's tables from the weights; needed after training."""
        self.model.update(force=True)
        self.train(self.training)

    @cached_property
    def fingerprint(self) -> str:
        return self.fingerprint_of("entropy")

    def fingerprint_of(self, *parts: str) -> str:
        """Of the weights and tables of some of the codec's `parts`."""
        return fingerprint(nn.ModuleList(module for part in parts for module in self.parts[part]))

    def encode(self, image: Tensor) -> Bitstream:
        """image (3, H, W) RGB in [0, 1] -> Bitstream; raises ValueError for anything else."""
        return self.encode_with_latents(image)[0]

    @exact()
    @one_thread()
    def encode_with_latents(self, image: Tensor) -> tuple[Bitstream, Tensor]:
        """As `encode`, with the y_hat (1, M, h, w) that `decode_latents` reads from the bits."""
        check_image(image)
        x = self.pad(image[None].to(self.device, torch.float32))
        symbols, indexes, y_hat = self._compress(x)
        strings = tuple(table.encode(*each) for table, *each in zip(self._tables, symbols, indexes))
        strings = strings[::-1]  # CompressAI's order: y, z
        return Bitstream(self.fingerprint, *image.shape[-2:], _crc(symbols), strings), y_hat

    @exact()
    def decode_latents(self, bitstream: Bitstream) -> Tensor:
        """Bitstream -> y_hat (1, M, h, w); BitstreamError: of another codec, or damaged."""
        if bitstream.codec != self.fingerprint:
            codecs = f"codec {bitstream.codec}, this one is {self.fingerprint}"
            raise BitstreamError(f"bitstream was written by {codecs}; load the weights it needs")
        if (held := len(bitstream.strings)) != (own := len(self._tables)):
            raise BitstreamError(f"bitstream holds {held} strings; this codec writes {own}")
        symbols, y_hat = self._decompress(bitstream)
        if _crc(symbols) != bitstream.symbols_crc:
            what = "the decoded symbols differ from the encoded ones; the payload was changed, or"
            how = "transfer it again, or decode on a device like the encoder's"
            raise BitstreamError(f"{what} this device computes other probabilities: {how}")
        return y_hat

    @exact()
    def decode(self, bitstream: Bitstream) -> Tensor:
        """Bitstream -> image (3, H, W) RGB in [0, 1], not yet rounded to 8 bits; raises as
        `decode_latents`, and where made-up latents overflow the decoder."""
        y_hat = self.decode_latents(bitstream)
        image = self.synthesize(y_hat, bitstream.height, bitstream.width)[0].cpu()
        if image.isnan().any():  # infinite values are clamped
            raise BitstreamError(f"latents up to {y_hat.abs().max():.3g} decode to no picture")
        return image

    def synthesize(self, y_hat: Tensor, height: int, width: int) -> Tensor:
        """y_hat (B, M, h, w) -> images (B, 3, height, width), clamped to [0, 1]."""
        return self.g_s(y_hat)[..., :height, :width].clamp(0, 1)

    @exact()
    @one_thread()
    def latents(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> y_hat (B, M, h, w), as the decoder sees it."""
        return self._compress(self.pad(x.to(self.device)))[-1]

    def _compress(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """x (B, 3, H, W) -> the symbols of z and y, the indexes of their tables, y_hat."""
        model = self.model
        y = z = model.g_a(x)  # (B, M, h, w)
        if not isinstance(model, models.FactorizedPrior):
            z = model.h_a(y if isinstance(model, models.MeanScaleHyperprior) else y.abs())
        medians, z_indexes = self._bottleneck(z.shape)
        z_symbols = (z - medians).round().int()  # (B, N, h/4, w/4)
        z_hat = z_symbols + medians
        if z is y:
            return [z_symbols], [z_indexes], z_hat
        symbols, indexes, y_hat = self._conditional(
            z_hat, lambda at, means, indexes: (y[at] - means).round().int()
        )
        return [z_symbols, symbols], [z_indexes, indexes], y_hat

    def _decompress(self, bitstream: Bitstream) -> tuple[list[Tensor], Tensor]:
        """The strings of y and z -> the symbols of z and y, y_hat (1, M, h, w)."""
        stride, N = self.model.downsampling_factor, self.model.entropy_bottleneck.channels
        height, width = -(-bitstream.height // stride), -(-bitstream.width // stride)
        medians, indexes = self._bottleneck((1, N, height, width))
        z_symbols = self._tables[0].reader(bitstream.strings[-1], indexes.numel())(indexes)
        z_hat = z_symbols + medians
        if len(self._tables) == 1:  # the factorized prior
            return [z_symbols], z_hat
        count = self.model.M * 4 * height * 4 * width
        read = self._tables[1].reader(bitstream.strings[0], count)
        symbols, _, y_hat = self._conditional(z_hat, lambda at, means, indexes: read(indexes))
        return [z_symbols, symbols], y_hat

    def _bottleneck(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Medians (N, 1, 1), and the index of each symbol's table: its channel."""
        indexes = torch.arange(shape[1], device=self.device)[:, None, None]
        return self.model.entropy_bottleneck.quantiles[:, :, 1:2], indexes.expand(shape)

    def _conditional(self, z_hat: Tensor, symbols_at: Callable) -> tuple[Tensor, Tensor, Tensor]:
        """z_hat -> y's symbols, the indexes of their tables, y_hat (B, M, h, w). `symbols_at(place,
        means, indexes)` are the sender's rounded latents, or what the receiver reads."""
        params = self._h_s.to(z_hat.device)(z_hat.double()).to(z_hat.dtype)
        if isinstance(self.model, models.JointAutoregressiveHierarchicalPriors):
            return self._autoregressive(params, symbols_at)
        scales, means = params, params.new_zeros(())
        if isinstance(self.model, models.MeanScaleHyperprior):
            scales, means = params.chunk(2, 1)
        indexes = self.table_indexes(scales)
        symbols = symbols_at(..., means, indexes)
        return symbols, indexes, symbols + means

    def _autoregressive(self, params: Tensor, symbols_at: Callable):
        """As `_conditional`, place by place: symbols and indexes are (h w, B, M, 1, 1)."""
        context, coded = self.model.context_prediction, []
        weight, (height, width) = context.weight * context.mask, params.shape[-2:]
        y_hat = params.new_zeros(len(params), self.model.M, height + 4, width + 4)
        for row, column in product(range(height), range(width)):
            at = (..., slice(row, row + 1), slice(column, column + 1))
            seen = y_hat[..., row : row + 5, column : column + 5]
            known = torch.cat((params[at], F.conv2d(seen, weight, context.bias)), 1)
            scales, means = self.model.entropy_parameters(known).chunk(2, 1)
            indexes = self.table_indexes(scales)
            coded.append((symbols_at(at, means, indexes), indexes))
            seen[..., 2:3, 2:3] = coded[-1][0] + means
        return *map(torch.stack, zip(*coded)), y_hat[..., 2:-2, 2:-2]

    @cached_property
    def _h_s(self) -> nn.Module:
        """In float64: rounded from there, scales and means are the same on any processor. In
        float32, AVX2 could not read 6 of 12 photographs written with AVX-512."""
        return copy.deepcopy(self.model.h_s).double()

    def table_indexes(self, scales: Tensor) -> Tensor:
        """Which table each scale is coded with: CompressAI's `build_indexes` as a binary search."""
        coder = self.model.gaussian_conditional
        scales = coder.lower_bound_scale(scales).contiguous()
        return torch.bucketize(scales, coder.scale_table[:-1], out_int32=True)

    @cached_property
    def _tables(self) -> list[Tables]:
        return [Tables(coder) for coder in _entropy_models(self.model)]  # of z, then of y


def _entropy_models(model: models.CompressionModel) -> list[EntropyModel]:
    return [module for module in model.modules() if isinstance(module, EntropyModel)]


def _bottleneck_forward(coder: EntropyBottleneck, z: Tensor) -> tuple[Tensor, Tensor]:
    """As CompressAI's, z (B, N, h, w) -> z_hat, likelihoods; that one often waits for the GPU."""
    by_channel = z.transpose(0, 1).contiguous()
    mode = "noise" if coder.training else "dequantize"
    z_hat = coder.quantize(by_channel.flatten(1)[:, None], mode, coder._get_medians())
    likelihood = coder.likelihood_lower_bound(coder._likelihood(z_hat)[0])
    both = (each.reshape(by_channel.shape).transpose(0, 1) for each in (z_hat, likelihood))
    return tuple(each.contiguous() for each in both)


def _gdn(layer: GDN, x: Tensor) -> Tensor:
    """As CompressAI's, x (B, N, h, w). Without gradients a few rows at a time and in place: a map
    of a large photograph has a gigabyte, and five of them do not fit."""
    if torch.is_grad_enabled():
        return GDN.forward(layer, x)
    for rows in x.split(ROWS, dim=2):
        rows.copy_(GDN.forward(layer, rows))
    return x


def _in_float32(forward, *inputs: Tensor, **options):
    """An entropy model's forward outside of autocast: likelihoods need the precision."""
    inputs = [x.float() for x in inputs]
    options = {k: v.float() if isinstance(v, Tensor) else v for k, v in options.items()}
    with torch.autocast(inputs[0].device.type, enabled=False):
        return forward(*inputs, **options)


def _crc(symbols: list[Tensor]) -> int:
    """CRC-32 of integer symbols, independent of how they were cut into tensors."""
    return zlib.crc32(torch.cat([each.flatten() for each in symbols]).cpu().numpy().tobytes())
