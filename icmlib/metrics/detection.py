"""COCO average precision: the official figures, and AP on any resample of the images.

Ground truth is a COCO-style dict (images, annotations, categories); detections are a list of COCO
results (image_id, category_id, score, bbox in x, y, width, height pixels, and, for masks,
segmentation as RLE). Neither is ever changed.

`coco_summary` gives the twelve figures everybody quotes (faster-coco-eval). `match` pairs
detections with objects once (pycocotools); `average_precision` then costs no more than sorting out
who was right, for as many resamples as a bootstrap wants.
"""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from faster_coco_eval.core import mask as rle

from icmlib.metrics import resample_counts

FIGURES = (
    *("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"),
    *("AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"),
)
GEOMETRY = {"bbox": "bbox", "segm": "segmentation"}
# The official thresholds, made the official way: np.arange is off by a bit at some of them.
RECALLS = np.linspace(0, 1, 101)
IOU_THRESHOLDS = 10  # .50 to .95
MAX_DETECTIONS = 100
CHUNK = 2_000_000  # elements of one (resamples, detections) array: 16 MB


@dataclass(frozen=True)
class CategoryMatches:
    """One category: D detections by falling score, T = 10 IoU thresholds, I images."""

    category_id: int
    scores: np.ndarray  # (D,)
    image: np.ndarray  # (D,) index into Matches.image_ids
    true_positive: np.ndarray  # (T, D) bool
    ignored: np.ndarray  # (T, D) bool: matched to a crowd, neither right nor wrong
    positives: np.ndarray  # (I,) objects to be found in each image


@dataclass(frozen=True)
class Matches:
    """All that AP needs, category by category; weights of images go by `image_ids` (rising)."""

    image_ids: tuple[int, ...]
    categories: tuple[CategoryMatches, ...]


