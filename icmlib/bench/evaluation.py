"""Coding a data set beside CompressAI; measuring it beside the task network's own predictions;
COCO's figures beside pycocotools."""

import contextlib
import io
from functools import partial

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from icmlib import codecs
from icmlib.bench.harness import Pair, largest_difference
from icmlib.codecs.bitstream import Bitstream
from icmlib.codecs.files import on_all_cores
from icmlib.metrics import checkerboard, detection, fidelity


def coding(codec: codecs.LearnedCodec, images) -> dict[str, Pair]:
    """`encode`: a data set to bitstreams on all cores, beside CompressAI's `compress`, image by
    image; `decode`: bitstreams to images, beside its `decompress`."""

    @torch.no_grad()
    def compress() -> list[dict]:
        return [codec.model.compress(codec.pad(images.image(i)[None])) for i in range(len(images))]

    @torch.no_grad()
    def decompress() -> list[torch.Tensor]:
        decoded = zip((codec.model.decompress(**each)["x_hat"] for each in coded), images.sizes())
        return [x_hat[0, :, :height, :width] for x_hat, (height, width) in decoded]

    def encode() -> list[bytes]:
        return list(on_all_cores(partial(_encoded, images), codec, range(len(images))))

    def decode() -> list[torch.Tensor]:
        return [*map(torch.from_numpy, on_all_cores(_decoded, codec, files))]

    def other_bytes(files: list[bytes], coded: list[dict]) -> float:
        strings = [[[each] for each in Bitstream.from_bytes(file).strings] for file in files]
        return float(strings != [each["strings"] for each in coded])

    files, coded = encode(), compress()
    return {
        "encode": Pair(encode, compress, other_bytes),
        "decode": Pair(decode, decompress, largest_difference),
    }


def _encoded(images, codec: codecs.LearnedCodec, index: int) -> bytes:
    return bytes(codec.encode(images.image(index)))


def _decoded(codec: codecs.LearnedCodec, file: bytes) -> np.ndarray:  # a pipe carries it fastest
    return codec.decode(Bitstream.from_bytes(file)).numpy()


def evaluation(codec: codecs.LearnedCodec, task, images) -> Pair:
    """Measuring decoded images of one size: ours is fidelity, checkerboard and mAP; theirs, for
    comparison, is the task network's predictions of the same images."""
    x = torch.stack([images.image(index) for index in range(len(images))])
    x_hat = fidelity.to_8bit(torch.stack([codec.decode(codec.encode(image)) for image in x]))
    batches, tile = list(zip(x.split(10), x_hat.split(10))), checkerboard.tile_size(images.sizes())

    def theirs() -> list[dict]:
        return [prediction for _, decoded in batches for prediction in task.predict(decoded)]

    results = []
    for image, prediction in zip(images.ground_truth["images"], theirs()):
        results += detection.to_coco_results(image["id"], prediction, images.category_ids)

    def ours() -> None:
        for batch in batches:
            fidelity.psnr(*batch), fidelity.ssim(*batch)
        for image in (*x, *x_hat):
            checkerboard.welch_spectrum(checkerboard.planes(image), tile)
        for kind in ("segm", "bbox"):
            detection.average_precision(detection.match(images.ground_truth, results, kind))

    return Pair(ours, theirs)


def coco_evaluation(images: int, detections: int) -> Pair:
    """COCO's twelve mask figures of made detections; theirs is pycocotools'."""
    truth, results = made_detections(images, detections)

    def ours() -> np.ndarray:
        figures = detection.coco_summary(truth, results, "segm")
        return np.nan_to_num([*figures.values()], nan=-1)  # as pycocotools has it

    def theirs() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            api = COCO()
            api.dataset = truth
            api.createIndex()
            evaluation = COCOeval(api, api.loadRes([dict(each) for each in results]), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats

    return Pair(ours, theirs, lambda ours, theirs: float(np.abs(ours - theirs).max()))


def made_detections(images: int, detections: int, size: int = 64) -> tuple[dict, list[dict]]:
    """Ground truth with five objects per image in three categories, and `detections` per image;
    each has one of ten boxes as its mask."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform((0, 0, 8, 8), (48, 48, 40, 40), (10, 4))  # x, y, width, height
    masks = rle.frPyObjects(boxes, size, size)

    def annotations(count: int) -> list[dict]:
        made = []
        for i, shape in enumerate(rng.integers(len(masks), size=images * count)):
            one = {"id": 1 + i, "image_id": 1 + i // count, "category_id": 1 + int(shape) % 3}
            one |= {"segmentation": masks[shape], "area": float(rle.area(masks[shape]))}
            made.append(one | {"iscrowd": 0, "score": rng.uniform()})
        return made

    sizes = [{"id": 1 + i, "height": size, "width": size} for i in range(images)]
    categories = [{"id": 1 + i, "name": str(i)} for i in range(3)]
    truth = {"images": sizes, "annotations": annotations(5), "categories": categories}
    return truth, annotations(detections)
