from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The measured data beside the project (../shared/data); without it the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors: more threads cost more than they give, and others use the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory) -> Path:
    """Tiny dead leaves, 64x64 px: 6 training, 2 validation and 4 test scenes."""
    from icmlib.datasets import deadleaves

    root = tmp_path_factory.mktemp("data")
    return deadleaves.generate(root, 64, {"train": 6, "val": 2, "test": 4}, seed=0, workers=1)


@pytest.fixture
def scenes(scenes_folder):
    """`scenes("test")`: a split of the tiny dead leaves as a CocoDataset."""
    from icmlib.datasets import CocoDataset, deadleaves

    return lambda split: CocoDataset(
        scenes_folder / split, deadleaves.annotation_file(scenes_folder, split)
    )


@pytest.fixture
def codec():
    """A tiny codec with untrained weights and its entropy tables made."""
    return tiny_codec()


def tiny_codec(seed: int = 0):
    from icmlib import codecs
    from icmlib.config import CodecConfig

    made = codecs.create(CodecConfig(N=8, M=12), seed)
    made.eval().update()
    return made


@pytest.fixture
def new_run(tmp_path):
    """`new_run("name")`: a run folder, the same one each time it is asked for."""
    from icmlib.runs import Run

    return lambda name="run", **parameters: Run(tmp_path / name, parameters, {}, {"profile": "t"})
