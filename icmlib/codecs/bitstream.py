"""The file format: a small header, the entropy-coded strings, and two checksums.

    magic "ICM1" | codec 8 B | height, width 2 B each | crc of the symbols 4 B
    | number of strings 1 B | their lengths 4 B each | strings | crc of all before 4 B

The last checksum finds damage before anything is decoded. The one over the decoded symbols finds
a decoder that computes other probabilities than the encoder did (another machine, say): an error,
never a garbage picture.
"""

import struct
import zlib
from dataclasses import dataclass

import torch

from icmlib.io import InputError

MAGIC = b"ICM1"
HEADER = struct.Struct(">4s8sHHIB")
LENGTH = CRC = struct.Struct(">I")
MAX_STRINGS = 8
MAX_SIDE = 65535  # px
MAX_PIXELS = 2**25  # a little over 8K UHD; who trusts the senders may set `bitstream.MAX_PIXELS`


class BitstreamError(InputError):
    """The bitstream is damaged, or is not for this codec."""


@dataclass(frozen=True)
class Bitstream:
    """One coded image.

    Attributes:
        codec: fingerprint of the codec that wrote it, 16 hex digits.
        height, width: size of the image in px.
        symbols_crc: CRC-32 of the symbols that a right decoder sees.
        strings: the entropy-coded payload.
    """

    codec: str
    height: int
    width: int
    symbols_crc: int
    strings: tuple[bytes, ...]

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.strings))

    @property
    def total_bytes(self) -> int:
        return len(bytes(self))

    def __bytes__(self) -> bytes:
        check_size(self.height, self.width)
        fields = (MAGIC, bytes.fromhex(self.codec), self.height, self.width, self.symbols_crc)
        head = HEADER.pack(*fields, len(self.strings))
        lengths = b"".join(LENGTH.pack(len(string)) for string in self.strings)
        body = head + lengths + b"".join(self.strings)
        return body + CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Bitstream":
        """Raises BitstreamError: not a bitstream, cut short, extended, any bit flipped, or of an
        image of more than `MAX_PIXELS`."""
        if data[: len(MAGIC)] != MAGIC:
            raise BitstreamError(f"not an ICM bitstream: starts with {bytes(data[:4])!r}")
        if len(data) < HEADER.size + CRC.size:
            raise BitstreamError(f"bitstream is cut short: {len(data)} bytes")
        body, (crc,) = data[: -CRC.size], CRC.unpack(data[-CRC.size :])
        if zlib.crc32(body) != crc:
            raise BitstreamError(
                f"bitstream of {len(data)} bytes is damaged (checksum differs); transfer it again"
            )
        _, codec, height, width, symbols_crc, count = HEADER.unpack_from(body)
        strings_at = HEADER.size + count * LENGTH.size
        if not height or not width:
            raise BitstreamError(f"bitstream states an image of {height}x{width} px")
        check_size(height, width, BitstreamError)
        if count > MAX_STRINGS or strings_at > len(body):
            raise BitstreamError(f"bitstream states {count} strings, which it cannot hold")
        lengths = [LENGTH.unpack_from(body, HEADER.size + i * LENGTH.size)[0] for i in range(count)]
        if strings_at + sum(lengths) != len(body):
            raise BitstreamError(
                f"bitstream states {sum(lengths)} bytes of strings and holds "
                f"{len(body) - strings_at}"
            )
        strings = []
        for length in lengths:
            strings.append(body[strings_at : strings_at + length])
            strings_at += length
        return cls(codec.hex(), height, width, symbols_crc, tuple(strings))


def check_size(height: int, width: int, error: type[InputError] = InputError) -> None:
    """Raises `error` for an image that no bitstream holds: sixty bytes may state any size, and
    whoever decodes them has to have the memory."""
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise error(
            f"image is {height}x{width} px; a bitstream holds up to {MAX_SIDE} px a side and "
            f"{MAX_PIXELS} px in all (icmlib.codecs.bitstream.MAX_PIXELS)"
        )


def check_image(image: torch.Tensor) -> None:
    """Raises ValueError for what is no image (3, H, W) of floats in [0, 1], and for one too large;
    NaN is none (a range coder would never come to its end)."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(
            f"image is {tuple(image.shape)} of {image.dtype}; need (3, H, W) of floats in [0, 1]"
        )
    check_size(*image.shape[1:])
    low, high = (value.item() for value in image.aminmax())
    if not (low >= 0 and high <= 1):  # so phrased, NaN fails too
        raise ValueError(f"image runs from {low:.4g} to {high:.4g}; need [0, 1]")
