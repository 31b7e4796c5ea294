"""Task networks: no resizing, gradients to the image, given networks stay as they are."""

import pytest
import torch
from torch import nn

from icmlib import tasks
from icmlib.config import TaskConfig
from icmlib.io import fingerprint
from icmlib.tasks.torchvision import small_mask_rcnn


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small_mask_rcnn(4)


@pytest.fixture
def batch():
    """Two images of 64x96, each with one instance."""
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    target = {
        "image_id": 1,
        "boxes": torch.tensor([[8.0, 8, 40, 40]]),
        "labels": torch.tensor([2]),
        "masks": torch.zeros(1, 64, 96, dtype=torch.uint8),
    }
    target["masks"][:, 8:40, 8:40] = 1
    return images, [target, target]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_are_not_resized(network, batch, mode):
    """Maps at strides 4, 8, 16 and 32 of the image itself, in training as in evaluation."""
    getattr(network, mode)()
    shapes = [tuple(m.shape) for m in network.features(batch[0]).values()]
    assert shapes == [(2, 64, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    getattr(network.model, mode)()
    seen = network.model.transform(list(batch[0]))[0].tensors
    torch.testing.assert_close(seen, (batch[0] - 0.5) / 0.25)


def test_features_are_the_same_after_training_mode(network, batch):
    before = network.features(batch[0])
    network.loss(*batch)
    after = network.features(batch[0])
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_loss_has_named_terms_and_reaches_the_image(network, batch):
    """Each is a finite scalar; every image gets a gradient."""
    images = batch[0].clone().requires_grad_()
    torch.manual_seed(0)
    terms = network.loss(images, batch[1])
    assert set(terms) == {
        "loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"
    }  # fmt: skip
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    (gradient,) = torch.autograd.grad(sum(terms.values()), images)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_gradient_of_the_features_is_that_of_finite_differences(network, batch):
    """Along random directions, in double precision."""
    network.double()
    try:
        generator = torch.Generator().manual_seed(1)
        x = batch[0].double().requires_grad_()

        def score(images):
            return sum((m * m).mean() for m in network.features(images).values())

        (gradient,) = torch.autograd.grad(score(x), x)
        for _ in range(3):
            step = 1e-6 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            with torch.no_grad():
                numeric = (score(x + step) - score(x - step)) / 2
            torch.testing.assert_close(numeric, (gradient * step).sum(), rtol=1e-4, atol=0)
    finally:
        network.float()


def test_batch_norm_is_trained_with_the_network_and_only_then(batch):
    """A given network, frozen, is not trained by being asked for its loss, nor by its features; one
    that is trained follows the batches."""
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


def assert_prediction(prediction: dict, count: int) -> None:
    """The documented shapes and types."""
    boxes, masks = prediction["boxes"], prediction["masks"]
    assert boxes.shape == (count, 4) and masks.shape == (count, 64, 96)
    assert masks.dtype == torch.bool and prediction["labels"].dtype == torch.int64
    assert prediction["labels"].shape == prediction["scores"].shape == (count,)
    if count:
        assert 1 <= prediction["labels"].min() and prediction["labels"].max() <= 4
        assert boxes[:, 2].max() <= 96 and boxes[:, 3].max() <= 64 and boxes.min() >= 0
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_predictions_are_as_documented(network, batch):
    network.model.roi_heads.score_thresh = 0.0
    network.train()
    predictions = network.predict(batch[0])
    assert len(predictions) == 2 and not network.model.training
    for prediction in predictions:
        assert_prediction(prediction, len(prediction["scores"]))
        assert len(prediction["scores"]) > 0 and not prediction["scores"].requires_grad


def test_given_features_serve_the_prediction(network, batch):
    """The same detections, and the backbone does not run again."""
    images, maps = batch[0], network.features(batch[0])
    expected = network.predict(images)
    backbone, network.model.backbone = network.model.backbone, None
    try:
        found = network.predict(images, maps)
    finally:
        network.model.backbone = backbone
    for one, other in zip(expected, found):
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_no_detection_is_an_empty_prediction(network, batch):
    network.model.roi_heads.score_thresh = 1.1
    for prediction in network.predict(batch[0]):
        assert_prediction(prediction, 0)


def test_images_of_different_sizes(network):
    network.model.roi_heads.score_thresh = 0.0
    wide, tall = network.predict([torch.rand(3, 64, 96), torch.rand(3, 80, 32)])
    assert wide["masks"].shape[1:] == (64, 96) and tall["masks"].shape[1:] == (80, 32)


def test_task_network_by_name(tmp_path, new_run):
    """Seeded, without a trace in the global generator; with its weights; unknown names listed."""
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
    with pytest.raises(ValueError, match="unknown task network 'yolo'; known: small_mask_rcnn"):
        tasks.create(TaskConfig("yolo"))
