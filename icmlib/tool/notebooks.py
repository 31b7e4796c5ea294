"""Run notebooks headlessly."""

import ast
import os
from pathlib import Path

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import TypeAdapter

from icmlib.io import InputError, UserError, did_you_mean


def run_notebook(notebook: str | Path, executed: str | Path, parameters: dict) -> None:
    """Execute a notebook with parameters. The executed copy is `<executed>.unfinished.ipynb` until
    it is complete; if a cell fails, this copy holds the traceback. Raises InputError: the executed
    copy would replace the notebook; UserError: a cell failed, or the kernel was killed."""
    executed, notebook = Path(executed).resolve(), Path(notebook).resolve()
    half = executed.with_name(f"{executed.stem}.unfinished.ipynb")
    if notebook in (executed, half):
        raise InputError(f"the executed copy would replace {notebook}; give it another name")
    executed.parent.mkdir(parents=True, exist_ok=True)
    # this environment's kernel `python3` before the user's own, which may be of another Python
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    paths = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, half))
    try:
        papermill.execute_notebook(
            *paths,  # papermill fills braces in
            parameters,
            cwd=notebook.parent,
            kernel_name="python3",
            progress_bar=False,
            start_timeout=600,  # s; 60 are too few on a busy node with a slow disk
            extra_arguments=["--IPKernelApp.log_level=50"],  # not of shutting down
        )
    except (PapermillExecutionError, DeadKernelError) as error:
        why = "the kernel was killed; most often memory ran out"
        if isinstance(error, PapermillExecutionError):
            why = f"{error.ename}: {error.evalue}\ntraceback: {half}"
        cells = read_notebook(half).cells
        begun = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
        cell = begun[-1].source.strip().splitlines()[0]
        raise UserError(f"{notebook}, cell `{cell}`:\n{why}") from error
    half.replace(executed)


def read_notebook(path: str | Path) -> nbformat.NotebookNode:
    """Raises FileNotFoundError: no such notebook; InputError: the file is none."""
    if not Path(path).exists():
        raise FileNotFoundError(f"notebook {path} does not exist")
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat has many for a file that is no notebook
        raise InputError(f"{path} is no notebook ({type(error).__name__})") from error


def read_parameters(notebook: str | Path, words: list[str]) -> dict:
    """Values of `name=value` words, each of the type of the notebook's default; lists and dicts are
    YAML. Raises InputError: a parameter that the notebook does not have (papermill only warns), or
    a value of another type; or as `read_notebook`."""
    cells = read_notebook(notebook).cells
    cells = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    lines = [line for line in ast.parse("\n".join(cells)).body if isinstance(line, ast.Assign)]
    defaults = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    parameters = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"parameter {word!r} is not of the form name=value")
        if name not in defaults:
            hint, has = did_you_mean(name, defaults), ", ".join(defaults)
            raise InputError(f"{notebook} has no parameter {name!r}{hint}; it has: {has}")
        kind, why = type(defaults[name]), f"its default {defaults[name]!r} is a"
        try:
            value = yaml.safe_load(text) if kind in (list, dict) else text
            parameters[name] = TypeAdapter(kind).validate_python(value)
        except (yaml.YAMLError, ValueError):
            message = f"{notebook}: {name} is {text!r}; {why} {kind.__name__}"
            raise InputError(message) from None
    return parameters
