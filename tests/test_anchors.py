"""Conventional codecs: real bytes, any size, no garbage."""

import dataclasses

import pytest
import torch
from conftest import picture

from icmlib.codecs import Bitstream, BitstreamError, NotMeasured, PillowCodec, anchor
from icmlib.metrics.fidelity import psnr, to_8bit

QUALITIES = dict.fromkeys(("JPEG", "WebP", "AVIF", "HEVC"), (10, 50, 95)) | {"VVC": (63, 37, 22)}
CHROMA = ("JPEG", "AVIF", "HEVC")  # with a choice of formats
CONTAINED = (*CHROMA, "VVC")  # in files whose container need not be sent


def make(name, quality, **options):
    return anchor(name, quality=quality, **options)


@pytest.mark.parametrize("name", QUALITIES)
def test_quality_trades_bytes_for_fidelity(name):
    x, sizes, qualities = picture(), [], []
    for quality in QUALITIES[name]:
        codec = make(name, quality)
        bitstream = Bitstream.from_bytes(bytes(codec.encode(x)))
        assert bitstream == codec.encode(x)  # the same bits again
        sizes.append(bitstream.payload_bytes)
        qualities.append(float(psnr(x[None], to_8bit(codec.decode(bitstream))[None])))
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    assert qualities == sorted(qualities) and qualities[0] > 12 and qualities[-1] > 25


@pytest.mark.parametrize("name", QUALITIES)
@pytest.mark.parametrize("size", [(1, 1), (33, 50)], ids=str)
def test_any_size_comes_back(name, size):
    codec, x = make(name, QUALITIES[name][-1]), picture(*size)
    x_hat = codec.decode(codec.encode(x))
    assert x_hat.shape == x.shape and (x_hat - x).abs().mean() < 0.1


@pytest.mark.parametrize("name", CHROMA)
def test_chroma_format_decides_the_bits(name):
    """4:2:0 loses colours that change from pixel to pixel, which 4:4:4 keeps."""
    stripes = torch.zeros(3, 32, 32)
    stripes[0, :, ::2] = stripes[2, :, 1::2] = 1
    errors, codes = [], []
    for chroma in ("4:4:4", "4:2:0"):
        codec = make(name, 95, chroma=chroma)
        errors.append(float((codec.decode(codec.encode(stripes)) - stripes).abs().mean()))
        codes.append(codec.fingerprint)
        assert chroma in codec.label and codec.facts["chroma"] == chroma
    assert errors[0] < 0.06 < 0.15 < errors[1] and codes[0] != codes[1]
    with pytest.raises(ValueError, match="chroma is '4:1:1'; need one of 4:4:4, 4:2:0"):
        make(name, 95, chroma="4:1:1")


def test_bitstreams_of_different_settings_do_not_mix():
    codecs = [make(name, quality) for name in QUALITIES for quality in QUALITIES[name]]
    codecs += [PillowCodec("PNG"), make("VVC", 15, preset="fast")]
    codecs += [make("HEVC", 50, chroma="4:2:0"), make("HEVC", 50, container=False)]
    assert len({codec.fingerprint for codec in codecs}) == len(codecs)
    assert len({codec.label for codec in codecs}) == len(codecs)
    hevc = make("HEVC", 50).encode(picture())
    for codec in [each for each in codecs if each.fingerprint != hevc.codec]:
        with pytest.raises(BitstreamError, match="is not "):
            codec.decode(hevc)


@pytest.mark.parametrize(
    ("name", "container"),
    [*((name, True) for name in (*QUALITIES, "PNG")), *((name, False) for name in CONTAINED)],
)
def test_damage_is_found(name, container):
    options = {} if container else {"container": False}
    codec = PillowCodec("PNG") if name == "PNG" else make(name, QUALITIES[name][1], **options)
    good = codec.encode(picture(16, 16))
    (payload,) = good.strings
    bad = [payload[:end] for end in range(len(payload))] + [payload + b"\0"]
    for index, byte in enumerate(payload):
        bad.append(payload[:index] + bytes([byte ^ 1 << index % 8]) + payload[index + 1 :])
    for damaged in bad:
        with pytest.raises(BitstreamError, match="damaged"):
            codec.decode(dataclasses.replace(good, strings=(damaged,)))
    with pytest.raises(BitstreamError, match="has 1 string; found 2"):
        codec.decode(dataclasses.replace(good, strings=(payload, payload)))


