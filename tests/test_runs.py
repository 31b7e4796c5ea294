import json
import os
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Malicious, contents
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn

from icmlib import io
from icmlib.io import PACKAGED, fingerprint, load_weights, project_root, save_weights, written
from icmlib.studies import figures
from icmlib.studies.profile import load_profile
from icmlib.studies.runs import UNFINISHED, Run, git_state, open_run


def layer(value: float = 1.0) -> nn.Linear:
    made = nn.Linear(3, 2)
    nn.init.constant_(made.weight, value)
    nn.init.constant_(made.bias, value)
    return made


def filled(folder, **inputs) -> Run:
    """A run that has trained two steps, saved, and finished."""
    run = Run(folder, {"lr": 0.1}, inputs, {"profile": "t"})
    for step in range(2):
        run.log(step, {"loss": 1.0})
    run.checkpoint(2, net=layer())
    run.save_weights(layer())
    run.save_table(pd.DataFrame({"a": [1]}), "test_per_image")
    run.finish({"AP": 0.5})
    return run


@pytest.mark.filterwarnings("error::UserWarning")
def test_same_parameters_and_inputs_resume(tmp_path):
    """Nothing is lost by opening a run again; what it runs on is recorded, and decides nothing."""
    file = filled(tmp_path / "a", data="x").path("run.json")
    old = json.loads(file.read_text())
    facts = {key: old[key] for key in ("threads", "versions", "provenance")}
    file.write_text(json.dumps(old | dict.fromkeys([*facts, "start"], "other")))
    again = Run(tmp_path / "a", {"lr": 0.1}, {"data": "x"}, {"profile": "t"})
    assert again.resume(net=layer()) == 2
    assert again.path("final.safetensors").exists() and again.path("summary.json").exists()
    assert (facts | {"start": "other"}).items() <= json.loads(file.read_text()).items()


@pytest.mark.parametrize(
    ("parameters", "seed", "difference"),
    [
        ({"lr": 0.2}, 0, "parameters.lr: 0.1 -> 0.2"),
        ({"lr": 0.1}, 1, "inputs.data.seed: 0 -> 1"),
        ({"new": 1}, 0, "parameters.lr: 0.1 -> None, parameters.new: None -> 1"),
        ({"lr": 0.1}, 0, "run.json cannot be read"),
    ],
)
def test_a_run_of_other_parameters_or_inputs_is_moved_aside(tmp_path, parameters, seed, difference):
    folder = filled(tmp_path / "a", data={"seed": 0, "size": 64}).folder
    if "cannot be read" in difference:
        (folder / "run.json").write_text('{"parameters": {"l')
    old = contents(folder, {".lock"})
    with pytest.warns(UserWarning) as caught:
        run = Run(folder, parameters, {"data": {"seed": seed, "size": 64}}, {"profile": "t"})
    (message,) = (str(each.message) for each in caught if each.category is UserWarning)
    assert f"({difference}): moved to {tmp_path / 'a.old-1'}" in message
    assert contents(tmp_path / "a.old-1", {".lock"}) == old
    assert run.resume(net=layer()) == 0
    assert set(contents(folder, {".lock"})) == {"run.json"}


def test_other_annotations_are_another_input(project, finished):
    """Those that 00_data found, of every run but its own."""
    project(tiny="")
    finished("data/scenes", fingerprints={"train": "a"})
    run = open_run(load_profile("tiny"), "finetune", "p3x64", {}, {"base": "b"})
    facts = json.loads(run.path("run.json").read_text())
    assert facts["inputs"] == {"base": "b", "annotations": {"train": "a"}}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_run_moved_aside_is_kept(tmp_path):
    for seed in (0, 1, 0):
        run = Run(tmp_path / "a", {"seed": seed}, {}, {})
        assert run.resume(net=layer()) == 0
        run.checkpoint(1, net=layer())
    folders = [tmp_path / name for name in ("a.old-1", "a.old-2", "a")]
    facts = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert [each["parameters"]["seed"] for each in facts] == [0, 1, 0]
    assert all((folder / "last.pt").exists() for folder in folders)


