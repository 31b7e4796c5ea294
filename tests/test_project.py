import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from icmlib.studies.profile import load_profile
from icmlib.tasks.detectron2 import COMMIT

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
# what pip does not need to be told, or finds on the machine
CONDA_ONLY = {"pip", "setuptools", "cxx-compiler", "cuda-version", "detectron2"}


def requirement(text: str) -> tuple[str, str]:
    """`name >=1.2`, `name==1.2.*` or conda's `name 1.2.* build` -> (name, bound without ==)."""
    name, bound = re.match(r"([\w-]+)\s*(\S*)", text).groups()
    return CONDA_NAMES.get(name, name), bound.removeprefix("==")


def environment() -> list[str]:
    """What environment.yml asks of conda and of pip."""
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    return [entry for entry in conda if isinstance(entry, str)] + pip


def test_environment_and_pyproject_state_the_same_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {"python": project["requires-python"]}
    wanted |= dict(requirement(text) for group in groups for text in group)
    stated = dict(requirement(text) for text in environment() if not text.startswith("-"))
    assert {name: stated[name] for name in stated.keys() - CONDA_ONLY} == wanted


def test_environment_has_cuda_and_lets_pip_read_its_part():
    entries = environment()
    assert "cuda-version" in dict(map(requirement, entries))
    builds = [text.split()[2:] for text in entries if text.startswith(("pytorch ", "torchvision "))]
    assert builds == [["cuda*"], ["cuda*"]]
    assert not [text for text in entries if text.startswith("-")]  # pip would not read them


def test_detectron2_is_the_same_commit_everywhere():
    for name in ("environment.yml", "Makefile"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"detectron2@(\w+)", text)) == {COMMIT}, name


def test_lock_file_pins_every_requirement_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "index-url" not in text
    locked = {line.split("==")[0] for line in text.splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {requirement(r)[0] for r in project["dependencies"]} <= locked


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_clean_and_tells_its_story(path):
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert book.cells[0].cell_type == "markdown" and "**Question.**" in book.cells[0].source
    assert code[0].metadata.get("tags") == ["parameters"]
    assert not any(re.search(r"^class |\.backward\(", cell.source, re.M) for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 14


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks/profiles").glob("*.yaml")), ids=str)
def test_profile_loads(path):
    assert load_profile(path).name == path.stem
