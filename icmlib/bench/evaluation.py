"""Coding a data set beside CompressAI; COCO's figures beside pycocotools."""

import contextlib
import io
from functools import partial

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from icmlib import codecs
from icmlib.bench.harness import Pair, largest_difference
from icmlib.codecs.bitstream import Bitstream
from icmlib.device import on_all_cores
from icmlib.metrics import detection


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


def coco_evaluation(truth: dict, results: list[dict], kind: str) -> Pair:
    """COCO's twelve figures of detections (`kind`: segm or bbox); theirs is pycocotools'."""
    if kind == "segm":  # where there are boxes, pycocotools takes their areas for the masks'
        results = [{k: v for k, v in each.items() if k != "bbox"} for each in results]

    def ours() -> np.ndarray:
        figures = detection.coco_summary(truth, results, kind)
        return np.nan_to_num([*figures.values()], nan=-1)  # as pycocotools has it

    def theirs() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            api = COCO()
            api.dataset = truth
            api.createIndex()
            evaluation = COCOeval(api, api.loadRes([dict(each) for each in results]), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats

    return Pair(ours, theirs, lambda ours, theirs: float(np.abs(ours - theirs).max()))
