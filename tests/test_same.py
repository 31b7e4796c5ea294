"""Bits, pictures and measures are what they were; `python tests/test_same.py` writes same.json anew
(after new weights, or where a change is meant). On other processors they are only close."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import skimage.data
import torch
from conftest import tiny_codec

from icmlib import codecs, tasks
from icmlib.codecs import SHIPPED
from icmlib.config import TaskConfig
from icmlib.datasets import deadleaves
from icmlib.evaluate import evaluate, summarize
from icmlib.metrics.fidelity import to_8bit
from icmlib.studies.trained import load_decoders

STORED = Path(__file__).with_name("same.json")
CASES = ["scene 0", "scene 1", "scene 2", "scene 3", "photograph", *codecs.MODELS]
SAME = {"pixels": 1e-6, "mean": 1e-6}  # all else to 1e-9
CLOSE = {"bpp": 0.01, "psnr": 0.1, "ssim": 0.01, "feature": 0.01, "pixels": 0.3, "detections": 2}


def image(case: str) -> torch.Tensor:
    """A scene, or a crop of a photograph whose sides no stride divides."""
    array = skimage.data.astronaut()[60:177, 150:280]
    if case.startswith("scene"):
        array, _ = deadleaves.scene(0, "test", int(case[-1]), 128)
    return torch.from_numpy(array).permute(2, 0, 1) / 255


def one_image(x: torch.Tensor) -> SimpleNamespace:
    """A data set of it, for `evaluate`."""
    height, width = x.shape[-2:]
    facts = {"id": 1, "file_name": "", "height": height, "width": width}
    truth = {"images": [facts], "annotations": [], "categories": []}
    made = SimpleNamespace(ground_truth=truth, category_ids=[1, 2, 3, 4])
    made.sizes, made.image = lambda: [(height, width)], lambda _: x
    return made


def measured(case: str) -> dict[str, dict]:
    """Per decoder: the hash of the bits, mean and some pixels of the picture, every measure."""
    task = tasks.load(TaskConfig(num_classes=4), SHIPPED.with_name("small_mask_rcnn.safetensors"))
    if case in codecs.MODELS:
        turned = {case: tiny_codec(name=case)}
    else:
        turn = load_decoders(SHIPPED.with_name("quick_codec.safetensors")).turn
        turned = {f"{case}, {to}": turn(to) for to in ("machine", "human", 0.3, "low_impact")}
    rows, x = {}, image(case)
    for name, codec in turned.items():
        bits = codec.encode(x)
        x_hat = codec.decode(bits)
        figures = summarize(evaluate(codec, task, one_image(x)), 2)
        row = {k: v for k, v in figures.items() if not k.endswith(("low", "high"))}
        found = len(task.predict(to_8bit(x_hat)[None])[0]["scores"])
        row |= {"mean": x_hat.double().mean().item(), "detections": found}
        row |= {"pixels": x_hat[:, 7::60, 5::70].ravel().tolist()}
        rows[name] = row | {"sha256": hashlib.sha256(bytes(bits)).hexdigest()}
    return rows


def processor() -> str:
    """And the version of PyTorch: what figures are the same to the last digit on."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = {each for each in facts.split("\n") if each.startswith(("model name", "flags"))}
    return hashlib.sha256("".join([torch.__version__, *sorted(lines)]).encode()).hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_bits_pictures_and_measures_are_what_they_were(case):
    stored = json.loads(STORED.read_text())
    here = stored["processor"] == processor()
    for name, row in measured(case).items():
        for key in row if here else CLOSE.keys() & row:
            value, within = stored[name][key], SAME.get(key, 1e-9) if here else CLOSE[key]
            if key != "sha256":
                value = pytest.approx(value, rel=1e-9, abs=within, nan_ok=True)
            assert row[key] == value, (name, key)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = {"processor": processor()} | {k: v for case in CASES for k, v in measured(case).items()}
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
