"""Study 1 on a folder of photographs without annotations, and without a task network."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import picture
from torchvision.utils import save_image

from icmlib.tool.notebooks import run_notebook

ROOT = Path(__file__).parents[1]
PROFILE = """
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


@pytest.mark.slow
def test_table_1_of_a_folder_of_photographs(project, tmp_path):
    """One row; some photographs are smaller than a patch. The machine is scored by VGG distance."""
    project(tiny=PROFILE)
    for folder, sides in (("train", (64, 80, 128, 96)), ("test", (96, 120))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for side in sides:
            save_image(picture(side, 160 - side // 2), tmp_path / "data" / folder / f"{side}.jpg")
    shutil.copy(ROOT / "data/le2022_table1.csv", tmp_path / "data")
    for name in BOOKS:
        run_notebook(
            ROOT / f"notebooks/{name}.ipynb", tmp_path / f"{name}.ipynb", {"profile": "tiny"}
        )
    results = tmp_path / "results" / "tiny"
    table = pd.read_csv(results / "table1.csv", index_col="row")
    assert (table["vgg"] > 0).all() and not [name for name in table if "AP" in name]
    assert table.loc["p3x64", "vgg_change"] != 0 and table.loc["base", "vgg_change"] == 0
    claims = pd.read_csv(results / "claims.csv", index_col="finding")["verdict"]
    assert claims["p3x64: VGG distance not up"] != "cannot be said"
