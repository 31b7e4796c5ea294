import hashlib
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from adapters import without_masks
from PIL import Image

from icmlib.codecs import PillowCodec
from icmlib.datasets import CocoDataset
from icmlib.evaluate import compare, evaluate, load_evaluation, save_evaluation, summarize
from icmlib.metrics.fidelity import psnr, ssim, to_8bit

PNG = PillowCodec("PNG")
JPEG = PillowCodec("JPEG", quality=20)


class Oracle(torch.nn.Module):
    """Finds everything in images that it knows to the pixel, and nothing in others."""

    def __init__(self, dataset):
        super().__init__()
        self.known, self.seen = {}, 0
        for x, target in (dataset[i] for i in range(4)):
            found = {name: target[name] for name in ("boxes", "labels")}
            found |= {"scores": torch.linspace(0.9, 0.5, len(found["boxes"]))}
            self.known[self.key(x)] = found | {"masks": target["masks"].bool()}
        self.nothing = {name: value[:0] for name, value in self.known[self.key(x)].items()}

    @staticmethod
    def key(image: torch.Tensor) -> bytes:
        return to_8bit(image).numpy().tobytes()

    def features(self, images) -> dict:
        return {"0": torch.nn.functional.avg_pool2d(torch.stack(list(images)), 4)}

    def predict(self, images, features=None) -> list[dict]:
        self.seen += len(images)
        return [self.known.get(self.key(image), self.nothing) for image in images]


@pytest.fixture
def dataset(scenes):
    return scenes("test")


@pytest.fixture
def oracle(dataset):
    return Oracle(dataset)


def test_a_row_is_of_the_files_and_of_the_8_bit_images(codec, dataset):
    """Total bits over total pixels; means over images; without a machine nothing of a machine."""
    evaluation = evaluate(codec, None, dataset)
    row, images = summarize(evaluation, resamples=20), [*map(dataset.image, range(4))]
    files, pixels = [codec.encode(x) for x in images], 4 * 64 * 64
    assert row["bpp_total"] == pytest.approx(8 * sum(len(bytes(f)) for f in files) / pixels)
    assert row["bpp"] == pytest.approx(8 * sum(len(b"".join(f.strings)) for f in files) / pixels)
    assert row["bpp_total"] > row["bpp"] > 0 and row["images"] == 4
    hashes = [hashlib.sha256(bytes(f)).hexdigest() for f in files]
    assert evaluation.per_image["sha256"].tolist() == hashes
    pairs = [(x[None], to_8bit(codec.decode(f))[None]) for x, f in zip(images, files)]
    assert row["psnr"] == pytest.approx(np.mean([float(psnr(*pair)) for pair in pairs]))
    assert row["ssim"] == pytest.approx(np.mean([float(ssim(*pair)) for pair in pairs]), rel=1e-6)
    assert np.isnan(row["vgg"]) and "feature" not in row


def test_vgg_is_taken_of_the_first_images(dataset, monkeypatch):
    """Whole batches of them. VGG is here how much darker a picture is."""
    monkeypatch.setattr(sys.modules["icmlib.evaluate"], "BATCH", 2)
    codecs, vgg = (PillowCodec("JPEG", quality=q) for q in (10, 60)), torch.nn.Identity()
    vgg.forward = lambda x, x_hat: (x - x_hat).mean((1, 2, 3))
    base, other = (evaluate(codec, None, dataset, vgg, 1) for codec in codecs)
    first = base.per_image["vgg"].to_numpy()
    assert np.isnan(first).tolist() == [False, False, True, True]
    assert summarize(base, resamples=20)["vgg"] == pytest.approx(first[:2].mean())
    row = compare(base, other, resamples=400)
    change = (other.per_image["vgg"] - base.per_image["vgg"]).dropna()
    assert row["vgg_difference"] == pytest.approx(change.mean())
    assert row["vgg_difference_low"] == pytest.approx(change.min())
    assert row["vgg_difference_high"] == pytest.approx(change.max())


