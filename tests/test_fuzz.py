"""Bitstreams from strangers, who compute right checksums: an error or a picture, nothing else."""

import dataclasses
import random
import struct
import zlib
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from compressai.ans import RansDecoder
from conftest import picture, tiny_codec

from icmlib.codecs import Bitstream, BitstreamError, PillowCodec, anchor, learned, rans

CODECS = ("scale_hyperprior_s8", "mbt2018", "PNG", "JPEG", "WebP", "AVIF", "HEVC", "JPEG body")
LEARNED = CODECS[:2]
LARGEST = 64 * 64  # px that are decoded; larger images are only parsed
CORPUS = sorted((Path(__file__).parent / "fuzz_corpus").iterdir())
STATE = struct.pack("<Q", 2**62)
ROWS = ([0, 40000, 65535, 65536], [0, 1000, 30000, 65536], [0, 6, 65536])


@cache
def codec(name: str):
    if name in LEARNED:
        return tiny_codec(name=name)
    if name == "PNG":
        return PillowCodec("PNG")
    format, *body = name.split()
    return anchor(format, quality=50, **({"container": False} if body else {}))


def check(data: bytes) -> str:
    """Parse and decode: what comes of it, in a word. Any other error than BitstreamError fails."""
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
            bitstream = forged(name, bitstream)
        try:
            x_hat = codec(name).decode(bitstream)
        except BitstreamError:
            continue
        assert x_hat.shape == (3, bitstream.height, bitstream.width)
        assert x_hat.isfinite().all() and 0 <= x_hat.min() and x_hat.max() <= 1
        return attempt
    return "no picture"


def forged(name: str, bitstream: Bitstream) -> Bitstream:
    """With the checksum of the file, or of the symbols that the strings decode to."""
    crc = zlib.crc32(b"".join(bitstream.strings[:1]))
    if name in LEARNED:
        with mock.patch.object(learned, "_crc", wraps=learned._crc) as computed:
            try:
                codec(name).decode_latents(bitstream)
            except BitstreamError:
                pass
        crc = learned._crc(*computed.call_args.args) if computed.call_args else 0
    return dataclasses.replace(bitstream, symbols_crc=crc)


def shaken(data: bytes, rng: random.Random) -> bytes:
    """Cut, extended, or bytes changed."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        if rng.random() < 0.2:
            del data[at : at + rng.randint(1, 8)]
        elif rng.random() < 0.3:
            data[at:at] = rng.choice([b"\xff", b"\0"]) * rng.randint(1, 40)
        elif data:
            data[at - 1] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(data)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(path):
    outcome = check(path.read_bytes())
    assert outcome == "as stated" or not path.stem.endswith("good")


@pytest.mark.parametrize("escape_rows", [ROWS[:1], ROWS], ids=["rare", "frequent"])
def test_padding_covers_all_that_is_read(escape_rows):
    """What follows it changes no symbol; without it, also what is far behind the string does. Runs
    of ones ask for fifteen nibbles each; one symbol more tells the last bits that were read."""
    rng, read = random.Random(1), {0: 0, 5: 0}
    rows, count = [*escape_rows, [0, 2**15, 2**16 - 1, 2**16]], 30

    def same(string: bytes) -> bool:
        tails = (string + byte * 9999 for byte in (b"\x55", b"\xaa"))
        decoded = [RansDecoder().decode_with_indexes(each, indexes, *tables) for each in tails]
        return decoded[0] == decoded[1]

    for trial in range(150):
        words = rng.choice([0, 1, 3, 10, 7 * count // 4])
        body = [rng.randbytes(4 * words), b"\xff" * 4 * words, bytes(4 * words)][trial % 3]
        state = rng.choice([2**31, 2**63 - 1, rng.randrange(2**31, 2**63)])
        string = state.to_bytes(8, "little") + body
        indexes = [rng.randrange(len(escape_rows)) for _ in range(count)] + [len(escape_rows)]
        tables = rows, [len(row) for row in rows], [0] * len(rows)
        assert same(rans.padded(string, count))
        for times in read:
            read[times] += not same(string + bytes(times * len(string)))
    assert read[0] > 50 and read[5] > 0, read


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(
    ("string", "message"),
    [
        (b"", "a string of 0 bytes is for"),
        (STATE + b"\xff", "a string of 9 bytes .* need a multiple of 4"),
        (STATE + bytes(100_000), "a string of 100008 bytes"),
        (bytes(8), "a string starts with 0000000000000000, as no encoder's does"),
        (b"\xff" * 8, "a string starts with ffffffffffffffff"),
    ],
)
def test_strings_that_no_encoder_writes_are_refused(name, string, message):
    good = codec(name).encode(picture(32, 32))
    for strings in ((string, good.strings[1]), (good.strings[0], string)):
        with pytest.raises(BitstreamError, match=message):
            codec(name).decode(forged(name, dataclasses.replace(good, strings=strings)))


def test_longest_string_of_an_encoder_is_read():
    """Every symbol far beyond its table."""
    tables = rans.Tables(codec(LEARNED[0]).model.entropy_bottleneck)
    symbols = torch.full((8, 9), 2**26, dtype=torch.int32)
    symbols[::2] *= -1
    indexes = torch.arange(8)[:, None].expand(8, 9)
    string = tables.encode(symbols, indexes)
    assert len(string) > 4 * symbols.numel()
    assert torch.equal(tables.reader(string, symbols.numel())(indexes), symbols)


@pytest.mark.parametrize(("name", "where"), [(LEARNED[0], "g_s"), (LEARNED[1], "h_s")])
def test_what_is_not_finite_is_an_error(monkeypatch, name, where):
    """Symbols run up to 2^30: whatever layer they overflow, no NaN is given out as a picture."""
    tested = tiny_codec(name=name)
    bitstream = tested.encode(picture(32, 32))
    with torch.no_grad():
        [*getattr(tested.model, where).parameters()][-1].fill_(float("nan"))
    tested.eval()  # the fingerprint is of these weights
    bitstream = dataclasses.replace(bitstream, codec=tested.fingerprint)
    monkeypatch.setattr(learned, "_crc", lambda _: bitstream.symbols_crc)
    with pytest.raises(BitstreamError, match="to no picture"):
        tested.decode(bitstream)


@pytest.mark.parametrize("name", CODECS[2:7])
def test_file_of_another_size_is_refused_before_it_is_decoded(name, monkeypatch):
    large = codec(name).encode(picture(64, 64))
    monkeypatch.setattr("PIL.Image.Image.convert", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("pillow_heif.heif.HeifFile.to_pillow", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BitstreamError, match="file is 64x64 px; the bitstream states 16x64"):
        codec(name).decode(dataclasses.replace(large, height=16))


@pytest.mark.parametrize("name", CODECS[2:])
def test_changed_files_under_right_checksums(name):
    rng, good = random.Random(2), codec(name).encode(picture(16, 16))
    for _ in range(30):
        changed = dataclasses.replace(good, strings=(shaken(good.strings[0], rng),))
        outcome = decoded(name, changed)
        assert outcome in ("forged", "no picture") or changed == good
