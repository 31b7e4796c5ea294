"""One photograph, one bitstream: what every decoder, and every post-filter, makes of it."""

import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from icmlib import tasks
from icmlib.codecs import FILTERS, Bitstream, Decoders, PillowCodec
from icmlib.codecs.decoders import HUMAN, MACHINE, SHIPPED
from icmlib.codecs.files import check_suffix, whole
from icmlib.config import TaskConfig
from icmlib.datasets.deadleaves import CATEGORIES
from icmlib.evaluate import evaluate, summarize
from icmlib.io import InputError, read_image
from icmlib.metrics import detection
from icmlib.studies import figures

TASK = SHIPPED.with_name("small_mask_rcnn.safetensors")
SIGMAS = {"gaussian": 1.0, "bilateral": 2.0}  # px; what the study chose on its validation split
MIN_SCORE = 0.5  # of a detection
ORIGINAL = "original"  # as a PNG
PICTURES = {".png", ".jpg", ".pdf", ".svg"}
NOTE = (
    f"detections: {', '.join(CATEGORIES)} of score {MIN_SCORE} or more. The network knows dead "
    f"leaves alone: on a photograph they only hint at what a machine would see.\n"
    f"found: the part of the original's that is found again, same class, boxes of IoU 0.5 or more."
)
COLUMNS = ["bpp", "bpp_total", "psnr", "ssim", "lpp2", "lpp4", "lpp8", "prms", "excess_prms"]


@dataclass
class Received:
    """A codec for one image, whose bits and picture are there already."""

    bitstream: Bitstream
    picture: torch.Tensor  # (3, H, W)

    def encode(self, image: torch.Tensor) -> Bitstream:
        return self.bitstream

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        return self.picture


class Photograph:
    """A data set of one image (3, H, W), for `evaluate`."""

    def __init__(self, image: torch.Tensor):
        height, width = image.shape[-2:]
        facts = {"id": 1, "file_name": "photograph", "height": height, "width": width}
        categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, 1)]
        self._image, self.category_ids = image, [each["id"] for each in categories]
        self.ground_truth = {"images": [facts], "annotations": [], "categories": categories}

    def sizes(self) -> list[tuple[int, int]]:
        return [tuple(self._image.shape[-2:])]

    def image(self, index: int) -> torch.Tensor:
        return self._image


def try_decoders(
    photo: Path, out: Path, decoders: Decoders, crop: str | None = None, weights: Path | None = None
) -> pd.DataFrame:
    """The table, written as CSV beside the picture `out`.

    Args:
        photo: any image file.
        decoders: on the CPU.
        crop: "top,left,size" in px of what is enlarged; by default where the decoders differ most.
        weights: of the task network; by default those of the quick profile.

    Raises:
        FileNotFoundError: no such image or weights.
        ValueError: no image, too small a one, a crop that is not in it, a picture `out` of an
            unknown format or with the name of the photograph.
        OSError: picture or table cannot be written.
    """
    check_suffix(out, PICTURES, "a figure")
    if out.resolve() == photo.resolve():
        raise InputError(f"{photo} would be overwritten; name another picture with --out")
    image = read_image(photo, upright=True)
    box = read_crop(crop, *image.shape[-2:]) if crop else None
    task = tasks.load(TaskConfig(num_classes=len(CATEGORIES)), weights or TASK)
    received = receive(decoders, image)
    pictures = {ORIGINAL: image} | {name: each.picture for name, each in received.items()}
    if not box:
        other = pictures[HUMAN if HUMAN in pictures else ORIGINAL]
        size = min(96, min(image.shape[-2:]) // 2)  # so that single pixels are seen
        box = figures.differing_crop(pictures[MACHINE], other, size)
    table = measure(received, image, task)
    rows = table.drop(ORIGINAL).iterrows()
    captions = {name: f"{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB" for name, row in rows}
    figure = figures.crops(pictures, captions, box)
    with whole(out) as half:
        figure.savefig(half, format=out.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    plt.close(figure)
    with whole(out.with_suffix(".csv")) as half:
        table.to_csv(half)
    return table


def receive(decoders: Decoders, image: torch.Tensor) -> dict[str, Received]:
    """The image (3, H, W), encoded once: by each decoder, and by the machine's before each filter;
    raises ValueError: it is too small for the codec."""
    bitstream = decoders.codec.encode(image)
    received = {
        name: Received(bitstream, decoders.turn(name).decode(bitstream)) for name in decoders.names
    }
    for name, sigma in SIGMAS.items():
        filtered = FILTERS[name](received[MACHINE], sigma)
        received[f"{MACHINE} + {name}"] = Received(bitstream, filtered.decode(bitstream))
    return received


def measure(
    received: dict[str, Received], image: torch.Tensor, task: tasks.TaskNetwork
) -> pd.DataFrame:
    """One row each, and one of the original: the columns of `summarize`, `detections` of score 0.5
    or more, and which part of the original's is `found` again (same class, boxes of IoU 0.5)."""
    photograph = Photograph(image)
    codecs = {ORIGINAL: PillowCodec("PNG"), **received}
    rows, objects = {}, None
    for name, codec in codecs.items():
        evaluation = evaluate(codec, task, photograph, progress=False)
        seen = [each for each in evaluation.detections if each["score"] >= MIN_SCORE]
        objects = seen if objects is None else objects
        rows[name] = summarize(evaluation, resamples=1)  # of one image there is no bootstrap
        found = _found(objects, seen, photograph.ground_truth)
        rows[name] |= {"detections": len(seen), "found": found}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoder")
    return table[[*COLUMNS, "detections", "found"]]


def _found(objects: list[dict], seen: list[dict], images: dict) -> float:
    """Which part of the objects the detections find; nan where there are no objects."""
    annotations = [
        each | {"id": i, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0}
        for i, each in enumerate(objects, 1)
    ]
    matches = detection.match({**images, "annotations": annotations}, seen, "bbox")
    return int(matches.true_positive[0].sum()) / len(objects) if objects else float("nan")


def read_crop(text: str, height: int, width: int) -> tuple[int, int, int]:
    """ "top,left,size" in px; raises ValueError: it is none, or reaches out of the image."""
    if not re.fullmatch(r"\d+,\d+,\d+", text):
        raise InputError(f"crop {text!r} is not of the form top,left,size, in px")
    top, left, size = map(int, text.split(","))
    if size < 1 or top + size > height or left + size > width:
        raise InputError(
            f"crop {text} (top,left,size) is not inside the image of {height}x{width} px"
        )
    return top, left, size
