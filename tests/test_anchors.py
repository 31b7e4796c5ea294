"""Conventional codecs: real bytes, any size, no garbage; VTM is called as CompressAI calls it."""

import argparse
import dataclasses
import re
import sys

import pytest
import torch
from compressai.utils.bench.codecs import VTM
from conftest import picture
from PIL import Image

from icmlib.codecs import Bitstream, BitstreamError, NotMeasured, PillowCodec, anchor
from icmlib.metrics.fidelity import psnr, to_8bit

QUALITIES = dict.fromkeys(("JPEG", "WebP", "AVIF", "HEVC"), (10, 50, 95)) | {"VVC": (63, 15, 0)}
CONTAINED = ("JPEG", "AVIF", "HEVC")  # in files whose container need not be sent
FAKE = """#!/bin/sh
"exec" "{python}" "-IS" "$0" "$@"  # a shebang takes no path with a space
# Stands for VTM in tests: its version, command lines and planes; "coding" is a coarser step.
import json, sys, zlib
from pathlib import Path

def value(name):
    return sys.argv[sys.argv.index(name) + 1]

print("\\nVVCSoftware: VTM Encoder Version 23.1 [Linux][GCC 12.2.0]")
if "--help" in sys.argv:
    sys.exit(0)
Path(sys.argv[0]).with_name("calls.txt").open("a").write(json.dumps(sys.argv[1:]) + "\\n")
if "Encoder" in sys.argv[0]:
    planes, step = Path(value("-i")).read_bytes(), 1 + int(value("-q"))
    if len(planes) != 3 * int(value("-wdt")) * int(value("-hgt")):
        sys.exit("ERROR: bad input")
    coarse = bytes(min(255, v // step * step + step // 2) for v in planes)
    Path(value("-b")).write_bytes(zlib.compress(coarse))
else:
    Path(value("-o")).write_bytes(zlib.decompress(Path(value("-b")).read_bytes()))
"""


