"""Coding a data set beside CompressAI; measuring it beside the task network's own predictions."""

from functools import partial

import numpy as np
import torch

from icmlib.bench.harness import Pair, largest_difference
from icmlib.codecs import Bitstream, LearnedCodec
from icmlib.device import in_processes
from icmlib.metrics import checkerboard, detection, fidelity


def coding(codec: LearnedCodec, images) -> dict[str, Pair]:
    """`encode`: a data set to bitstreams on all cores, beside CompressAI's `compress`, image by
    image; `decode`: bitstreams to images, beside its `decompress`."""

    def encode() -> list[bytes]:
        return list(in_processes(partial(_encoded, images, codec), range(len(images))))

    @torch.no_grad()
    def compress() -> list[dict]:
        return [codec.model.compress(codec.pad(images.image(i)[None])) for i in range(len(images))]

    def decode() -> list[torch.Tensor]:
        return [*map(torch.from_numpy, in_processes(partial(_decoded, codec), files))]

    @torch.no_grad()
    def decompress() -> list[torch.Tensor]:
        decoded = [codec.model.decompress(**each)["x_hat"][0] for each in coded]
        return [x_hat[:, :h, :w] for x_hat, (h, w) in zip(decoded, images.sizes())]

    def other_bytes(files: list[bytes], coded: list[dict]) -> float:
        strings = [[[each] for each in Bitstream.from_bytes(file).strings] for file in files]
        return float(strings != [each["strings"] for each in coded])

    files, coded = encode(), compress()
    decoding = Pair(decode, decompress, largest_difference)
    return {"encode": Pair(encode, compress, other_bytes), "decode": decoding}


def _encoded(images, codec: LearnedCodec, index: int) -> bytes:
    return bytes(codec.encode(images.image(index)))


def _decoded(codec: LearnedCodec, file: bytes) -> np.ndarray:  # a pipe carries it fastest
    return codec.decode(Bitstream.from_bytes(file)).numpy()


def evaluation(codec: LearnedCodec, task, images) -> Pair:
    """Measuring decoded images of one size: ours is fidelity, checkerboard and mAP; theirs, for
    comparison, is the task network's predictions of the same images."""
    x = torch.stack([images.image(index) for index in range(len(images))])
    x_hat = fidelity.to_8bit(torch.stack([codec.decode(codec.encode(image)) for image in x]))
    batches, tile = list(zip(x.split(10), x_hat.split(10))), checkerboard.tile_size(images.sizes())

    def theirs() -> list[dict]:
        return [found for _, decoded in batches for found in task.predict(decoded)]

    results = []
    for image, found in zip(images.ground_truth["images"], theirs()):
        results += detection.to_coco_results(image["id"], found, images.category_ids)

    def ours() -> None:
        for batch in batches:
            fidelity.psnr(*batch), fidelity.ssim(*batch)
        for image in (*x, *x_hat):
            checkerboard.image_spectrum(image, tile)
        for kind in ("segm", "bbox"):
            detection.average_precision(detection.match(images.ground_truth, results, kind))

    return Pair(ours, theirs)