@pytest.mark.parametrize("name", CONTAINED)
@pytest.mark.parametrize("size", [(1, 1), (33, 50)], ids=str)
def test_container_that_is_known_is_not_sent(name, size):
    """The same picture from fewer bytes: the last ones of the file."""
    whole, bare, x = make(name, 40), make(name, 40, container=False), picture(*size)
    (file,), (body,) = whole.encode(x).strings, bare.encode(x).strings
    assert file.endswith(body) and len(file) - len(body) > 150
    assert torch.equal(bare.decode(bare.encode(x)), whole.decode(whole.encode(x)))
    assert (whole.facts["container"], bare.facts["container"]) == ("counted", "not counted")


@pytest.mark.parametrize("name", QUALITIES)
def test_settings_are_checked_and_stated(name):
    codec = make(name, QUALITIES[name][1])
    assert str(QUALITIES[name][1]) in codec.label and name.lower() in codec.label.lower()
    assert codec.facts["quality"] == str(QUALITIES[name][1]) and codec.facts["version"]
    assert codec.facts["chroma"] == ("4:2:0" if name in ("WebP", "VVC") else "4:4:4")
    for quality in (-1, 101, 50.5):
        with pytest.raises(ValueError, match=f"{name} quality is .*; need an integer"):
            make(name, quality)
    with pytest.raises(ValueError, match="unknown anchor 'HM'; known: JPEG, WebP, AVIF, HEVC, VVC"):
        anchor("HM", quality=1)


def test_hevc_is_hevc_and_vvc_is_vvc():
    codec = make("HEVC", 50)
    (file,) = codec.encode(picture()).strings
    assert file[4:12] in (b"ftypheic", b"ftypheix") and file.count(b"hvcC") == 1  # one picture
    assert "x265" in codec.facts["version"] and codec.facts["constant rate factor"] == "25"
    codec = make("VVC", 50)
    (file,) = codec.encode(picture()).strings
    assert file[:6] == b"\0\0\0\1\0\xa1"  # an access unit delimiter, ITU-T H.266
    assert codec.facts["version"].startswith("VVenC 1.")


def test_vvc_of_noise_needs_room():
    """At the finest quality, a pixel of noise takes more than FFmpeg's room of a byte."""
    x = torch.rand(3, 65, 129, generator=torch.Generator().manual_seed(0))
    assert make("VVC", 24).encode(x).payload_bytes
    with pytest.raises(ValueError, match="more than 8 bits per pixel, take a higher QP"):
        make("VVC", 0).encode(x)


def test_codecs_that_were_not_built_are_not_measured(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    monkeypatch.setattr("pillow_heif.libheif_info", lambda: {"HEIF": "kvazaar"})
    with pytest.raises(NotMeasured, match=r"AVIF is not measured: Pillow .* without it; install"):
        anchor("AVIF", quality=50)
    with pytest.raises(NotMeasured, match=r"HEVC is not measured: .* is 'kvazaar', not x265"):
        anchor("HEVC", quality=50)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no libvvenc >&2; exit 8", "ended with 8: no libvvenc. Install imageio-ffmpeg's"),
        (None, "No such file .*or name an ffmpeg with libvvenc in IMAGEIO_FFMPEG_EXE"),
    ],
)
def test_ffmpeg_without_vvenc_is_not_measured(tmp_path, monkeypatch, script, message):
    codec, program = make("VVC", 37), tmp_path / "ffmpeg"
    if script:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(NotMeasured, match=f"VVC is not measured: .*{message}"):
        make("VVC", 37)
    if script:
        with pytest.raises(ValueError, match="ended with 8: no libvvenc"):
            codec.encode(picture())