def executable(path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def build(tmp_path):
    """A folder like that of a VTM build, with its configuration beside it."""
    for name in ("bin", "cfg"):
        (tmp_path / name).mkdir()
    (tmp_path / "cfg" / "encoder_intra_vtm.cfg").write_text("IntraPeriod : 1\n")
    for name in ("EncoderAppStatic", "DecoderAppStatic"):
        executable(tmp_path / "bin" / name, FAKE.format(python=sys.executable))
    return tmp_path / "bin"


@pytest.fixture
def make(build):
    """`make("HEVC", quality)`; VVC with the stand-in."""
    return lambda name, quality, **options: anchor(
        name, quality=quality, **options, **({"build": build} if name == "VVC" else {})
    )


# --- every anchor ------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUALITIES)
def test_quality_trades_bytes_for_fidelity(make, name):
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
def test_any_size_comes_back(make, name, size):
    codec, x = make(name, QUALITIES[name][-1]), picture(*size)
    x_hat = codec.decode(codec.encode(x))
    assert x_hat.shape == x.shape and (x_hat - x).abs().mean() < 0.1


@pytest.mark.parametrize("name", CONTAINED)
def test_chroma_format_decides_the_bits(make, name):
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


def test_bitstreams_of_different_settings_do_not_mix(make):
    codecs = [make(name, quality) for name in QUALITIES for quality in QUALITIES[name]]
    codecs += [PillowCodec("PNG"), make("HEVC", 50, tune="ssim"), make("HEVC", 50, container=False)]
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
def test_damage_is_found(make, name, container):
    """Cut short at every byte, or any bit flipped: an error, before a decoder sees it."""
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
    for strings in ((), (payload, payload)):
        with pytest.raises(BitstreamError, match="has 1 string; found"):
            codec.decode(dataclasses.replace(good, strings=strings))


@pytest.mark.parametrize("name", CONTAINED)
@pytest.mark.parametrize("size", [(1, 1), (33, 50)], ids=str)
def test_container_that_is_known_is_not_sent(make, name, size):
    """The same picture from fewer bytes: the last ones of the file."""
    whole, bare, x = make(name, 40), make(name, 40, container=False), picture(*size)
    (file,), (body,) = whole.encode(x).strings, bare.encode(x).strings
    assert file.endswith(body) and len(file) - len(body) > 150
    assert torch.equal(bare.decode(bare.encode(x)), whole.decode(whole.encode(x)))
    assert (whole.facts["container"], bare.facts["container"]) == ("counted", "not counted")


@pytest.mark.parametrize("name", QUALITIES)
def test_settings_are_checked_and_stated(make, name):
    codec = make(name, QUALITIES[name][1])
    assert str(QUALITIES[name][1]) in codec.label and name.lower() in codec.label.lower()
    assert codec.facts["quality"] == str(QUALITIES[name][1]) and codec.facts["version"]
    assert codec.facts["chroma"] == ("4:2:0" if name == "WebP" else "4:4:4")
    for quality in (-1, 101, 50.5):
        with pytest.raises(ValueError, match=f"{name} quality is .*; need an integer"):
            make(name, quality)
    with pytest.raises(ValueError, match="unknown anchor 'HM'; known: JPEG, WebP, AVIF, HEVC, VVC"):
        anchor("HM", quality=1)


def test_hevc_is_hevc(make):
    codec = make("HEVC", 50)
    (file,) = codec.encode(picture()).strings
    assert file[4:12] in (b"ftypheic", b"ftypheix") and file.count(b"hvcC") == 1  # one picture
    assert "x265" in codec.facts["version"] and codec.facts["constant rate factor"] == "25"


def test_codecs_that_were_not_built_are_not_measured(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    monkeypatch.setattr("pillow_heif.libheif_info", lambda: {"HEIF": "kvazaar"})
    with pytest.raises(NotMeasured, match=r"AVIF is not measured: Pillow .* without it; install"):
        anchor("AVIF", quality=50)
    with pytest.raises(NotMeasured, match=r"HEVC is not measured: .* is 'kvazaar', not x265"):
        anchor("HEVC", quality=50)


# --- VVC ---------------------------------------------------------------------------------


def test_vvc_without_a_build_is_not_measured(build, tmp_path):
    for options, message in (
        ({}, "no VTM build is named; build VTM"),
        ({"build": tmp_path / "nowhere"}, "there is no .*nowhere/EncoderAppStatic; build VTM"),
        ({"build": build, "config": tmp_path / "other.cfg"}, r"there is no .*other\.cfg"),
    ):
        with pytest.raises(NotMeasured, match=message):
            anchor("VVC", quality=37, **options)
    for program, message in (("#!/bin/sh\necho HM\n", "is not VTM"), ("no\0", "does not run: ")):
        executable(build / "EncoderAppStatic", program)
        with pytest.raises(NotMeasured, match=f"EncoderAppStatic {message}"):
            anchor("VVC", quality=37, build=build)


def test_vvc_calls_vtm_as_compressai_does(build, tmp_path):
    """Word for word, but for the names of temporary files; and the picture is as good."""
    config = build.parent / "cfg" / "encoder_intra_vtm.cfg"
    path, x = tmp_path / "x.png", picture(24, 20)
    Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    wrapper = VTM(argparse.Namespace(build_dir=str(build), config=str(config), rgb=False))
    info = wrapper.run(str(path), 0)
    codec = anchor("VVC", quality=0, build=build)
    bitstream = codec.encode(x)
    x_hat = codec.decode(bitstream)
    calls = re.sub(r'[^"]*(\.yuv|\.bin)"', r'\1"', (build / "calls.txt").read_text()).splitlines()
    assert len(calls) == 4 and calls[:2] == calls[2:]
    assert bitstream.payload_bytes == pytest.approx(info["bpp"] * 24 * 20 / 8, rel=0.05)
    assert float(psnr(x[None], x_hat[None])) > info["psnr-rgb"]  # it cuts off where we round


def test_vvc_states_version_and_configuration(build):
    codec = anchor("VVC", quality=37, build=build)
    assert codec.facts["version"] == "VTM 23.1"
    assert codec.facts["configuration"].startswith("encoder_intra_vtm.cfg (")
    (build.parent / "cfg" / "encoder_intra_vtm.cfg").write_text("IntraPeriod : 2\n")
    assert anchor("VVC", quality=37, build=build).fingerprint != codec.fingerprint


def test_vtm_that_fails_is_an_error(build):
    codec = anchor("VVC", quality=37, build=build)
    good = codec.encode(picture(8, 8))
    with pytest.raises(BitstreamError, match="cannot read its payload"):
        codec.decode(dataclasses.replace(good, width=7))
    for name in ("EncoderAppStatic", "DecoderAppStatic"):
        executable(build / name, "#!/bin/sh\necho ERROR: no luck >&2; exit 3\n")
    with pytest.raises(RuntimeError, match=r"EncoderAppStatic ended with 3: ERROR: no luck"):
        codec.encode(picture(8, 8))
    with pytest.raises(BitstreamError, match=r"DecoderAppStatic ended with 3: ERROR: no luck"):
        codec.decode(good)
