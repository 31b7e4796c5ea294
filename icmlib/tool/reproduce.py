"""`icm reproduce`: Snakemake on the study's graph, one line for each notebook that ends."""

import contextlib
import logging
import threading
import time
from pathlib import Path

import click
import pandas as pd

from icmlib.io import project_root, read_json

HEARTBEAT = 60  # s between two looks at what runs
MINUTES = "minutes.csv"  # in a profile's results: how long each notebook took
# notebooks that use all cores run alone
ALONE = ("data", "task_network", "base_codec", "figures", "knob", "rate_task", "speed")


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
    progress = Progress(folder, cores)
    logger = logging.getLogger("snakemake")  # Snakemake clears the handlers of its own below it
    logger.handlers = [log, progress]
    words = ["--snakefile", str(project_root() / "Snakefile"), "--directory", str(project_root())]
    words += ["--cores", str(cores), "--nolock", "--rerun-incomplete", "--quiet", "all"]
    words += ["--config", f"profile={profile}", f"study={study}"]
    words += ["--", *targets] if targets else []
    with progress:
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
        self.total = self.done = 0
        self.failed: list[str] = []
        self.left: dict[str, int] = {}  # rule -> runs that have not begun
        self.running: dict[int, tuple[str, str, float, Path]] = {}  # job -> rule, what, start, run
        self.work: dict[str, float] = {}  # rule -> minutes of its last run
        for path in (folder.parent / "reference" / folder.name / MINUTES, folder / MINUTES):
            if path.exists():
                self.work |= pd.read_csv(path).set_index("rule")["minutes"].to_dict()
        self._end = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_):
        self._end.set()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by Snakemake for each of its events."""
        event = str(getattr(record, "event", ""))
        if event == "run_info":
            self._plan(record.stats)
        elif event == "job_info":
            self._start(record)
        elif event == "job_finished":
            self._finish(record.job_id)
        elif event == "job_error" and record.jobid in self.running:
            _, what, _, run = self.running.pop(record.jobid)
            self.failed.append(f"{what}: see {run / 'notebook.unfinished.ipynb'}")
        elif record.levelno >= logging.ERROR and not self.failed:
            click.echo(record.getMessage(), err=True)

    def _plan(self, stats: dict) -> None:
        self.left = {rule: n for rule, n in stats.items() if rule not in ("all", "total")}
        self.total = sum(self.left.values())
        left = self._estimate()
        click.echo(f"{self.total} to run{left}; Ctrl-C stops, the same command resumes")

    def _start(self, record) -> None:
        if record.rule_name in self.left:
            self.left[record.rule_name] -= 1
            run = self.folder.parents[1] / Path(record.output[0].split(" ")[0]).parent
            books = [Path(each).stem for each in record.input if each.endswith(".ipynb")]
            book = next((each for each in books if each != "notebook"), record.rule_name)
            names = [str(value) for value in record.wildcards.values()]
            what = f"{book}  {'-'.join(names) or run.name}"
            self.running[record.jobid] = (record.rule_name, what, time.time(), run)

    def _finish(self, job: int) -> None:
        if job in self.running:
            rule, what, start, run = self.running.pop(job)
            minutes, file = _minutes(start), self.folder / MINUTES
            self.done += 1
            self.work[rule] = minutes
            row = {"rule": [rule], "run": [run.name], "minutes": [f"{minutes:.2f}"]}
            pd.DataFrame(row).to_csv(file, mode="a", header=not file.exists(), index=False)
            now = ", ".join(each[1].split("  ")[-1] for each in self.running.values())
            now = f"   now {now}" if now else ""
            progress = f"[{self.done}/{self.total}]"
            click.echo(f"{progress} {what}  {minutes:.1f} min{now}{self._estimate()}")

    def _estimate(self) -> str:
        """What is left, where every kind of notebook that is left has run before."""
        jobs = [(rule, self.work.get(rule)) for rule, n in self.left.items() for _ in range(n)]
        if not (jobs or self.running) or any(minutes is None for _, minutes in jobs):
            return ""
        for rule, _, start, _ in self.running.values():
            jobs.append((rule, max(0.0, self.work.get(rule, 0.0) - _minutes(start))))
        left = sum(minutes / (1 if rule in ALONE else self.cores) for rule, minutes in jobs)
        return f", about {max(1, round(left))} min left"

    def _watch(self) -> None:
        while not self._end.wait(HEARTBEAT):
            for _, what, start, run in list(self.running.values()):
                if _minutes(start) > HEARTBEAT / 60:
                    click.echo(f"        {what}  {_minutes(start):.0f} min so far{_step(run)}")


def _minutes(start: float) -> float:
    return (time.time() - start) / 60


def _step(run: Path) -> str:
    """How far a training is: the last line of its log, beside the steps that it was given."""
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        step = int((run / "log.csv").read_text("utf-8").splitlines()[-1].split(",")[0])
        parameters = read_json(run / "run.json").get("parameters", {})
        configs = [each for each in parameters.values() if isinstance(each, dict)]
        steps = next(each["steps"] for each in configs if "steps" in each)
        return f", step {step + 1} of {steps}"
    return ""
