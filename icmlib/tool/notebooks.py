"""Run notebooks headlessly."""

import ast
import os
from pathlib import Path

import nbformat
import papermill
import yaml

from icmlib.io import InputError, did_you_mean


def run_notebook(notebook: str | Path, executed: str | Path, parameters: dict) -> None:
    """Execute a notebook with parameters. The executed copy is `<executed>.unfinished.ipynb` until
    it is complete; if a cell fails, this copy holds the traceback.

    Raises:
        InputError: the executed copy would replace the notebook.
        papermill.exceptions.PapermillExecutionError: a cell failed.
        nbclient.exceptions.DeadKernelError: the kernel was killed.
    """
    executed, notebook = Path(executed).resolve(), Path(notebook).resolve()
    if notebook in (executed, unfinished(executed)):
        raise InputError(f"the executed copy would replace {notebook}; give it another name")
    executed.parent.mkdir(parents=True, exist_ok=True)
    # this environment's kernel `python3` before the user's own, which may be of another Python
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    plain = (
        str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, unfinished(executed))
    )
    papermill.execute_notebook(
        *plain,  # papermill fills braces in
        parameters,
        cwd=notebook.parent,
        kernel_name="python3",
        progress_bar=False,
        start_timeout=600,  # s; 60 are too few on a busy node with a slow disk
        extra_arguments=["--IPKernelApp.log_level=50"],  # not of shutting down
    )
    unfinished(executed).replace(executed)


def unfinished(executed: Path) -> Path:
    """Where an executed notebook is until it is complete."""
    return executed.with_name(f"{executed.stem}.unfinished.ipynb")


def last_cell(executed: Path) -> str:
    """The last cell that an unfinished notebook began: its number and first line."""
    cells = nbformat.read(unfinished(executed), as_version=4).cells
    begun = [
        k for k, each in enumerate(cells) if each.metadata.get("papermill", {}).get("start_time")
    ]
    first_line = cells[begun[-1]].source.strip().splitlines()[0]
    return f"cell {begun[-1] + 1} ({first_line})"


def read_parameters(notebook: str | Path, words: list[str]) -> dict:
    """Values of `name=value` words, each of the type of the notebook's default.

    Raises:
        FileNotFoundError: no such notebook.
        InputError: no notebook, a parameter that it does not have (papermill only warns), or a
            value of another type.
    """
    defaults = default_parameters(notebook)
    parameters = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"parameter {word!r} is not of the form name=value")
        if name not in defaults:
            hint, has = did_you_mean(name, defaults), ", ".join(defaults)
            raise InputError(f"{notebook} has no parameter {name!r}{hint}; it has: {has}")
        parameters[name] = _typed(value, defaults[name], f"{notebook}: {name}")
    return parameters


def default_parameters(notebook: str | Path) -> dict:
    """The literals of the cell tagged `parameters`, by name; raises as `read_parameters`."""
    if not Path(notebook).exists():
        raise FileNotFoundError(f"notebook {notebook} does not exist")
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except Exception as error:  # nbformat has many for a file that is no notebook
        raise InputError(f"{notebook} is no notebook ({error})") from error
    cells = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    lines = ast.parse("\n".join(cells)).body
    return {
        line.targets[0].id: ast.literal_eval(line.value)
        for line in lines
        if isinstance(line, ast.Assign)
    }


def _typed(text: str, default, what: str):
    """The text as a value of the default's type."""
    kind = type(default)
    if kind is str:
        return text
    try:
        value = yaml.safe_load(text)
        if kind is float and type(value) in (int, str):
            value = float(value)  # YAML takes 1e-3 for text
    except (yaml.YAMLError, ValueError):
        value = text
    if default is not None and type(value) is not kind:
        raise InputError(f"{what} is {text!r}; its default {default!r} is a {kind.__name__}")
    return value
