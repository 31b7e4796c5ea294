"""`icm evaluate`: codecs side by side, among them the one below."""

import json
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from compressai.utils.plot.__main__ import matplotlib_plt, parse_json_file
from conftest import assert_error, done, icm, picture, tiny_codec
from test_cli import CONFIG
from torchvision.utils import save_image

from icmlib.codecs import SHIPPED, Decoders, anchor
from icmlib.datasets import deadleaves
from icmlib.evaluate import summarize
from icmlib.metrics import bd, fidelity
from icmlib.tool import rate_distortion


@dataclass
class Flat:
    """Sends levels of grey, in a bitstream that is not icmlib's."""

    levels: int = 2
    rows: int | None = None  # all

    def encode(self, x):
        x_hat, size = (x * self.levels).round() / self.levels, 100 * self.levels
        return SimpleNamespace(payload_bytes=size, total_bytes=size + 1, x_hat=x_hat)

    def decode(self, bitstream):
        return bitstream.x_hat[:, : self.rows]


def own():
    return [*map(Flat, (2, 4, 8, 16))]


cropped = partial(Flat, rows=8)
OWN = f"{__name__}:own"


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """`evaluate("JPEG", ...)`: these codecs, on two images, to the folder `out`; VGG-16 is slow."""
    monkeypatch.setattr(rate_distortion, "summarize", partial(summarize, resamples=20))
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name, side in (("a", 32), ("sub/b", 40)):
        save_image(picture(side, 48), tmp_path / "photos" / f"{name}.png")

    def run(*codecs, photos="photos", **options):
        words = ["evaluate", tmp_path / photos, "--out", tmp_path / "out", "--vgg-images", 0]
        words += [f"--codec={codec}" for codec in codecs]
        words += [word for name, value in options.items() for word in (f"--{name}", value)]
        return icm(*(word for word in words if word is not True))

    return run


def test_tables_are_of_the_images(evaluate, tmp_path, others):
    for name, codec, more in (("low", tiny_codec(1), {}), ("high", tiny_codec(), others)):
        Decoders.of(codec, more).save(tmp_path / f"{name}.safetensors", CONFIG)
    files = [f"mine={tmp_path}/low.safetensors", f"mine={tmp_path}/high.safetensors:human,machine"]
    done(evaluate(*files, "JPEG:30", "WebP:30", OWN))
    table = pd.read_csv(tmp_path / "out" / "rate_distortion.csv", index_col=["curve", "point"])
    assert ("mine human", "high") in table.index and len(table.loc["mine machine"]) == 2
    images, codec = [picture(32, 48), picture(40, 48)], anchor("JPEG", quality=30)
    pixels, pairs = 72 * 48, [(x[None], codec.decode(codec.encode(x))[None]) for x in images]
    psnr = [fidelity.psnr(*pair).item() for pair in pairs]
    assert table.loc[("JPEG", "q30"), "psnr"] == pytest.approx(np.mean(psnr))
    row = table.loc["own", "own 3"]
    assert row["bpp"] == 8 * 1600 / pixels and row["bpp_total"] == 8 * 1602 / pixels
    for name, options in (("JPEG", {"container": False}), ("WebP", {})):  # as learned ones send
        sent = [anchor(name, quality=30, **options).encode(x).payload_bytes for x in images]
        assert table.loc[(name, "q30"), "bpp"] == 8 * sum(sent) / pixels
    each = pd.read_csv(tmp_path / "out" / "per_image.csv", index_col="curve").loc["JPEG"]
    assert each["psnr"].tolist() == pytest.approx(psnr)


def test_ms_ssim_is_of_all_images_or_none(evaluate, tmp_path):
    """Of images of 161 px and more; beside smaller ones it would be of others than PSNR is."""
    save_image(picture(176, 168), tmp_path / "photos" / "c.png")
    done(evaluate("JPEG:30"))
    assert "ms_ssim" not in pd.read_csv(tmp_path / "out" / "rate_distortion.csv")
    done(evaluate("JPEG:30", photos="photos/c.png", force=True))
    x, codec = picture(176, 168), anchor("JPEG", quality=30)
    ms_ssim = fidelity.ms_ssim(x[None], codec.decode(codec.encode(x))[None]).item()
    (row,) = pd.read_csv(tmp_path / "out" / "rate_distortion.csv").to_dict("records")
    assert 10 ** (-row["ms_ssim_db"] / 10) == pytest.approx(1 - ms_ssim)


