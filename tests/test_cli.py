import os
import subprocess
import sys
from functools import partial

import conftest
import numpy as np
import pandas as pd
import pytest
from conftest import assert_error, contents, done, tiny_codec
from PIL import Image

from icmlib import device
from icmlib.codecs import Bitstream, Decoders
from icmlib.config import CodecConfig
from icmlib.io import read_image

CONFIG = CodecConfig(N=8, M=12)
CODED = {"a.icm", "b.icm", "sub/a.icm"}  # what encoding the album makes


@pytest.fixture
def other_weights(tmp_path):
    path = tmp_path / "weights" / "other.safetensors"
    Decoders(tiny_codec(seed=1), {}).save(path, CONFIG)
    return path


@pytest.fixture
def icm(decoders, tmp_path, monkeypatch):
    """The command line, its shipped codec the tiny one."""
    decoders.save(tmp_path / "weights" / "tiny.safetensors", CONFIG)
    monkeypatch.setattr("icmlib.codecs.SHIPPED", tmp_path / "weights" / "tiny.safetensors")
    return conftest.icm


def pixels(height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(pixels()).save(path)
    return path


@pytest.fixture
def file(icm, photo, tmp_path):
    assert icm("encode", photo, tmp_path / "photo.icm").exit_code == 0
    return tmp_path / "photo.icm"


@pytest.fixture
def album(tmp_path):
    """A folder of three images: one to be turned, one in a folder of its own."""
    exif = Image.Exif()
    for seed, (name, exif[0x0112]) in enumerate([("a.png", 1), ("b.JPG", 6), ("sub/a.webp", 1)]):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed=seed)).save(path, exif=exif)
    (tmp_path / "album" / "notes.txt").write_text("no image")
    return tmp_path / "album"


@pytest.mark.parametrize("decoder", ["human", "machine", 0.3, "low_impact"])
def test_there_and_back(icm, decoders, photo, file, tmp_path, decoder):
    """The library's bits and pictures, in the format of the name; by default for people."""
    bitstream = decoders.codec.encode(read_image(photo))
    assert file.read_bytes() == bytes(bitstream)
    words = () if decoder == "human" else ("--decoder", decoder)
    size = bitstream.total_bytes
    out = done(icm("decode", file, tmp_path / "out.png", *words))
    assert out == f"{tmp_path}/out.png: 40x24 px, {size} bytes, {size / 120:.3f} bpp\n"
    expected = decoders.turn(decoder).decode(bitstream)
    assert read_image(tmp_path / "out.png").equal((expected * 255).round() / 255)
    for suffix, format in (("JPG", "JPEG"), ("tiff", "TIFF")):
        done(icm("decode", file, tmp_path / f"out.{suffix}", *words))
        with Image.open(tmp_path / f"out.{suffix}") as image:
            assert image.format == format and image.size == (40, 24)


LOST = {"L": [], "I;16": ["of 16 bits the upper 8"], "LA": ["transparent is put on white"]}


@pytest.mark.parametrize("mode", LOST)
def test_grey_stays_grey_and_what_is_lost_is_said(icm, tmp_path, recwarn, mode):
    grey = pixels()[..., 0]
    image = Image.fromarray(grey * np.uint16(9) if mode == "I;16" else grey)
    if mode == "LA":
        image.putalpha(90)
    image.save(tmp_path / "grey.png")
    done(icm("encode", tmp_path / "grey.png", tmp_path / "grey.icm"))
    said = [text for each in recwarn if "grey.png" in (text := str(each.message))]
    assert len(said) == len(LOST[mode]) and all(a in b for a, b in zip(LOST[mode], said))
    assert "image     40x24 px, grey\n" in done(icm("info", tmp_path / "grey.icm"))
    done(icm("decode", tmp_path / "grey.icm", tmp_path / "back.png"))
    with Image.open(tmp_path / "back.png") as back:
        assert back.mode == "L"


