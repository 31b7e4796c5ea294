"""The strict papermill wrapper. The report is in test_report.py."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
from conftest import icm, icm_process
from PIL import Image

from icmlib.io import InputError
from icmlib.tool import notebooks

KILLED = "import os, signal\nos.kill(os.getpid(), 9)"


@pytest.fixture
def notebook(tmp_path):
    """A notebook that prints the product of two of its parameters."""
    cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        nbformat.v4.new_code_cell(
            "steps = 3  # how many\nname = 'a=b # c'  # whose\nrate = 0.5\non = True\nchanges = {}",
            metadata={"tags": ["parameters"]},
        ),
        nbformat.v4.new_code_cell(
            "import sys\nprint('noise', file=sys.stderr)\nprint('said')\nname * steps"
        ),
    ]
    path = tmp_path / "small.ipynb"
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_parameters_reach_the_notebook(notebook, tmp_path):
    executed = tmp_path / "out" / "executed.ipynb"
    done = icm("run", notebook, executed, "steps=2", "name=xy")
    assert done.exit_code == 0
    assert done.stdout.startswith("small steps=2 name=xy: started\nsmall steps=2 name=xy: done in ")
    outputs = nbformat.read(executed, as_version=4).cells[-1].outputs
    assert outputs[-1]["data"]["text/plain"] == "'xyxy'"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("step=2", "no parameter 'step' (did you mean 'steps'"),
        ("x=2", "it has: steps, name, rate, on, changes"),
        ("steps=two", "steps is 'two'; its default 3 is a int"),
        ("on=maybe", "on is 'maybe'; its default True is a bool"),
        ("rate=fast", "rate is 'fast'; its default 0.5 is a float"),
        ("profile", "not of the form name=value"),
    ],
)
def test_parameters_that_cannot_be_are_told_in_one_line(notebook, tmp_path, word, message):
    done = icm("run", notebook, tmp_path / "out.ipynb", word)
    assert done.exit_code == 2 and message in done.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(("text", "message"), [(None, "does not exist"), ("{", "is no notebook")])
def test_a_notebook_that_is_none_is_named_in_one_line(tmp_path, text, message):
    book, out = tmp_path / "book.ipynb", tmp_path / "out"
    if text:
        book.write_text(text)
    for words in (("run", book, out), ("report", out, book)):
        done = icm(*words)
        assert done.exit_code == 2 and not out.exists()
        assert f"{book} {message}" in done.stderr and done.stderr.count("\n") == 1


def test_the_notebook_itself_is_never_written(notebook):
    before = notebook.read_bytes()
    with pytest.raises(InputError, match="the executed copy would replace"):
        notebooks.run_notebook(notebook, notebook.parent / "." / notebook.name, {})
    assert notebook.read_bytes() == before


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", "cell `1 / 0`:\nZeroDivisionError: division by zero\ntraceback: "),
        pytest.param(KILLED, "signal`:\nthe kernel was killed; most often", marks=pytest.mark.slow),
    ],
)
def test_failed_run_is_said_with_its_cell(notebook, tmp_path, cell, message):
    """The copy is replaced by what came to its end."""
    book = nbformat.read(notebook, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(cell))
    nbformat.write(book, notebook)
    executed, unfinished = tmp_path / "out.ipynb", tmp_path / "out.unfinished.ipynb"
    executed.write_text("before")
    done = icm("run", notebook, executed)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert f"{message}{unfinished if 'traceback' in message else ''}" in done.stderr
    assert cell == KILLED or "ZeroDivisionError" in unfinished.read_text()
    assert executed.read_text() == "before"


@pytest.mark.slow
def test_the_kernel_is_of_this_environment(notebook, tmp_path):
    """Also where the user has a kernel of that name for another Python."""
    kernel = tmp_path / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "other", "language": "python"}
    kernel.write_text(json.dumps(spec))
    done = icm_process("run", notebook, tmp_path / "out.ipynb", JUPYTER_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_names_of_files_are_utf8_in_any_locale(notebook, tmp_path):
    """Also braces, which papermill would fill in. In an environment of any name: Python before 3.13
    reads its .pth files as the locale says; -S passes them over."""
    book = nbformat.read(notebook, as_version=4)
    book.cells[0].source = "# Größe · 測定"
    folder = tmp_path / "Größe · 測定 {a}"
    book.cells[-1].source = "from pathlib import Path\nprint(sorted(Path.cwd().glob('*測定*')))"
    folder.mkdir()
    nbformat.write(book, folder / "測定.ipynb")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {"JUPYTER_PATH": f"{sys.prefix}/share/jupyter"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    variables = os.environ | locale | environment
    for words in (("run", "測定.ipynb", "{o}.ipynb"), ("report", "測定.html", "{o}.ipynb")):
        command = [sys.executable, "-S", "-m", "icmlib.tool.cli", *words]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == str(folder / "測定.html")
    page = (folder / "測定.html").read_text("utf-8")
    assert "Größe · 測定" in page and "Größe · 測定 {a}/測定.ipynb" in page


@pytest.mark.slow
def test_variables_that_another_launcher_left_are_ignored(tmp_path):
    """A process that waited for others would never end."""
    left = dict.fromkeys(("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"), "2") | {"RANK": "1"}
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    done = icm_process("encode", tmp_path / "a.png", tmp_path / "a.icm", **left)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("name=2024", "2024"),
        ("name=yes", "yes"),
        ("name=07", "07"),
        ("name=", ""),
        ("name=a=b # c", "a=b # c"),
        ("steps=7", 7),
        ("rate=1", 1.0),
        ("rate=1e-3", 0.001),
        ("on=false", False),
        ("changes={b: 1}", {"b": 1}),
    ],
)
def test_a_value_is_read_by_the_type_of_its_default(notebook, word, value):
    (read,) = notebooks.read_parameters(notebook, [word]).values()
    assert read == value and type(read) is type(value)
