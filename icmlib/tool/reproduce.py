"""`icm reproduce`: Snakemake on the study's graph, one line for each notebook that ends."""

import logging
import threading
import time
from collections import Counter
from pathlib import Path

import click
import pandas as pd
from snakemake.cli import main
from snakemake.logging import DefaultFormatter

from icmlib.io import InputError, project_root

TIMES = "times.csv"  # in a profile's results: how long each notebook took


def reproduce(profile: str, study: str, cores: int, targets: tuple[str, ...]) -> int:
    """Run what is missing of a profile's study; returns Snakemake's exit code.

    Snakemake's own log goes to `results/<profile>/snakemake.log`.
    """
    if not (project_root() / "Snakefile").exists():
        raise InputError(f"{project_root()} is no clone of icmlib; the studies run in one")
    folder = project_root() / "results" / profile
    folder.mkdir(parents=True, exist_ok=True)
    log = logging.FileHandler(folder / "snakemake.log", encoding="utf-8")
    log.setFormatter(DefaultFormatter())
    progress = Progress(folder, cores)
    # Snakemake clears the handlers of its own below it
    logging.getLogger("snakemake").handlers = [log, progress]
    threading.Thread(target=progress.watch, daemon=True).start()
    words = ["--snakefile", str(project_root() / "Snakefile"), "--directory", str(project_root())]
    words += ["--cores", str(cores), "--nolock", "--rerun-incomplete", "--quiet", "all"]
    words += ["--config", f"profile={profile}", f"study={study}", "--", *targets]
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
    """Reads Snakemake's events; says what ended, what runs, and about how long the rest takes.

    The estimate rests on what each notebook took before: here, or in the published reference.
    """

    def __init__(self, folder: Path, cores: int):
        super().__init__()
        self.folder, self.cores = folder, cores
        self.total, self.failed = 0, []
        self.left: Counter[str] = Counter()  # rule -> runs that have not ended
        self.running: dict[int, logging.LogRecord] = {}  # job -> the event of its start
        self.work: dict[str, float] = {}  # rule -> minutes of its last run, times its threads
        for path in (folder.parent / "reference" / folder.name / TIMES, folder / TIMES):
            if path.exists():
                times = pd.read_csv(path)
                self.work |= dict(zip(times["rule"], times["minutes"] * times["threads"]))

    def emit(self, record: logging.LogRecord) -> None:
        """Called by Snakemake for each of its events."""
        event = str(getattr(record, "event", ""))
        if event == "run_info":
            self.left = Counter(record.stats)
            del self.left["all"], self.left["total"]
            self.total = self.left.total()
            left = self._estimate()
            click.echo(f"{self.total} to run{left}; Ctrl-C stops, the same command resumes")
        elif event == "job_info" and record.rule_name in self.left:
            self.running[record.jobid] = record
        elif event == "job_finished" and record.job_id in self.running:
            self._finish(self.running.pop(record.job_id))
        elif event == "job_error" and record.jobid in self.running:
            job = self.running.pop(record.jobid)
            self.failed.append(f"{_what(job)}: see {_run(job) / 'notebook.unfinished.ipynb'}")
        elif record.levelno >= logging.ERROR and not self.failed:
            click.echo(record.getMessage(), err=True)

    def _finish(self, job: logging.LogRecord) -> None:
        minutes, file = _minutes(job), self.folder / TIMES
        self.left[job.rule_name] -= 1
        self.work[job.rule_name] = minutes * job.threads
        row = {"rule": job.rule_name, "run": _run(job).name}
        row |= {"minutes": f"{minutes:.2f}", "threads": job.threads}
        pd.DataFrame([row]).to_csv(file, mode="a", header=not file.exists(), index=False)
        now = ", ".join(map(_name, self.running.values()))
        now = f"   now {now}" if now else ""
        progress = f"[{self.total - self.left.total()}/{self.total}]"
        click.echo(f"{progress} {_what(job)}  {minutes:.1f} min{now}{self._estimate()}")

    def _estimate(self) -> str:
        """What is left, where every kind of notebook that is left has run before."""
        left = +self.left
        if not left or left.keys() - self.work:
            return ""
        minutes = sum(n * self.work[rule] for rule, n in left.items()) / self.cores
        return f", about {max(1, round(minutes))} min left"

    def watch(self) -> None:
        """Every minute, without an end: how far is what has run for more than one."""
        while True:
            time.sleep(60)
            for job in list(self.running.values()):
                minutes, log = _minutes(job), _run(job) / "log.csv"  # a line per step
                step = f", step {log.read_bytes().count(10) - 1}" if log.exists() else ""
                if minutes > 1:
                    click.echo(f"        {_what(job)}  {minutes:.0f} min so far{step}")


def _run(job: logging.LogRecord) -> Path:
    """The run folder of a job."""
    return project_root() / Path(job.output[0]).parent


def _what(job: logging.LogRecord) -> str:
    """`03_patchgan_finetuning  p3x64`: a job's notebook and run."""
    books = [Path(each).stem for each in job.input if each.endswith(".ipynb")]
    book = next((each for each in books if each != "notebook"), job.rule_name)
    return f"{book}  {_name(job)}"


def _name(job: logging.LogRecord) -> str:
    """Of a job's run; of one over `all` runs that of its stage."""
    run = _run(job)
    return run.parent.name if run.name == "all" else run.name


def _minutes(job: logging.LogRecord) -> float:
    return (time.time() - job.created) / 60