def test_a_folder_is_of_one_process(tmp_path):
    busy = pytest.raises(io.UserError, match="another process is at work")
    with FileLock(tmp_path / ".lock"), busy:
        Run(tmp_path, {}, {}, {})
    filled(tmp_path / "a")
    with pytest.warns(UserWarning, match="moved to"):
        run = Run(tmp_path / "a", {"lr": 0.2}, {}, {})
    with pytest.raises(Timeout):
        FileLock(run.path(".lock")).acquire(blocking=False)


def test_the_notebook_that_opens_a_run_stays_with_it(tmp_path):
    """Its copy is being written while the old run is moved aside with the notebook that made it."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / UNFINISHED).write_text("new")
    filled(folder)  # beside its notebook, a first run moves nothing
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    (folder / "notebook.ipynb").write_text("old")
    with pytest.warns(UserWarning, match="moved to"):
        Run(folder, {"lr": 0.2}, {}, {})
    assert (folder / UNFINISHED).read_text() == "new"
    assert (tmp_path / "a.old-1" / "notebook.ipynb").read_text() == "old"
    assert not (folder / "notebook.ipynb").exists()


def test_run_file_tells_where_a_number_comes_from(tmp_path):
    run = Run(tmp_path / "a", {"size": np.int64(7)}, {"data": "x"}, {"profile": "t", "seed": 3})
    facts = json.loads(run.path("run.json").read_text())
    assert facts["parameters"] == {"size": 7} and facts["inputs"] == {"data": "x"}
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(facts["git"]) == {"commit", "dirty"} and facts["end"] is None
    run.finish({"AP": 0.5})
    assert json.loads(run.path("run.json").read_text())["end"] >= facts["start"]
    assert json.loads(run.path("summary.json").read_text()) == {"AP": 0.5}
    assert str(run) == "profile t · seed 3"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_failed_write_leaves_nothing_behind(tmp_path, error):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(error), written(target) as half:
        half.write_text("new")
        raise error
    assert [f.name for f in tmp_path.iterdir()] == ["table.csv"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("kept", [0, 900])
def test_checkpoint_that_does_not_serve_is_named_with_the_remedy(tmp_path, kept):
    """Of other networks, or broken by a full disk, a copy or a power cut; and the remedy helps."""
    run = filled(tmp_path / "a")
    for parts in ({"net": nn.Linear(4, 2)}, {"discriminator": layer()}):
        with pytest.raises(ValueError, match=r"last\.pt .* of other networks"):
            run.resume(**parts)
    path = run.path("last.pt")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a/last\.pt is damaged.*delete it and run again"):
        run.resume(net=layer())
    path.unlink()
    assert run.resume(net=layer()) == 0


@pytest.mark.parametrize("torn", ["", "1", "4,0."])
def test_rows_past_the_resume_point_are_dropped(tmp_path, torn):
    """Also a half-written last row, even where its step is cut to a smaller number (13 -> 1)."""
    run = filled(tmp_path / "a")
    log = run.path("log.csv")
    for step in (2, 3):
        run.log(step, {"loss": 1.0})
    log.write_text(log.read_text() + torn)
    assert run.resume(net=layer()) == 2
    run.log(2, {"loss": torch.tensor(2.0)})
    assert log.read_text() == "step,loss\n0,1\n1,1\n2,2\n"


def test_log_of_a_run_without_checkpoint_starts_again(new_run):
    run = new_run()
    for loss in (1.0, 2.0):
        assert run.resume(net=layer()) == 0
        run.log(0, {"loss": loss})
    assert run.logged()["loss"].tolist() == [2.0]


def test_no_pickle_is_executed(tmp_path):
    run, marker = filled(tmp_path / "a"), tmp_path / "executed"
    torch.save({"step": 2, "net": Malicious(open, str(marker), "w")}, run.path("last.pt"))
    with pytest.raises(ValueError, match=r"last\.pt is damaged") as caught:
        run.resume(net=layer())
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)
    assert not marker.exists()
    torch.load(run.path("last.pt"), weights_only=False)
    assert marker.exists()  # the bomb was live


@pytest.mark.parametrize("half", ["log.csv", ".last.pt.{}.half"])
def test_full_disk(new_run, half):
    """Told as what it is; torch.save of a path would hide it behind an error of its own."""
    run = new_run()
    run.path(half.format(os.getpid())).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run.log(0, {"loss": 1.0})
        run.checkpoint(1, net=nn.Linear(99, 99))


def test_weights_come_back(tmp_path):
    """Also those stored in half precision, widened, or wrapped; others may read the file."""
    source = layer(0.25)
    save_weights(tmp_path / "w.safetensors", source)
    (tmp_path / "other").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    state = source.state_dict()
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "h.safetensors")
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "m.safetensors")
    for name in ("w", "h", "m"):
        target = layer(3.0)
        load_weights(target, tmp_path / f"{name}.safetensors")
        assert target.weight.dtype == torch.float32
        assert fingerprint(target) == fingerprint(source)


def test_weights_that_do_not_serve_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match=r"w\.safetensors do not exist"):
        load_weights(layer(), path)
    for other, message in (
        (nn.Linear(4, 2), "mismatch for weight: .*shape .*2, 4.* from checkpoint.*2, 3"),
        (nn.Linear(3, 2, bias=False), r"Missing key.* .bias.*set the profile's architecture"),
    ):
        save_weights(path, other)
        with pytest.raises(ValueError, match=message):
            load_weights(layer(), path)
    for kept in (60, 0):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=r"w\.safetensors are not a whole safetensors file"):
            load_weights(layer(), path)


def test_fingerprint_changes_with_what_it_is_of(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"a")
    before = fingerprint(file)
    file.write_bytes(b"b")
    tensors = {"a": torch.ones(2)}, {"b": torch.ones(2)}
    things = [(layer(1.0),), (layer(1.0000001),), *zip(tensors), (file,), (1, 2), (12,)]
    found = [before, *(fingerprint(*each) for each in things), fingerprint({"a": 1, "b": 2})]
    assert len(set(found)) == len(found) and all(len(each) == 16 for each in found)
    assert fingerprint(layer()) == fingerprint(layer().state_dict())
    assert fingerprint({"b": 2, "a": 1}) == found[-1]


@pytest.mark.skipif(not (PACKAGED / ".git").exists(), reason="no clone")
def test_a_clone_states_its_commit():
    assert len(git_state()["commit"]) == 40


def test_project_root(tmp_path, monkeypatch):
    inside = tmp_path / "project" / "notebooks"
    (inside / "profiles").mkdir(parents=True)
    monkeypatch.delenv("ICM_ROOT", raising=False)
    monkeypatch.chdir(inside)
    assert project_root() == tmp_path / "project"
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path
    monkeypatch.setenv("ICM_ROOT", str(inside))
    assert project_root() == inside


def test_figure_is_saved_with_its_table_and_provenance(new_run):
    run, figure = new_run(), Figure()
    run.figure(figure, "rates", pd.DataFrame({"bpp": [0.5]}))
    assert run.path("figures/rates.png").read_bytes()[:4] == b"\x89PNG"
    assert run.path("figures/rates.csv").read_text() == "bpp\n0.5\n"
    assert [text.get_text() for text in figure.texts] == [str(run)]
    assert not list(run.folder.rglob("*.pdf"))


def test_for_a_paper_figures_are_also_pdf_and_tables_also_latex(new_run, monkeypatch):
    """Figures at most 7 inches wide, with their fonts as such (/Type0, and no /Type3)."""
    monkeypatch.setenv("ICMLIB_PAPER", "1")
    run, pictures = new_run(), {name: torch.rand(3, 8, 8) for name in "abcdefgh"}
    run.figure(figures.crops(pictures, {"b": "a long caption " * 4}, (0, 0, 4)), "crops")
    data = run.path("figures/crops.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", data)
    assert 6.5 < float(box[1]) / 72 <= 7.1 and b"/Type0" in data and b"/Type3" not in data
    values = {"row": ["p_3 & 4 %"], "value": 0.12345, "value_low": -0.5, "value_high": np.nan}
    run.save_table(pd.DataFrame(values), "scores")
    text = run.path("scores.tex").read_text()
    assert r"p\_3 \& 4 \% & 0.123 [$-$0.5, nan] \\" in text and r"\toprule" in text
    assert all(f"{name} {value}" in text for name, value in run.provenance.items())
