"""Conventional anchors: real bytes, own size, no garbage, and VTM called as CompressAI calls it."""

import argparse
import dataclasses
import json
import stat
import sys
import zlib

import numpy as np
import pytest
import torch
from compressai.utils.bench.codecs import VTM
from PIL import Image

from icmlib.codecs import Bitstream, BitstreamError, NotMeasured, PillowCodec, anchor
from icmlib.codecs.vvc import _to_pixels, _to_planes
from icmlib.metrics.fidelity import psnr, to_8bit

QUALITIES = {
    "JPEG": (10, 50, 95),
    "WebP": (10, 50, 95),
    "AVIF": (10, 50, 95),
    "HEVC": (10, 50, 95),
    "VVC": (63, 15, 0),
}
CONTAINED = ("JPEG", "AVIF", "HEVC")  # in files whose container need not be sent
FAKE = """#!/bin/sh
"exec" "{python}" "-IS" "$0" "$@"  # a shebang takes no path with a space
# Stands for VTM in tests: its command lines, its messages, its planes; "coding" is a coarser step.
import argparse, json, sys, zlib
from pathlib import Path

encode = "Encoder" in sys.argv[0]
print("\\nVVCSoftware: VTM", "Encoder" if encode else "Decoder", "Version 23.1 [Linux][GCC 12.2.0]")
if "--help" in sys.argv:
    sys.exit(0)
calls = Path(sys.argv[0]).with_name("calls.txt")
calls.open("a").write(json.dumps(sys.argv[1:]) + "\\n")
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in "-i -c -q -o -b -wdt -hgt -fr -f".split() if encode else "-b -o -d".split():
    parser.add_argument(name, required=True)
if encode:
    for name in ("InputChromaFormat", "InputBitDepth", "ConformanceWindowMode"):
        parser.add_argument("--" + name, required=True)
args = parser.parse_args()
if encode:
    planes = Path(args.i).read_bytes()
    if len(planes) != 3 * int(args.wdt) * int(args.hgt) or not Path(args.c).is_file():
        sys.exit("ERROR: bad input")
    step = 1 + int(args.q)
    coarse = bytes(min(255, v // step * step + step // 2) for v in planes)
    Path(args.b).write_bytes(zlib.compress(coarse))
else:
    Path(args.o).write_bytes(zlib.decompress(Path(args.b).read_bytes()))
"""


def picture(height: int = 48, width: int = 40) -> torch.Tensor:
    """(3, H, W): a smooth pattern with a little noise, at 8 bits."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [torch.sin(rows / 9 + columns / 7 + colour) for colour in range(3)]
    noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    return to_8bit((0.5 + 0.35 * torch.stack(waves) + 0.02 * noise).clamp(0, 1))


def executable(path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def build(tmp_path):
    """A folder like that of a VTM build, with its configuration beside it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "cfg").mkdir()
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
    assert qualities == sorted(qualities) and qualities[0] > 12 and qualities[-1] > 30


@pytest.mark.parametrize("name", QUALITIES)
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (3, 2), (33, 50)], ids=str)
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
    x = picture()
    codecs = [make(name, quality) for name in QUALITIES for quality in QUALITIES[name]]
    codecs += [PillowCodec("PNG"), make("HEVC", 50, tune="ssim"), make("HEVC", 50, container=False)]
    assert len({codec.fingerprint for codec in codecs}) == len(codecs)
    assert len({codec.label for codec in codecs}) == len(codecs)
    hevc = make("HEVC", 50).encode(x)
    for codec in codecs:
        if codec.fingerprint != hevc.codec:
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
    assert torch.equal(codec.decode(good), codec.decode(good))
    bad = [payload[:end] for end in range(len(payload))] + [payload + b"\0"]
    for index in range(len(payload)):
        flipped = bytes([payload[index] ^ (1 << index % 8)])
        bad.append(payload[:index] + flipped + payload[index + 1 :])
    for damaged in bad:
        with pytest.raises(BitstreamError, match="damaged"):
            codec.decode(dataclasses.replace(good, strings=(damaged,)))
    for strings in ((), (payload, payload)):
        with pytest.raises(BitstreamError, match="has 1 string; found"):
            codec.decode(dataclasses.replace(good, strings=strings))


