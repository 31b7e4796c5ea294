"""The file format: a small header, the entropy-coded strings, and two checksums.

    magic "ICM1" | codec 8 B | height, width 2 B each | crc of the symbols 4 B
    | number of strings 1 B, and in its upper bit whether the image is grey | their lengths 4 B each
    | strings | crc of all before 4 B

The last checksum finds damage before anything is decoded. The one over the symbols finds a decoder
that computes other probabilities than the encoder (on another machine, say).
"""

import struct
import zlib
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from icmlib.io import InputError

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"ICM1"
HEADER = struct.Struct(">4s8sHHIB")
GREY = 128  # beside the number of strings, where older files have 0
CRC_BYTES = 4
MAX_SIDE = 65535  # px
MAX_PIXELS = 2**25  # a little over 8K UHD; raise `bitstream.MAX_PIXELS` for trusted senders


class BitstreamError(InputError):
    """The bitstream is damaged, or is not for this codec."""


@dataclass(frozen=True)
class Bitstream:
    """One coded image."""

    codec: str  # fingerprint of the codec that wrote it, 16 hex digits
    height: int  # of the image, px
    width: int
    symbols_crc: int  # CRC-32 of the encoder's symbols
    strings: tuple[bytes, ...]  # the entropy-coded payload
    grey: bool = False  # whether the image was; its file is decoded to a grey-scale one

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.strings))

    @property
    def total_bytes(self) -> int:
        return len(bytes(self))

    def __bytes__(self) -> bytes:
        check_size(self.height, self.width)
        fields = (MAGIC, bytes.fromhex(self.codec), self.height, self.width, self.symbols_crc)
        lengths = struct.pack(f">{len(self.strings)}I", *map(len, self.strings))
        count = len(self.strings) | GREY * self.grey
        body = HEADER.pack(*fields, count) + lengths + b"".join(self.strings)
        return body + zlib.crc32(body).to_bytes(CRC_BYTES)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Bitstream":
        """Raises BitstreamError: not a bitstream, damaged, or of more than `MAX_PIXELS`."""
        if data[: len(MAGIC)] != MAGIC:
            raise BitstreamError(f"not an ICM bitstream: starts with {bytes(data[:4])!r}")
        if len(data) < HEADER.size + CRC_BYTES:
            raise BitstreamError(f"bitstream is cut short: {len(data)} bytes")
        body = data[:-CRC_BYTES]
        if zlib.crc32(body).to_bytes(CRC_BYTES) != data[-CRC_BYTES:]:
            what = f"bitstream of {len(data)} bytes is damaged"
            raise BitstreamError(f"{what} (checksum differs); transfer it again")
        _, codec, height, width, symbols_crc, count = HEADER.unpack_from(body)
        grey, count = bool(count & GREY), count & ~GREY
        check_size(height, width, BitstreamError)
        start = HEADER.size + 4 * count
        if start > len(body):
            raise BitstreamError(f"bitstream states {count} strings, which it cannot hold")
        ends = [*accumulate(struct.unpack_from(f">{count}I", body, HEADER.size), initial=start)]
        if ends[-1] != len(body):
            stated, held = ends[-1] - start, len(body) - start
            raise BitstreamError(f"bitstream states {stated} bytes of strings and holds {held}")
        strings = tuple(body[a:b] for a, b in pairwise(ends))
        return cls(codec.hex(), height, width, symbols_crc, strings, grey)


def check_size(height: int, width: int, error: type[InputError] = InputError) -> None:
    """Raises `error` for an image that no bitstream holds: the decoder needs memory for it."""
    if not 0 < min(height, width) <= max(height, width) <= MAX_SIDE or height * width > MAX_PIXELS:
        limits = f"1 to {MAX_SIDE} px a side and up to {MAX_PIXELS} px in all"
        where = "icmlib.codecs.bitstream.MAX_PIXELS"
        raise error(f"image is {height}x{width} px; a bitstream holds {limits} ({where})")


def check_image(image: "Tensor") -> None:
    """Raises ValueError: no image (3, H, W) of floats in [0, 1], or one too large."""
    from icmlib.metrics.fidelity import check_range  # here: a header is read without PyTorch

    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        what = f"{tuple(image.shape)} of {image.dtype}"
        raise InputError(f"image is {what}; need (3, H, W) of floats in [0, 1]")
    check_size(*image.shape[1:])
    check_range("image", image)
