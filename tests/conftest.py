import copy
import hashlib
import json
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from icmlib import codecs
from icmlib.codecs.patches import decoder_layers
from icmlib.config import CodecConfig
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.studies.profile import load_profile
from icmlib.studies.runs import Run
from icmlib.tool import cli

torch.set_num_threads(1)  # small tensors: more cost more than they give, and others compute, too


@pytest.fixture(scope="session")
def shared() -> Path:
    """The measured data beside the project (../shared/data); without it the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory) -> Path:
    """Tiny dead leaves, 64x64 px: 6 training, 2 validation and 4 test scenes."""
    root = tmp_path_factory.mktemp("data")
    return deadleaves.generate(root, 64, {"train": 6, "val": 2, "test": 4}, seed=0, workers=0)


def scenes_of(folder: Path, split: str) -> CocoDataset:
    return CocoDataset(folder / split, deadleaves.annotation_file(folder, split))


@pytest.fixture
def scenes(scenes_folder):
    """`scenes("test")`: a split of the tiny dead leaves as a CocoDataset."""
    return partial(scenes_of, scenes_folder)


def icm(*words):
    """The command line; returns click's result."""
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def icm_process(*words, **variables) -> subprocess.CompletedProcess:
    """The command line in a process of its own, with these environment variables."""
    command = [sys.executable, "-m", "icmlib.tool.cli", *map(str, words)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def done(result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_error(result, text: str) -> None:
    """One line, no traceback."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert text in result.stderr


def contents(folder: Path, without: set[str] = frozenset()) -> dict[str, bytes]:
    """Every file below, hidden ones too, but for those of these names."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in without]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def picture(height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    """(3, H, W): smooth shapes with a little noise, at 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    noise = torch.randn(3, height, width, generator=generator)
    return ((smooth + 0.05 * noise).clamp(0, 1) * 255).round() / 255


def tiny_codec(seed: int = 0, name: str = "scale_hyperprior_s8"):
    """An untrained codec of that architecture, ready to code; its analysis is scaled up, since an
    untrained one rounds every latent to zero, and medians are moved, as training moves them."""
    return copy.deepcopy(made_codec(seed, name))


@cache
def made_codec(seed: int, name: str):
    made = codecs.create(CodecConfig(name, N=8, M=12), seed)
    with torch.no_grad():
        for layer in made.model.g_a.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight *= 4 if "_s8" in name else 3  # has a stage less
        made.model.entropy_bottleneck.quantiles += 0.2
    made.eval().update()
    return made


@pytest.fixture
def codec():
    return tiny_codec()


def finetuned(codec, layers: int):
    """A copy whose first decoder layers have other weights."""
    other, generator = copy.deepcopy(codec), torch.Generator().manual_seed(layers)
    with torch.no_grad():
        for weight in torch.nn.ModuleList(decoder_layers(other.g_s)[:layers]).parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += 0.2 * weight.abs().mean() * noise
    return other


@pytest.fixture
def others(codec):
    return {"human": finetuned(codec, 2), "low_impact": finetuned(codec, 1)}


@pytest.fixture
def decoders(codec, others):
    """`machine`, the tiny codec's own, and the others."""
    return codecs.Decoders.of(codec, others)


class ToyTask(torch.nn.Module):
    """A machine that costs nothing; its loss draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
        weight = torch.linspace(-1, 1, 108).sin().reshape(4, 3, 3, 3)
        self.conv.load_state_dict({"weight": weight, "bias": torch.full((4,), 0.1)})

    def features(self, images) -> dict:
        return {"0": self.conv(torch.stack(list(images)))}

    def loss(self, images, targets) -> dict:
        maps = self.features(images)["0"]
        boxes = torch.cat([target["boxes"] for target in targets])
        noise = torch.rand(maps.shape)
        box = (maps.mean() - boxes.mean() / 64) ** 2
        return {"noisy": ((maps - noise) ** 2).mean(), "box": box}


@pytest.fixture
def task():
    return ToyTask()


@pytest.fixture
def new_run(tmp_path):
    """`new_run("name")`: a run folder, the same one each time it is asked for."""
    return lambda name="run", **parameters: Run(tmp_path / name, parameters, {}, {"profile": "t"})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """`project(tiny="seed: 0")`: a project's folder, with a profile of that name and text."""
    folder = tmp_path / "notebooks" / "profiles"
    folder.mkdir(parents=True)
    monkeypatch.setenv("ICM_ROOT", str(tmp_path))

    def write(**profiles: str) -> Path:
        for name, text in profiles.items():
            (folder / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


@pytest.fixture
def profile(project, request):
    """`tiny`, of the text PROFILE of the test's module."""
    project(tiny=request.module.PROFILE)
    return load_profile("tiny")


@pytest.fixture
def finished(tmp_path):
    """`finished("chain/q1", test={...})`: a run of profile `tiny` has ended with this summary."""

    def write(run: str, base: str | None = None, **summary) -> None:
        folder = tmp_path / "results" / "tiny" / run
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "run.json").write_text(json.dumps({"inputs": {"base": base}}))

    return write


PROFILE = """
data: {{root: {root}, size: 64, train: 6, val: 2, test: 4}}
task: {{steps: 7, batch: 2}}
"""


@pytest.fixture
def notebook(tmp_path, scenes_folder):
    """`notebook(name, *launcher)`: 01_task_network trains, in a project of this name."""
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "often.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("from icmlib.training import journal\njournal.CHECKPOINT_EVERY = 2\n")
    book = Path(__file__).parents[1] / "notebooks" / "01_task_network.ipynb"
    (tmp_path / "temporary").mkdir()
    started = []

    def run(name: str, *launcher: str) -> subprocess.Popen:
        profiles = tmp_path / name / "notebooks" / "profiles"
        profiles.mkdir(parents=True, exist_ok=True)
        (profiles / "tiny.yaml").write_text(PROFILE.format(root=scenes_folder.parent))
        words = ["-m", "icmlib.tool.cli", "run", book, tmp_path / f"{name}.ipynb", "profile=tiny"]
        env = {"ICM_ROOT": tmp_path / name, "IPYTHONDIR": tmp_path / "ipython"}
        env |= {"TMPDIR": tmp_path / "temporary", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, *launcher, *words]
        started.append(subprocess.Popen(words, env=os.environ | env))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


class Malicious:
    """Asks for a call when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub, and no network."""
    no_network = Mock(side_effect=OSError("no route to host"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.fixture
def publish(hub):
    """`publish(thing)`: saved in the cache, with the hash in its name; returns its address."""

    def save(thing) -> str:
        torch.save(thing, hub / "new")
        digest = hashlib.sha256((hub / "new").read_bytes()).hexdigest()
        path = (hub / "new").rename(hub / f"made-{digest[:8]}.pth.tar")
        return f"https://nowhere.invalid/models/{path.name}"

    return save
