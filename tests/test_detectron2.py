import copy
import json
import pickle
from hashlib import md5

import adapters
import numpy as np
import pytest
import torch
from adapters import pictures, target, without_masks

from icmlib import datasets, tasks
from icmlib.config import TaskConfig, replace
from icmlib.io import fingerprint
from icmlib.metrics import detection
from icmlib.tasks.detectron2 import PREFIX

pytest.importorskip("detectron2")

MASK = TaskConfig(f"{PREFIX}COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", 3, min_size=64)
RETINA = replace(MASK, {"name": f"{PREFIX}COCO-Detection/retinanet_R_50_FPN_1x.yaml"})
C4 = replace(MASK, {"name": f"{PREFIX}COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"})
COCO = replace(MASK, {"num_classes": 80, "weights": "DEFAULT"})
GIOU = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_giou.yaml"
TERMS = {
    MASK: {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"},
    C4: {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"},
    RETINA: {"loss_cls", "loss_box_reg"},
}


@pytest.fixture(scope="module")
def given():
    """A Mask R-CNN with normalised maps: untrained, and without statistics, they explode."""
    network = tasks.create(MASK)
    network.model.backbone.train()
    with torch.no_grad():
        for _ in range(20):
            network.model.backbone(network._batch(pictures()).tensor)
    network.model.proposal_generator.post_nms_topk = {True: 50, False: 50}
    network.model.roi_heads.batch_size_per_image = 32
    network.model.roi_heads.box_predictor.test_topk_per_image = 10
    return network.eval().requires_grad_(False)


@pytest.fixture
def network(given):
    return copy.deepcopy(given)


@pytest.mark.parametrize("config", TERMS, ids=lambda config: config.name)
def test_losses_reach_the_image(config):
    """Untrained, sizes mixed, one image without objects, then both; masks only where asked for."""
    network = tasks.create(config)
    if config != RETINA:
        network.model.roi_heads.batch_size_per_image = 8  # the boxes are what takes the time
    images = [image.requires_grad_() for image in pictures()]
    targets = [target(images[0], 3), target(images[1])]
    if config != MASK:
        targets = [without_masks(each) for each in targets]
    adapters.assert_loss_reaches(images, network.loss(images, targets), TERMS[config])
    empty = network.loss(images, [targets[1], {**targets[1], "masks": target(images[0])["masks"]}])
    assert all(torch.isfinite(term) for term in empty.values()) and empty["loss_box_reg"] == 0


def test_a_loss_does_not_depend_on_the_one_before():
    network = tasks.create(RETINA).requires_grad_(False)
    image = pictures()[0]
    one = network.loss([image], [target(image, 1)])
    network.loss([image], [target(image)])
    again = network.loss([image], [target(image, 1)])
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_gradient_to_the_image_is_that_of_finite_differences(network):
    """One image is reduced and one enlarged."""
    network.double().sides = (44, 1333)
    adapters.assert_gradient(network, pictures(), 1e-8)


def test_an_untrained_network_trains():
    network = tasks.create(MASK)
    network.model.roi_heads.batch_size_per_image = 8
    network.model.proposal_generator.post_nms_topk[True] = 20
    adapters.assert_trains(network, [target(image, 1) for image in pictures()])


def test_bf16(network):
    """Under autocast: the same within its digits, maps handed over in float32, finite gradients."""
    images = [image.requires_grad_() for image in pictures()]
    targets = [target(image, 2) for image in images]
    torch.manual_seed(0)
    exact, maps = network.loss(images, targets), network.features(images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        terms = network.loss([image.bfloat16() for image in images], targets)  # a codec's output
        rounded = network.features(images)
        assert all(len(each["scores"]) > 0 for each in network.predict(images))
    for name in maps:
        assert rounded[name].dtype == torch.float32
        assert 0 < (rounded[name] - maps[name]).std() < 0.3 * maps[name].std()  # of 50 layers
    for name in ("loss_rpn_cls", "loss_rpn_loc"):  # the others are of proposals, which differ
        torch.testing.assert_close(terms[name], exact[name], rtol=0.1, atol=0)
    gradients = torch.autograd.grad(sum(terms.values()), images)
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.any() for g in gradients)


def test_predictions_are_as_documented(network):
    images = pictures()
    network.train()
    predictions = network.predict(images)
    assert not network.model.training and all(len(each["scores"]) > 0 for each in predictions)
    adapters.assert_predictions(images, predictions, 3, masks=True)
    maps = network.features(images)
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
    network.model.backbone.forward = None  # it does not run again
    adapters.assert_same(predictions, network.predict(images, maps))
    network.model.roi_heads.box_predictor.test_score_thresh = 1.1
    empty = network.predict(images, maps)
    adapters.assert_predictions(images, empty, 3, masks=True)
    assert not any(len(each["scores"]) for each in empty)


def test_predictions_of_a_dense_detector():
    network = tasks.create(RETINA)
    network.model.test_score_thresh = 0.0
    predictions = network.predict(pictures())
    assert all(len(each["boxes"]) == len(each["scores"]) > 0 for each in predictions)
    adapters.assert_same(predictions, network.predict(pictures(), network.features(pictures())))


def test_images_are_resized_as_detectron2_does_it(network):
    """Its own transform reads and rounds 8 bits, so up to a grey level lies between the two."""
    from detectron2.data.transforms import AugInput, ResizeShortestEdge

    network.sides = (56, 90)  # one is reduced, one enlarged
    for image in pictures():
        rgb = (255 * image).round().byte()
        data = AugInput(rgb.flip(0).permute(1, 2, 0).contiguous().numpy())
        ResizeShortestEdge(*network.sides)(data)
        ours = network._resized(rgb / 255).permute(1, 2, 0).numpy()
        assert ours.shape == data.image.shape and max(ours.shape) <= 90
        assert np.abs(ours - data.image).max() <= 1.01


def test_labels_are_detectron2s_and_one_more(network):
    """Its classes are the categories by rising id, counted from 0; its background is the last."""
    from detectron2.data import MetadataCatalog

    mapping = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    assert len(mapping) == 80 and mapping == {k: i for i, k in enumerate(sorted(mapping))}
    score = network.model.roi_heads.box_predictor.cls_score
    score.weight.data.zero_()
    score.bias.data.copy_(torch.tensor([0.0, 9, 0, 0]))
    image = pictures()[0]
    (prediction,) = network.predict([image])
    assert set(prediction["labels"].tolist()) == {2}
    network.model.roi_heads.proposal_matcher.thresholds = [-float("inf"), 0.0, 0.0, float("inf")]
    network.model.roi_heads.positive_fraction = 1.0  # all boxes are that object
    terms = {k: network.loss([image], [target(image, k)])["loss_cls"].item() for k in (1, 2, 3)}
    assert terms[2] < 0.1 < 5 < terms[1] and terms[3] > 5


def perturbed(images, results: list[dict]) -> dict:
    """Ground truth made of every other detection, its box moved, its mask with holes."""
    annotations = []
    for i, result in enumerate(results[::2], 1):
        k = 2 + i % 8
        mask = detection.rle.decode(result["segmentation"])
        mask.ravel()[::k] = 0  # it is noise, of an untrained network: moved it is missed
        x, y, width, height = result["bbox"]
        shape = datasets.coco.instance(result["category_id"], mask.astype(bool))
        shape |= {"bbox": [x + 4 / k, y, width, height]}
        annotations.append({"id": i, "image_id": result["image_id"]} | shape)
    sizes = enumerate((x.shape[1:] for x in images), start=1)
    return {
        "info": {},
        "images": [{"id": i, "file_name": "", "height": h, "width": w} for i, (h, w) in sizes],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"category {k}"} for k in (3, 7, 9)],
    }


