import contextlib
import copy
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from icmlib.evaluate import Evaluation, compare
from icmlib.metrics import detection
from icmlib.metrics.detection import average_precision, match, to_coco_results

# shared/data/README.md: AP and AP50.
ORACLE = {"bbox": (0.505, 0.697), "segm": (0.320, 0.562)}
RIGHT, WRONG = [10, 10, 50, 40], [70, 70, 20, 20]


def ap_of(truth, detections, iou_type="bbox"):
    """AP and AP50."""
    return tuple(average_precision(match(truth, detections, iou_type)).values())


def indexed(truth) -> COCO:
    """A copy, as pycocotools has it; it reads a match with an object of id 0 as no match."""
    coco = COCO()
    coco.dataset = copy.deepcopy(truth)
    for number, annotation in enumerate(coco.dataset["annotations"], start=1):
        annotation["id"] = number
    coco.createIndex()
    return coco


def pycocotools_figures(truth, detections, iou_type):
    """The reference, by its own reader of results, on copies."""
    detections = copy.deepcopy(detections)
    if iou_type == "segm":
        for detection in detections:
            del detection["bbox"]  # else pycocotools takes the box's area for the mask's
    with contextlib.redirect_stdout(io.StringIO()):
        coco = indexed(truth)
        found = coco.loadRes(detections) if detections else COCO()
        evaluation = COCOeval(coco, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2].tolist()


