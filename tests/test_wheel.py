"""The wheel by itself: `icm`, and README's ten lines, in a folder that holds a photograph alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import picture
from test_readme import block
from torchvision.utils import save_image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """`python("-m", ...)`: with the wheel in the place of the clone; what it printed."""
    made, here = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("empty")
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", made, ROOT], check=True)
    (wheel,) = made.glob("*.whl")
    assert wheel.stat().st_size < 20e6
    subprocess.run([*pip, "install", "--no-deps", "--target", made / "site", wheel], check=True)
    save_image(picture(96, 128), here / "photo.png")
    inherited = {k: v for k, v in os.environ.items() if k != "ICM_ROOT"}
    environment = inherited | {"PYTHONPATH": str(made / "site")}

    def run(*words: str) -> str:
        words, options = [sys.executable, *words], {"cwd": here, "env": environment}
        return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout

    assert run("-c", "import icmlib; print(icmlib.__file__)").startswith(str(made))
    return run


@pytest.mark.slow
def test_photographs(python):
    icm = ("-m", "icmlib.tool.cli")
    python(*icm, "encode", "photo.png", "photo.icm")
    assert "128x96 px" in python(*icm, "decode", "photo.icm", "out.png")
    assert "low_impact" in python(*icm, "compare", "photo.png")
    assert "read it" in python(*icm, "info", "photo.icm")
    quick = ("--weights", "data/weights/quick_codec.safetensors")
    assert "do not read it" in python(*icm, "info", "photo.icm", *quick)
    python(*icm, "encode", "photo.png", "quick.icm", *quick)


@pytest.mark.slow
def test_library(python):
    lines = python("-c", block("README.md", "In ten lines of Python")).splitlines()
    assert [line.split(":")[0] for line in lines] == ["machine", "human", "0.3"]
    code = "import icmlib as icm; p = icm.load_profile('quick'); print(icm.tasks.create(p.task))"
    assert "MaskRCNN" in python("-c", code)
