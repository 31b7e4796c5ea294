"""Measuring: what it costs beyond the task network, and COCO's figures beside pycocotools."""

import contextlib
import copy
import io

import numpy as np
import torch

from icmlib.bench.harness import Pair
from icmlib.metrics import checkerboard, detection, fidelity


def evaluation(codec, task, images) -> Pair:
    """What measuring costs beyond the task network: ours is fidelity, checkerboard and mAP of
    decoded images of one size, theirs the task network's own predictions of the same images."""
    x = torch.stack([images.image(index) for index in range(len(images))])
    x_hat = torch.stack([codec.decode(codec.encode(image)) for image in x]).clamp(0, 1)
    x_hat = fidelity.to_8bit(x_hat)
    tile = checkerboard.tile_size(images.sizes())
    chunks = [slice(start, start + 10) for start in range(0, len(x), 10)]

    def theirs() -> list[dict]:
        return [prediction for chunk in chunks for prediction in task.predict(x_hat[chunk])]

    results = []
    for image, prediction in zip(images.ground_truth["images"], theirs()):
        results += detection.to_coco_results(image["id"], prediction, images.category_ids)

    def ours() -> None:
        for chunk in chunks:
            fidelity.psnr(x[chunk], x_hat[chunk]), fidelity.ssim(x[chunk], x_hat[chunk])
        planes = [[checkerboard.luma(image) for image in side] for side in (x, x_hat)]
        for luma, luma_hat in zip(*planes):
            for plane in (luma, luma_hat, luma_hat - luma):
                checkerboard.welch_spectrum(plane, tile)
        for kind in ("segm", "bbox"):
            detection.average_precision(detection.match(images.ground_truth, results, kind))

    return Pair(ours, theirs)


def coco_evaluation(images: int, detections: int, size: int = 64) -> Pair:
    """COCO's twelve mask figures of made detections; theirs is pycocotools'."""
    truth, results = made_detections(images, detections, size)

    def theirs() -> list[float]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            api = COCO()
            api.dataset = copy.deepcopy(truth)
            api.createIndex()
            evaluation = COCOeval(api, api.loadRes(copy.deepcopy(results)), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats.tolist()

    def ours() -> list[float]:
        return list(detection.coco_summary(truth, results, "segm").values())

    def difference(ours: list[float], theirs: list[float]) -> float:
        return float(np.abs(np.nan_to_num(ours, nan=-1) - np.array(theirs)).max())

    return Pair(ours, theirs, difference)


def made_detections(images: int, detections: int, size: int) -> tuple[dict, list[dict]]:
    """Ground truth of five objects an image in three categories, and as many detections: ellipses,
    those of the detections moved and resized at random."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    annotations, results = [], []
    for image_id in range(1, images + 1):
        objects = np.column_stack([rng.uniform(0, size, (5, 2)), rng.uniform(4, size / 3, (5, 2))])
        labels = rng.integers(1, 4, 5)
        picked = rng.integers(0, 5, detections)
        found = objects[picked] + rng.normal(0, 2, (detections, 4))
        for k, (cy, cx, ry, rx) in enumerate(np.concatenate([objects, found])):
            mask = ((y - cy) / max(ry, 1)) ** 2 + ((x - cx) / max(rx, 1)) ** 2 <= 1
            encoded = detection.encode_mask(mask)
            area = int(mask.sum())
            if k < 5 and area:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": int(labels[k]),
                        "segmentation": encoded,
                        "area": area,
                        "bbox": [float(cx - rx), float(cy - ry), float(2 * rx), float(2 * ry)],
                        "iscrowd": 0,
                    }
                )
            elif k >= 5 and area:
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": int(labels[picked[k - 5]]),
                        "segmentation": encoded,
                        "score": float(rng.uniform()),
                    }
                )
    truth = {
        "info": {},
        "images": [{"id": i, "height": size, "width": size} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, 4)],
    }
    return truth, results
