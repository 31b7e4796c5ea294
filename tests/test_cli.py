"""The command line: pictures to bits and back, folders, what a file holds, decoders side by side.

`run`, `report` and `openimages` are in test_notebooks.py and test_openimages.py.
"""

import copy
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from icmlib import tasks
from icmlib.codecs import Bitstream, Decoders
from icmlib.config import CodecConfig, TaskConfig
from icmlib.io import read_image
from icmlib.tool import cli, photograph

CONFIG = CodecConfig(N=8, M=12)


@pytest.fixture
def decoders(codec):
    """Of a tiny codec: machine, human, and another."""
    human, other = copy.deepcopy(codec), copy.deepcopy(codec)
    with torch.no_grad():
        human.g_s[0].weight *= 0.5
        other.g_s[0].weight *= 2
    return Decoders.of(codec, {"human": human, "other": other})


@pytest.fixture
def weights(decoders, tmp_path):
    path = tmp_path / "weights" / "tiny.safetensors"
    decoders.save(path, CONFIG)
    return path


@pytest.fixture
def other_weights(make_codec, tmp_path):
    path = tmp_path / "weights" / "other.safetensors"
    Decoders(make_codec(seed=1), {}).save(path, CONFIG)
    return path


@pytest.fixture
def icm(weights, monkeypatch):
    """`icm("encode", ...)`: the command line, its shipped codec the tiny one."""
    monkeypatch.setattr("icmlib.studies.runs.SHIPPED", weights)
    return lambda *words: CliRunner().invoke(cli.main, [str(word) for word in words])


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
    """A folder of three images, one of them in a folder of its own."""
    for seed, name in enumerate(("a.png", "b.JPG", "sub/a.webp")):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed=seed)).save(path)
    (tmp_path / "album" / "notes.txt").write_text("no image")
    return tmp_path / "album"


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_error(result: Result, text: str) -> None:
    """One line, no traceback."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert text in result.stderr


def below(folder) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


# --- one file -------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["human", "machine", 0.3, "other"])
def test_there_and_back(icm, decoders, photo, file, tmp_path, decoder):
    """The very bits and pictures of the library; by default the picture for people."""
    bitstream = decoders.codec.encode(read_image(photo))
    assert file.read_bytes() == bytes(bitstream)
    words = () if decoder == "human" else ("--decoder", decoder)
    size = bitstream.total_bytes
    out = done(icm("decode", file, tmp_path / "out.png", *words))
    assert out == f"{tmp_path}/out.png: 40x24 px, {size} bytes, {size / 120:.3f} bpp\n"
    expected = decoders.turn(decoder).decode(bitstream)
    assert read_image(tmp_path / "out.png").equal((expected * 255).round() / 255)


@pytest.mark.parametrize("suffix, format", [("JPG", "JPEG"), ("tiff", "TIFF")])
def test_format_of_the_picture_is_that_of_its_name(icm, file, tmp_path, suffix, format):
    done(icm("decode", file, tmp_path / f"out.{suffix}"))
    with Image.open(tmp_path / f"out.{suffix}") as image:
        assert image.format == format and image.size == (40, 24)


@pytest.mark.parametrize("kind", ["alpha", "16 bits", "turned"])
def test_images_of_other_kinds_have_the_bits_of_what_they_show(icm, tmp_path, kind):
    """16 bits hold the grey of 8, and are no white picture; photographs come upright."""
    grey, rgb, exif = pixels()[..., 0], pixels(), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    made, same, options = {
        "alpha": (np.concatenate([rgb, grey[..., None]], -1), rgb, {}),
        "16 bits": (grey.astype(np.uint16) * 257, np.stack([grey] * 3, -1), {}),
        "turned": (rgb, np.rot90(rgb, -1), {"exif": exif}),
    }[kind]
    Image.fromarray(made).save(tmp_path / "a.png", **options)
    Image.fromarray(same).save(tmp_path / "b.png")
    for name in "ab":
        done(icm("encode", tmp_path / f"{name}.png", tmp_path / f"{name}.icm"))
    assert (tmp_path / "a.icm").read_bytes() == (tmp_path / "b.icm").read_bytes()


# --- what goes wrong --------------------------------------------------------------------------


def test_what_is_no_image(icm, file, tmp_path):
    out = tmp_path / "out.icm"
    assert_error(icm("encode", tmp_path / "none.png", out), "none.png does not exist")
    assert_error(icm("encode", file, out), "photo.icm cannot be read")
    Image.fromarray(pixels(5, 3)).save(tmp_path / "small.png")
    assert_error(icm("encode", tmp_path / "small.png", out), "small.png: image is 5x3 px; the")
    assert not out.exists()


def test_what_is_no_bitstream(icm, photo, file, tmp_path):
    out = tmp_path / "out.png"
    assert_error(icm("decode", tmp_path / "none.icm", out), "none.icm does not exist")
    assert_error(icm("decode", photo, out), "photo.png: not an ICM bitstream")
    assert_error(icm("info", photo), "photo.png: not an ICM bitstream")
    assert_error(icm("info", tmp_path), "cannot be read (Is a directory)")
    file.write_bytes(file.read_bytes()[:-1])
    for words in (("decode", file, out), ("info", file)):
        assert_error(icm(*words), "photo.icm: bitstream of ")
    assert not out.exists()


def test_outputs_of_other_names(icm, photo, file, tmp_path):
    """A typing error would else overwrite the photograph."""
    before = photo.read_bytes()
    assert_error(icm("encode", photo, photo), "its name has to end in .icm")
    assert_error(icm("decode", file, tmp_path / "out.icm"), "end in .bmp, .jpeg, .jpg, .png, .tif")
    assert_error(icm("compare", photo, "--out", photo), "would be overwritten")
    assert_error(icm("compare", photo, "--out", tmp_path / "a.csv"), "end in .jpg, .pdf, .png")
    assert photo.read_bytes() == before


def test_weights_and_decoders_that_are_not_there(icm, photo, file, other_weights, tmp_path):
    out = tmp_path / "out.png"
    known = "these weights have: machine, human, other, or a number from 0 (machine) to 1 (human)"
    assert_error(icm("decode", file, out, "--decoder", "people"), known)
    assert_error(icm("decode", file, out, "--decoder", "1.5"), known)
    none = tmp_path / "none.safetensors"
    assert_error(icm("decode", file, out, "--weights", none), "none.safetensors does not exist")
    assert_error(icm("encode", photo, file, "--weights", photo), "no codec was trained in")
    words = ("--decoder", "machine", "--weights", other_weights)
    assert_error(icm("decode", file, out, *words), "photo.icm: bitstream was written by codec")
    assert not out.exists()


def test_outputs_that_cannot_be_written(icm, photo, file, tmp_path):
    assert_error(icm("encode", photo, photo / "out.icm"), "out.icm cannot be written (")
    assert_error(icm("decode", file, photo / "out.png"), "out.png cannot be written (")
    (tmp_path / f".full.png.{os.getpid()}.half").symlink_to("/dev/full")
    result = icm("decode", file, tmp_path / "full.png")
    assert_error(result, "full.png cannot be written (No space left on device)")
    assert not (tmp_path / "full.png").exists()


def test_an_error_of_the_program_keeps_its_traceback(icm, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("icmlib.codecs.learned.LearnedCodec.encode", lambda *_: int("a bug"))
    for source, out in ((photo, "out.icm"), (photo.parent, "out")):
        result = icm("encode", source, tmp_path / out, "--workers", 0)
        assert isinstance(result.exception, ValueError) and "a bug" in str(result.exception)


# --- folders ----------------------------------------------------------------------------------


def test_folders_there_and_back(icm, decoders, album, tmp_path):
    """On several processes; sub-folders stay, and every file is that of the image by itself."""
    coded, back = tmp_path / "coded", tmp_path / "back"
    out = done(icm("encode", album, coded, "--workers", 2))
    assert below(coded) == ["a.icm", "b.icm", "sub/a.icm"]
    size = sum(f.stat().st_size for f in coded.rglob("*.icm"))
    assert out == f"{coded}: 3 images, {size:,} bytes, {8 * size / (3 * 960):.3f} bpp\n"
    for source in ("a.png", "b.JPG", "sub/a.webp"):
        bits = bytes(decoders.codec.encode(read_image(album / source)))
        assert (coded / source).with_suffix(".icm").read_bytes() == bits
    done(icm("decode", coded, back, "--decoder", "machine", "--workers", 2))
    assert below(back) == ["a.png", "b.png", "sub/a.png"]
    bits = Bitstream.from_bytes((coded / "sub" / "a.icm").read_bytes())
    expected = decoders.turn("machine").decode(bits)
    assert read_image(back / "sub" / "a.png").equal((expected * 255).round() / 255)


def test_what_is_there_already_is_left(icm, album, tmp_path):
    coded = tmp_path / "coded"
    words = ("encode", album, coded, "--workers", 0)
    done(icm(*words))
    (coded / "b.icm").unlink()
    (coded / "a.icm").write_text("mine")
    assert "40x24 px" in (out := done(icm(*words)))
    assert "2 were there already (--force codes them again)" in out
    assert below(coded) == ["a.icm", "b.icm", "sub/a.icm"]
    assert (coded / "a.icm").read_text() == "mine"
    assert "0 images, 0 bytes\n3 were there already" in done(icm(*words))
    assert "were there already" not in done(icm(*words, "--force"))
    assert (coded / "a.icm").read_bytes()[:4] == b"ICM1"


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_named_and_the_others_go_on(icm, album, tmp_path, workers):
    (album / "broken.png").write_bytes((album / "a.png").read_bytes()[:500])
    Image.fromarray(pixels(5, 3)).save(album / "small.png")
    coded = tmp_path / "coded"
    result = icm("encode", album, coded, "--workers", workers)
    assert result.exit_code == 1 and "coded: 3 images" in result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "broken.png cannot be read" in errors[0]
    assert "small.png: image is 5x3 px" in errors[1]
    assert below(coded) == ["a.icm", "b.icm", "sub/a.icm"]


def test_folders_that_hold_nothing_or_cannot_be(icm, album, photo, tmp_path):
    assert_error(icm("decode", album, tmp_path / "out"), "holds no .icm file")
    assert_error(icm("encode", album, photo), "album is a folder and ")
    (album / "a.bmp").write_bytes((album / "a.png").read_bytes())
    assert_error(icm("encode", album, tmp_path / "coded"), "a.bmp and ")
    assert not (tmp_path / "coded").exists()


# --- info ---------------------------------------------------------------------------------------


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
        "decoders": "machine, human, other",
    }
    out = done(icm("info", file, "--weights", other_weights))
    assert "do not read it: they are of codec " in out and "decoders  machine\n" in out
    without = icm("info", file, "--weights", file.with_name("none.safetensors"))
    assert_error(without, "none.safetensors does not exist")
    assert "image     40x24 px" in without.stdout


def test_help_is_there_without_pytorch():
    code = "import sys; from icmlib.tool import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- compare ------------------------------------------------------------------------------------


@pytest.fixture
def scene(scenes):
    return scenes("test").path(0)


def test_compare(icm, decoders, scene, tmp_path):
    out = tmp_path / "made" / "picture.png"
    printed = done(icm("compare", scene, "--out", out, "--crop", "8,4,32"))
    table = pd.read_csv(out.with_suffix(".csv"), index_col="decoder")
    names = ["machine", "human", "other", "machine + gaussian", "machine + bilateral"]
    assert list(table.index) == ["original", *names]
    image = read_image(scene)
    bitstream = decoders.codec.encode(image)
    assert table["bpp"][1:].unique() == pytest.approx([8 * bitstream.payload_bytes / 64**2])
    assert table["bpp_total"][1:].unique() == pytest.approx([8 * bitstream.total_bytes / 64**2])
    for name in ("machine", "human", "other"):
        decoded = (decoders.turn(name).decode(bitstream) * 255).round() / 255
        mse = ((decoded - image) ** 2).mean().item()
        assert table.loc[name, "psnr"] == pytest.approx(-10 * np.log10(mse), abs=1e-3)
    assert table["psnr"].is_unique and table.loc["original", "psnr"] == np.inf
    assert "machine + bilateral" in printed and "on a photograph they only hint" in printed
    with Image.open(out) as picture:
        assert picture.width > 1500 and picture.height > 500


def test_what_is_found_again(scene):
    """All in the image itself, also without its colours' last bit; nothing in a grey one."""
    image = read_image(scene)
    bitstream = Bitstream("0" * 16, 64, 64, 0, (b"1",))
    pictures = {"same": image, "near": (image * 127).round() / 127, "grey": image * 0 + 0.5}
    received = {name: photograph.Received(bitstream, each) for name, each in pictures.items()}
    task = tasks.load(TaskConfig(), photograph.TASK)
    table = photograph.measure(received, image, task)
    assert table.loc["original", "detections"] > 0
    assert list(table["found"]) == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "crop, text",
    [("a,b,c", "is not of the form"), ("40,0,32", "is not inside the image of 64x64 px")],
)
def test_crops_that_are_none(icm, scene, tmp_path, crop, text):
    out = tmp_path / "out.png"
    assert_error(icm("compare", scene, "--out", out, f"--crop={crop}"), text)
    assert not out.exists()


def test_compare_of_what_cannot_be(icm, photo, scene, weights, tmp_path):
    Image.fromarray(pixels(9, 9)).save(tmp_path / "small.png")
    words = ("--out", tmp_path / "out.png")
    assert_error(icm("compare", tmp_path / "small.png", *words), "needs at least 16x16")
    assert_error(icm("compare", scene, *words, "--task", weights), "are of another architecture")
    assert_error(icm("compare", scene, "--out", photo / "out.png"), "cannot be written (")
    assert not (tmp_path / "out.png").exists()