def test_without_a_machine_or_annotations_there_is_no_map(dataset, scenes_folder, new_run):
    """None, not 0; also after saving and loading."""
    evaluation = evaluate(JPEG, None, dataset)
    run = new_run()
    save_evaluation(evaluation, run.folder, "test")
    loaded = load_evaluation(run.folder, "test")
    plain = evaluate(JPEG, None, CocoDataset(scenes_folder / "val"))
    for each in (evaluation, loaded, plain):
        assert not any("AP" in name for name in summarize(each, resamples=20))
    assert not any("AP" in name for name in compare(evaluation, loaded, resamples=20))


def test_lossless_codec_adds_nothing(dataset, oracle):
    """The mAP is that of the uncompressed images: here 1. Of boxes alone there is none of masks."""
    row = summarize(evaluate(PNG, oracle, dataset), resamples=20)
    assert row["psnr"] == float("inf") and row["ssim"] == 1 and row["feature"] == 0
    assert row["excess_prms"] == row["excess_prms_low"] == row["excess_prms_high"] == 0
    assert row["prms"] == row["original_prms"] and row["lpp4_Cb"] == row["original_lpp4_Cb"]
    assert row["mask_AP"] == row["box_AP"] == row["mask_AP50"] == 1
    assert oracle.seen == 4
    found = oracle.predict
    oracle.predict = lambda *given: [without_masks(each) for each in found(*given)]
    row = summarize(evaluate(PNG, oracle, dataset), resamples=20)
    assert row["box_AP"] == 1 and "mask_AP" not in row


def test_compare_is_the_second_less_the_first(dataset, oracle):
    """Paired image by image, with an interval around it. The machine sees the decoded images."""
    good = evaluate(PillowCodec("JPEG", quality=90), oracle, dataset)
    result = compare(evaluate(JPEG, oracle, dataset), good, resamples=200)
    low, middle, high = (result[f"psnr_difference{end}"] for end in ("_low", "", "_high"))
    assert 0 < low <= middle <= high
    with warnings.catch_warnings():  # of the infinite PSNR nothing is heard
        warnings.simplefilter("error")
        result = compare(evaluate(PNG, oracle, dataset), good, resamples=200)
    assert result["psnr_difference"] == -float("inf")
    assert result["mask_AP_difference"] == result["mask_AP_difference_low"] == -1
    assert result["box_AP_difference"] == -1 and result["feature_difference"] > 0


def test_different_images_cannot_be_paired(dataset, scenes):
    with pytest.raises(ValueError, match="different images; nothing to pair"):
        compare(evaluate(PNG, None, dataset), evaluate(PNG, None, scenes("val")))


def test_saved_and_loaded(dataset, oracle, new_run):
    """The same readings; and between the same nothing differs, not even infinite PSNR."""
    made, run = evaluate(PNG, oracle, dataset), new_run()
    save_evaluation(made, run.folder, "test")
    loaded = load_evaluation(run.folder, "test")
    assert loaded.per_image["file_name"].tolist() == made.per_image["file_name"].tolist()
    before, after = (summarize(each, resamples=20) for each in (made, loaded))
    assert after["mask_AP"] == 1 and after["psnr"] == float("inf")
    sampled = {name for name in before if name.endswith(("_low", "_high"))}
    for name in before.keys() - sampled:
        assert after[name] == pytest.approx(before[name], nan_ok=True), name
    differences = compare(made, loaded, resamples=20)
    assert {"psnr_difference", "mask_AP_difference_low", "box_AP_difference"} <= set(differences)
    assert differences == pytest.approx(dict.fromkeys(differences, 0), abs=1e-9)


def test_a_codec_in_double_precision_is_measured(dataset):
    decode = lambda bits: PNG.decode(bits).double()  # noqa: E731
    double = SimpleNamespace(encode=PNG.encode, decode=decode)
    ours, theirs = (evaluate(codec, None, dataset).per_image for codec in (PNG, double))
    pd.testing.assert_frame_equal(ours, theirs)


def test_an_image_that_is_too_small_is_named(tmp_path):
    for name, side in (("large", 32), ("small", 9)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"small\.png: image is 9x9 px"):
        evaluate(PNG, None, CocoDataset(tmp_path))
