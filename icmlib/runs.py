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
import csv
import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import subprocess
import time
import warnings
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from icmlib import performance, processes
from icmlib.config import Profile, project_root

UNFINISHED = "notebook.unfinished.ipynb"  # see icmlib.notebooks.run_notebook
PACKAGES = ("torch", "torchvision", "compressai", "numpy", "faster-coco-eval")


def fingerprint(*things) -> str:
    """Sixteen hex digits that change with any module, state dict, file or plain value."""
    digest = hashlib.sha256()
    for i, thing in enumerate(things):
        digest.update(b"\0" if i else b"")  # (1, 2) is not (12,)
        if isinstance(thing, torch.nn.Module):
            thing = thing.state_dict()
        if isinstance(thing, Path):
            digest.update(thing.read_bytes())
        elif isinstance(thing, dict) and any(torch.is_tensor(v) for v in thing.values()):
            for name in sorted(thing):
                digest.update(name.encode())
                digest.update(thing[name].detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(plain(thing), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def plain(thing):
    """Dataclasses, paths and numpy scalars as JSON takes them."""
    if dataclasses.is_dataclass(thing):
        return plain(dataclasses.asdict(thing))
    if isinstance(thing, dict):
        return {str(k): plain(v) for k, v in thing.items()}
    if isinstance(thing, list | tuple):
        return [plain(v) for v in thing]
    if isinstance(thing, Path):
        return str(thing)
    return thing.item() if hasattr(thing, "item") else thing


@contextlib.contextmanager
def written(path: Path):
    """A temporary path that becomes `path` only when the block ends well.

    Raises:
        OSError: no space left; names the folder and what to do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    try:
        yield half
        half.replace(path)
    except Exception as error:
        half.unlink(missing_ok=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise _no_space(path) from error
        raise


def _no_space(path: Path) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"no space left for {path}; free some and run again: the run goes on from its last "
        f"checkpoint in {path.parent}",
    )


def read_json(path: Path) -> dict:
    """What the file holds; nothing, where it is not there or broken."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(path.read_text())
    return {}


def save_weights(path: str | Path, module_or_state) -> None:
    """Weights as safetensors, whole or not at all."""
    state = module_or_state
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    with written(Path(path)) as half:
        save_file({name: value.contiguous() for name, value in state.items()}, half)


def load_weights(module: torch.nn.Module, path: str | Path, resizable: tuple = ()) -> None:
    """Weights from safetensors (half precision is widened).

    Args:
        resizable: endings of the names of buffers that take their size from the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: broken file, or weights of another architecture.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"weights {path} do not exist; run the notebook that makes them")
    try:
        state = load_file(path)
    except Exception as error:
        raise ValueError(f"weights {path} are not a whole safetensors file ({error})") from error
    load_state(module, state, path, resizable)


def load_state(
    module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, resizable: tuple = ()
) -> None:
    """Weights that were read from `path`; as `load_weights`."""
    for name, buffer in module.named_buffers():
        if name in state and name.endswith(tuple(resizable)):
            buffer.resize_(state[name].shape)
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        ours = tuple(own[name].shape) if name in own else "no such tensor"
        theirs = tuple(state[name].shape) if name in state else "no such tensor"
        if ours != theirs:
            raise ValueError(
                f"weights {path} are of another architecture than {type(module).__name__}: "
                f"{name} is {theirs} in the file and {ours} in the network; "
                f"set the profile's architecture to the one they were trained with"
            )
    module.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})


_LOCKS = weakref.WeakValueDictionary()  # folder -> its open lock file


def _lock_file(folder: Path) -> TextIO:
    """One for all runs of this process in the folder: closing any would give up the lock."""
    file = _LOCKS.get(folder)
    if file is None:
        folder.mkdir(parents=True, exist_ok=True)
        file = _LOCKS[folder] = (folder / ".lock").open("a+")
    return file


class Run:
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
        self.folder = Path(folder)
        self.provenance = provenance
        self.seconds = 0.0  # spent in training, over all attempts
        self._clock = time.perf_counter()
        self._lock = _lock_file(self.folder.resolve())
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

    def __getstate__(self) -> dict:  # the lock stays with the process that opened the run
        return {**self.__dict__, "_lock": None}

    @processes.main_only
    def _claim(self) -> None:
        """Two at once would write into each other's log and checkpoints: what a killed snakemake
        had started goes on without it. The system takes the lock from a killed process."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._lock.seek(0)
            raise RuntimeError(
                f"process {self._lock.read()} is at work in {self.folder}; wait for its end, or "
                f"end it, and run again"
            ) from None
        except OSError:  # a file system without locks
            pass
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        for pattern in (".*.half", ".tmp*"):  # of a killed process; the latter are safetensors' own
            for half in self.folder.rglob(pattern):
                half.unlink()

    # --- files ---------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        return self.folder / name

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
        self.folder.rename(aside)
        changed = ", ".join(_changes(old, self._facts)) if old else "run.json cannot be read"
        warnings.warn(
            f"{self.folder} is of another run ({changed}): moved to {aside}", stacklevel=4
        )
        self.folder.mkdir()
        if (aside / UNFINISHED).exists():  # the notebook that opens this run
            (aside / UNFINISHED).rename(self.folder / UNFINISHED)
        self._lock = _LOCKS[self.folder.resolve()] = (self.folder / ".lock").open("a+")
        self._claim()

    # --- training ------------------------------------------------------------------------

    @processes.main_only
    def log(self, step: int, terms: dict[str, torch.Tensor | float]) -> None:
        """Append one row to log.csv."""
        values = {name: torch.as_tensor(value).item() for name, value in terms.items()}
        row = {"step": step, **values}
        file = self.path("log.csv")
        try:
            with file.open("a", newline="") as stream:
                writer = csv.DictWriter(stream, row, lineterminator="\n")
                if stream.tell() == 0:
                    writer.writeheader()
                writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
        except OSError as error:
            raise (_no_space(file) if error.errno == errno.ENOSPC else error) from error

    def logged(self) -> pd.DataFrame:
        return pd.read_csv(self.path("log.csv"))

    @processes.main_only
    def checkpoint(self, step: int, **parts) -> None:
        """The resume point after `step` steps; parts are modules, optimisers, schedules."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        state = {name: part.state_dict() for name, part in parts.items()}
        with written(self.path("last.pt")) as half:
            buffer = io.BytesIO()  # torch.save to a file hides a full disk behind a RuntimeError
            torch.save({"step": step, "seconds": self.seconds, **state}, buffer)
            half.write_bytes(buffer.getbuffer())

    def resume(self, **parts) -> int:
        """Restore parts from the resume point; returns the steps already done (0 without one).

        Raises:
            ValueError: the resume point is damaged, or of other parts than these.
        """
        self._clock = time.perf_counter()
        if not self.path("last.pt").exists():
            if processes.main():
                self.path("log.csv").unlink(missing_ok=True)
            return 0
        try:
            state = torch.load(self.path("last.pt"), map_location="cpu", weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.seconds = state["seconds"]
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # torch has many for this, and none names the file
            raise ValueError(
                f"checkpoint {self.path('last.pt')} is damaged, or of other networks than these; "
                f"delete it and run again: the run then starts from its first step"
            ) from error
        log = self.path("log.csv")
        if processes.main() and log.exists():  # rows past the resume point are made again
            rows = pd.read_csv(log, dtype=str, on_bad_lines="skip").dropna()
            rows = rows[pd.to_numeric(rows["step"], errors="coerce") < state["step"]]
            with written(log) as half:
                rows.to_csv(half, index=False)
        return state["step"]

    @processes.main_only
    def save_weights(self, module_or_state, name: str = "final") -> None:
        save_weights(self.path(f"{name}.safetensors"), module_or_state)

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
        with contextlib.suppress(OSError):
            fcntl.lockf(self._lock, fcntl.LOCK_UN)
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
