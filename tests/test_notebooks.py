"""The strict papermill wrapper. The report is in test_report.py."""

import os

import nbformat
import papermill
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
    """A save that does not come to its end leaves the one before."""
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
    notebooks.run_notebook(notebook, executed, {"steps": 2, "name": "xy"})
    outputs = nbformat.read(executed, as_version=4).cells[-1].outputs
    assert outputs[-1]["data"]["text/plain"] == "'xyxy'"


def test_unknown_parameter_names_the_nearest(notebook, tmp_path):
    with pytest.raises(ValueError, match=r"no parameter 'step' \(did you mean 'steps'"):
        notebooks.run_notebook(notebook, tmp_path / "out.ipynb", {"step": 2})
    assert not (tmp_path / "out.ipynb").exists()


def test_parameter_of_another_type_is_refused(notebook, tmp_path):
    with pytest.raises(ValueError, match="steps is 'two'"):
        notebooks.run_notebook(notebook, tmp_path / "out.ipynb", {"steps": "two"})


def test_missing_notebook_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.ipynb does not exist"):
        notebooks.run_notebook(tmp_path / "none.ipynb", tmp_path / "out.ipynb", {})


def test_failed_run_leaves_its_traceback(notebook, tmp_path):
    book = nbformat.read(notebook, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(book, notebook)
    executed = tmp_path / "out.ipynb"
    with pytest.raises(papermill.exceptions.PapermillExecutionError):
        notebooks.run_notebook(notebook, executed, {})
    assert "ZeroDivisionError" in (tmp_path / "out.unfinished.ipynb").read_text()
    assert not executed.exists()  # it has its name once it came to its end


def test_command_line(notebook, tmp_path):
    done = CliRunner().invoke(cli.main, ["run", str(notebook), str(tmp_path / "a.ipynb"), "name=b"])
    assert done.exit_code == 0
    assert done.stdout.startswith("small name=b: started\nsmall name=b: done in ")
    assert "bbb" in (tmp_path / "a.ipynb").read_text()


def test_command_line_reports_errors_without_traceback(notebook, tmp_path):
    words = ["run", str(notebook), str(tmp_path / "out.ipynb")]
    done = CliRunner().invoke(cli.main, [*words, "stepz=1"])
    assert done.exit_code == 2
    assert "did you mean 'steps'" in done.stderr
    done = CliRunner().invoke(cli.main, [*words, "name={"])
    assert done.exit_code == 2 and "is not valid YAML" in done.stderr


def test_command_line_says_where_the_traceback_of_a_cell_is(notebook, tmp_path):
    book = nbformat.read(notebook, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(book, notebook)
    done = CliRunner().invoke(cli.main, ["run", str(notebook), str(tmp_path / "out.ipynb")])
    assert done.exit_code == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert f"traceback: {tmp_path / 'out.unfinished.ipynb'}" in done.stderr


@pytest.mark.parametrize(
    ("word", "value"),
    [("a=07", "07"), ("a=7", 7), ("a=0.5", 0.5), ("a=true", True), ("a=x_1", "x_1"),
     ("a={b: 1}", {"b": 1}), ("a=", ""), ("a=1e-3", "1e-3"), ("a=1_000", "1_000")],
)  # fmt: skip
def test_values_read_as_yaml_but_identifiers_stay(word, value):
    assert notebooks.parse_parameters([word]) == {"a": value}


def test_word_that_is_no_yaml_is_refused():
    with pytest.raises(ValueError, match=r"parameter 'changes=\{a: 1' is not valid YAML"):
        notebooks.parse_parameters(["changes={a: 1"])


def test_word_without_equals_is_refused():
    with pytest.raises(ValueError, match="not of the form name=value"):
        notebooks.parse_parameters(["profile"])