def coco_summary(
    ground_truth: dict,
    detections: list[dict],
    iou_type: str,
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """The twelve official COCO figures by name, in [0, 1], as pycocotools computes them.

    `iou_type` is "bbox" or "segm"; `image_ids` restricts ground truth and detections to these
    images. AP is the mean over IoU .50:.95 and over the categories that have ground truth; a
    category without any is left out. A figure without any ground truth at all (no small object in
    the set, say) is nan where COCO prints -1. No detections read 0.0. Detections of categories
    that the ground truth does not list are passed over, as COCO does. Raises ValueError for an
    unknown `iou_type` and for images or detections that do not belong to the ground truth.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth, results = _private_copies(ground_truth, detections, iou_type, image_ids)
    evaluation = COCOeval_faster(COCO(truth), COCO(results), iou_type)
    evaluation.run()
    return {
        name: float("nan") if value < 0 else float(value)
        for name, value in zip(FIGURES, evaluation.stats, strict=True)
    }


def match(
    ground_truth: dict,
    detections: list[dict],
    iou_type: str,
    image_ids: Iterable[int] | None = None,
) -> Matches:
    """Matches detections to objects once, image by image (area all, 100 detections an image).

    Arguments and errors as `coco_summary`. Categories without ground truth are left out.
    """
    truth, results = _private_copies(ground_truth, detections, iou_type, image_ids)
    parameters, evaluated = _evaluate_images(truth, results, iou_type)
    n = len(parameters.imgIds)
    categories = [
        _category_matches(int(category_id), evaluated[k * n : (k + 1) * n])
        for k, category_id in enumerate(parameters.catIds)
    ]
    return Matches(
        image_ids=tuple(int(image_id) for image_id in parameters.imgIds),
        categories=tuple(c for c in categories if c.positives.any()),
    )


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> dict:
    """COCO's "AP" and "AP50" with each image counted `weights` times.

    weights (I,), or None for one each, gives floats: for unit weights exactly `coco_summary`'s.
    weights (R, I) gives arrays (R,), one value a resample. A category is left out of a resample
    that holds none of its objects; nan where no category is left.
    """
    weights = np.ones(len(matches.image_ids)) if weights is None else np.asarray(weights)
    if weights.ndim not in (1, 2) or weights.shape[-1] != len(matches.image_ids):
        raise ValueError(
            f"weights have shape {weights.shape}; need ({len(matches.image_ids)},) or "
            f"(resamples, {len(matches.image_ids)}), one column an image"
        )
    rows = np.atleast_2d(weights).astype(float)
    table = np.empty((len(matches.categories), len(rows), IOU_THRESHOLDS))
    for k, category in enumerate(matches.categories):
        table[k] = _category_precision(category, rows)
    values = {"AP": _mean_present(table.mean(axis=2)), "AP50": _mean_present(table[:, :, 0])}
    return {k: float(v[0]) for k, v in values.items()} if weights.ndim == 1 else values


def paired_bootstrap(
    matches_a: Matches,
    matches_b: Matches,
    resamples: int = 1000,
    *,
    rng: np.random.Generator,
    figure: str = "AP",
) -> dict[str, float]:
    """AP of b minus AP of a, with its 95 % interval: "difference", "low", "high".

    Both are read on the same resampled images, so what is hard for both cancels; the interval is
    the 2.5 and 97.5 % quantiles of the resampled differences. `figure` is "AP" or "AP50".
    Raises ValueError where the two were not matched on the same images.
    """
    if matches_a.image_ids != matches_b.image_ids:
        raise ValueError(
            f"a has {len(matches_a.image_ids)} images, b {len(matches_b.image_ids)}; a paired "
            "bootstrap needs the same image_ids in both"
        )
    counts = resample_counts(len(matches_a.image_ids), resamples, rng)
    difference = (
        average_precision(matches_b, counts)[figure] - average_precision(matches_a, counts)[figure]
    )
    low, high = np.nanquantile(difference, [0.025, 0.975])
    whole = average_precision(matches_b)[figure] - average_precision(matches_a)[figure]
    return {"difference": whole, "low": float(low), "high": float(high)}


def to_coco_results(image_id: int, prediction: dict, category_ids: list[int]) -> list[dict]:
    """A task network's prediction for one image as COCO results.

    `prediction`: boxes (N, 4) x1, y1, x2, y2 in pixels, labels (N,) in 1..K, scores (N,), and,
    where the network has masks, masks (N, H, W) bool. `category_ids[label - 1]` is the data set's
    category. Raises ValueError for a label outside 1..K.
    """
    labels = prediction["labels"].tolist()
    if labels and not (min(labels) >= 1 and max(labels) <= len(category_ids)):
        raise ValueError(
            f"labels run from {min(labels)} to {max(labels)}; need 1 to {len(category_ids)} "
            "(0 is the background, which is no detection)"
        )
    corners = prediction["boxes"].detach().cpu().double().numpy().reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
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
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def _private_copies(
    ground_truth: dict, detections: list[dict], iou_type: str, image_ids: Iterable[int] | None
) -> tuple[dict, dict]:
    """Ground truth and detections of these images as two COCO dicts that evaluators may write to.

    Ids are numbered from 1: the evaluators take an id of 0 for "no match".
    """
    if iou_type not in GEOMETRY:
        raise ValueError(f"iou_type is {iou_type!r}; need one of {sorted(GEOMETRY)}")
    known = {image["id"] for image in ground_truth["images"]}
    wanted = known if image_ids is None else set(image_ids)
    strangers = (wanted | {d["image_id"] for d in detections}) - known
    if strangers:
        raise ValueError(f"images {sorted(strangers)[:5]} are not in the ground truth")
    shared = {
        "images": [dict(image) for image in ground_truth["images"] if image["id"] in wanted],
        "categories": [dict(category) for category in ground_truth["categories"]],
    }
    objects = [a for a in ground_truth["annotations"] if a["image_id"] in wanted]
    objects = [{"iscrowd": 0, **a, "id": i} for i, a in enumerate(objects, start=1)]
    results = [d for d in detections if d["image_id"] in wanted]
    shapes = [_shape(detection, iou_type) for detection in results]
    results = [
        _as_annotation(*each, i, iou_type)
        for i, each in enumerate(zip(results, shapes, _areas(shapes, iou_type)), start=1)
    ]
    return {**shared, "annotations": objects}, {**shared, "annotations": results}


def _shape(detection: dict, iou_type: str) -> list | dict:
    geometry = GEOMETRY[iou_type]
    if geometry not in detection:
        raise ValueError(f"a detection has no {geometry!r}, which {iou_type!r} needs: {detection}")
    return detection[geometry]


def _areas(shapes: list, iou_type: str) -> list[float]:
    """Of the geometry that is judged: COCO's own reader, given both, takes the box's area for the
    mask's, and so puts masks in the wrong size class."""
    if iou_type == "bbox":
        return [width * height for _, _, width, height in shapes]
    return rle.area(shapes).astype(float).tolist() if shapes else []


def _as_annotation(
    detection: dict, shape: list | dict, area: float, identifier: int, iou_type: str
) -> dict:
    kept = {key: detection[key] for key in ("image_id", "category_id", "score")}
    return {**kept, GEOMETRY[iou_type]: shape, "area": area, "id": identifier, "iscrowd": 0}


def _evaluate_images(truth: dict, results: dict, iou_type: str):
    """pycocotools' parameters and per-image matches, category by category, images rising.

    pycocotools, since faster-coco-eval keeps its per-image matches inside C++.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints each step
        apis = COCO(), COCO()
        for api, dataset in zip(apis, (truth, results), strict=True):
            api.dataset = dataset
            api.createIndex()
        evaluation = COCOeval(*apis, iou_type)
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    return evaluation.params, evaluation.evalImgs


def _category_matches(category_id: int, evaluated: list[dict | None]) -> CategoryMatches:
    """Joins a category's images and sorts by score; equal scores keep the order of the images."""
    present = [(i, e) for i, e in enumerate(evaluated) if e is not None]
    scores = np.concatenate([[], *(e["dtScores"] for _, e in present)])
    image = np.repeat([i for i, _ in present], [len(e["dtScores"]) for _, e in present])
    none = np.zeros((IOU_THRESHOLDS, 0))  # so that a category without detections joins, too
    matched = np.concatenate([none, *(e["dtMatches"] for _, e in present)], axis=1) > 0
    ignored = np.concatenate([none, *(e["dtIgnore"] for _, e in present)], axis=1) > 0
    positives = np.array(
        [0 if e is None else np.sum(np.equal(e["gtIgnore"], 0)) for e in evaluated], dtype=int
    )
    order = np.argsort(-scores, kind="mergesort")
    return CategoryMatches(
        category_id=category_id,
        scores=scores[order],
        image=image.astype(int)[order],
        true_positive=(matched & ~ignored)[:, order],
        ignored=ignored[:, order],
        positives=positives,
    )


def _category_precision(category: CategoryMatches, weights: np.ndarray) -> np.ndarray:
    """AP at each IoU threshold, (R, T), under weights (R, I); nan where no object counts."""
    step = max(1, CHUNK // max(1, len(category.scores)))  # all resamples at once fill the memory
    chunks = [weights[start : start + step] for start in range(0, len(weights), step)]
    columns = list(zip(category.true_positive, ~category.ignored, strict=True))
    tables = []
    for chunk in chunks:
        positives, drawn = chunk @ category.positives, chunk[:, category.image]
        tables.append([_threshold_precision(drawn, positives, *flags) for flags in columns])
    return np.concatenate([np.stack(table, axis=1) for table in tables])


def _threshold_precision(
    weights: np.ndarray, positives: np.ndarray, right: np.ndarray, counted: np.ndarray
) -> np.ndarray:
    """(R,): mean over 101 recalls of the best precision at that recall or more.

    weights (R, D) of the detections by falling score, positives (R,), right and counted (D,) bool.
    """
    # Recall, and the envelope of precision, change only where a detection is right.
    found = np.cumsum(weights[:, right], axis=1)
    reported = np.cumsum(weights * counted, axis=1)[:, right]
    recall = found / np.where(positives > 0, positives, np.nan)[:, None]
    precision = found / (reported + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # How many of the 101 recalls each right detection is the first to reach.
    reached = np.diff(np.searchsorted(RECALLS, recall, side="right"), axis=1, prepend=0)
    return np.where(positives > 0, (best * reached).sum(axis=1) / len(RECALLS), np.nan)


def _mean_present(values: np.ndarray) -> np.ndarray:
    """Mean over categories (K, R) -> (R,) without the absent (nan); nan where all are."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0).sum(axis=0) / present.sum(axis=0)