def disk(height, width, y, x, radius):
    rows, columns = np.indices((height, width))
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def shape_of(mask):
    """bbox, segmentation and area of a mask, as COCO writes them."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    bbox, area = rle.toBbox(encoded).tolist(), float(rle.area(encoded))
    return {"bbox": bbox, "segmentation": {**encoded, "counts": encoded["counts"].decode()}}, area


def random_case(seed, images=12, size=160):
    """Disks, crowds, empty images, missed, invented and repeated detections; scores that tie."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "annotations": [], "categories": [{"id": c} for c in (1, 3, 4, 9)]}
    detections = []
    for image_id in rng.permutation(100)[:images].tolist():
        truth["images"].append({"id": image_id, "height": size, "width": size})
        for _ in range(rng.choice([0, 1, 4, 8])):
            y, x, radius = rng.integers(0, size), rng.integers(0, size), rng.integers(3, 60)
            category = int(rng.choice([1, 3, 4]))  # 9 has no ground truth
            shape, area = shape_of(disk(size, size, y, x, radius))
            if rng.random() < 0.9:
                annotation = {"image_id": image_id, "category_id": category, "area": area, **shape}
                annotation["iscrowd"] = int(rng.random() < 0.15)
                truth["annotations"].append({**annotation, "id": len(truth["annotations"]) + 1})
            for _ in range(rng.choice([0, 1, 2])):
                y2, x2, r2 = (v + rng.integers(-radius, radius + 1) // 5 for v in (y, x, radius))
                guess, area = shape_of(disk(size, size, y2, x2, max(r2, 2)))
                if area == 0:
                    continue
                other = category if rng.random() < 0.85 else int(rng.choice([1, 3, 4, 9]))
                guess |= {"score": float(rng.integers(1, 12)) / 12, "category_id": other}
                detections.append({"image_id": image_id, **guess})
    return truth, detections


def one_object(detections):
    """An image with one object of 50x40 px, id 0; detections are (score, bbox) of its category."""
    which = {"image_id": 7, "category_id": 2}
    truth = {
        "images": [{"id": 7, "height": 100, "width": 100}],
        "annotations": [{"id": 0, "bbox": [10, 10, 50, 40], "area": 2000, **which}],
        "categories": [{"id": 2, "name": "disk"}],
    }
    return truth, [{"score": score, "bbox": bbox, **which} for score, bbox in detections]


@pytest.mark.parametrize(
    "found, expected",
    [
        ([(0.9, RIGHT)], (1.0, 1.0)),
        # The wrong one comes first: precision 1/2 at every recall.
        ([(0.5, RIGHT), (0.9, WRONG)], (0.5, 0.5)),
        # After the object is found, a wrong one costs nothing.
        ([(0.9, RIGHT), (0.5, WRONG)], (1.0, 1.0)),
        # 40 of 50 columns: IoU .8, right at .50 to .80, 7 of the 10 thresholds.
        ([(0.9, [10, 10, 40, 40])], (0.7, 1.0)),
        # Found twice: the second is a wrong one.
        ([(0.9, [10, 10, 20, 40]), (0.8, RIGHT), (0.7, RIGHT)], (0.5, 0.5)),
        ([], (0.0, 0.0)),
        # No more than a hundred detections of an image count.
        ([(0.5, RIGHT)] + [(0.9, WRONG)] * 99, (0.01, 0.01)),
        ([(0.5, RIGHT)] + [(0.9, WRONG)] * 100, (0.0, 0.0)),
    ],
)
def test_by_hand(found, expected):
    assert ap_of(*one_object(found)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "cocoeval_reference"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    found = {kind: folder / f"instances_val2014_fake{kind}100_results.json" for kind in ORACLE}
    return truth, {kind: json.loads(file.read_text()) for kind, file in found.items()}


@pytest.mark.parametrize("iou_type", ORACLE)
def test_the_official_example(reference, iou_type, capfd):
    truth, detections = reference[0], reference[1][iou_type]
    assert ap_of(truth, detections, iou_type) == pytest.approx(ORACLE[iou_type], abs=5e-4)
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_random_cases_equal_pycocotools(seed, iou_type):
    truth, detections = random_case(seed)
    before = copy.deepcopy((truth, detections))
    found = ap_of(truth, detections, iou_type)
    assert (truth, detections) == before
    assert found == pytest.approx(pycocotools_figures(truth, detections, iou_type), abs=1e-9)
    assert 0 < found[0] < 1


def resampled(truth, detections, image_ids, counts):
    """Each image copied as often as it counts."""
    size = {key: truth["images"][0][key] for key in ("height", "width")}
    copies, found = {"images": [], "annotations": [], "categories": truth["categories"]}, []
    for new, old in enumerate(np.repeat(image_ids, counts), start=1):
        copies["images"].append({"id": new, **size})
        for source, copied in ((truth["annotations"], copies["annotations"]), (detections, found)):
            copied += [{**each, "image_id": new} for each in source if each["image_id"] == old]
    return copies, found


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_weights_are_copies_of_images(iou_type, rng):
    truth, detections = random_case(5)
    for i, each in enumerate(detections):
        each["score"] += 1e-6 * i  # the order of ties would depend on the image ids
    matches = match(truth, detections, iou_type)
    counts = rng.multinomial(12, [1 / 12] * 12, size=6)
    counts = np.concatenate([counts, np.eye(12, dtype=int)])  # and each image by itself
    precision = average_precision(matches, counts)
    assert precision["AP"].shape == (18,)
    for r, count in enumerate(counts):
        copies = resampled(truth, detections, matches.image_ids, count)
        expected = [np.nan if v < 0 else v for v in pycocotools_figures(*copies, iou_type)]
        found = precision["AP"][r], precision["AP50"][r]
        assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
        alone = average_precision(matches, count)
        assert alone["AP"] == pytest.approx(precision["AP"][r], nan_ok=True)
    assert np.ptp(precision["AP"][:6]) > 0.01


def test_a_set_too_large_for_memory_is_cut_up(rng, monkeypatch):
    matches = match(*random_case(6), "bbox")
    counts = rng.multinomial(12, [1 / 12] * 12, size=50)
    whole = average_precision(matches, counts)["AP"]
    monkeypatch.setattr(detection, "CHUNK", 7 * len(matches.image))
    assert np.array_equal(average_precision(matches, counts)["AP"], whole)


def test_bootstrap_sees_a_difference_and_its_sign():
    truth, good = random_case(4, images=40)
    bad = [d for i, d in enumerate(good) if i % 3]
    table = pd.DataFrame({"image_id": range(40)})
    matches = ({"box": match(truth, found, "bbox")} for found in (bad, good))
    a, b = (Evaluation(table, {}, {}, each) for each in matches)
    difference, low, high = compare(a, b, 300).values()
    ap = ap_of(truth, good)[0] - ap_of(truth, bad)[0]
    assert difference == pytest.approx(ap) and 0 < low < ap < high
    assert list(compare(b, a, 300).values()) == pytest.approx([-difference, -high, -low])


def test_other_images_are_refused():
    truth, detections = one_object([(0.9, RIGHT)])
    with pytest.raises(AssertionError, match="do not correspond"):
        match(truth, [{**detections[0], "image_id": 8}], "bbox")


def test_predictions_become_coco_results():
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 2:6, 3:9] = True
    masks[1, 10:, 5:6] = True
    prediction = {
        "boxes": torch.tensor([[3.0, 2.0, 9.0, 6.0], [5.0, 10.0, 6.0, 20.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.75, 0.5]),
        "masks": masks,
    }
    results = to_coco_results(4, prediction, [11, 22])
    assert json.loads(json.dumps(results)) == results
    assert [r["bbox"] for r in results] == [[3, 2, 6, 4], [5, 10, 1, 10]]
    facts = [(r["image_id"], r["category_id"], r["score"]) for r in results]
    assert facts == [(4, 22, 0.75), (4, 11, 0.5)]
    for result, mask in zip(results, masks, strict=True):
        assert (rle.decode(result["segmentation"]) == mask.numpy()).all()
        assert rle.toBbox(result["segmentation"]).tolist() == result["bbox"]
    del prediction["masks"]
    assert all("segmentation" not in r for r in to_coco_results(4, prediction, [11, 22]))
    assert to_coco_results(4, {name: each[:0] for name, each in prediction.items()}, [11, 22]) == []


def test_background_and_soft_masks_are_refused():
    one = {"boxes": torch.ones(1, 4), "labels": torch.tensor([0]), "scores": torch.ones(1)}
    with pytest.raises(ValueError, match="labels run from 0 to 0; need 1 to 2"):
        to_coco_results(1, one, [5, 6])
    one |= {"labels": torch.tensor([1]), "masks": torch.rand(1, 8, 8)}
    with pytest.raises(ValueError, match="threshold the probabilities"):
        to_coco_results(1, one, [5, 6])
