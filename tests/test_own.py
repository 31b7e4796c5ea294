"""A codec, a task network and a data set of one's own: the lines of notebooks/README.md."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import picture
from torchvision.utils import save_image

import icmlib as icm
from icmlib import codecs, datasets, tasks, training
from icmlib.codecs import Decoders
from icmlib.config import CodecConfig, DataConfig
from icmlib.datasets import deadleaves
from icmlib.io import imported, save_weights
from icmlib.tasks.torchvision import TorchvisionTask
from icmlib.tool.notebooks import run_notebook

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "notebooks" / "README.md").read_text()
PROFILE = "base: {steps: 2, batch: 2, crop: 64}\n"
PHOTOGRAPHS = """
data:
  name: mine
  root: data
  splits:
    train: {images: train, limit: 3}
    val: {images: train, skip: 3}
    test: {images: test}
task: null
codec: {N: 8, M: 12}
base: {proxy: vgg16, steps: 2, batch: 2, crop: 32}
finetune: {steps: 2, batch: 2, patch_size: 96, lr: 0.05}
evaluation: {resamples: 20, resamples_val: 20}
rows: {p3x64: {lambda_feature: 1.0}}
"""
BOOKS = ("00_data", "01_task_network", "02_base_codec", "03_patchgan_finetuning", "04_ablations")


@pytest.fixture
def own(project, scenes_folder, monkeypatch):
    """The project's root, with the profile and the modules that the README shows."""
    shown, profile = r"```python\n([^`]*)```\n\n```yaml\n(\w+: \{name: \"(\w+):.*)\n```", PROFILE
    for text, setting, module in re.findall(shown, TEXT):
        profile += setting + "\n"
        (root := project(mine=profile)).joinpath(f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)  # of another test
    for split in deadleaves.SPLITS:
        folder = root / "data" / "mine" / split
        shutil.copytree(scenes_folder / split, folder / "images")
        annotations = deadleaves.annotation_file(scenes_folder, split)
        text = re.sub(r'"category_id": 4', '"category_id": 3', annotations.read_text())
        text = re.sub(r', \{"id": 4, "name": "star"\}', "", text)
        (folder / "instances.json").write_text(text)
    monkeypatch.chdir(root / "notebooks")  # where notebooks run
    monkeypatch.setattr(sys, "path", [*sys.path])
    return root


def test_the_lines_of_the_readme_train_and_are_measured(own):
    profile = icm.load_profile("mine")
    build = imported(profile.task.name, "task network")
    save_weights(own / profile.task.weights, build(profile.task))
    network = tasks.create(profile.task)
    assert isinstance(network, TorchvisionTask)
    datasets.check(profile.data, profile.task.num_classes)
    train, test = (datasets.create(profile.data, split) for split in ("train", "test"))
    codec = codecs.create(profile.codec, profile.base.seed)
    assert isinstance(codec.g_s[-1], torch.nn.Sequential)  # pixel shuffle
    run = icm.open_run(profile, "base_codec", "base", {"codec": profile.codec})
    training.train_base_codec(codec, network, train, profile.base, run)
    assert len(run.logged()) == 2
    row = icm.summarize(icm.evaluate(codec, network, test, progress=False), resamples=5)
    assert row["bpp"] > 0 and row["psnr"] > 0 and row["box_AP"] >= 0
    decoders = icm.load_decoders("mine/base_codec/base")
    assert decoders.codec.fingerprint == codec.fingerprint


def test_a_changed_module_is_another_run(own):
    profile = icm.load_profile("mine")
    facts = profile, "data", "scenes", {"data": profile.data}
    icm.open_run(*facts).finish({})
    with (own / "mydata.py").open("a") as file:
        file.write("\n")
    with pytest.warns(UserWarning, match=r"inputs\.modules\.mydata: \w+ -> \w+\): moved to"):
        icm.open_run(*facts)


def test_no_file_names_a_function(own, tmp_path):
    """A profile is the user's own, a file of decoders may be a stranger's."""
    codec = codecs.create(config := CodecConfig("mycodec:build", N=8, M=12))
    codec.update()
    Decoders(codec, {}).save(tmp_path / "mine.safetensors", config)
    with pytest.raises(ValueError, match="asks to call mycodec:build, which only a profile may"):
        codecs.read_decoders(tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    "name, message",
    [
        ("mydata:create_it", "AttributeError: module 'mydata' has no attribute 'create_it'"),
        ("nowhere:create", "ModuleNotFoundError: No module named 'nowhere'.* installed or in /"),
        ("broken:create", "ModuleNotFoundError: No module named 'missing'"),
        ("mydata:", "ValueError: it does not name a function as module:function"),
    ],
)
def test_what_cannot_be_imported_is_named(own, name, message):
    (own / "broken.py").write_text("import missing")
    with pytest.raises(ValueError, match=f"data set '{name}' cannot be imported .{message}"):
        datasets.create(DataConfig(name), "test")


def test_a_codec_is_a_compressai_model(own):
    (own / "other.py").write_text("def build(*_):\n    return 1\n")
    with pytest.raises(ValueError, match="codec 'other:build' returns int; need a CompressAI mod"):
        codecs.create(CodecConfig("other:build"))


@pytest.mark.slow
def test_table_1_of_a_folder_of_photographs(project, tmp_path):
    """One row; some photographs are smaller than a patch. The machine is scored by VGG distance."""
    project(tiny=PHOTOGRAPHS)
    for folder, sides in (("train", (64, 80, 128, 96)), ("test", (96, 120))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for side in sides:
            save_image(picture(side, 160 - side // 2), tmp_path / "data" / folder / f"{side}.jpg")
    shutil.copy(ROOT / "data/le2022_table1.csv", tmp_path / "data")
    for name in BOOKS:
        book = f"{name}.ipynb"
        run_notebook(ROOT / "notebooks" / book, tmp_path / book, {"profile": "tiny"})
    results = tmp_path / "results" / "tiny"
    table = pd.read_csv(results / "table1.csv", index_col="row")
    assert (table["vgg"] > 0).all() and not [name for name in table if "AP" in name]
    assert table.loc["p3x64", "vgg_change"] != 0 and table.loc["base", "vgg_change"] == 0
    claims = pd.read_csv(results / "claims.csv", index_col="finding")["verdict"]
    assert claims["p3x64: VGG distance not up"] != "cannot be said"