@pytest.mark.parametrize("name", [*QUALITIES, "PNG"])
def test_what_passes_the_checksum_and_is_no_picture_is_an_error(make, name):
    codec = PillowCodec("PNG") if name == "PNG" else make(name, QUALITIES[name][1])
    good = codec.encode(picture(16, 16))
    for payload in (b"", b"x", b"no picture" * 20, good.strings[0][:40], good.strings[0][:-30]):
        crc = zlib.crc32(payload)
        with pytest.raises(BitstreamError):
            codec.decode(dataclasses.replace(good, strings=(payload,), symbols_crc=crc))
    with pytest.raises(BitstreamError, match=r"states 16x15|need 720"):
        codec.decode(dataclasses.replace(good, width=15))


@pytest.mark.parametrize("name", CONTAINED)
@pytest.mark.parametrize("size", [(1, 1), (33, 50), (128, 128)], ids=str)
def test_container_that_is_known_is_not_sent(make, name, size):
    """The same picture from fewer bytes: exactly those of the container."""
    x = picture(*size)
    whole, bare = make(name, 40), make(name, 40, container=False)
    file, body = whole.encode(x), bare.encode(x)
    saved = whole.container_bytes(*size)
    assert saved > 150 and body.payload_bytes == file.payload_bytes - saved
    assert file.strings[0].endswith(body.strings[0])
    assert torch.equal(bare.decode(body), whole.decode(file))
    assert (whole.facts["container"], bare.facts["container"]) == ("counted", "not counted")


@pytest.mark.parametrize("name", QUALITIES)
def test_settings_are_checked_and_stated(make, name):
    codec = make(name, QUALITIES[name][1])
    assert str(QUALITIES[name][1]) in codec.label and name.lower() in codec.label.lower()
    assert codec.facts["quality"] == str(QUALITIES[name][1]) and codec.facts["version"]
    assert codec.facts["chroma"] == ("4:2:0" if name == "WebP" else "4:4:4")
    for quality in (-1, 101, 50.5, "50"):
        with pytest.raises(ValueError, match=f"{name} quality is .*; need an integer"):
            make(name, quality)


def test_unknown_anchor_is_refused():
    with pytest.raises(ValueError, match="unknown anchor 'HM'; known: JPEG, WebP, AVIF, HEVC, VVC"):
        anchor("HM", quality=1)


def test_hevc_is_hevc_and_beats_jpeg(make):
    """One HEVC item, coded by x265; fewer bytes than JPEG at a better PSNR."""
    x = picture(128, 128)
    hevc, jpeg = make("HEVC", 50), make("JPEG", 50)
    bits, other = hevc.encode(x), jpeg.encode(x)
    assert bits.strings[0][4:12] in (b"ftypheic", b"ftypheix") and "x265" in hevc.facts["version"]
    assert bits.strings[0].count(b"hvcC") == 1
    assert hevc.facts["constant rate factor"] == "25"
    ours, theirs = (
        float(psnr(x[None], c.decode(b)[None])) for c, b in ((hevc, bits), (jpeg, other))
    )
    assert ours > theirs and bits.payload_bytes < 1.3 * other.payload_bytes


@pytest.mark.parametrize("format", ["AVIF", "WEBP"])
def test_pillow_without_the_format_is_not_measured(monkeypatch, format):
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(
        NotMeasured, match=f"{format} is not measured: Pillow .* without it; install"
    ):
        PillowCodec(format)


def test_missing_pillow_heif_is_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(NotMeasured, match=r"HEVC is not measured: .*; pip install pillow-heif"):
        anchor("HEVC", quality=50)


