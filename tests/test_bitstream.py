import dataclasses
import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icmlib.codecs import Bitstream, BitstreamError
from icmlib.codecs.bitstream import MAX_PIXELS, MAX_SIDE, check_image

sizes = st.integers(1, MAX_SIDE).flatmap(
    lambda side: st.tuples(st.just(side), st.integers(1, min(MAX_SIDE, MAX_PIXELS // side)))
)
bitstreams = st.builds(
    lambda size, **fields: Bitstream(height=size[0], width=size[1], **fields),
    size=sizes,
    codec=st.binary(min_size=8, max_size=8).map(bytes.hex),
    symbols_crc=st.integers(0, 2**32 - 1),
    grey=st.booleans(),
    strings=st.lists(st.binary(max_size=40), max_size=8).map(tuple),
)
EXAMPLE = Bitstream("0123456789abcdef", 64, 96, 0xDEADBEEF, (b"y" * 11, b"", b"zz"))


def sealed(body: bytes) -> bytes:
    return body + struct.pack(">I", zlib.crc32(body))


@settings(deadline=None)
@given(bitstreams)
def test_round_trip(bitstream):
    assert Bitstream.from_bytes(bytes(bitstream)) == bitstream


def test_bytes_are_the_documented_ones():
    """By hand, field after field: the format is a promise to other decoders."""
    data = bytes(EXAMPLE)
    assert data[:12] == b"ICM1" + bytes.fromhex("0123456789abcdef")
    assert data[12:21] == bytes([0, 64, 0, 96, 0xDE, 0xAD, 0xBE, 0xEF, 3])
    assert data[21:33] == bytes([0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 2])
    assert data[33:] == sealed(data[:-4])[33:] == b"y" * 11 + b"zz" + data[-4:]
    assert bytes(dataclasses.replace(EXAMPLE, grey=True))[20] == 128 + 3
    assert (EXAMPLE.payload_bytes, EXAMPLE.total_bytes) == (13, len(data))


def damaged(data: bytes):
    """Cut short at every byte, every bit flipped, extended on both sides."""
    yield from (data[:length] for length in range(len(data)))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    yield from (data + b"\0", data + data, b"I" + data)


def test_every_damage_is_found():
    for data in damaged(bytes(EXAMPLE)):
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(data)


def changed(position: int, value: int) -> bytes:
    """The example with another byte, under a right checksum."""
    body = bytearray(bytes(EXAMPLE)[:-4])
    body[position] = value
    return sealed(bytes(body))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ICM bitstream: starts with b''"),
        (bytes(EXAMPLE)[:9], "cut short: 9 bytes"),
        (bytes(EXAMPLE)[:-1], "of 49 bytes is damaged .checksum differs.; transfer it again"),
        (changed(20, 2), "states 11 bytes of strings and holds 17"),  # strings
        (changed(20, 127), "states 127 strings, which it cannot hold"),
        (changed(24, 12), "states 14 bytes of strings and holds 13"),  # bytes of the first
        (changed(13, 0), "image is 0x96 px"),
    ],
)
def test_messages_say_what_is_wrong(data, message):
    with pytest.raises(BitstreamError, match=message):
        Bitstream.from_bytes(data)


def test_image_size_is_bounded():
    """Sixty bytes may not ask for gigabytes: the limit holds on both sides."""
    largest = dataclasses.replace(EXAMPLE, height=4096, width=8192)
    assert largest.height * largest.width == MAX_PIXELS
    assert Bitstream.from_bytes(bytes(largest)) == largest
    message = r"image is 4097x8192 px; .* 33554432 px in all .icmlib.codecs.bitstream.MAX_PIXELS"
    with pytest.raises(ValueError, match=message) as raised:
        bytes(dataclasses.replace(largest, height=4097))
    assert not isinstance(raised.value, BitstreamError)  # nothing is damaged
    body = bytearray(bytes(largest)[:-4])
    body[12:14] = struct.pack(">H", 4097)
    with pytest.raises(BitstreamError, match=message):
        Bitstream.from_bytes(sealed(bytes(body)))
    for size, error in ((1, 65536), "65535 px a side"), ((4097, 8192), message):
        with pytest.raises(ValueError, match=error):
            check_image(torch.zeros(()).expand(3, *size))
