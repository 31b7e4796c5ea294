"""A run folder holds everything one notebook run made, and what is needed to resume it.

results/<profile>/<stage>/<name>/
    run.json       parameters, versions, device, git commit, fingerprints, start, end
    log.csv        a row a step          summary.json   what later notebooks read
    last.pt        the resume point      final.safetensors   the weights
    figures/       pictures, each with the table it was drawn from
    notebook.ipynb the executed notebook; notebook.unfinished.ipynb while it runs, or if it failed
    .lock          the process at work   .*.half, .tmp*      of a killed one: count as nothing
"""

import contextlib
import json
import platform
import subprocess
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock, Timeout

from icmlib import performance, processes
from icmlib.config import Profile, project_root
from icmlib.io import plain, read_json, written
from icmlib.training.journal import Journal

UNFINISHED = "notebook.unfinished.ipynb"  # see icmlib.notebooks.run_notebook
PACKAGES = ("torch", "torchvision", "compressai", "numpy", "faster-coco-eval")


class Run(Journal):
    """One run folder. Opening it again with the same parameters and inputs resumes it. A run of
    others is moved aside, to `<name>.old-<n>`, with a warning that says what differs; nothing is
    deleted. The folder is this process's until the run is finished.

    Args:
        folder: where everything goes.
        parameters: configs and values that decide the result.
        inputs: fingerprints of what goes in (data, weights).
        provenance: short facts for figures and tables: profile, seed, data.

    Raises:
        RuntimeError: another process is at work in the folder.
    """

    def __init__(self, folder: str | Path, parameters: dict, inputs: dict, provenance: dict):
        super().__init__(folder)
        self.provenance = provenance
        self._claim()
        self._facts = {"parameters": plain(parameters), "inputs": plain(inputs)}
        old = read_json(self.path("run.json"))
        processes.state().wait_for_everyone()  # before one of them writes
        if any(old.get(key) != value for key, value in self._facts.items()):
            if old or self._computed():
                self._move_aside(old)
            old = {}
        self._facts |= {
            "provenance": plain(provenance),
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
            "git": git_state(),
            "start": old.get("start", _now()),
            "end": None,
        }
        self._write("run.json", self._facts)
        processes.state().wait_for_everyone()

    def __str__(self) -> str:
        return " · ".join(f"{key} {value}" for key, value in self.provenance.items())

    @processes.main_only
    def _claim(self) -> None:
        """Two processes at once would write into each other's log and checkpoints: what a killed
        snakemake had started goes on without it. A killed process gives up its lock."""
        self._lock = FileLock(self.path(".lock"), is_singleton=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise RuntimeError(
                f"another process is at work in {self.folder}; wait for its end, or end it, and "
                f"run again"
            ) from None
        for pattern in (".*.half", ".tmp*"):  # of a killed process; the latter are safetensors' own
            for half in self.folder.rglob(pattern):
                half.unlink()

    # --- files ---------------------------------------------------------------------------

    @processes.main_only
    def _write(self, name: str, values: dict) -> None:
        with written(self.path(name)) as half:
            half.write_text(json.dumps(plain(values), indent=1))

    def _computed(self) -> bool:
        """Whether anything was made here, of which run.json should tell."""
        return any(file.name not in (".lock", UNFINISHED) for file in self.folder.iterdir())

    @processes.main_only
    def _move_aside(self, old: dict) -> None:
        """The folder becomes `<name>.old-<n>`; a new one takes its place."""
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.old-{number}")).exists():
            number += 1
        self._lock.release(force=True)
        self.folder.rename(aside)
        changed = ", ".join(_changes(old, self._facts)) if old else "run.json cannot be read"
        warnings.warn(
            f"{self.folder} is of another run ({changed}): moved to {aside}", stacklevel=4
        )
        self.folder.mkdir()
        if (aside / UNFINISHED).exists():  # the notebook that opens this run
            (aside / UNFINISHED).rename(self.folder / UNFINISHED)
        self._claim()

    # --- results -------------------------------------------------------------------------

    @processes.main_only
    def save_table(self, table: pd.DataFrame, name: str) -> None:
        with written(self.path(f"{name}.csv")) as half:
            table.to_csv(half, index=False)

    @processes.main_only
    def figure(self, figure, name: str, table: pd.DataFrame | None = None) -> None:
        """Save a figure as PNG, stamped with its provenance, and the table it was drawn from."""
        figure.text(0.995, -0.01, str(self), ha="right", va="top", size=6, color="0.5")
        if "numbers" in self.provenance:  # of a trial, see Profile.meaningless
            text = f"numbers {self.provenance['numbers']}"
            figure.text(0.5, 0.5, text, ha="center", va="center", size=24, color="r", alpha=0.35)
        with written(self.path(f"figures/{name}.png")) as half:
            figure.savefig(half, format="png", dpi=150, bbox_inches="tight")
        if table is not None:
            self.save_table(table, f"figures/{name}")

    def finish(self, summary: dict) -> dict:
        """Write summary.json, which says that the run is whole."""
        self._write("run.json", self._facts | {"end": _now()})
        self._write("summary.json", summary)
        if processes.main():
            self._lock.release()
        return summary


def _changes(old, new, name: str = "") -> Iterator[str]:
    """Each value that differs, by its dotted name: `parameters.finetune.lr: 0.1 -> 0.2`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = (
            new if not name else dict.fromkeys([*old, *new])
        )  # run.json holds more than is compared
        for key in keys:
            yield from _changes(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name}: {old} -> {new}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state() -> dict:
    """`commit` of the code, and whether it was `dirty`: changed since."""

    def git(*words):
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=_HERE)
        return done.stdout.strip() if done.returncode == 0 else None

    with contextlib.suppress(FileNotFoundError):  # no git on this machine
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", "."))}
    return {"commit": None, "dirty": None}


_HERE = Path(__file__).parent


def run_folder(profile: Profile, stage: str, name: str) -> Path:
    return project_root() / "results" / profile.name / stage / name


def open_run(
    profile: Profile, stage: str, name: str, parameters: dict, inputs: dict | None = None
) -> Run:
    """The run folder of a notebook; see `Run`. A parameter `seed` goes into the provenance."""
    performance.keep_freed_memory()
    provenance = profile.provenance | {"seed": parameters.get("seed", profile.seed)}
    return Run(run_folder(profile, stage, name), parameters, inputs or {}, provenance)


def read_summary(profile: Profile, stage: str, name: str) -> dict:
    """summary.json of a finished run.

    Raises:
        FileNotFoundError: that run is not finished.
    """
    path = run_folder(profile, stage, name) / "summary.json"
    if not path.exists():
        raise FileNotFoundError(f"run {stage}/{name} is not finished ({path}); run its notebook")
    return json.loads(path.read_text())
