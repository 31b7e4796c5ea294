"""Learned codecs: CompressAI models behind encode / decode with real bitstreams."""

import contextlib
import copy
import zlib
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyModel, GaussianConditional
from compressai.layers import GDN
from compressai.models import (
    CompressionModel,
    JointAutoregressiveHierarchicalPriors,
    ScaleHyperprior,
)
from compressai.models.utils import conv, deconv
from torch import nn

from icmlib import performance
from icmlib.codecs import rans
from icmlib.codecs.bitstream import Bitstream, BitstreamError, check_image
from icmlib.io import fingerprint, load_weights

# entropy coder tables: their size depends on the training
TABLES = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")


class ScaleHyperpriorS8(ScaleHyperprior):
    """The scale hyperprior (Ballé et al. 2018) with three stages in place of four.

    .. code-block:: none

        x ─ g_a ─ y ─┬──── Q ──── y_hat ─ g_s ─ x_hat     y: stride 8, M channels
                     h_a ─ z ─ Q ─ h_s ─ scales           z: stride 32, N channels

    Stride 8 suits scenes of about 128x128, where stride 16 needs ten times the training. The
    decoder upsamples with ConvTranspose2d(k=5, s=2): a kernel that its stride does not divide
    covers pixels unevenly, which is where checkerboards come from (Odena et al. 2016).
    """

    def __init__(self, N: int, M: int):
        super().__init__(N, M)
        self.g_a = nn.Sequential(conv(3, N), GDN(N), conv(N, N), GDN(N), conv(N, M))
        self.g_s = nn.Sequential(
            deconv(M, N), GDN(N, inverse=True), deconv(N, N), GDN(N, inverse=True), deconv(N, 3)
        )

    @property
    def downsampling_factor(self) -> int:
        return 32


