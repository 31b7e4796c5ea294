"""COCO average precision, of all images and of any resample of them.

Ground truth is a COCO-style dict (images, annotations, categories); detections are a list of COCO
results (image_id, category_id, score, bbox in x, y, width, height pixels, and, for masks,
segmentation as RLE). Neither is ever changed. `match` pairs them once (pycocotools);
`average_precision` then reads any resample of the images.
"""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert

# The official thresholds, made the official way: np.arange is off by a bit at some of them.
RECALLS = np.linspace(0, 1, 101)
IOU_THRESHOLDS = 10  # .50 to .95
MAX_DETECTIONS = 100
CHUNK = 2_000_000  # elements of one (resamples, detections) array: 16 MB


@dataclass(frozen=True)
class Matches:
    """All that AP needs, as arrays: K categories and I images by rising id, D detections by
    category and falling score, T = 10 IoU thresholds."""

    image_ids: np.ndarray  # (I,)
    positives: np.ndarray  # (K, I) objects to be found
    category: np.ndarray  # (D,) index into the K
    image: np.ndarray  # (D,) index into the I
    true_positive: np.ndarray  # (T, D) bool
    ignored: np.ndarray  # (T, D) bool: matched to a crowd, neither right nor wrong


def match(ground_truth: dict, detections: list[dict], iou_type: str) -> Matches:
    """Matches detections to objects once, image by image (area all, 100 detections per image).
    `iou_type` is "bbox" or "segm". Detections of categories that the ground truth does not list
    are ignored; AssertionError: of images that it does not list."""
    image_ids, found = _evaluate_images(ground_truth, detections, iou_type)
    positives = [np.sum(np.equal(each["gtIgnore"], 0)) for each in found]
    positives = np.array(positives, dtype=int).reshape(-1, len(image_ids))
    scores = np.concatenate([each["dtScores"] for each in found])
    place = np.repeat(np.arange(len(found)), [len(each["dtScores"]) for each in found])
    category, image = np.divmod(place, len(image_ids))
    order = np.lexsort((-scores, category))  # equal scores keep the order of the images
    matched, ignored = (
        np.concatenate([each[name] for each in found], axis=1)[:, order] > 0
        for name in ("dtMatches", "dtIgnore")
    )
    places = category[order], image[order]
    return Matches(np.array(image_ids), positives, *places, matched & ~ignored, ignored)


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> dict:
    """COCO's "AP" and "AP50" with each image counted `weights` times: (I,), or None for one each,
    gives floats; (R, I) gives arrays (R,). A category is left out of a resample without its
    objects; nan where no category is left."""
    weights = np.ones(len(matches.image_ids)) if weights is None else np.asarray(weights)
    rows = np.atleast_2d(weights).astype(float)
    parts = np.array_split(rows, 1 + len(rows) * len(matches.image) // CHUNK)  # as memory allows
    categories = range(len(matches.positives))
    tables = [[_precision(matches, k, part) for k in categories] for part in parts]
    table = np.concatenate(tables, axis=1)  # (K, R, T)
    table = np.ma.masked_invalid([table.mean(axis=2), table[:, :, 0]])  # (2, K, R)
    values = dict(zip(("AP", "AP50"), table.mean(axis=1).filled(np.nan)))
    return {k: float(v[0]) for k, v in values.items()} if weights.ndim == 1 else values


def to_coco_results(image_id: int, prediction: dict, category_ids: list[int]) -> list[dict]:
    """A task network's prediction for one image (`icmlib.tasks.TaskNetwork`) as COCO results;
    `category_ids[label - 1]` is the data set's category. ValueError: a label outside 1..K."""
    labels = prediction["labels"].tolist()
    if labels and not (min(labels) >= 1 and max(labels) <= len(category_ids)):
        need = f"need 1 to {len(category_ids)} (0 is the background, which is no detection)"
        raise ValueError(f"labels run from {min(labels)} to {max(labels)}; {need}")
    boxes = box_convert(prediction["boxes"].detach().double(), "xyxy", "xywh").tolist()
    results = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "score": score, "bbox": box}
        for label, score, box in zip(labels, prediction["scores"].tolist(), boxes, strict=True)
    ]
    if "masks" in prediction:
        for result, mask in zip(results, prediction["masks"], strict=True):
            result["segmentation"] = encode_mask(mask.cpu().numpy())
    return results


def encode_mask(mask: np.ndarray) -> dict:
    """A boolean mask (H, W) as RLE that JSON can hold (counts as str)."""
    if mask.dtype != bool:
        raise ValueError(f"mask is {mask.dtype}; need bool (threshold the probabilities first)")
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return encoded | {"counts": encoded["counts"].decode()}


def _evaluate_images(ground_truth: dict, detections: list[dict], iou_type: str) -> tuple:
    """The image ids, rising, and pycocotools' matches, category by category, by these images. It
    writes to what it is given, hence the copies, and takes an id of 0 for no match."""
    objects = [{"iscrowd": 0, **a, "id": i} for i, a in enumerate(ground_truth["annotations"], 1)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints each step
        truth = COCO()
        truth.dataset = {**ground_truth, "annotations": objects}
        truth.createIndex()
        results = truth.loadRes([dict(each) for each in detections]) if detections else COCO()
        evaluation = COCOeval(truth, results, iou_type)
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    nothing = np.zeros((IOU_THRESHOLDS, 0))
    empty = {"dtScores": [], "dtMatches": nothing, "dtIgnore": nothing, "gtIgnore": []}
    return list(evaluation.params.imgIds), [each or empty for each in evaluation.evalImgs]


def _precision(matches: Matches, k: int, weights: np.ndarray) -> np.ndarray:
    """AP of a category at each IoU threshold, (R, T), under weights (R, I); nan without objects."""
    own = slice(*np.searchsorted(matches.category, (k, k + 1)))
    drawn, positives = weights[:, matches.image[own]], weights @ matches.positives[k]
    found = zip(matches.true_positive[:, own], ~matches.ignored[:, own])  # at each threshold
    return np.stack([_threshold_precision(drawn, positives, *each) for each in found], axis=1)


def _threshold_precision(weights, positives, right, counted) -> np.ndarray:
    """Mean over 101 recalls of the best precision at that recall or more, (R,), under weights
    (R, D) of the detections by falling score; positives (R,), right and counted (D,) bool."""
    # Recall, and the envelope of precision, change only where a detection is right.
    found = np.cumsum(weights[:, right], axis=1)
    reported = np.cumsum(weights * counted, axis=1)[:, right]
    recall = found / np.where(positives > 0, positives, np.nan)[:, None]
    precision = found / (reported + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # How many of the 101 recalls each right detection is the first to reach.
    reached = np.diff(np.searchsorted(RECALLS, recall, side="right"), axis=1, prepend=0)
    return np.where(positives > 0, (best * reached).sum(axis=1) / len(RECALLS), np.nan)
