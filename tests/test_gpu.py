"""On a GPU: trainings as on the CPU, and bits that travel between the two. `pytest -m gpu`."""

import contextlib
import copy
import json

import numpy as np
import pandas as pd
import pytest
import skimage.data
import test_training
import torch
from accelerate import PartialState
from adapters import pictures, target
from conftest import tiny_codec
from every_training import stopped_after, train_one

from icmlib import tasks, training
from icmlib.codecs import BitstreamError
from icmlib.codecs.patches import patch_decoder
from icmlib.config import TaskConfig, replace
from icmlib.datasets import deadleaves
from icmlib.evaluate import evaluate, summarize
from icmlib.studies.trained import load_decoders
from icmlib.training import Journal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

SHIPPED = "shipped"
TINY = ["scale_hyperprior_s8", "bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean"]
AUTOREGRESSIVE = ["mbt2018", "cheng2020_anchor"]  # their context model is not in float64
DETECTORS = ["small_mask_rcnn", "medium_mask_rcnn", "fasterrcnn_resnet50_fpn"]
DETECTORS += ["detectron2:COCO-Detection/faster_rcnn_R_50_FPN_1x"]
SLOW = {"steps": 10, "lr": 1e-4}  # first steps of Adam are as large as the rate, whatever the loss
CHANGES = {"base": {"shift": 7}, "finetune": {"lambda_task": 0.1}, "chain": {"lr_task": 1e-4}}
CONFIGS = {k: replace(each, SLOW | CHANGES.get(k, {})) for k, each in test_training.CONFIGS.items()}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """A GPU's convolutions and products in float32, not in its faster TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def same_draws(monkeypatch):
    """Random numbers are drawn on the CPU, wherever they go to."""
    uniform, permutation = torch.Tensor.uniform_, torch.randperm

    def drawn(x, *ends, **options):
        return x.copy_(uniform(torch.empty(x.shape), *ends, **options))

    def permuted(n, device=None, **options):
        return permutation(n, **options).to(device)

    monkeypatch.setattr(torch.Tensor, "uniform_", drawn)
    monkeypatch.setattr(torch, "randperm", permuted)
    monkeypatch.setattr(training.steps.Recorded, "__call__", called)  # it cannot record them


def called(step: training.steps.Recorded, *inputs) -> dict:
    return step.function(*inputs)


@contextlib.contextmanager
def without_gpu():
    """Inside, this process computes on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        PartialState._reset_state()
        yield
    PartialState._reset_state()


def machine() -> torch.nn.Module:
    return tasks.create(TaskConfig(weights="data/weights/small_mask_rcnn.safetensors"))


def trained(loop: str, data, folder) -> pd.DataFrame:
    """The log of a training, which goes on from a checkpoint in the folder."""
    journal, config = Journal(folder), CONFIGS[loop]
    codec, task = tiny_codec(), machine()
    train_one(loop, codec, task, data, config, journal, folder)
    return journal.logged()


@pytest.mark.parametrize("loop", CONFIGS)
def test_the_first_losses_are_those_of_the_cpu(loop, scenes, tmp_path, same_draws):
    on_gpu = trained(loop, scenes("train"), tmp_path / "gpu")
    with without_gpu():
        on_cpu = trained(loop, scenes("train"), tmp_path / "cpu")
    assert len(on_gpu) == 10
    pd.testing.assert_frame_equal(on_gpu, on_cpu, rtol=1e-3, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("loop", CONFIGS)
def test_a_stopped_training_goes_on(loop, scenes, tmp_path, monkeypatch):
    """As the undisturbed one, but for the order in which a GPU adds."""
    monkeypatch.setattr(training.journal, "CHECKPOINT_EVERY", 4)
    whole = trained(loop, scenes("train"), tmp_path / "whole")
    with stopped_after(5):
        trained(loop, scenes("train"), tmp_path / "stopped")
    resumed = trained(loop, scenes("train"), tmp_path / "stopped")
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-2, atol=1e-5, check_dtype=False)


