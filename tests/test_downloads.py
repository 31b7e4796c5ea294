"""Published weights: whole or not at all, and never unpickled; pickles of arrays come back."""

import hashlib
import os
import pickle
import re
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
from compressai.zoo import image as zoo
from conftest import Malicious, picture

from icmlib import codecs, downloads, tasks
from icmlib.config import BaseTrainingConfig, CodecConfig, TaskConfig
from icmlib.downloads import WeightsUnavailable, read_pickled_arrays, read_state
from icmlib.metrics.fidelity import VGGDistance
from icmlib.tasks import proxies

MODELS = "https://download.pytorch.org/models/"
ZOO, PAPER = CodecConfig("mbt2018_mean"), BaseTrainingConfig(proxy="vgg16")
TINY = CodecConfig("mbt2018_mean", N=8, M=12)
FASTER_RCNN = TaskConfig("fasterrcnn_mobilenet_v3_large_fpn", weights="COCO_V1", num_classes=80)
CHECKPOINT = {
    "model": OrderedDict(
        weight=np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        turned=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        half=np.array([1.5, -2], np.float16),
        big=np.array([1, 2, 300], ">i4"),
        count=np.array(7),
        none=np.zeros((0, 4), np.float32),
    ),
    "scalar": np.float64(0.25),
    "__author__": "Detectron2 Model Zoo",
    "iteration": 269999,
    "more": [np.ones(2, bool), None, 1.5],
}
WHOLE = pickle.dumps(CHECKPOINT, 2)


def saved(tmp_path, thing, protocol: int = 2):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(thing, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_come_back(tmp_path, protocol):
    """Bit for bit; protocol 2 writes bytes as text."""
    found = read_pickled_arrays(saved(tmp_path, CHECKPOINT, protocol))
    assert found.keys() == CHECKPOINT.keys()
    for name, array in CHECKPOINT["model"].items():
        native = array.astype(array.dtype.newbyteorder("="))
        np.testing.assert_array_equal(found["model"][name], native, strict=True)
    assert found["scalar"] == 0.25 and found["iteration"] == 269999
    assert found["more"][0].tolist() == [True, True] and found["more"][1:] == [None, 1.5]


def test_pickles_of_python_2(tmp_path):
    """Its raw data is a byte string, which reads as Latin-1 text; numpy 2 renamed its modules."""
    text = pickle.dumps(CHECKPOINT["model"]["half"], 0).replace(b"cnumpy.core", b"cnumpy._core")
    assert b"numpy._core.multiarray" in text
    path = tmp_path / "old.pkl"
    path.write_bytes(text)
    assert read_pickled_arrays(path).tolist() == [1.5, -2]


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize(
    "name, make",
    [
        ("posix.system", lambda mark: Malicious(os.system, f"touch {mark}")),
        ("builtins.eval", lambda mark: Malicious(eval, f"open({str(mark)!r}, 'w')")),
        ("numpy.core.multiarray.fromfile", lambda mark: Malicious(np.fromfile, str(mark))),
    ],
)
def test_nothing_is_run(tmp_path, name, make, protocol):
    """Refused by its name, wherever it hides; plain pickle would have called it."""
    mark = tmp_path / "mark"
    hidden = {"model": {"weight": np.ones(2), "bias": make(mark)}}
    names = f"{name}|{name.replace('builtins', '__builtin__')}|numpy.*fromfile"
    with pytest.raises(pickle.UnpicklingError, match=f"it asks for ({names}), which no array"):
        read_pickled_arrays(saved(tmp_path, hidden, protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"model": np.array([{}, None], object)}, 2), "'O8' are not numbers"),
        # protocol 4 may ask for an attribute of an admitted name
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", r"for numpy\.ndarray\.tofile"),
        *((each, ".") for each in (WHOLE[:-100], WHOLE[:40], b"<html>", b"", b"\x80\x02}b.")),
    ],
)
def test_what_is_no_pickle_of_arrays_is_refused(tmp_path, content, message):
    (tmp_path / "broken.pkl").write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match=f"is no pickle of arrays: .*{message}"):
        read_pickled_arrays(tmp_path / "broken.pkl")


def test_a_file_in_the_cache_is_read(hub):
    (hub / "made.pkl").write_bytes(WHOLE)
    found = read_state("https://nowhere.invalid/made.pkl", "these")
    np.testing.assert_array_equal(found["model"]["weight"], CHECKPOINT["model"]["weight"])