def test_average_precision_is_that_of_detectron2s_evaluator(network, tmp_path):
    """detectron2 runs its own inference and its own evaluator over the same weights."""
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator

    images = [*pictures(), torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(1))]
    results = [
        result
        for i, found in enumerate(network.predict(images), start=1)
        for result in detection.to_coco_results(i, found, [3, 7, 9])
    ]
    truth = perturbed(images, results)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    register_coco_instances(str(tmp_path), {}, str(tmp_path / "truth.json"), str(tmp_path))
    DatasetCatalog.get(str(tmp_path))  # reads the categories
    evaluator = COCOEvaluator(str(tmp_path), ("bbox", "segm"), distributed=False)
    evaluator.reset()
    inputs = [
        {"image": network._resized(x), "height": x.shape[1], "width": x.shape[2], "image_id": i}
        for i, x in enumerate(images, start=1)
    ]
    evaluator.process(inputs, network.model.eval()(inputs))
    theirs = evaluator.evaluate()
    for kind in ("bbox", "segm"):
        ours = detection.average_precision(detection.match(truth, results, kind))
        assert 0.05 < ours["AP"] < 0.95
        for name, value in ours.items():
            assert 100 * value == pytest.approx(theirs[kind][name]), name


def test_by_name():
    state = torch.get_rng_state()
    one, other = tasks.create(RETINA), tasks.create(RETINA)
    assert torch.equal(torch.get_rng_state(), state) and fingerprint(one) == fingerprint(other)
    assert one.sides == (64, 1333)
    assert tasks.create(replace(RETINA, {"min_size": None})).sides == (800, 1333)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("COCO-Detection/mask_rcnn.yaml", {}, "no config .*nearest: COCO-.*rcnn"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", {}, "no config .* of boxes or masks"),
        (RETINA.name[len(PREFIX) :], {"weights": "DEFAULT"}, "knows 80 .* num_classes: 3"),
        (GIOU, {"weights": "DEFAULT"}, f"has no weights for {PREFIX}{GIOU[:-5]}"),
    ],
)
def test_configs_that_cannot_serve_are_refused(hub, name, changes, message):
    """Before anything is built or downloaded."""
    with pytest.raises(ValueError, match=message):
        tasks.create(replace(MASK, {"name": f"{PREFIX}{name}", **changes}))


