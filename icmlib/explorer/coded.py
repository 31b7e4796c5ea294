"""An image coded once, and what each decoder makes of its bits."""

import hashlib
from bisect import bisect
from functools import cached_property, lru_cache

import numpy as np
import torch

import icmlib as icm
from icmlib import device
from icmlib.codecs import Bitstream, Decoders, anchor
from icmlib.codecs.conventional import QUALITIES, ConventionalCodec
from icmlib.codecs.patches import patch_decoder
from icmlib.config import DataConfig
from icmlib.metrics import checkerboard, fidelity

ORIGINAL = "original"
ANCHORS = {"JPEG": {"container": False}, "WebP": {}, "AVIF": {"container": False}}
ROWS = 256  # px, of a strip


class CodedImage:
    """An image x (3, H, W), RGB in [0, 1], whose bits were written once: `decode` reads them with
    any decoder. Raises ValueError: too small to be coded or measured, or too large."""

    def __init__(self, decoders: Decoders, x: torch.Tensor):
        height, width = x.shape[-2:]
        self.decoders, self.x = decoders, x
        self.tile = checkerboard.tile_size([(height, width)])
        self.bitstream, self._y_hat = decoders.codec.encode_with_latents(x)
        self.file = bytes(self.bitstream)
        self.bpp = 8 * self.bitstream.payload_bytes / (height * width)
        self.sha256 = hashlib.sha256(self.file).hexdigest()

    def decode(self, to: str | float) -> torch.Tensor:
        """x_hat (3, H, W) of 8 bits; `to` and errors as of `Decoders.turn`. Only g_s runs."""
        return fidelity.to_8bit(self.synthesize(to))

    @device.exact()
    def synthesize(self, to: str | float) -> torch.Tensor:
        """As `decode`, not rounded. Large pictures are decoded in strips: gigabytes less."""
        codec, (height, width) = self.decoders.turn(to), self.x.shape[-2:]
        if height <= ROWS:
            return codec.synthesize(self._y_hat, height, width)[0].cpu()
        decode, strips = patch_decoder(codec.g_s), []
        for top in range(0, height, ROWS):
            size = (min(ROWS, height - top), width)
            strips += decode([self._y_hat[0]], torch.tensor([[top, 0]]), size).cpu()
        return torch.cat(strips, dim=1).clamp_(0, 1)

    def measure(self, x_hat: torch.Tensor) -> dict[str, float]:
        """PSNR (dB) and SSIM of a decoded image, and its pattern."""
        x, x_hat = self.x[None], x_hat[None]
        quality = {"psnr": fidelity.psnr(x, x_hat).item(), "ssim": fidelity.ssim(x, x_hat).item()}
        return quality | self.pattern(x_hat[0])

    def pattern(self, image: torch.Tensor) -> dict[str, float]:
        """LPP 2, 4, 8 (dB) and PRMS (grey levels) of an image; noisier than over a test set."""
        spectra = checkerboard.image_spectrum(image, self.tile)
        reading = checkerboard.read_pattern(checkerboard.at_lattice(spectra)[None], self.tile)
        return {name: reading[name] for name in checkerboard.HEADLINE}

    def residual_spectrum(self, x_hat: torch.Tensor) -> np.ndarray:
        """(N, N) Welch spectrum of what the codec added, mean over R, G and B."""
        residual = (x_hat - self.x).double().numpy()
        return checkerboard.welch_spectrum(residual, self.tile).mean(0)


class View:
    """The original, an anchor at equal bpp, or the picture (3, H, W) of a decoder, by name or place
    of the knob. Its readings are taken when they are first asked for. Raises as `Decoders.turn`."""

    def __init__(self, coded: CodedImage, to: str | float):
        self.coded, self.label, self.bpp = coded, str(to), coded.bpp
        if to == ORIGINAL:
            self.picture = coded.x
        elif to in ANCHORS:
            codec, bitstream = anchor_at(to, coded.bitstream.payload_bytes, coded.x)
            self.label = f"{to}, quality {codec.options['quality']}"
            self.bpp = 8 * bitstream.payload_bytes / coded.x[0].numel()
            self.picture = codec.decode(bitstream)
        else:
            self.picture = coded.decode(to)

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        from torchvision.io import encode_png  # here: `icm compare` does without

        return bytes(encode_png((255 * self.picture).round().byte(), 1).numpy())

    @cached_property
    def row(self) -> dict[str, float]:
        """Rate, fidelity and pattern; of the original the pattern alone."""
        if self.picture is self.coded.x:
            return self.coded.pattern(self.picture)
        return {"bpp": self.bpp} | self.coded.measure(self.picture)

    @cached_property
    def spectrum(self) -> np.ndarray:
        """(N, N), of what was added to the original."""
        return self.coded.residual_spectrum(self.picture)


def anchor_at(name: str, size: int, x: torch.Tensor) -> tuple[ConventionalCodec, Bitstream]:
    """The anchor whose payload of x (3, H, W) comes nearest to `size` bytes, at most, and its bits;
    where every quality takes more, that of the lowest."""
    low, high = QUALITIES[name]
    codecs = [anchor(name, quality=q, **ANCHORS[name]) for q in range(low, high + 1)]
    encode = lru_cache(lambda codec: codec.encode(x))
    fitting = bisect(codecs, size, key=lambda codec: encode(codec).payload_bytes)
    best = codecs[max(0, fitting - 1)]
    return best, encode(best)


def examples(data: DataConfig, count: int = 4) -> tuple[dict[str, torch.Tensor], list[str]]:
    """scikit-image's photographs and a few test images of a profile's data, by name; names of the
    data's classes. Dead leaves are painted here, without making the data set."""
    if data.name == "deadleaves":
        leaves = icm.datasets.deadleaves
        painted = (leaves.scene(data.seed, "test", i, data.size)[0] for i in range(count))
        images = [torch.from_numpy(each).permute(2, 0, 1) / 255 for each in painted]
        names = list(leaves.CATEGORIES)
    else:
        test = icm.datasets.create(data, "test", count)
        images = [test.image(i) for i in range(len(test))]
        names = [test.categories[i] for i in test.category_ids]
    own = icm.datasets.photographs()
    by_name = {own.path(i).stem: own.image(i) for i in range(len(own))}
    return by_name | {f"test image {i}": image for i, image in enumerate(images)}, names
