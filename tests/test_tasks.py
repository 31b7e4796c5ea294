import copy
import sys

import pytest
import torch
from adapters import assert_gradient, assert_loss_reaches, assert_predictions, assert_same, target
from torch import nn

from icmlib import tasks
from icmlib.config import TaskConfig
from icmlib.io import fingerprint
from icmlib.tasks.detectron2 import COMMIT, PREFIX
from icmlib.tasks.torchvision import small_mask_rcnn


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small_mask_rcnn(4)


@pytest.fixture
def batch():
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return images, [target(image, 2) for image in images]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_are_not_resized(network, batch, mode):
    getattr(network, mode)()
    shapes = [tuple(m.shape) for m in network.features(batch[0]).values()]
    assert shapes == [(2, 64, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    getattr(network.model, mode)()
    seen = network.model.transform(list(batch[0]))[0].tensors
    torch.testing.assert_close(seen, (batch[0] - 0.5) / 0.25)


def test_loss_has_named_terms_and_reaches_the_image(network, batch):
    images = [image.requires_grad_() for image in batch[0].clone()]
    torch.manual_seed(0)
    names = {"classifier", "box_reg", "mask", "objectness", "rpn_box_reg"}
    assert_loss_reaches(images, network.loss(images, batch[1]), {f"loss_{n}" for n in names})


def test_gradient_of_the_features_is_that_of_finite_differences(network, batch):
    assert_gradient(copy.deepcopy(network).double(), [*batch[0]])


def test_batch_norm_is_trained_with_the_network_and_only_then(batch):
    """A frozen network is not trained by being asked for its loss, nor by its features."""
    network = small_mask_rcnn(4)
    norms = [nn.BatchNorm2d(32), nn.BatchNorm2d(32, affine=False)]
    network.model.backbone.stages[0][0][1] = nn.Sequential(*norms)
    network.requires_grad_(False)
    before = fingerprint(network)
    network.loss(*batch)
    assert fingerprint(network) == before
    network.requires_grad_(True)
    network.features(batch[0])
    assert fingerprint(network) == before
    network.loss(*batch)
    assert [norm.num_batches_tracked for norm in norms] == [1, 0]  # nothing of it is trained


def test_predictions_are_as_documented(network):
    network.model.roi_heads.score_thresh = 0.0
    network.train()
    images = [torch.rand(3, 64, 96), torch.rand(3, 80, 32)]
    predictions = network.predict(images)
    assert not network.model.training and all(len(each["scores"]) > 0 for each in predictions)
    assert_predictions(images, predictions, 4, masks=True)
    maps, backbone = network.features(images), network.model.backbone
    network.model.backbone = None  # it does not run again
    assert_same(predictions, network.predict(images, maps))
    network.model.backbone = backbone
    network.model.roi_heads.score_thresh = 1.1
    empty = network.predict(images)
    assert_predictions(images, empty, 4, masks=True)
    assert not any(len(each["scores"]) for each in empty)


def test_task_network_by_name(tmp_path, new_run):
    state = torch.get_rng_state()
    one = tasks.create(TaskConfig(num_classes=2, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    run = new_run()
    run.save_weights(one)
    path = run.path("final.safetensors")
    loaded = tasks.load(TaskConfig(num_classes=2, weights="elsewhere.safetensors"), path)
    assert fingerprint(loaded) == fingerprint(one)
    assert not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(ValueError, match="another architecture"):
        tasks.load(TaskConfig(num_classes=3), path)
    with pytest.raises(ValueError, match=r"network 'yolo'; known: small_mask.* detectron2:<conf"):
        tasks.create(TaskConfig("yolo"))


def test_without_detectron2_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ImportError) as missing:
        tasks.create(TaskConfig(f"{PREFIX}COCO-Detection/retinanet_R_50_FPN_1x"))
    for part in (f"detectron2@{COMMIT}", "--no-build-isolation", "setuptools<82"):
        assert part in str(missing.value)
    tasks.create(TaskConfig())
