"""Conventional codecs and post-filters behind the same encode / decode.

Anchors are made by name: `anchor("HEVC", quality=30)`. HEVC is in hevc.py, VVC in vtm.py, `anchor`
in anchors.py.
"""

import io
import math
import zlib
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import PIL
import torch
from PIL import Image, features

from icmlib.codecs import containers
from icmlib.codecs.bitstream import Bitstream, BitstreamError, check_image
from icmlib.io import UserError, fingerprint

CHROMA = ("4:4:4", "4:2:0")
cv2.setNumThreads(1)  # it has a pool of its own, beside PyTorch's threads


class NotMeasured(UserError, RuntimeError):
    """This codec cannot run here; the message says why, and what to do."""


class ConventionalCodec:
    """A codec whose bitstream is a file of its own format.

    Children write and read the file: `_write(pixels) -> bytes`, `_read(file, height, width) ->
    pixels`, pixels (H, W, 3) uint8 RGB. The file's checksum is the bitstream's `symbols_crc`, so
    that no decoder ever sees damaged bytes.

    Args:
        format: the name, e.g. "JPEG".
        options: all that decides the bits; part of the fingerprint.
        container: whether the bitstream holds the whole file, or what `containers` leaves of it.

    Attributes:
        label: format and settings, for a legend.
        facts: what a table says of the codec, name to text.
    """

    def __init__(self, format: str, options: dict, container: bool = True):
        self.format, self.options, self.container = format, options, container
        bare = {} if container else {"container": False}
        self.fingerprint = fingerprint({"format": format, **options, **bare})

    @property
    def label(self) -> str:
        settings = [f"{name} {value}" for name, value in self.options.items()]
        return ", ".join([self.format, *settings, *([] if self.container else ["no container"])])

    @property
    def facts(self) -> dict[str, str]:
        container = "counted" if self.container else "not counted"
        return {"format": self.format, "container": container} | {
            name: str(value) for name, value in self.options.items()
        }

    def encode(self, image: torch.Tensor) -> Bitstream:
        """image (3, H, W) RGB in [0, 1], rounded to 8 bits -> Bitstream; raises ValueError for
        anything else."""
        check_image(image)
        pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        file = payload = self._write(pixels)
        if not self.container:
            payload = containers.strip(self.format, file, self._flat(*pixels.shape[:2]))
        return Bitstream(self.fingerprint, *image.shape[-2:], zlib.crc32(file), (payload,))

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        """The image (3, H, W); BitstreamError: of another codec or other settings, or damaged."""
        if bitstream.codec != self.fingerprint:
            raise BitstreamError(
                f"bitstream of codec {bitstream.codec} is not {self.label} ({self.fingerprint})"
            )
        height, width = bitstream.height, bitstream.width
        try:
            pixels = self._read(self._file(bitstream), height, width)
        except BitstreamError:
            raise
        except Exception as error:  # each library has errors of its own
            raise BitstreamError(f"{self.label} cannot read its payload: {error}") from error
        if pixels.shape != (height, width, 3):
            raise BitstreamError(
                f"{self.label} decodes to {pixels.shape[0]}x{pixels.shape[1]} px; the bitstream "
                f"states {height}x{width}"
            )
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

    def container_bytes(self, height: int, width: int) -> int:
        """Bytes of a file of this size that its size and settings decide, not its picture."""
        return containers.body_at(self.format, self._flat(height, width))

    def _file(self, bitstream: Bitstream) -> bytes:
        """The whole file, as it was written."""
        if len(bitstream.strings) != 1:
            raise BitstreamError(f"{self.label} has 1 string; found {len(bitstream.strings)}")
        (file,) = bitstream.strings
        if not self.container:
            template = self._flat(bitstream.height, bitstream.width)
            file = containers.restore(self.format, file, template)
        if zlib.crc32(file) != bitstream.symbols_crc:
            raise BitstreamError(
                f"payload of {len(file)} bytes is damaged (checksum differs): transfer it again"
                + ("" if self.container else ", or decode with the encoder's library versions")
            )
        return file

    def _flat(self, height: int, width: int) -> bytes:
        return _flat_file(self, height, width)


