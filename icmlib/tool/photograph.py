"""One photograph, one bitstream: what every decoder, and every post-filter, makes of it."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from icmlib.codecs import FILTERS, Decoders, PillowCodec
from icmlib.codecs.decoders import HUMAN, MACHINE
from icmlib.explorer.coded import CodedImage
from icmlib.io import InputError, read_image, written
from icmlib.metrics import checkerboard, fidelity
from icmlib.studies import figures
from icmlib.tool.files import check_suffix

SIGMAS = {"gaussian": 1.0, "bilateral": 2.0}  # px; what the study chose on its validation split
ORIGINAL = "original"  # as a PNG
PICTURES = {".png", ".jpg", ".pdf", ".svg"}


def try_decoders(photo: Path, out: Path, decoders: Decoders) -> pd.DataFrame:
    """The table, written as CSV beside the picture `out`. Raises OSError, ValueError: something
    cannot be read, used or written; says what."""
    check_suffix(out, PICTURES, "a figure")
    if out.resolve() == photo.resolve():
        raise InputError(f"{photo} would be overwritten; name another picture with --out")
    image = read_image(photo, upright=True)
    coded = CodedImage(decoders, image)
    pictures = {ORIGINAL: image} | {name: coded.decode(name) for name in decoders.names}
    for name, sigma in SIGMAS.items():
        filtered = FILTERS[name](decoders.codec, sigma).decode(coded.bitstream)
        pictures[f"{MACHINE} + {name}"] = fidelity.to_8bit(filtered)
    size = min(96, min(image.shape[-2:]) // 2)  # so that single pixels are seen
    crop = figures.differing_crop(pictures[MACHINE], pictures.get(HUMAN, image), size)
    table = measure(coded, pictures)
    rows = table.drop(ORIGINAL).iterrows()
    captions = {name: f"{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB" for name, row in rows}
    figure = figures.crops(pictures, captions, crop)
    with written(out) as half:
        figure.savefig(half, format=out.suffix[1:].lower(), dpi=figures.DPI, bbox_inches="tight")
    plt.close(figure)
    with written(out.with_suffix(".csv")) as half:
        table.to_csv(half)
    return table


def measure(coded: CodedImage, pictures: dict[str, torch.Tensor]) -> pd.DataFrame:
    """One row for each picture (3, H, W), the original first: rate, fidelity, pattern."""
    pixels = coded.x.shape[-2] * coded.x.shape[-1]
    rows, prms = {}, coded.pattern(coded.x)["prms"]
    for name, picture in pictures.items():
        bits = PillowCodec("PNG").encode(coded.x) if name == ORIGINAL else coded.bitstream
        row = {"bpp": 8 * bits.payload_bytes / pixels, "bpp_total": 8 * bits.total_bytes / pixels}
        rows[name] = row | coded.measure(picture)
        rows[name]["excess_prms"] = float(checkerboard.excess_prms(rows[name]["prms"], prms))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoder")
