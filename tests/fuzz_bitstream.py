"""Bitstreams from strangers, coverage-guided; not collected by pytest. By hand, with atheris:

    pip install atheris
    python tests/fuzz_bitstream.py tests/fuzz_corpus -max_total_time=600

A stranger computes right checksums, so the mutations do, too, half of the time. What is found is
kept in tests/fuzz_corpus, which tests/test_fuzz.py replays. New files of libFuzzer's own corpus go
to the first folder named: name an empty one before it.
"""

import dataclasses
import random
import sys
import zlib
from functools import cache
from unittest import mock

import torch

from icmlib.codecs import Bitstream, BitstreamError, PillowCodec, anchor, learned
from icmlib.codecs.bitstream import CRC, HEADER, LENGTH, MAGIC, MAX_STRINGS

CODECS = ("scale_hyperprior_s8", "mbt2018", "PNG", "JPEG", "WebP", "AVIF", "HEVC", "JPEG body")
LEARNED = CODECS[:2]
LARGEST = 64 * 64  # px that are decoded; larger images are only parsed


@cache
def codec(name: str):
    from conftest import tiny_codec

    if name in LEARNED:
        return tiny_codec(name=name)
    if name == "PNG":
        return PillowCodec("PNG")
    format, *body = name.split()
    return anchor(format, quality=50, **({"container": False} if body else {}))


def check(data: bytes) -> str:
    """Parse and decode: what comes of it, in a word. Any error but BitstreamError is a finding, as
    is a picture that is none."""
    try:
        bitstream = Bitstream.from_bytes(data)
    except BitstreamError:
        return "refused"
    assert bytes(bitstream) == data
    if bitstream.height * bitstream.width > LARGEST:
        return "large"
    name = CODECS[bytes.fromhex(bitstream.codec)[0] % len(CODECS)]  # whatever weights these are
    return decoded(name, dataclasses.replace(bitstream, codec=codec(name).fingerprint))


def decoded(name: str, bitstream: Bitstream) -> str:
    """As it is, and then with the checksum that fits what is decoded."""
    for attempt in ("as stated", "forged"):
        if attempt == "forged":
            bitstream = dataclasses.replace(bitstream, symbols_crc=right_crc(name, bitstream))
        try:
            with mock.patch.object(learned, "_crc", wraps=learned._crc) as crc:
                picture = codec(name).decode(bitstream)
        except BitstreamError:
            continue
        if name in LEARNED:
            assert learned._crc(*crc.call_args.args) == bitstream.symbols_crc
        assert picture.shape == (3, bitstream.height, bitstream.width)
        assert picture.isfinite().all() and 0 <= picture.min() and picture.max() <= 1
        return attempt
    return "no picture"


def right_crc(name: str, bitstream: Bitstream) -> int:
    """Of the file, or of the symbols that the strings decode to; 0 where they do not."""
    if name not in LEARNED:
        return zlib.crc32(bitstream.strings[0] if bitstream.strings else b"")
    with mock.patch.object(learned, "_crc", wraps=learned._crc) as crc:
        try:
            codec(name).decode_latents(bitstream)
        except BitstreamError:
            pass
    return learned._crc(*crc.call_args.args) if crc.call_args else 0


# --- mutations ---------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random, mutate, max_size: int = 1000) -> bytes:
    """Half of the time the bytes; else one string or the header, under a right checksum."""
    body = bytes(data[: -CRC.size])
    if rng.random() < 0.5 or len(body) < HEADER.size:
        changed = mutate(bytes(data), max_size)
        return sealed(changed[: -CRC.size]) if rng.random() < 0.5 else changed
    head = list(HEADER.unpack_from(body))
    strings = _strings(body, head[-1])
    choice = rng.randrange(4)
    if choice == 0 or not strings:
        head[1:5] = HEADER.unpack(MAGIC + mutate(body[4:20], 16)[:16].ljust(16, b"\1") + b"\0")[1:5]
    elif choice == 1:
        head[2], head[3] = rng.randint(1, 64), rng.randint(1, 64)
    else:
        index = rng.randrange(len(strings))
        strings[index] = mutate(strings[index] or b"\0", max_size // 2)
        if rng.random() < 0.7:  # as the entropy decoder needs it
            strings[index] = strings[index][: len(strings[index]) // 4 * 4]
    lengths = b"".join(LENGTH.pack(len(string)) for string in strings)
    return sealed(HEADER.pack(*head[:5], len(strings)) + lengths + b"".join(strings))


def _strings(body: bytes, count: int) -> list[bytes]:
    at = HEADER.size + LENGTH.size * min(count, MAX_STRINGS)
    strings = []
    for index in range(min(count, MAX_STRINGS)):
        stated = body[HEADER.size + 4 * index : HEADER.size + 4 * index + 4]
        length = int.from_bytes(stated, "big")
        strings.append(body[at : at + length])
        at += length
    return strings


def sealed(body: bytes) -> bytes:
    return body + CRC.pack(zlib.crc32(body))


def main() -> None:
    import atheris

    torch.set_num_threads(1)
    for name in CODECS:
        codec(name)
    for module in list(sys.modules.values()):
        if module.__name__.startswith(("icmlib.codecs", "compressai.entropy", "compressai.models")):
            _instrument(atheris, module)

    def mutator(data, max_size, seed):
        changed = mutated(data, random.Random(seed), atheris.Mutate, max_size)
        return changed if len(changed) <= max_size else atheris.Mutate(data, max_size)

    atheris.Setup(sys.argv, check, custom_mutator=mutator)
    atheris.Fuzz()


def _instrument(atheris, module) -> None:
    """The module's functions and methods, which others may hold already."""
    for thing in vars(module).values():
        owned = vars(thing).values() if isinstance(thing, type) else [thing]
        for function in owned:
            function = getattr(function, "__func__", getattr(function, "fget", function))
            function = getattr(function, "__wrapped__", function)
            if getattr(function, "__module__", None) == module.__name__ and hasattr(
                function, "__code__"
            ):
                atheris.instrument_func(function)


if __name__ == "__main__":
    main()