@lru_cache(maxsize=64)
def _flat_file(codec: ConventionalCodec, height: int, width: int) -> bytes:
    return codec._write(np.full((height, width, 3), 128, np.uint8))


class PillowCodec(ConventionalCodec):
    """A still image format of Pillow with its options, e.g. `PillowCodec("JPEG", quality=50)`;
    PNG is lossless. `anchor` knows the options that make a fair one."""

    FEATURES = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "PNG": "zlib"}  # noqa: RUF012

    def __init__(self, format: str, container: bool = True, **options):
        super().__init__(format, options, container)
        if format not in self.FEATURES or not features.check(self.FEATURES[format]):
            raise NotMeasured(
                f"{format} is not measured: Pillow {PIL.__version__} was built without it; install "
                f"Pillow's own wheel, 11.3 or later (known: {', '.join(self.FEATURES)})"
            )

    @property
    def label(self) -> str:
        options = self.options | self.options.get("advanced", {})
        told = ("quality", "subsampling", "speed", "tune")
        settings = [f"{name} {options[name]}" for name in told if name in options]
        return ", ".join([self.format, *settings, *([] if self.container else ["no container"])])

    @property
    def facts(self) -> dict[str, str]:
        chroma = "RGB" if self.format == "PNG" else "4:2:0"  # Pillow's defaults
        chroma = self.options.get("subsampling", chroma)
        version = features.version(self.FEATURES[self.format])
        version = f"Pillow {PIL.__version__}, library {version}"
        return super().facts | {"chroma": chroma, "version": version}

    def _write(self, pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, self.format, **self.options)
        return buffer.getvalue()

    def _read(self, file: bytes, height: int, width: int) -> np.ndarray:
        image = Image.open(io.BytesIO(file), formats=[self.format])
        check_stated(self.format, image.size, height, width)
        return np.array(image.convert("RGB"))


def check_settings(name: str, quality: int, lowest: int, highest: int, chroma: str) -> None:
    """ValueError for a quality out of range and for an unknown chroma format."""
    if not isinstance(quality, int) or not lowest <= quality <= highest:
        raise ValueError(f"{name} quality is {quality!r}; need an integer, {lowest} to {highest}")
    if chroma not in CHROMA:
        raise ValueError(f"{name} chroma is {chroma!r}; need one of {', '.join(CHROMA)}")


def check_stated(format: str, size: tuple[int, int], height: int, width: int) -> None:
    """BitstreamError for a file whose own size (width, height) is not the stated one: to be called
    before anything of that size is made."""
    if tuple(size) != (width, height):
        raise BitstreamError(
            f"the {format} file is {size[1]}x{size[0]} px; the bitstream states {height}x{width}"
        )


class PostFiltered:
    """A codec whose decoded images pass a filter; the bits stay as they are."""

    def __init__(self, codec, filter: Callable[[np.ndarray], np.ndarray]):
        self.codec, self.filter = codec, filter

    def encode(self, image: torch.Tensor) -> Bitstream:
        return self.codec.encode(image)

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        decoded = self.codec.decode(bitstream).clamp(0, 1).permute(1, 2, 0).numpy()
        filtered = self.filter(np.ascontiguousarray(decoded))
        return torch.from_numpy(filtered).permute(2, 0, 1).clamp(0, 1)


def gaussian(codec, sigma: float) -> PostFiltered:
    """Gaussian blur of `sigma` px after decoding."""
    return PostFiltered(codec, lambda x: cv2.GaussianBlur(x, (0, 0), sigma))


def bilateral(codec, sigma: float) -> PostFiltered:
    """Bilateral filter after decoding: spatial `sigma` px, colours within 0.2, summed over the
    three channels in [0, 1] (Tomasi & Manduchi 1998)."""
    width = 2 * math.ceil(3 * sigma) + 1
    return PostFiltered(codec, lambda x: cv2.bilateralFilter(x, width, 0.2, sigma))


FILTERS = {"gaussian": gaussian, "bilateral": bilateral}