KNOWN = "these weights have: machine, human, low_impact, or a number from 0 (machine) to 1 (human)"
WRONG = {
    "encode photo.icm out.icm": "photo.icm cannot be read",
    "encode small.png out.icm": "small.png: image is 3x5 px; the codec needs",
    "encode photo.png photo.png": "photo.png exists; --force writes it anew",
    "encode photo.png photo.png --force": "its name has to end in .icm",
    "encode photo.png out.icm --weights photo.png": "no codec was trained in",
    "encode photo.png photo.png/out.icm": "File exists: 'photo.png'",
    "decode photo.png out.png": "photo.png: not an ICM bitstream",
    "decode cut.icm out.png": "cut.icm: bitstream of ",
    "decode photo.icm out.icm": "end in .bmp, .jpeg, .jpg, .png, .tif",
    "decode photo.icm out.png --decoder people": KNOWN,
    "decode photo.icm out.png --weights none.safetensors": "none.safetensors does not exist",
    "decode photo.icm out.png --decoder machine --weights weights/other.safetensors": (
        "photo.icm: bitstream was written by codec"
    ),
    "decode album out": "holds no .icm file",
    "encode album photo.png": "album is a folder and ",
    "encode twice out": "a.bmp and ",
    "info album": "Is a directory: 'album'",
    "compare photo.png --out photo.png": "photo.png exists; --force writes it anew",
    "compare photo.png --out photo.png --force": "would be overwritten",
    "compare nine.png": "needs at least 16x16",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_done_is_one_line_and_changes_no_file(
    icm, file, album, other_weights, tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ICM_ROOT", str(tmp_path))
    Image.fromarray(pixels(5, 3)).save("small.png")
    Image.fromarray(pixels(9, 9)).save("nine.png")
    (tmp_path / "cut.icm").write_bytes(file.read_bytes()[:-1])
    (tmp_path / "twice").mkdir()
    for name in ("a.png", "a.bmp"):
        (tmp_path / "twice" / name).write_bytes((album / "a.png").read_bytes())
    before = contents(tmp_path)
    assert_error(icm(*words.split()), WRONG[words])
    assert contents(tmp_path) == before


def test_full_disk(icm, file, tmp_path):
    (tmp_path / f".full.png.{os.getpid()}.half").symlink_to("/dev/full")
    result = icm("decode", file, tmp_path / "full.png")
    assert_error(result, f"No space left on device: '{tmp_path / 'full.png'}'")
    assert not (tmp_path / "full.png").exists()


def test_an_error_of_the_program_keeps_its_traceback(icm, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("icmlib.codecs.learned.LearnedCodec.encode", lambda *_: int("a bug"))
    for source, out in ((photo, "out.icm"), (photo.parent, "out")):
        result = icm("encode", source, tmp_path / out)
        assert isinstance(result.exception, ValueError) and "a bug" in str(result.exception)


def test_folders_there_and_back(icm, decoders, album, tmp_path, monkeypatch):
    """Sub-folders stay, and every file is that of the image by itself, upright."""
    two = partial(device.in_processes, workers=2)  # not one, as there is one thread
    monkeypatch.setattr(device, "in_processes", two)
    coded, back = tmp_path / "coded", tmp_path / "back"
    out = done(icm("encode", album, coded))
    assert contents(coded).keys() == CODED
    size = sum(f.stat().st_size for f in coded.rglob("*.icm"))
    assert out == f"{coded}: 3 images, {size:,} bytes, {8 * size / (3 * 960):.3f} bpp\n"
    for source in ("a.png", "b.JPG", "sub/a.webp"):
        bits = bytes(decoders.codec.encode(read_image(album / source, upright=True)))
        assert (coded / source).with_suffix(".icm").read_bytes() == bits
    done(icm("decode", coded, back, "--decoder", "machine"))
    assert contents(back).keys() == {"a.png", "b.png", "sub/a.png"}
    bits = Bitstream.from_bytes((coded / "sub" / "a.icm").read_bytes())
    expected = decoders.turn("machine").decode(bits)
    assert read_image(back / "sub" / "a.png").equal((expected * 255).round() / 255)


def test_what_is_there_already_is_left(icm, album, tmp_path):
    coded = tmp_path / "coded"
    words = ("encode", album, coded)
    done(icm(*words))
    (coded / "b.icm").unlink()
    (coded / "a.icm").write_text("mine")
    assert "24x40 px" in (out := done(icm(*words)))
    assert "2 were there already and stay, whatever made them" in out
    assert contents(coded).keys() == CODED
    assert (coded / "a.icm").read_text() == "mine"
    assert "0 images, 0 bytes\n3 were there already" in done(icm(*words))
    assert "were there already" not in done(icm(*words, "--force"))
    assert (coded / "a.icm").read_bytes()[:4] == b"ICM1"


def test_broken_files_are_named_and_the_others_go_on(icm, album, tmp_path):
    (album / "broken.png").write_bytes((album / "a.png").read_bytes()[:500])
    Image.fromarray(pixels(5, 3)).save(album / "small.png")
    coded = tmp_path / "coded"
    result = icm("encode", album, coded)
    assert result.exit_code == 1 and "coded: 3 images" in result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "broken.png cannot be read" in errors[0]
    assert "small.png: image is 3x5 px" in errors[1] and contents(coded).keys() == CODED


def test_info(icm, decoders, file, other_weights):
    bitstream = Bitstream.from_bytes(file.read_bytes())
    facts = dict(line.split(maxsplit=1) for line in done(icm("info", file)).splitlines())
    payload, total = bitstream.payload_bytes, bitstream.total_bytes
    assert facts == {
        "image": "40x24 px",
        "file": f"{total} bytes, {8 * total / 960:.3f} bpp",
        "payload": f"{payload} bytes, {8 * payload / 960:.3f} bpp",
        "strings": f"2 of {len(bitstream.strings[0])} + {len(bitstream.strings[1])} bytes",
        "codec": decoders.codec.fingerprint,
        "weights": "those of icmlib read it",
        "decoders": "machine, human, low_impact",
    }
    out = done(icm("info", file, "--weights", other_weights))
    assert "do not read it: they are of codec " in out and "decoders" not in out
    without = icm("info", file, "--weights", file.with_name("none.safetensors"))
    assert_error(without, "none.safetensors does not exist")
    assert "image     40x24 px" in without.stdout


@pytest.mark.parametrize("words", [["--help"], ["info", "{file}"]])
def test_help_and_info_are_there_without_pytorch(file, words):
    words = [word.format(file=file) for word in words]
    code = f"from icmlib.tool import cli; cli.main({words}, standalone_mode=False)"
    code = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_compare(icm, decoders, scenes, tmp_path):
    scene, out = scenes("test").path(0), tmp_path / "made" / "picture.png"
    printed = done(icm("compare", scene, "--out", out))
    table = pd.read_csv(out.with_suffix(".csv"), index_col="decoder")
    names = [*decoders.names, "machine + gaussian", "machine + bilateral"]
    assert list(table.index) == ["original", *names]
    image = read_image(scene)
    bitstream = decoders.codec.encode(image)
    assert table["bpp"][1:].unique() == pytest.approx([8 * bitstream.payload_bytes / 64**2])
    assert table["bpp_total"][1:].unique() == pytest.approx([8 * bitstream.total_bytes / 64**2])
    assert table["bpp_total"]["original"] == table["bpp"]["original"]
    for name in decoders.names:
        decoded = (decoders.turn(name).decode(bitstream) * 255).round() / 255
        mse = ((decoded - image) ** 2).mean().item()
        assert table.loc[name, "psnr"] == pytest.approx(-10 * np.log10(mse), abs=1e-3)
    assert table["psnr"].is_unique and table.loc["original", "psnr"] == np.inf
    assert "machine + bilateral" in printed
    with Image.open(out) as picture:
        assert picture.width > 1500 and picture.height > 500
