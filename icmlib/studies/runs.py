"""A run folder holds everything one notebook run made, and what is needed to resume it.

results/<profile>/<stage>/<name>/
    run.json       parameters, versions, device, git commit, fingerprints, start, end
    log.csv        one row per step      summary.json        what later notebooks read
    last.pt        the checkpoint        final.safetensors   the weights
    figures/       pictures              notebook.ipynb      the executed notebook
    .lock          the process at work   .*.half, .tmp*      left by a killed process: ignored
"""

import contextlib
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from torch import nn

from icmlib import codecs, datasets, device, io, tasks, training
from icmlib.codecs import LearnedCodec
from icmlib.config import BaseTrainingConfig, CodecConfig
from icmlib.evaluate import compare, evaluate, load_evaluation, load_vgg, save_evaluation, summarize
from icmlib.io import plain, write
from icmlib.studies import figures, tables
from icmlib.studies.profile import Profile
from icmlib.training.journal import Journal

UNFINISHED = "notebook.unfinished.ipynb"  # see icmlib.tool.notebooks.run_notebook
PAPER = "ICMLIB_PAPER"  # in the environment: tables are also written as LaTeX, figures as PDF
PACKAGES = ("torch", "torchvision", "compressai", "numpy", "pycocotools")


class Run(Journal):
    """One run folder, locked until the run is finished. With the same parameters (configs and
    values) and inputs (fingerprints of data and weights) it resumes; a folder with others is moved
    aside, to `<name>.old-<n>`, with a warning that says what differs. `provenance` are short facts
    for figures and tables. Raises UserError: another process is at work in the folder."""

    def __init__(self, folder: str | Path, parameters: dict, inputs: dict, provenance: dict):
        super().__init__(folder)
        self.provenance = provenance
        self._claim()
        self._facts = {"parameters": plain(parameters), "inputs": plain(inputs)}
        old = io.read_json(self.path("run.json"))
        device.state().wait_for_everyone()  # before one of them writes
        if any(old.get(key) != value for key, value in self._facts.items()):
            self._move_aside(old)
            old = {}
        self._facts |= {
            "provenance": plain(provenance),
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
            "git": git_state(),
            "start": old.get("start", datetime.now(UTC).isoformat(timespec="seconds")),
            "end": None,
        }
        self._write("run.json", self._facts)
        device.state().wait_for_everyone()

    def __str__(self) -> str:
        return " · ".join(f"{key} {value}" for key, value in self.provenance.items())

    @device.main_only
    def _claim(self) -> None:
        """Keep other processes out: those of a killed snakemake go on without it."""
        self._lock = FileLock(self.path(".lock"), is_singleton=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            busy = f"another process is at work in {self.folder}; wait for its end, or end it"
            raise io.UserError(f"{busy}, and run again") from None
        for pattern in (".*.half", ".tmp*"):  # left by a killed process; .tmp* by safetensors
            for half in self.folder.rglob(pattern):
                half.unlink()

    @device.main_only
    def _write(self, name: str, values: dict) -> None:
        write(self.path(name), json.dumps(plain(values), indent=1))

    @device.main_only
    def _move_aside(self, old: dict) -> None:
        """All but the lock and the notebook that opens this run; the warning names what differs, as
        `parameters.finetune.lr: 0.1 -> 0.2`."""
        files = [each for each in self.folder.iterdir() if each.name not in (".lock", UNFINISHED)]
        files.sort(key=lambda each: each.name != "run.json")  # first: what a kill leaves has none
        if not files:
            return
        named = (self.folder.with_name(f"{self.folder.name}.old-{n}") for n in itertools.count(1))
        aside = next(folder for folder in named if not folder.exists())
        was = {key: old.get(key) for key in self._facts}  # run.json holds more than is compared
        flat = (pd.json_normalize(each).to_dict("records")[0] for each in (was, self._facts))
        before, after = flat  # by dotted name
        names = [name for name in before | after if before.get(name) != after.get(name)]
        changes = [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names]
        changed = ", ".join(changes) if old else "run.json cannot be read"
        aside.mkdir()
        for file in files:
            file.rename(aside / file.name)
        message = f"{self.folder} is of another run ({changed}): moved to {aside}"
        warnings.warn(message, stacklevel=4)

    @device.main_only
    def save_table(self, table: pd.DataFrame, name: str, study: bool = False) -> None:
        """`<name>.csv`; of the whole `study` beside its stages, with its provenance in it."""
        file = (self.folder.parents[1] if study else self.folder) / f"{name}.csv"
        table = table.infer_objects().assign(**(self.provenance if study else {}))
        write(file, table.to_csv(index=any(table.index.names), float_format="%.6g"))
        if os.environ.get(PAPER):
            tables.write_latex(file, self.provenance)

    @device.main_only
    def figure(
        self, figure: Figure, name: str, table: pd.DataFrame | None = None, study: str = ""
    ) -> None:
        """Save a figure, stamped with its provenance, and the table it was drawn from; also as one
        of the whole study, under the name `study`, beside its stages."""
        stamp = figures.filled(str(self), figure.get_figwidth())
        figure.text(0.995, -0.03, stamp, ha="right", va="top", size=6, color="0.5")
        if "numbers" in self.provenance:  # of a trial, see Profile.meaningless
            text = f"numbers {self.provenance['numbers']}"
            figure.text(0.5, 0.5, text, ha="center", va="center", size=24, color="r", alpha=0.35)
        if figure.get_layout_engine() is None:  # of pandas
            figure.set_layout_engine("constrained")
        files = [self.path("figures") / name] + [self.folder.parents[1] / study] * bool(study)
        kinds = ("png", "pdf") if os.environ.get(PAPER) else ("png",)
        for file, kind in itertools.product(files, kinds):
            figures.save(figure, file.with_name(f"{file.name}.{kind}"))
        if table is not None:
            write(self.path(f"figures/{name}.csv"), table.to_csv(index=False))

    def finish(self, summary: dict) -> None:
        """Write summary.json, which marks the run as complete."""
        end = datetime.now(UTC).isoformat(timespec="seconds")
        self._write("run.json", self._facts | {"end": end})
        self._write("summary.json", summary)
        if device.state().is_main_process:
            self._lock.release()


def git_state() -> dict:
    """`commit` of the code, and whether it was `dirty`: changed since. None without git, and of an
    installed package, which may lie in another repository."""
    git = {"cwd": Path(__file__).parents[1], "stderr": subprocess.DEVNULL, "text": True}
    if io.PACKAGED.name == "packaged":
        return {"commit": None, "dirty": None}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.check_output(["git", "rev-parse", "HEAD"], **git).strip()
        changes = subprocess.check_output(["git", "status", "--short", "--", "."], **git)
        return {"commit": commit, "dirty": bool(changes)}
    return {"commit": None, "dirty": None}


def run_folder(profile: Profile, stage: str, name: str) -> Path:
    return io.project_root() / "results" / profile.name / stage / name


def open_run(
    profile: Profile, stage: str, name: str, parameters: dict, inputs: dict | None = None
) -> Run:
    """The run folder of a notebook. A parameter `seed` goes into the provenance; the annotations
    that 00_data found are an input of every run. So are the files of modules that the parameters
    name as `module:function`; what those import in turn is not noticed when it changes."""
    device.keep_freed_memory()
    named = set(re.findall(r'"name": "([\w.]+:[\w.]+)"', json.dumps(plain(parameters))))
    if modules := {sys.modules[io.imported(name, "module").__module__] for name in named}:
        files = {module.__name__: io.fingerprint(Path(module.__file__)) for module in modules}
        inputs = {**(inputs or {}), "modules": files}
    data = io.read_json(run_folder(profile, "data", "scenes") / "summary.json")
    if stage != "data" and "fingerprints" in data:
        inputs = {**(inputs or {}), "annotations": data["fingerprints"]}
    provenance = profile.provenance | {"seed": parameters.get("seed", profile.seed)}
    return Run(run_folder(profile, stage, name), parameters, inputs or {}, provenance)


def read_summary(profile: Profile, stage: str, name: str) -> dict:
    """summary.json of a run, null among measures as nan. FileNotFoundError: not finished."""
    path = run_folder(profile, stage, name) / "summary.json"
    if not path.exists():
        raise FileNotFoundError(f"run {stage}/{name} is not finished ({path}); run its notebook")
    summary = json.loads(path.read_text("utf-8"))
    for measures in [each for each in summary.values() if isinstance(each, dict)]:
        measures.update({k: np.nan for k, v in measures.items() if v is None})
    return summary


def load_task(profile: Profile) -> nn.Module | None:
    """The task network that notebook 01 made ready; none where the profile has none."""
    given = run_folder(profile, "task_network", "given")
    return profile.task and tasks.load(profile.task, given / "final.safetensors")


def load_codec(
    profile: Profile, stage: str, name: str, config: CodecConfig | None = None
) -> LearnedCodec:
    """The codec that a run trained; its architecture is by default that of study 1."""
    folder = run_folder(profile, stage, name)
    return codecs.load(config or profile.codec, folder / "final.safetensors")


def given(weights: str | None) -> dict[str, str]:
    """What given weights, a file of decoders from the project's root, add to a run's parameters."""
    if weights is None:
        return {}
    return {"weights": io.fingerprint(codecs.read_decoders(io.project_file(weights)).codec)}


def base_codec(
    run: Run, architecture: CodecConfig, config: BaseTrainingConfig, task, data, weights: str | None
) -> tuple[LearnedCodec, pd.DataFrame | None]:
    """A base codec, also saved in the run, and its training's log: of a file of decoders, from the
    project's root, with a log beside it or none; else trained here, for `task` or its proxy."""
    if weights is None:
        codec = codecs.create(architecture, config.seed)
        proxy = tasks.proxies.create(config, task)
        training.train_base_codec(codec, proxy, data, config, run)
        return codec, run.logged()
    file = io.project_file(weights)
    run.save_weights(codec := codecs.read_decoders(file).codec)
    log = file.with_suffix(".log.csv")
    return codec, pd.read_csv(log) if log.exists() else None


def measure(
    run: Run, profile: Profile, codec, task, before: Path | None = None, with_vgg=False
) -> tuple[dict, dict, dict]:
    """Evaluate a codec on val and test, and save what was measured in its run. Returns, by split,
    its evaluations; those of the run folder `before` (or its own); summaries, with the paired
    differences. `with_vgg`: the VGG distance, too, on test; without a `task` network, of which it
    takes the place, always and on both. The summary's `vgg` says from where, or why not."""
    config, limit = profile.evaluation, profile.evaluation.vgg_images
    wanted = limit != 0 and (with_vgg or task is None)
    vgg, said = load_vgg() if wanted else (None, "n/a: switched off")
    on_val = None if task else vgg
    settings = {"val": (config.resamples_val, on_val), "test": (config.resamples, vgg)}
    evaluations, others, summary = {}, {}, {"vgg": said}
    for split, (count, distance) in settings.items():
        data = datasets.create(profile.data, split)
        evaluations[split] = new = evaluate(codec, task, data, distance, limit)
        save_evaluation(new, run.folder, split)
        others[split] = load_evaluation(before, split) if before else new
        summary[split] = summarize(new, count) | compare(others[split], new, count)
    return evaluations, others, summary
