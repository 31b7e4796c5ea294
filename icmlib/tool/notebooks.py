"""Run notebooks headlessly."""

from difflib import get_close_matches
from pathlib import Path

import papermill
import yaml

from icmlib.io import InputError


def run_notebook(notebook: str | Path, executed: str | Path, parameters: dict) -> None:
    """Execute a notebook with parameters. The executed copy is `<executed>.unfinished.ipynb` until
    it is complete; if a cell fails, this copy holds the traceback.

    Raises:
        ValueError: a parameter that the notebook does not have (papermill only warns), or one of
            another type than its default.
        papermill.exceptions.PapermillExecutionError: a cell failed.
    """
    check_parameters(notebook, parameters)
    executed = Path(executed).resolve()
    executed.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(notebook).resolve().parent
    papermill.execute_notebook(
        notebook,
        unfinished(executed),
        parameters,
        cwd=folder,
        kernel_name="python3",
        progress_bar=False,
        start_timeout=600,  # s; 60 are too few on a busy node with a slow disk
        extra_arguments=["--IPKernelApp.log_level=50"],  # not of shutting down
    )
    unfinished(executed).replace(executed)


def unfinished(executed: Path) -> Path:
    """Where an executed notebook is until it is complete."""
    return executed.with_name(f"{executed.stem}.unfinished.ipynb")


def check_parameters(notebook: str | Path, parameters: dict) -> None:
    """Raises ValueError for an unknown parameter or a value of another type than the default."""
    if not Path(notebook).exists():
        raise FileNotFoundError(f"notebook {notebook} does not exist")
    known = papermill.inspect_notebook(str(notebook))
    for name, value in parameters.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            has = ", ".join(known)
            raise InputError(f"{notebook} has no parameter {name!r}{hint}; it has: {has}")
        default = yaml.safe_load(known[name]["default"])
        if type(value) is not type(default):
            kind = type(default).__name__
            raise InputError(
                f"{notebook}: {name} is {value!r}; its default {default!r} is a {kind}"
            )


def parse_parameters(words: list[str]) -> dict:
    """`name=value` words; values as YAML reads them, but strings stay strings (`row=07`)."""
    parameters = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"parameter {word!r} is not of the form name=value")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"parameter {word!r} is not valid YAML: {error}") from None
        same = isinstance(read, bool | list | dict) or str(read) == value
        parameters[name] = read if same and read is not None else value
    return parameters
