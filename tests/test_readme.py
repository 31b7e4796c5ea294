"""What README.md and notebooks/README.md show as code does what they say; also of the wheel."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import picture
from torchvision.utils import save_image

ROOT = Path(__file__).parent.parent


def block(file: str, heading: str) -> str:
    """The first Python block below a heading."""
    _, below = (ROOT / file).read_text().split(f"\n## {heading}\n", 1)
    section, *_ = below.split("\n## ", 1)
    return re.search(r"```python\n(.*?)```", section, re.S)[1]


def test_ten_lines(capsys, monkeypatch):
    """The same bits for all; people get the better picture."""
    monkeypatch.chdir(ROOT)
    exec(block("README.md", "In ten lines of Python"), {})
    lines = [line.split(", ") for line in capsys.readouterr().out.splitlines()]
    assert [line[0].split(":")[0] for line in lines] == ["machine", "human", "0.3"]
    assert len({line[0].split(": ")[1] for line in lines}) == 1
    psnr, ssim = ([float(re.search(r"\d+\.\d+", line[i])[0]) for line in lines] for i in (1, 2))
    assert ssim[0] < ssim[1] and min(psnr) > 20


def test_own_codec(scenes, monkeypatch):
    """One that keeps its images is measured as lossless, at the byte that it writes."""
    kept = []
    monkeypatch.chdir(ROOT)
    given = {
        "my_bytes": lambda image: kept.append(image) or bytes([len(kept) - 1]),
        "my_image": lambda data: kept[data[0]],
    }
    text = block("notebooks/README.md", "Your own codec")
    setting = 'icm.datasets.create(profile.data, "test")'
    assert setting in text and "icm.summarize(" in text
    text = text.replace(setting, 'scenes("test")').replace("icm.summarize(", "row = icm.summarize(")
    names = given | {"scenes": scenes}
    exec(text, names)
    assert names["row"]["bpp"] == 8 / 64**2 and names["row"]["psnr"] == float("inf")
    assert len(kept) == 4 and all(image.shape == (3, 64, 64) for image in kept)


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
def test_wheel_codes_photographs(python):
    icm = ("-m", "icmlib.tool.cli")
    python(*icm, "encode", "photo.png", "photo.icm")
    assert "128x96 px" in python(*icm, "decode", "photo.icm", "out.png")
    assert "low_impact" in python(*icm, "compare", "photo.png")
    assert "read it" in python(*icm, "info", "photo.icm")
    quick = ("--weights", "data/weights/quick_codec.safetensors")
    assert "do not read it" in python(*icm, "info", "photo.icm", *quick)
    python(*icm, "encode", "photo.png", "quick.icm", *quick)


@pytest.mark.slow
def test_wheel_is_the_library(python):
    lines = python("-c", block("README.md", "In ten lines of Python")).splitlines()
    assert [line.split(":")[0] for line in lines] == ["machine", "human", "0.3"]
    code = "import icmlib as icm; p = icm.load_profile('quick'); print(icm.tasks.create(p.task))"
    assert "MaskRCNN" in python("-c", code)
