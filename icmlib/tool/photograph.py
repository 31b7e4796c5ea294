"""One photograph, one bitstream: what every decoder, and every post-filter, makes of it."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from icmlib import device
from icmlib.codecs import FILTERS, Decoders, PillowCodec
from icmlib.codecs.decoders import HUMAN, MACHINE
from icmlib.explorer.coded import CodedImage
from icmlib.io import InputError, read_image, write
from icmlib.metrics import checkerboard, fidelity
from icmlib.studies import figures
from icmlib.tool.files import check_suffix

SIGMAS = {"gaussian": 0.5, "bilateral": 0.5}  # px; what study `photographs` chose on validation
ORIGINAL = "original"  # as a PNG
PICTURES = {".png", ".jpg", ".pdf", ".svg"}


def try_decoders(photo: Path, out: Path, decoders: Decoders) -> pd.DataFrame:
    """The table, written as CSV beside the picture `out`. Raises OSError, ValueError."""
    check_suffix(out, PICTURES, "a figure")
    if out.resolve() == photo.resolve():
        raise InputError(f"{photo} would be overwritten; name another picture with --out")
    device.keep_freed_memory(large=False)
    coded = CodedImage(decoders, read_image(photo, upright=True))
    pictures, rows, pixels = {}, {}, coded.x[0].numel()
    total = 8 * len(coded.file) / pixels
    count = 1 + len(decoders.names) + len(SIGMAS)
    for name, picture in tqdm(_pictures(coded), total=count, unit="picture"):
        rows[name] = {"bpp": coded.bpp, "bpp_total": total} | coded.measure(picture)
        pictures[name] = (picture * 255).round().byte()  # a quarter of the memory
    png = 8 * PillowCodec("PNG").encode(coded.x).payload_bytes / pixels
    rows[ORIGINAL] |= {"bpp": png, "bpp_total": png}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoder")
    table["excess_prms"] = checkerboard.excess_prms(table["prms"], table.loc[ORIGINAL, "prms"])
    figure = _drawn(pictures, table)
    figures.save(figure, out)
    plt.close(figure)
    write(out.with_suffix(".csv"), table.to_csv())
    return table


def _pictures(coded: CodedImage) -> Iterator[tuple[str, torch.Tensor]]:
    """The original and what is made of its bits, (3, H, W) of 8 bits."""
    yield ORIGINAL, coded.x
    machine = coded.synthesize(MACHINE)
    yield MACHINE, fidelity.to_8bit(machine)
    for name in coded.decoders.names[1:]:
        yield name, coded.decode(name)
    for name, sigma in SIGMAS.items():
        filtered = FILTERS[name](coded.decoders.codec, sigma).smooth(machine)
        yield f"{MACHINE} + {name}", fidelity.to_8bit(filtered)


def _drawn(pictures: dict[str, torch.Tensor], table: pd.DataFrame) -> Figure:
    """All pictures, enlarged where the machine's and the one for people differ most."""
    size = min(96, min(pictures[ORIGINAL].shape[-2:]) // 2)  # so that single pixels are seen
    other = pictures.get(HUMAN, pictures[ORIGINAL])
    crop = figures.differing_crop(pictures[MACHINE] / 255, other / 255, size)
    rows = table.drop(ORIGINAL).iterrows()
    captions = {name: f"{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB" for name, row in rows}
    return figures.crops(pictures, captions, crop)