def test_a_recorded_step_is_the_step(scenes, tmp_path, monkeypatch):
    """Replayed as a CUDA graph, base training has the losses that it has without one."""
    recorded = trained("base", scenes("train"), tmp_path / "recorded")
    with monkeypatch.context() as patch:
        patch.setattr(training.steps.Recorded, "__call__", called)
        plain = trained("base", scenes("train"), tmp_path / "plain")
    pd.testing.assert_frame_equal(recorded, plain, rtol=1e-3, atol=1e-6)


def codec_of(name: str):
    return load_decoders().codec if name == SHIPPED else tiny_codec(name=name)


def scene_and_photograph() -> list[torch.Tensor]:
    arrays = [deadleaves.scene(0, "test", 0, 128)[0], skimage.data.astronaut()[:181, :203]]
    return [torch.from_numpy(array).permute(2, 0, 1) / 255 for array in arrays]


@pytest.mark.parametrize("name", [SHIPPED, *TINY, *AUTOREGRESSIVE])
def test_bits_travel_between_gpu_and_cpu(name):
    """The same symbols (a checksum is in the bits), and the same y_hat: to the last bit, unless it
    has means in float32."""
    within = {"rtol": 1e-4, "atol": 1e-3} if name in AUTOREGRESSIVE else {"rtol": 0, "atol": 0}
    here, there = codec_of(name), copy.deepcopy(codec_of(name)).cuda()
    for x in scene_and_photograph():
        for sender, receiver in ((here, there), (there, here)):
            bits = sender.encode(x)
            try:
                read = receiver.decode_latents(bits).cpu()
            except BitstreamError as error:  # said, and no wrong picture
                assert name in AUTOREGRESSIVE, error
                pytest.xfail(f"{name}: {error}")
            torch.testing.assert_close(read, sender.decode_latents(bits).cpu(), **within)
            decoded = [each.decode(bits) for each in (sender, receiver)]
            torch.testing.assert_close(
                *decoded, atol=1e-2 if name in AUTOREGRESSIVE else 1e-3, rtol=0
            )


@pytest.mark.parametrize("name", [SHIPPED, *TINY, *AUTOREGRESSIVE])
def test_decoded_patches_are_those_of_the_whole_image(name):
    codec = codec_of(name).cuda()
    y_hat = torch.randn(codec.latents(scene_and_photograph()[1][None]).shape[1:], device="cuda")
    whole, corners = codec.g_s(y_hat[None])[0], [(0, 0), (37, 50), (128, 120)]
    patches = patch_decoder(codec.g_s)([y_hat] * 3, torch.tensor(corners), (48, 40))
    for patch, (top, left) in zip(patches, corners):
        expected = whole[:, top : top + 48, left : left + 40]
        torch.testing.assert_close(patch, expected, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


@pytest.mark.parametrize("name", DETECTORS)
def test_task_networks_compute_there(name):
    if "detectron2" in name:
        pytest.importorskip("detectron2")
    network = tasks.create(TaskConfig(name)).cuda()
    images = [x.requires_grad_() for x in pictures()]
    terms = network.loss(images, [target(x, 1) for x in images])
    assert {term.device.type for term in terms.values()} == {"cuda"}
    sum(terms.values()).backward()
    assert all(x.grad is not None and x.grad.device.type == "cpu" for x in images)
    assert all(each.device.type == "cuda" for each in network.features(images).values())
    for found in network.eval().predict(images):
        assert {value.device.type for value in found.values()} == {"cpu"}


def test_measures_are_those_of_the_cpu(scenes):
    def measured() -> dict:
        return summarize(evaluate(load_decoders().codec, machine(), scenes("test")), resamples=5)

    on_gpu = measured()
    with without_gpu():
        on_cpu = measured()
    for name in ("bpp", "psnr", "ssim", "lpp2", "prms", "mask_AP"):
        np.testing.assert_allclose(on_gpu[name], on_cpu[name], rtol=0.02, atol=0.02, err_msg=name)


def test_papermill_runs_a_notebook_there(notebook, tmp_path):
    assert notebook("gpu").wait() == 0
    (facts,) = (tmp_path / "gpu").rglob("run.json")
    assert json.loads(facts.read_text())["gpu"] == torch.cuda.get_device_name()
