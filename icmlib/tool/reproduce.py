"""`icm reproduce`: Snakemake on the study's graph, one line for each notebook that ends."""

import logging
import time
from pathlib import Path

import click
import pandas as pd

from icmlib.io import project_root

MINUTES = "minutes.csv"  # in a profile's results: how long each notebook took


def reproduce(profile: str, study: str, cores: int, targets: tuple[str, ...]) -> int:
    """Run what is missing of a profile's study; returns Snakemake's exit code.

    Snakemake's own log goes to `results/<profile>/snakemake.log`.
    """
    from snakemake.cli import main
    from snakemake.logging import DefaultFormatter

    folder = project_root() / "results" / profile
    folder.mkdir(parents=True, exist_ok=True)
    log = logging.FileHandler(folder / "snakemake.log", encoding="utf-8")
    log.setFormatter(DefaultFormatter())
    progress = Progress(folder)
    logger = logging.getLogger("snakemake")  # Snakemake clears the handlers of its own below it
    logger.handlers = [log, progress]
    words = ["--snakefile", str(project_root() / "Snakefile"), "--directory", str(project_root())]
    words += ["--cores", str(cores), "--nolock", "--rerun-incomplete", "--quiet", "all"]
    words += ["--config", f"profile={profile}", f"study={study}"]
    words += ["--", *targets] if targets else []
    try:
        main(words)
    except SystemExit as end:
        code = end.code
    if not progress.total and not code:
        click.echo("nothing to do: all of it is there")
    for each in progress.failed:
        click.echo(f"failed: {each}", err=True)
    if code:
        click.echo(f"Snakemake's log: {log.baseFilename}", err=True)
    return code


class Progress(logging.Handler):
    """Reads Snakemake's events: one line for each notebook that starts or ends, with the minutes of
    work left, where every kind of notebook that is left ran before (here or in the reference)."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.total = self.done = 0
        self.failed: list[str] = []
        self.left: dict[str, int] = {}  # rule -> runs that have not ended
        self.running: dict[int, tuple[str, str, float, Path]] = {}  # job -> rule, what, start, run
        self.minutes: dict[str, float] = {}  # rule -> of its last run
        for path in (folder.parent / "reference" / folder.name / MINUTES, folder / MINUTES):
            if path.exists():
                self.minutes |= pd.read_csv(path).set_index("rule")["minutes"].to_dict()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by Snakemake for each of its events."""
        event = str(getattr(record, "event", ""))
        if event == "run_info":
            self.left = {
                rule: n for rule, n in record.stats.items() if rule not in ("all", "total")
            }
            self.total = sum(self.left.values())
            click.echo(f"{self.total} to run{self._work()}; Ctrl-C stops, the same command resumes")
        elif event == "job_info" and record.rule_name in self.left:
            self._start(record)
        elif event == "job_finished" and record.job_id in self.running:
            self._finish(*self.running.pop(record.job_id))
        elif event == "job_error" and record.jobid in self.running:
            _, what, _, run = self.running.pop(record.jobid)
            self.failed.append(f"{what}: see {run / 'notebook.unfinished.ipynb'}")
        elif record.levelno >= logging.ERROR and not self.failed:
            click.echo(record.getMessage(), err=True)

    def _start(self, record) -> None:
        run = self.folder.parents[1] / Path(record.output[0].split(" ")[0]).parent
        books = [Path(each).stem for each in record.input if each.endswith(".ipynb")]
        book = next((each for each in books if each != "notebook"), record.rule_name)
        what = f"{book}  {'-'.join(map(str, record.wildcards.values())) or run.name}"
        self.running[record.jobid] = (record.rule_name, what, time.time(), run)
        click.echo(f"{what}  started")

    def _finish(self, rule: str, what: str, start: float, run: Path) -> None:
        minutes, file = (time.time() - start) / 60, self.folder / MINUTES
        self.done += 1
        self.left[rule] -= 1
        self.minutes[rule] = minutes
        row = {"rule": [rule], "run": [run.name], "minutes": [f"{minutes:.2f}"]}
        pd.DataFrame(row).to_csv(file, mode="a", header=not file.exists(), index=False)
        click.echo(f"[{self.done}/{self.total}] {what}  {minutes:.1f} min{self._work()}")

    def _work(self) -> str:
        left = {rule: n for rule, n in self.left.items() if n}
        if not left or left.keys() - self.minutes.keys():
            return ""
        minutes = sum(n * self.minutes[rule] for rule, n in left.items())
        return f", about {max(1, round(minutes))} min of work left"