class LearnedCodec(nn.Module):
    """A CompressAI model as a codec: any image size, real bytes, checked symbols.

    The fingerprint in the bitstream is of the entropy model, on which sender and receiver must
    agree: codecs that share it read each other's bits, each with its own encoder and decoder.
    """

    def __init__(self, model: CompressionModel):
        super().__init__()
        self.model = model
        self._fingerprint = None
        self._make_safe()
        for coder in self._entropy_models():
            coder.forward = partial(in_float32, coder.forward)
            if isinstance(coder, GaussianConditional):
                coder.build_indexes = partial(scale_indexes, coder)
        if isinstance(model, JointAutoregressiveHierarchicalPriors):
            model._decompress_ar = partial(
                rans.decompress_autoregressive, model.gaussian_conditional, model._decompress_ar
            )

    def _make_safe(self) -> None:
        for coder in self._entropy_models():
            coder.entropy_coder = rans.SafeCoder(coder.entropy_coder)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._make_safe()  # copied or pickled, CompressAI's models make their coder anew

    @property
    def g_s(self) -> nn.Sequential:
        """The decoder, from y_hat to x_hat."""
        return self.model.g_s

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """What can be trained apart: the `encoder` (all that only the sender runs), the `decoder`
        (from y_hat to x_hat), and the `entropy` model, on which both sides must agree."""
        parts = {"encoder": [], "decoder": [], "entropy": []}
        names = {"g_a": "encoder", "h_a": "encoder", "g_s": "decoder"}
        for name, module in self.model.named_children():
            parts[names.get(name, "entropy")].append(module)
        return parts

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def min_size(self) -> int:
        """Smallest height and width in px: what one latent covers."""
        return self.model.downsampling_factor // 4

    # --- training ------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "LearnedCodec":
        self._fingerprint = None  # the weights are about to change, or just have
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> dict:
        """x (B, 3, H, W) in [0, 1] -> `x_hat` (B, 3, H, W) and `likelihoods` of y and z."""
        height, width = x.shape[-2:]
        out = self.model(self.pad(x))
        return {**out, "x_hat": out["x_hat"][..., :height, :width].float()}

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat the last row and column up to a multiple of the model's stride."""
        height, width = x.shape[-2:]
        if min(height, width) < self.min_size:
            raise ValueError(
                f"image is {height}x{width} px; the codec needs at least "
                f"{self.min_size}x{self.min_size}"
            )
        stride = self.model.downsampling_factor
        return F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")

    def update(self) -> None:
        """Make the entropy coder's tables from the weights; needed after training."""
        self.model.update(force=True)
        self._fingerprint = None

    def load(self, path: str | Path) -> None:
        """Weights and tables from safetensors; raises as `icmlib.runs.load_weights`."""
        load_weights(self, path, resizable=TABLES)
        self._fingerprint = None

    # --- image <-> bits ------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self.fingerprint_of("entropy")
        return self._fingerprint

    def fingerprint_of(self, *parts: str) -> str:
        """Of the weights and tables of some of the codec's `parts`."""
        modules = nn.ModuleList(module for part in parts for module in self.parts[part])
        return fingerprint(modules)

    @torch.no_grad()
    @performance.exact()
    def encode(self, image: torch.Tensor) -> Bitstream:
        """image (3, H, W) RGB in [0, 1] -> Bitstream; raises ValueError for anything else."""
        check_image(image)
        with self._agreeing(), self._recorded("quantize") as symbols:
            coded = self.model.compress(self.pad(image[None].to(self.device)))
        strings = tuple(string[0] for string in coded["strings"])
        return Bitstream(self.fingerprint, *image.shape[-2:], _crc(symbols), strings)

    @torch.no_grad()
    @performance.exact()
    def decode_latents(self, bitstream: Bitstream) -> torch.Tensor:
        """Bitstream -> y_hat (1, M, h, w).

        Raises:
            BitstreamError: written by another codec, made up, or its symbols do not decode as
                encoded.
        """
        if bitstream.codec != self.fingerprint:
            raise BitstreamError(
                f"bitstream was written by codec {bitstream.codec}, this one is "
                f"{self.fingerprint}; load the weights it was written with"
            )
        held, written = len(bitstream.strings), len(self._entropy_models())
        if held != written:
            raise BitstreamError(f"bitstream holds {held} strings; this codec writes {written}")
        stride = self.model.downsampling_factor
        shape = (-(-bitstream.height // stride), -(-bitstream.width // stride))  # of z
        strings = [[string] for string in bitstream.strings]
        with self._without_synthesis() as seen, self._recorded("dequantize") as symbols:
            with self._agreeing():
                self.model.decompress(strings, shape)
        if _crc(symbols) != bitstream.symbols_crc:
            raise BitstreamError(
                "the decoded symbols differ from the encoded ones: the payload was changed, or "
                "this machine computes other probabilities than the encoder's; decode on a device "
                "of its kind"
            )
        if not seen.latents.isfinite().all():
            raise BitstreamError("the symbols decode to latents that are not finite")
        return seen.latents

    @torch.no_grad()
    @performance.exact()
    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        """Bitstream -> image (3, H, W) RGB in [0, 1], not yet rounded to 8 bits; raises as
        `decode_latents`, and where the latents are too large for the decoder."""
        y_hat = self.decode_latents(bitstream)
        image = self.synthesize(y_hat, bitstream.height, bitstream.width)[0].cpu()
        if image.isnan().any():  # infinite, it is clamped
            raise BitstreamError(f"latents up to {y_hat.abs().max():.3g} decode to no picture")
        return image

    def synthesize(self, y_hat: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """y_hat (B, M, h, w) -> images (B, 3, height, width), clamped to [0, 1]."""
        return self.g_s(y_hat)[..., :height, :width].clamp(0, 1)

    @torch.no_grad()
    @performance.exact()
    def latents(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, 3, H, W) -> y_hat (B, M, h, w), what the decoder would see (for autoregressive
        models after `update`: their y_hat is known only once it is coded)."""
        if isinstance(self.model, JointAutoregressiveHierarchicalPriors):
            return torch.cat([self._latents_as_coded(image[None]) for image in x])
        with self._agreeing(), self._without_synthesis() as seen:
            self.eval().model(self.pad(x.to(self.device)))
        return seen.latents

    def _latents_as_coded(self, x: torch.Tensor) -> torch.Tensor:
        """x (1, 3, H, W) -> y_hat (1, M, h, w) of an autoregressive model: its encoder has to make
        it, position by position, and is several times faster than its decoder."""
        coder, x, made = self.model.gaussian_conditional, self.pad(x.to(self.device)), []

        def keep(quantize, y, mode, means):
            symbols = quantize(y, mode, means)
            made.append(symbols + means)  # (1, M), as the decoder adds them
            return symbols

        coder.quantize = partial(keep, coder.quantize)
        try:
            with self._agreeing():
                self.model.compress(x)
        finally:
            del coder.quantize
        height, width = (extent // self.min_size for extent in x.shape[-2:])
        return torch.stack(made, -1).unflatten(-1, (height, width))

    @contextlib.contextmanager
    def _without_synthesis(self):
        """Inside, the model stops at y_hat: `g_s` only keeps what it is given."""
        g_s, self.model.g_s = self.model.g_s, _Keep()
        try:
            yield self.model.g_s
        finally:
            self.model.g_s = g_s

    @contextlib.contextmanager
    def _agreeing(self):
        """Inside, h_s, on whose output sender and receiver must agree, is computed in float64 and
        then rounded: the same float32 numbers on processors that add in different orders, where
        float32 arithmetic differs in the last bits, and a symbol's table now and then: of 12
        photographs written with AVX-512, 6 could not be read with AVX2. (The context models of
        mbt2018 and cheng2020 stay in float32: there the checksum finds it.)"""
        h_s = getattr(self.model, "h_s", None)
        if h_s is not None:
            self.model.h_s = _InFloat64(h_s)
        try:
            yield
        finally:
            if h_s is not None:
                self.model.h_s = h_s

    def _entropy_models(self) -> list[EntropyModel]:
        return [module for module in self.model.modules() if isinstance(module, EntropyModel)]

    @contextlib.contextmanager
    def _recorded(self, method: str):
        """Inside, the integer symbols of all entropy models are kept in the order of coding: what
        `quantize` makes (the encoder's), or what `dequantize` is given (the decoder's)."""
        symbols = []

        def keep(original, inputs, *args, **kwargs):
            given = inputs.clone()  # CompressAI adds the means in place
            outputs = original(inputs, *args, **kwargs)
            symbols.append(outputs if method == "quantize" else given)
            return outputs

        coders = self._entropy_models()
        for coder in coders:
            setattr(coder, method, partial(keep, getattr(coder, method)))
        try:
            yield symbols
        finally:
            for coder in coders:
                delattr(coder, method)


def scale_indexes(coder: GaussianConditional, scales: torch.Tensor) -> torch.Tensor:
    """Which table each scale is coded with: what `build_indexes` counts in a loop over the scale
    table, by one binary search."""
    scales = coder.lower_bound_scale(scales)
    return torch.bucketize(scales, coder.scale_table[:-1], out_int32=True)


def in_float32(forward, *inputs: torch.Tensor, **options):
    """An entropy model's forward outside of autocast: likelihoods need the precision."""
    inputs = [x.float() for x in inputs]
    options = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    with torch.autocast(inputs[0].device.type, enabled=False):
        return forward(*inputs, **options)


class _InFloat64(nn.Module):
    """A float64 copy of a module, from float32 to float32."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.double()).to(x.dtype)


class _Keep(nn.Module):
    latents: torch.Tensor

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        self.latents = y_hat
        return y_hat.new_zeros(1)


def _crc(symbols: list[torch.Tensor]) -> int:
    """CRC-32 of integer symbols, independent of how they were cut into tensors."""
    flat = torch.cat([each.flatten() for each in symbols]).to(torch.int32)
    return zlib.crc32(flat.cpu().numpy().tobytes())
