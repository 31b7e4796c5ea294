"""One photograph, one bitstream: what every decoder, and every post-filter, makes of it."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torchvision.ops import box_iou

from icmlib import tasks
from icmlib.codecs import FILTERS, Decoders, PillowCodec
from icmlib.codecs.decoders import HUMAN, MACHINE, SHIPPED
from icmlib.codecs.files import check_suffix, whole
from icmlib.config import TaskConfig
from icmlib.datasets.deadleaves import CATEGORIES
from icmlib.explorer.coded import CodedImage
from icmlib.io import InputError, read_image
from icmlib.metrics import checkerboard, fidelity
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


def try_decoders(photo: Path, out: Path, decoders: Decoders) -> pd.DataFrame:
    """The table, written as CSV beside the picture `out`. Raises OSError, ValueError: something
    cannot be read, used or written; says what."""
    check_suffix(out, PICTURES, "a figure")
    if out.resolve() == photo.resolve():
        raise InputError(f"{photo} would be overwritten; name another picture with --out")
    image = read_image(photo, upright=True)
    coded = CodedImage(decoders, image)
    pictures = decode_all(coded)
    other = pictures[HUMAN if HUMAN in pictures else ORIGINAL]
    size = min(96, min(image.shape[-2:]) // 2)  # so that single pixels are seen
    crop = figures.differing_crop(pictures[MACHINE], other, size)
    table = measure(coded, pictures, tasks.load(TaskConfig(num_classes=len(CATEGORIES)), TASK))
    rows = table.drop(ORIGINAL).iterrows()
    captions = {name: f"{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB" for name, row in rows}
    figure = figures.crops(pictures, captions, crop)
    with whole(out) as half:
        figure.savefig(half, format=out.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    plt.close(figure)
    with whole(out.with_suffix(".csv")) as half:
        table.to_csv(half)
    return table


def decode_all(coded: CodedImage) -> dict[str, torch.Tensor]:
    """The original, what each decoder makes of its bits, and the machine's picture filtered; each
    (3, H, W)."""
    decoders = coded.decoders
    pictures = {ORIGINAL: coded.x} | {name: coded.decode(name) for name in decoders.names}
    for name, sigma in SIGMAS.items():
        filtered = FILTERS[name](decoders.codec, sigma).decode(coded.bitstream)
        pictures[f"{MACHINE} + {name}"] = fidelity.to_8bit(filtered)
    return pictures


def measure(
    coded: CodedImage, pictures: dict[str, torch.Tensor], task: tasks.TaskNetwork
) -> pd.DataFrame:
    """One row for each picture (3, H, W), the original first: rate, fidelity, pattern, `detections`
    and which part of the original's is `found` again."""
    pixels = coded.x.shape[-2] * coded.x.shape[-1]
    rows, objects, prms = {}, None, coded.pattern(coded.x)["prms"]
    for name, picture in pictures.items():
        bits = PillowCodec("PNG").encode(coded.x) if name == ORIGINAL else coded.bitstream
        row = {"bpp": 8 * bits.payload_bytes / pixels, "bpp_total": 8 * bits.total_bytes / pixels}
        row |= coded.measure(picture)
        row["excess_prms"] = float(checkerboard.excess_prms(row["prms"], prms))
        (seen,) = task.predict([picture])
        seen = {key: seen[key][seen["scores"] >= MIN_SCORE] for key in ("boxes", "labels")}
        objects = objects or seen
        again = box_iou(objects["boxes"], seen["boxes"]) >= 0.5
        again &= objects["labels"][:, None] == seen["labels"]
        found = again.any(1).double().mean().item()  # nan without objects
        rows[name] = row | {"detections": len(seen["labels"]), "found": found}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoder")