@pytest.mark.parametrize("name", ["model_final_f10217.pkl", "vgg16-397923af.pth"])
def test_no_file_in_the_cache_is_unpickled(hub, tmp_path, name):
    """Even what has the name that it should have: else it would have made a folder."""
    bomb = {"model": Malicious(os.mkdir, str(tmp_path / "owned"))}
    torch.save(bomb, hub / name) if name.endswith("pth") else saved(hub, bomb).rename(hub / name)
    with pytest.raises(WeightsUnavailable, match=r"(?s)these weights .*posix\.mkdir"):
        read_state(f"https://nowhere.invalid/{name}", "these")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("load", "url"),
    [
        (lambda: tasks.create(FASTER_RCNN), f"{MODELS}{FASTER_RCNN.name}-fb6a3cc7.pth"),
        (lambda: codecs.pretrained(ZOO, 3), zoo.model_urls["mbt2018-mean"]["mse"][3]),
        (VGGDistance, f"{MODELS}vgg16-397923af.pth"),
        (lambda: proxies.create(PAPER, None), f"{MODELS}vgg16-397923af.pth"),
    ],
    ids=["detector", "codec", "distance", "proxy"],
)
def test_no_network_says_what_to_put_where(hub, load, url, monkeypatch):
    """Never a network with other weights."""
    monkeypatch.setattr(downloads, "VGG_PACKAGE", "not-installed")
    with pytest.raises(WeightsUnavailable, match="no route to host") as offline:
        load()
    assert url in str(offline.value) and str(hub / url.rsplit("/", 1)[1]) in str(offline.value)


def test_published_weights_make_the_same_bits(publish, monkeypatch, new_run):
    """Named as in CompressAI 1.1, from DataParallel, with old tables; with their own N and M."""
    published = codecs.create(TINY, seed=5).eval()
    published.update()
    published.model.entropy_bottleneck.quantiles.data.mul_(0.5)
    old = partial(re.sub, r"bottleneck\.(matrices|biases|factors)\.", r"bottleneck._\1.")
    state = {f"module.{old(name)}": value for name, value in published.model.state_dict().items()}
    monkeypatch.setitem(zoo.model_urls["mbt2018-mean"], "mse", {3: publish(OrderedDict(state))})
    monkeypatch.setitem(zoo.cfgs, "mbt2018-mean", {3: (8, 12)})
    published.update()
    codec, run, bitstream = codecs.pretrained(ZOO, 3), new_run(), published.encode(picture())
    run.save_weights(codec)
    assert codecs.zoo_config(ZOO, 3) == TINY
    widths = CodecConfig("bmshj2018_factorized", N=192, M=320)
    assert codecs.zoo_config(CodecConfig(widths.name), 8) == widths
    for made in (codec, codecs.load(TINY, run.path("final.safetensors"))):
        assert made.encode(picture()) == bitstream and not made.training
        assert torch.equal(made.decode(bitstream), published.decode(bitstream))


@pytest.mark.parametrize(
    ("name", "quality", "message"),
    [
        ("cheng2020_anchor", 7, "no weights of quality 7; there are: 1, 2, 3, 4, 5, 6"),
        ("scale_hyperprior_s8", 1, "scale_hyperprior_s8 has no weights of quality 1; .* none"),
    ],
)
def test_weights_that_do_not_exist_are_an_error(name, quality, message):
    for call in (codecs.pretrained, codecs.zoo_config):
        with pytest.raises(ValueError, match=message):
            call(CodecConfig(name), quality)


def test_a_download_is_kept_if_it_is_what_its_name_says(tmp_path, monkeypatch):
    """An address of the disk, in place of the network's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "new"))
    torch.save({"weight": torch.ones(3)}, tmp_path / "made")
    digest = hashlib.sha256((tmp_path / "made").read_bytes()).hexdigest()[:8]
    for name in (f"right-{digest}.pth", "wrong-01234567.pth"):
        (tmp_path / name).write_bytes((tmp_path / "made").read_bytes())
    found = read_state((tmp_path / f"right-{digest}.pth").as_uri(), "these")
    assert torch.equal(found["weight"], torch.ones(3))
    with pytest.raises(WeightsUnavailable, match="invalid hash value"):
        read_state((tmp_path / "wrong-01234567.pth").as_uri(), "these")
    assert [path.name for path in tmp_path.rglob("new/**/*.pth")] == [f"right-{digest}.pth"]
