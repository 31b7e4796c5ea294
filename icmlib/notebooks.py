"""Run notebooks headlessly and bind the executed ones into a report."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

import nbformat
import papermill
import yaml
from papermill.iorw import LocalHandler, papermill_io

WIDGET = "application/vnd.jupyter.widget-view+json"


class WholeFiles(LocalHandler):
    """Notebooks that are whole on disk at every moment: papermill's own way empties the file at
    each save, and a kill at that moment leaves it so."""

    def write(self, text: str, path: str) -> None:
        super().write(text, f"{path}.part")
        os.replace(f"{path}.part", path)


# absolute paths, which executed notebooks have; no `runs.written`, whose half files the run in the
# notebook would take for those of a killed process
papermill_io.register("/", WholeFiles())


def run_notebook(notebook: str | Path, executed: str | Path, parameters: dict) -> None:
    """Execute a notebook with parameters. While it runs, and if it fails, the executed copy is
    `<executed>.unfinished.ipynb`, with the traceback; it gets its name once it came to its end.

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
    """Where an executed notebook lies until it came to its end."""
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
            raise ValueError(
                f"{notebook} has no parameter {name!r}{hint}; it has: {', '.join(known)}"
            )
        default = yaml.safe_load(known[name]["default"])
        if type(value) is not type(default):
            raise ValueError(
                f"{notebook}: parameter {name} is {value!r}; its default is {default!r}, "
                f"a {type(default).__name__}"
            )


def parse_parameters(words: list[str]) -> dict:
    """`name=value` words; values as YAML reads them, but strings stay strings (`row=07`)."""
    parameters = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"parameter {word!r} is not of the form name=value")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"parameter {word!r} is not valid YAML: {error}") from None
        same = isinstance(read, bool | list | dict) or str(read) == value
        parameters[name] = read if same and read is not None else value
    return parameters


def build_report(html: str | Path, notebooks: list[str | Path], title: str) -> Path:
    """One self-contained HTML page of executed notebooks: text, tables and pictures, no code."""
    from nbconvert import HTMLExporter  # slow to import, and only needed here

    report = nbformat.v4.new_notebook()
    for path in notebooks:
        if not Path(path).exists():
            raise FileNotFoundError(f"executed notebook {path} does not exist; run it first")
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if _is_result(output)]
                if not cell.outputs:
                    continue
            else:  # the notebooks that the text points to do not lie beside the report
                cell.source = re.sub(r"\[([^\]]*)\]\([^)]*\.ipynb\)", r"\1", cell.source)
            cell.id = f"cell-{len(report.cells)}"  # unique in the report
            report.cells.append(cell)
    exporter = HTMLExporter(
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        mathjax_url="",
        require_js_url="",
        jquery_url="",
        mermaid_js_url="",
    )
    report.metadata["title"] = title
    body, _ = exporter.from_notebook_node(report, {"metadata": {"name": title}})
    Path(html).write_text(body)
    return Path(html).resolve()


def _is_result(output: dict) -> bool:
    """Neither a progress bar nor a warning."""
    return output.get("name") != "stderr" and WIDGET not in output.get("data", {})