def test_pillow_heif_without_x265_is_not_measured(monkeypatch):
    monkeypatch.setattr("pillow_heif.libheif_info", lambda: {"HEIF": "kvazaar"})
    with pytest.raises(NotMeasured, match="encoder is 'kvazaar', not x265"):
        anchor("HEVC", quality=50)


# --- VVC ---------------------------------------------------------------------------------


def test_vvc_without_a_build_is_not_measured(build, tmp_path):
    with pytest.raises(NotMeasured, match="no VTM build is named; build VTM"):
        anchor("VVC", quality=37)
    with pytest.raises(NotMeasured, match=r"there is no .*nowhere/EncoderAppStatic; build VTM"):
        anchor("VVC", quality=37, build=tmp_path / "nowhere")
    with pytest.raises(NotMeasured, match=r"there is no .*other\.cfg"):
        anchor("VVC", quality=37, build=build, config=tmp_path / "other.cfg")
    executable(build / "EncoderAppStatic", "#!/bin/sh\necho HM\n")
    with pytest.raises(NotMeasured, match="does not say that it is VTM"):
        anchor("VVC", quality=37, build=build)
    executable(build / "EncoderAppStatic", "no program\0")
    with pytest.raises(NotMeasured, match="VTM does not run"):
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
    calls = [json.loads(line) for line in (build / "calls.txt").read_text().splitlines()]
    assert len(calls) == 4
    for theirs, ours in zip(calls[:2], calls[2:]):
        assert _without_temporary_names(ours) == _without_temporary_names(theirs)
    assert bitstream.payload_bytes == pytest.approx(info["bpp"] * 24 * 20 / 8, rel=0.05)
    assert float(psnr(x[None], x_hat[None])) > info["psnr-rgb"]  # it cuts off where we round


def _without_temporary_names(call: list[str]) -> list[str]:
    suffixes = (".yuv", ".bin")
    return [word[-4:] if word.endswith(suffixes) else word for word in call]


def test_vvc_states_version_configuration_and_chroma(build):
    codec = anchor("VVC", quality=37, build=build)
    assert codec.facts["version"] == "VTM 23.1" and codec.facts["chroma"] == "4:4:4"
    assert codec.facts["configuration"].startswith("encoder_intra_vtm.cfg (")
    (build.parent / "cfg" / "encoder_intra_vtm.cfg").write_text("IntraPeriod : 2\n")
    assert anchor("VVC", quality=37, build=build).fingerprint != codec.fingerprint


def test_vtm_that_fails_or_hangs_is_an_error(build):
    codec = anchor("VVC", quality=37, build=build)
    good = codec.encode(picture(8, 8))
    banner = '#!/bin/sh\necho "VVCSoftware: VTM Encoder Version 23.1 "\n'
    executable(build / "EncoderAppStatic", banner + "echo ERROR: no licence >&2; exit 3\n")
    executable(build / "DecoderAppStatic", banner + "echo ERROR: no luck >&2; exit 4\n")
    with pytest.raises(
        RuntimeError, match=r"ended with 3 on an image of 8x8 px: ERROR: no licence"
    ):
        codec.encode(picture(8, 8))
    with pytest.raises(BitstreamError, match=r"ended with 4 and 0 bytes .*: ERROR: no luck"):
        codec.decode(good)
    executable(build / "DecoderAppStatic", "#!/bin/sh\nexec sleep 20\n")
    codec.timeout = 0.2
    with pytest.raises(BitstreamError, match="timed out"):
        codec.decode(good)


def test_colours_survive_vtms_planes():
    """Rounded twice: within two grey levels."""
    x = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    planes = _to_planes(x)
    assert planes.shape == (3, 9, 7)
    assert np.abs(_to_pixels(planes).astype(int) - x).max() <= 2
    white = _to_planes(np.full((1, 1, 3), 255, np.uint8))
    assert white.ravel().tolist() == [255, 128, 128]
