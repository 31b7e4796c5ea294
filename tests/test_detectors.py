import adapters
import pytest
import torch
from adapters import pictures, target, without_masks
from torchvision.models import get_model, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from icmlib import tasks
from icmlib.config import TaskConfig, replace
from icmlib.io import fingerprint

NAMES = tasks.torchvision.DETECTORS
MOBILENET = TaskConfig("fasterrcnn_mobilenet_v3_large_fpn", num_classes=3, min_size=64)
COCO = replace(MOBILENET, {"num_classes": 80, "weights": "COCO_V1"})
RESNET = pytest.param("fasterrcnn_resnet50_fpn", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def network():
    """Box-only, with normalised maps: untrained, and without statistics, they fade to nothing."""
    network = tasks.create(MOBILENET)
    network.model.backbone.train()
    with torch.no_grad():
        for _ in range(30):
            network.model.backbone(network.model.transform(pictures())[0].tensors)
    network.model.roi_heads.score_thresh = 0.0
    network.model.roi_heads.detections_per_img = 10
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("resnet" in name)) for name in NAMES]
)
def test_every_detector_has_a_loss_that_reaches_the_image(name):
    """Sizes mixed, one image without objects, then both; masks only where they are predicted."""
    network = tasks.create(TaskConfig(name, num_classes=3, min_size=32))
    network.model.rpn._post_nms_top_n["training"] = 20  # the boxes are what takes the time
    images = [image.requires_grad_() for image in pictures()]
    targets = [target(images[0], 3), target(images[1]), target(images[0])]
    if not name.startswith("mask"):
        targets = [without_masks(each) for each in targets]
    names = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    names |= {"loss_mask"} if name.startswith("mask") else set()
    adapters.assert_loss_reaches(images, network.loss(images, targets[:2]), names)
    terms = network.loss(images, targets[:0:-1])
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms.get("loss_mask", 0) == terms["loss_box_reg"] == 0 < terms["loss_classifier"]


def test_an_untrained_network_trains():
    network = tasks.create(MOBILENET)
    network.model.rpn._post_nms_top_n["training"] = 20
    adapters.assert_trains(network, [without_masks(target(image, 1)) for image in pictures()])


def test_box_only_predictions(network):
    images = pictures()
    predictions = network.predict(images)
    adapters.assert_predictions(images, predictions, 3, masks=False)
    assert all(len(each["scores"]) > 0 for each in predictions)
    adapters.assert_same(predictions, network.predict(images, network.features(images)))
    network.loss(images, [target(image, 1) for image in images])  # of a frozen network: no training
    adapters.assert_same(predictions, network.predict(images))


def test_min_size_is_that_of_the_short_side(network, hub):
    """And without weights, not even those of a backbone are asked for."""
    seen, _ = network.model.transform(pictures())
    assert seen.image_sizes == [(64, 85), (112, 64)]
    assert network.model.transform.max_size == 1333
    default = tasks.torchvision.detector(replace(MOBILENET, {"min_size": None}))
    assert default.model.transform.min_size == (800,)


def test_settings_that_do_not_fit_are_refused_before_any_download(hub):
    for config, message in (
        (TaskConfig(min_size=64), "small_mask_rcnn takes images as they are"),
        (TaskConfig(weights="DEFAULT"), "small_mask_rcnn takes images as they are"),
        (replace(COCO, {"num_classes": 3}), "knows 80 classes; the profile says num_classes: 3"),
    ):
        with pytest.raises(ValueError, match=message):
            tasks.create(config)


@pytest.fixture
def published(publish, monkeypatch):
    """`published(name)`: made weights in the cache, in place of torchvision's; returns them."""

    def make(name: str) -> dict:
        torch.manual_seed(1)
        state = get_model(name, weights=None, weights_backbone=None, num_classes=91).state_dict()
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        for key in state:
            if key.endswith(("running_mean", "running_var")):
                state[key] = torch.rand_like(state[key]) + 0.5
        weights = get_model_weights(name)["COCO_V1"].value
        monkeypatch.setitem(weights.__dict__, "url", publish(state))
        return state

    return make


@torch.no_grad()
def maps(ours, theirs):
    """Pairs of both backbones' maps, of the same images."""
    images = ours.eval().transform(pictures())[0].tensors
    both = ours.backbone(images), theirs.eval().backbone(images)
    return list(zip(*(each.values() for each in both), strict=True))


@pytest.mark.slow
def test_batch_norm_of_v2_is_constant_too(published):
    """torchvision leaves it trainable there; the maps in evaluation are the same."""
    name = "fasterrcnn_resnet50_fpn_v2"
    state = published(name)
    ours = tasks.create(replace(COCO, {"name": name})).model
    theirs = get_model(name, weights=None, weights_backbone=None, num_classes=91, min_size=64)
    theirs.load_state_dict(state)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in ours.modules())
    for one, other in maps(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [RESNET, COCO.name])
def test_network_is_torchvisions_own(published, monkeypatch, name):
    state = published(name)
    config = replace(COCO, {"name": name})
    ours = tasks.create(config).model.eval()
    weights = get_model_weights(name)["COCO_V1"]
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: state)
    theirs = get_model(name, weights=weights, min_size=64).eval()
    eps, expected = (
        [m.eps for m in network.modules() if isinstance(m, FrozenBatchNorm2d)]
        for network in (ours, theirs)
    )
    assert eps == expected != [] and str(ours) == str(theirs)
    assert fingerprint(ours) == fingerprint(theirs)
    assert all(torch.equal(one, other) for one, other in maps(ours, theirs))


def test_labels_are_translated_both_ways(published):
    """COCO's 13, stop sign, is our 12: its 12 is not used. What is no category is left out."""
    published(COCO.name)
    network = tasks.create(COCO)
    with torch.no_grad():
        score = network.model.roi_heads.box_predictor.cls_score
        score.weight.zero_()
        score.bias.zero_()
        score.bias[13] = 9.0
    (prediction,) = network.predict(pictures()[:1])
    assert set(prediction["labels"].tolist()) == {12}
    score.bias.data[[12, 13]] = torch.tensor([9.0, 0])
    assert len(network.predict(pictures()[:1])[0]["scores"]) == 0
    score.bias.data[[12, 13]] = torch.tensor([0.0, 9])
    matcher = network.model.roi_heads.proposal_matcher
    matcher.high_threshold = matcher.low_threshold = 0.0  # all boxes are that object
    network.model.roi_heads.fg_bg_sampler.positive_fraction = 1.0
    losses = {}
    for label in (11, 12, 13):
        terms = network.loss(pictures()[:1], [target(pictures()[0], label)])
        losses[label] = terms["loss_classifier"].item()
    assert losses[12] < 0.1 < 5 < losses[11] and losses[13] > 5


def test_trained_further_and_loaded_again(published, hub, new_run):
    """The profile still names torchvision's weights, which are not needed any more."""
    published(COCO.name)
    network = tasks.create(COCO)
    run = new_run()
    run.save_weights(network)
    next(hub.iterdir()).unlink()
    loaded = tasks.load(replace(COCO, {"weights": "DEFAULT"}), run.path("final.safetensors"))
    assert fingerprint(loaded) == fingerprint(network)
    assert loaded._target(target(pictures()[0], 12))["labels"].tolist() == [13]
