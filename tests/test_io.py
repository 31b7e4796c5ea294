import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from icmlib.datasets import CocoDataset
from icmlib.io import files_below, plain, read_image


def test_folders_are_walked_in_one_way(tmp_path):
    """Links are followed, once; what is hidden is no picture; the rest is counted and named."""
    album, elsewhere = tmp_path / "album", tmp_path / "elsewhere"
    for folder in (album / "sub", album / ".ipynb_checkpoints", elsewhere):
        folder.mkdir(parents=True)
    for name in ("sub/b.png", ".ipynb_checkpoints/b.png", "._c.png", "../elsewhere/a.JPG"):
        Image.new("RGB", (40, 20)).save(album / name)
    os.symlink(elsewhere, album / "linked")
    os.symlink(album, album / "sub" / "circle")
    (album / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"1 files below .*album are skipped: notes.txt \(read "):
        files = files_below(album)
    assert [str(file.relative_to(album)) for file in files] == ["linked/a.JPG", "sub/b.png"]
    with pytest.warns(UserWarning, match=r"skipped: linked/a\.JPG, notes"):
        assert files_below(album, {".png"}) == [album / "sub" / "b.png"]
    with pytest.raises(FileNotFoundError, match=r"image folder .*none does not exist"):
        files_below(album / "none")


def test_photographs_of_a_folder_come_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=exif)
    data = CocoDataset(tmp_path)
    assert data.sizes() == [(40, 20)] and data.image(0).shape == (3, 40, 20)
    assert data.turned() == ["a.jpg"]


@pytest.mark.parametrize("suffix", ["gif", "avif", "heic", "webp"])
def test_other_formats_are_read(tmp_path, suffix):
    """Of an animation, the first picture."""
    first, second = (Image.new("RGB", (32, 16), colour) for colour in ("white", "black"))
    more = {"save_all": True, "append_images": [second]} if suffix == "gif" else {}
    first.save(tmp_path / f"a.{suffix}", **more)
    assert read_image(files_below(tmp_path)[0]).min() > 0.98


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:2, :, 3] = 255  # the upper half is black
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.png")
    x = read_image(tmp_path / "a.png")
    assert x[:, :2].max() == 0 and x[:, 2:].min() == 1


def test_of_16_bits_the_upper_8_count(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").equal(torch.from_numpy(grey).expand(3, -1, -1) / 255)


def test_what_is_not_finite_is_null():
    text = json.dumps(plain({"a": [np.float32("nan"), float("inf")], "b": 1.5}), allow_nan=False)
    assert text == '{"a": [null, null], "b": 1.5}'