@pytest.fixture
def published(hub, monkeypatch):
    """Made weights in the cache, as the model zoo has its own; returns their arrays."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    settings = model_zoo.get_config(COCO.name.removeprefix(PREFIX))
    settings.MODEL.DEVICE = "cpu"
    torch.manual_seed(1)
    state = {k: v.numpy() for k, v in build_model(settings).state_dict().items()}
    for name in state:
        if name.endswith(("running_mean", "running_var")):
            state[name] = state[name] + np.float32(0.5)
    old = {"pixel_mean": np.zeros((3, 1, 1), np.float32)}
    old["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    data = pickle.dumps({"model": state | old, "__author__": "Detectron2 Model Zoo"}, 2)
    path = hub / f"model_final_{md5(data).hexdigest()[:6]}.pkl"
    path.write_bytes(data)
    monkeypatch.setattr(model_zoo, "get_checkpoint_url", lambda _: f"https://nowhere/{path.name}")
    return state


def test_published_weights_are_loaded_whole(published, hub, new_run):
    """As detectron2's checkpointer does it; trained further, the published file is not needed."""
    from detectron2.checkpoint import DetectionCheckpointer

    network = tasks.create(COCO)
    state = network.model.state_dict()
    assert state.keys() == published.keys()
    assert all(np.array_equal(state[name].numpy(), published[name]) for name in published)
    theirs = copy.deepcopy(network.model)
    torch.nn.init.zeros_(theirs.backbone.fpn_lateral2.weight)
    DetectionCheckpointer(theirs).load(str(next(hub.glob("*.pkl"))))
    assert fingerprint(theirs) == fingerprint(network.model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert network.model.pixel_mean.max() > 100  # the config's, not the file's
    run = new_run()
    run.save_weights(network)
    next(hub.glob("*.pkl")).unlink()
    loaded = tasks.load(COCO, run.path("final.safetensors"))
    assert fingerprint(loaded) == fingerprint(network)
    assert not any(p.requires_grad for p in loaded.parameters())
