"""The strict papermill wrapper. The report is in test_report.py."""

import os

import nbformat
import pytest
from click.testing import CliRunner

from icmlib.tool import cli, notebooks


@pytest.fixture
def notebook(tmp_path):
    """A notebook with two parameters that prints their product."""
    cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        nbformat.v4.new_code_cell(
            "steps = 3  # how many\nname = 'a'", metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_code_cell(
            "import sys\nprint('noise', file=sys.stderr)\nprint('said')\nname * steps"
        ),
    ]
    path = tmp_path / "small.ipynb"
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_executed_notebook_is_whole_at_every_moment(notebook, tmp_path, monkeypatch):
    """A run that does not come to its end leaves the one before."""
    executed = tmp_path / "executed.ipynb"
    notebooks.run_notebook(notebook, executed, {})
    whole = executed.read_text()

    def killed(*names):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        notebooks.run_notebook(notebook, executed, {"name": "b"})
    assert executed.read_text() == whole


def test_parameters_reach_the_notebook(notebook, tmp_path):
    executed = tmp_path / "out" / "executed.ipynb"
    words = ["run", str(notebook), str(executed), "steps=2", "name=xy"]
    done = CliRunner().invoke(cli.main, words)
    assert done.exit_code == 0
    assert done.stdout.startswith("small steps=2 name=xy: started\nsmall steps=2 name=xy: done in ")
    outputs = nbformat.read(executed, as_version=4).cells[-1].outputs
    assert outputs[-1]["data"]["text/plain"] == "'xyxy'"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("step=2", "no parameter 'step' (did you mean 'steps'"),
        ("steps=two", "steps is 'two'"),
        ("name={", "is not valid YAML"),
        ("profile", "not of the form name=value"),
    ],
)
def test_parameters_that_cannot_be_are_told_in_one_line(notebook, tmp_path, word, message):
    words = ["run", str(notebook), str(tmp_path / "out.ipynb"), word]
    done = CliRunner().invoke(cli.main, words)
    assert done.exit_code == 2 and message in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_missing_notebook_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.ipynb does not exist"):
        notebooks.run_notebook(tmp_path / "none.ipynb", tmp_path / "out.ipynb", {})


def test_failed_run_leaves_its_traceback(notebook, tmp_path):
    book = nbformat.read(notebook, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(book, notebook)
    executed, traceback = tmp_path / "out.ipynb", tmp_path / "out.unfinished.ipynb"
    done = CliRunner().invoke(cli.main, ["run", str(notebook), str(executed)])
    assert done.exit_code == 1 and "ZeroDivisionError: division by zero" in done.stderr
    assert f"traceback: {traceback}" in done.stderr
    assert "ZeroDivisionError" in traceback.read_text()
    assert not executed.exists()  # it has its name once it came to its end


@pytest.mark.parametrize(
    ("word", "value"),
    [("a=07", "07"), ("a=7", 7), ("a=true", True), ("a={b: 1}", {"b": 1}), ("a=", ""),
     ("a=1_000", "1_000")],
)  # fmt: skip
def test_values_read_as_yaml_but_identifiers_stay(word, value):
    assert notebooks.parse_parameters([word]) == {"a": value}