def test_names_and_fingerprints_stay_text(tmp_path):
    row = {"curve": "NA", "point": "1", "fingerprint": "0123456789012345", "settings": "123e5"}
    pd.DataFrame([row | {"psnr": 1.5}]).to_csv(tmp_path / "rows.csv", index=False)
    assert rate_distortion.read_records(tmp_path / "rows.csv") == [row | {"psnr": 1.5}]


def test_curves_are_read_by_compressai_and_beside_others(evaluate, tmp_path):
    done(evaluate("JPEG:30,60,90", OWN))
    out = tmp_path / "out"
    curves = [parse_json_file(out / f"{name}.json", "psnr") for name in ("JPEG", "own")]
    matplotlib_plt(curves, "", "", tmp_path / "theirs.png")
    pair = [(np.array(curve["xs"]), np.array(curve["ys"])) for curve in curves]
    table = pd.read_csv(out / "bd.csv").set_index(["curve", "what"])["value"]
    assert table["own", "BD-PSNR (dB)"] == pytest.approx(bd.delta(*pair, "quality").value)
    other, theirs = tmp_path / "x.json", [2 * rate for rate in curves[0]["xs"]]
    other.write_text(json.dumps({"bpp": theirs, "psnr-rgb": curves[0]["ys"]}))
    done(evaluate(OWN, beside=other, against=other))
    table = pd.read_csv(out / "bd.csv").set_index(["curve", "what"])
    assert table.loc[("JPEG", "BD-rate (%)"), "value"] == pytest.approx(-50)
    assert (table.loc["JPEG", ["points", "points_against"]] == 3).all(axis=None)
    done(evaluate(OWN, against="JPEG"))  # measured by the first call
    assert pd.read_csv(out / "bd.csv")["against"].unique() == ["JPEG"]
    assert b"FontFile2" in (out / "curves.pdf").read_bytes() and (out / "curves.png").exists()


def test_what_was_measured_is_kept(evaluate, tmp_path, monkeypatch):
    """Points are added; other results of one are refused, as are other images, unless forced."""
    done(evaluate("JPEG:30", OWN))
    file = tmp_path / "out" / "rate_distortion.csv"
    pd.read_csv(file).assign(psnr=20.0).to_csv(file, index=False)  # whoever measures finds another
    done(evaluate("JPEG:30", OWN, "WebP:20"))
    assert (pd.read_csv(file)["psnr"] == 20).tolist() == [True] * 5 + [False]
    monkeypatch.setattr(f"{__name__}.own", lambda: Flat(3))
    assert_error(evaluate(OWN), "own own 1 is of two codecs")
    save_image(picture(40, 40), tmp_path / "photos" / "c.png")
    assert_error(evaluate("JPEG:30"), "out has results of other images")
    assert len(pd.read_csv(file)) == 6
    done(evaluate("JPEG:30", force=True))
    assert pd.read_csv(file)["images"].tolist() == [3]


def test_ap_of_annotated_images(evaluate, scenes_folder, tmp_path, project):
    project(tiny=f"task: {{weights: {SHIPPED.with_name('small_mask_rcnn.safetensors')}}}")
    truth, photos = deadleaves.annotation_file(scenes_folder, "test"), scenes_folder / "test"
    done(evaluate("JPEG:20,90", photos=photos, annotations=truth, task="tiny"))
    row = pd.read_csv(tmp_path / "out" / "rate_distortion.csv").iloc[1]
    assert row["mask_AP_low"] < row["mask_AP"] < row["mask_AP_high"]


WRONG = [  # codec, options, message
    ("Jpeg", {}, "unknown codec 'Jpeg'; need an anchor (JPEG, "),
    (f"{__name__}:cropped", {}, "decode returns (3, 8, 48); the image is (3, 32, 48)"),
    ("builtins:dict", {}, "builtins:dict returns dict, without encode and decode"),
    ("JPEG", {"task": "quick"}, "give both or none"),
    ("JPEG", {"beside": __file__}, ".py holds no results"),
    ("JPEG", {"against": "none"}, "unknown curve 'none'; there are: JPEG"),
    ("JPEG", {"photos": "photos/empty"}, "empty has no images"),
    ("JPEG", {"photos": "broken.png"}, "1 images cannot be read"),
]


@pytest.mark.parametrize("codec, options, message", WRONG)
def test_wrong_input(evaluate, tmp_path, codec, options, message):
    (tmp_path / "photos" / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"none")
    result = evaluate(codec, **options)
    last = result.stderr.splitlines()[-1]  # some are found after progress was shown
    assert result.exit_code == 2 and last.startswith("error: ") and message in last
