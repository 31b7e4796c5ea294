"""SIGKILL at any moment of a run: the one that goes on ends as one that nobody disturbed.

Each run is a process of its own, forked from a server that has PyTorch loaded already.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ToyTask

from icmlib import codecs, tasks, training
from icmlib.config import (
    BaseTrainingConfig,
    ChainConfig,
    CodecConfig,
    FinetuneConfig,
    TaskConfig,
    replace,
)
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.evaluate import evaluate, save_evaluation, summarize
from icmlib.studies.runs import Run

pytestmark = pytest.mark.slow
STEPS = 7  # the last checkpoint is not a multiple's
CODEC = CodecConfig(N=8, M=12)
FOR_PEOPLE = CodecConfig("bmshj2018_hyperprior", N=8, M=12)
EVERYTHING = ["encoder", "decoder", "entropy", "task"]
PATCHES = FinetuneConfig(steps=STEPS, batch=2, patches=2, patch_size=24, lambda_task=0.1)
OWN = {".lock", "run.json", "last.pt"}  # hold times and process numbers

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["icmlib.training", "icmlib.evaluate", "torchvision", "pytest"])


# --- the stages, as their notebooks run them ----------------------------------------------


def task_network(run: Run, data):
    network = tasks.create(TaskConfig())
    training.train_task_network(network, data("train"), TaskConfig(steps=STEPS, batch=1), run)
    run.save_weights(network)
    return codecs.PillowCodec("PNG"), network.eval()


def train_codec(run: Run, data, config: CodecConfig, task, lambda_feature: float):
    codec = codecs.create(config, seed=0)
    settings = BaseTrainingConfig(steps=STEPS, batch=2, crop=48, lambda_feature=lambda_feature)
    training.train_base_codec(codec, task, data("train"), settings, run)
    return codec


def base_codec(run: Run, data):
    codec = train_codec(run, data, CODEC, ToyTask(), 1.0)
    codecs.cached_latents(codec, data("train"), run.folder)
    return codec, None


def mse_codec(run: Run, data):
    return train_codec(run, data, FOR_PEOPLE, None, 0.0), None


def untrained(config: CodecConfig):
    """A codec to start from, whose latents are not all zero, and with tables."""
    codec = codecs.create(config, seed=1)
    with torch.no_grad():
        for weight in codec.model.g_a.parameters():
            weight *= 2
    codec.eval().update()
    return codec


def finetune(run: Run, data, config: CodecConfig = CODEC, settings: FinetuneConfig = PATCHES):
    codec = untrained(config)
    latents = codecs.cached_latents(codec, data("train"), run.folder)
    training.finetune_decoder(codec, latents, ToyTask(), data("train"), settings, run)
    return codec, None


def chain(run: Run, data):
    codec, task = untrained(FOR_PEOPLE), ToyTask()
    settings = ChainConfig(EVERYTHING, steps=STEPS, batch=2, lr=1e-3, lr_task=1e-3, aux_lr=0.1)
    training.finetune_chain(codec, task, data("train"), settings, run)
    return codec, None


def bridge(run: Run, data):
    settings = replace(PATCHES, {"layers": 3, "adversarial": "none", "lambda_task": 0.0})
    settings = replace(settings, {"lambda_feature": 0.1, "lambda_lattice": 0.1})
    return finetune(run, data, FOR_PEOPLE, settings)


STAGES = [task_network, base_codec, finetune, mse_codec, chain, bridge]


def work(stage, folder: Path, scenes: Path, survived: set[str] | None = None) -> None:
    """A whole run: train, measure, finish. With `survived`, it is killed before a file that is
    not of these takes its name."""
    torch.set_num_threads(1)
    training.journal.CHECKPOINT_EVERY = 2
    if survived is not None:
        sys.addaudithook(lambda event, args: die_before_renaming(event, args, folder, survived))

    def data(split):
        return CocoDataset(scenes / split, deadleaves.annotation_file(scenes, split))

    run = Run(folder, {"stage": stage.__name__}, {}, {"profile": "t"})
    codec, task = stage(run, data)
    evaluation = evaluate(codec, task, data("val"))
    save_evaluation(evaluation, run.folder, "val")
    run.finish(summarize(evaluation, resamples=5))


def die_before_renaming(event: str, args: tuple, folder: Path, survived: set[str]) -> None:
    if event == "os.rename" and Path(args[1]).is_relative_to(folder):
        if Path(args[1]).name not in survived:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def start(scenes_folder):
    """`start(stage, folder)`: a run in a process of its own."""
    processes = []

    def begin(stage, folder: Path, *arguments):
        process = SERVER.Process(target=work, args=(stage, folder, scenes_folder, *arguments))
        process.start()
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, scenes_folder):
    """`undisturbed(stage)`: what is in the folder of a run that nobody killed, and how many s a
    step of it took."""
    known = {}

    def run(stage) -> tuple[dict[str, bytes], float]:
        if stage not in known:
            folder = tmp_path_factory.mktemp(stage.__name__)
            process = SERVER.Process(target=work, args=(stage, folder, scenes_folder))
            begin = time.monotonic()
            process.start()
            process.join()
            assert process.exitcode == 0
            known[stage] = contents(folder), (time.monotonic() - begin) / STEPS
        return known[stage]

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run, hidden ones too, but for those that hold times."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in OWN]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def logged(folder: Path) -> int:
    """How many steps the log holds."""
    try:
        return max(0, (folder / "log.csv").read_bytes().count(b"\n") - 1)
    except FileNotFoundError:  # not there yet, or made again at this moment
        return 0


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_moments(stage, start, undisturbed, tmp_path):
    """At the start, half way, and once training is over; each a random time after some step."""
    expected, second = undisturbed(stage)
    seed = random.randrange(1000)
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = random.Random(seed)
    kills = []
    for step in (rng.randrange(2), rng.randrange(3, STEPS), STEPS):
        process = start(stage, tmp_path)
        while process.is_alive() and logged(tmp_path) < step:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, min(second, 0.3)))
        process.kill()
        process.join()
        kills.append((process.exitcode, logged(tmp_path)))
    print(f"exit codes and steps logged: {kills}")
    assert -signal.SIGKILL in [code for code, _ in kills]
    last = start(stage, tmp_path)
    last.join()
    assert last.exitcode == 0
    assert_same(contents(tmp_path), expected)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_the_middle_of_every_file(stage, start, undisturbed, tmp_path):
    """Once in each file of the run, half-written: none ever counts as one, or is left behind."""
    expected, _ = undisturbed(stage)
    survived: set[str] = set()
    while (process := start(stage, tmp_path, survived)).join() or process.exitcode:
        assert process.exitcode == -signal.SIGKILL
        (half,) = tmp_path.rglob(".*.half")
        half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
        name = half.name.removeprefix(".").removesuffix(f".{process.pid}.half")
        assert name not in survived
        survived.add(name)
    files = {Path(name).name for name in expected} | {"run.json", "last.pt"}
    assert survived == files
    assert_same(contents(tmp_path), expected)


def test_one_process_at_a_time(start, tmp_path):
    """What a killed snakemake had started goes on: a second one keeps off."""
    folder, parameters = tmp_path / "run", {"stage": "mse_codec"}
    first = start(mse_codec, folder)
    while first.is_alive() and not logged(folder):
        time.sleep(0.002)
    with pytest.raises(RuntimeError, match=f"another process is at work in {folder}"):
        Run(folder, parameters, {}, {})
    first.kill()
    first.join()
    run = Run(folder, parameters, {}, {})
    second = start(mse_codec, folder)
    second.join()
    assert second.exitcode == 1
    run.finish({})
    third = start(mse_codec, folder)
    third.join()
    assert third.exitcode == 0
    assert [each.name for each in tmp_path.iterdir()] == ["run"]  # none was moved aside


def make_scenes(root: Path, _) -> None:
    """Holds the other end of a pipe open, as its worker processes do."""
    deadleaves.generate(root, 64, {"train": 10_000, "val": 1, "test": 1}, seed=0, workers=2)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """And what they have written is written again."""
    ended, end = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=make_scenes, args=(tmp_path, end))
    process.start()
    end.close()
    while process.is_alive() and not list(tmp_path.rglob("000016.png")):  # both are at work
        time.sleep(0.01)
    assert process.is_alive() and not ended.poll()
    process.kill()
    process.join()
    assert ended.poll(timeout=60)


# --- a notebook ---------------------------------------------------------------------------

PROFILE = """
data: {{root: {data}, size: 64, train: 6, val: 2, test: 4}}
task: {{steps: {steps}, batch: 1}}
"""


@pytest.fixture
def notebook(tmp_path, scenes_folder):
    """`notebook("name")`: 01_task_network, training, in a project of this name."""
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "often.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("from icmlib.training import journal\njournal.CHECKPOINT_EVERY = 2\n")
    book = Path(__file__).parent.parent / "notebooks" / "01_task_network.ipynb"
    started = []

    def run(name: str) -> subprocess.Popen:
        profiles = tmp_path / name / "notebooks" / "profiles"
        profiles.mkdir(parents=True, exist_ok=True)
        text = PROFILE.format(data=scenes_folder.parent, steps=STEPS)
        (profiles / "tiny.yaml").write_text(text)
        words = [sys.executable, "-m", "icmlib.tool.cli", "run", book, tmp_path / f"{name}.ipynb"]
        roots = {"ICM_ROOT": tmp_path / name, "IPYTHONDIR": tmp_path / "ipython"}
        env = os.environ | roots | {"OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen([*words, "profile=tiny"], env=env))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_killed_notebook(notebook, tmp_path):
    """While it trains, and while it measures: then nothing is trained again."""
    whole = notebook("whole")
    folder = tmp_path / "killed" / "results" / "tiny" / "task_network" / "given"
    for file in ("last.pt", "val_per_image.csv"):
        process = notebook("killed")
        while process.poll() is None and not (folder / file).exists():
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (folder / "summary.json").exists()
    trained = (folder / "last.pt").stat().st_mtime_ns
    assert notebook("killed").wait() == 0 and whole.wait() == 0
    assert (folder / "last.pt").stat().st_mtime_ns == trained
    expected = contents(tmp_path / "whole" / folder.relative_to(tmp_path / "killed"))
    assert_same(contents(folder), expected)
