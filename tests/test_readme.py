"""What README.md and notebooks/README.md show as code does what they say."""

import re
from pathlib import Path

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
    psnr = [float(line[1].split()[0]) for line in lines]
    assert psnr[0] < psnr[2] < psnr[1] and psnr[0] > 20


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
