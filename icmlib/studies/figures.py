"""Figures. Each function returns a matplotlib figure; `Run.figure` stamps and saves it.

Tables have a column for each measure, and `<measure>_low` and `_high` where it has an interval.
Panels are given as measure -> axis label. All are as wide as a page of a paper, PAGE, or narrower,
with text of 6 to 8 points.
"""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from icmlib.io import written

COLOURS = sns.color_palette("colorblind")
FINETUNED, OTHER = COLOURS[0], COLOURS[7]

PAGE = 7.0  # inches
DPI = 300  # of saved pictures
plt.switch_backend(plt.get_backend())  # `styled` would undo what it sets when it is loaded later
styled = plt.rc_context({"font.size": 7, "axes.titlesize": 7, "legend.fontsize": 7})


def save(figure: Figure, path: Path) -> None:
    """In the format of the suffix; text in a PDF has fonts as journals ask for them."""
    with written(path) as half, plt.rc_context({"pdf.fonttype": 42}):
        how = {"dpi": DPI, "bbox_inches": "tight", "pad_inches": 0.02}
        figure.savefig(half, format=path.suffix[1:].lower(), **how)


def _panels(count: int, columns: int, width: float, height: float, **options):
    """A figure and axes (rows, columns) of that size in inches, or as fits; blank after `count`."""
    columns = min(columns, count)
    rows, width = -(-count // columns), min(width, PAGE / columns)
    options |= {"figsize": (width * columns, height * rows), "layout": "constrained", "dpi": 150}
    figure, axes = plt.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:  # their labels are made when it is drawn
        axis.tick_params(labelsize=7)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, axes


def filled(text: str, width: float) -> str:
    """Broken into lines of that many inches, at 7 points."""
    lines = text.splitlines()
    return "\n".join(textwrap.fill(line, int(18 * width), break_long_words=False) for line in lines)


def _pictures(images: list[torch.Tensor], columns: int):
    """A figure with images (3, H, W), and the axis of each."""
    width = min(PAGE / min(columns, len(images)), 2)
    figure, axes = _panels(len(images), columns, width, width)
    for axis, image in zip(axes.flat, images):
        axis.set_axis_off()
        _show(axis, image)
    return figure, axes.flat


def _show(axis, image: torch.Tensor, zoom: bool = False) -> None:
    height, width = image.shape[-2:]
    image = image.detach() / (255 if image.dtype == torch.uint8 else 1)
    if not zoom and (side := min(height, width) // 512):  # finer than drawn
        image = F.avg_pool2d(image, side)
    pixels = image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    style = {"interpolation": "nearest" if zoom else "antialiased"}
    axis.imshow(pixels, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **style)
    axis.set(xticks=(), yticks=())
    axis.spines[:].set_visible(False)


def _bounds(rows: pd.DataFrame, measure: str) -> tuple:
    """The ends of the interval around a measure; the measure itself, where it has none."""
    return tuple(rows.get(f"{measure}{end}", rows[measure]) for end in ("_low", "_high"))


@styled
def gallery(images: list[torch.Tensor], titles: list[str] = (), columns: int = 6) -> Figure:
    """Images (3, H, W) side by side."""
    figure, axes = _pictures(images, columns)
    for axis, title in zip(axes, titles):
        axis.set_title(filled(title, PAGE / columns))
    return figure


@styled
def detections(images: list[torch.Tensor], predictions: list[dict], names: list[str]) -> Figure:
    """Images with their instances (of a score of 0.5 or more): mask, box, class name and score."""
    figure, axes = _pictures(images, 4)
    for axis, prediction in zip(axes, predictions):
        scores = prediction.get("scores", torch.ones(len(prediction["labels"])))
        for i in torch.nonzero(scores >= 0.5).ravel().tolist():
            score = f" {scores[i]:.2f}" if "scores" in prediction else ""  # annotations have none
            text, colour = names[prediction["labels"][i] - 1] + score, COLOURS[i % len(COLOURS)]
            if "masks" in prediction:
                mask = np.asarray(prediction["masks"][i], bool)
                axis.imshow(np.dstack([np.full((*mask.shape, 3), colour), 0.45 * mask]))
            x1, y1, x2, y2 = prediction["boxes"][i].tolist()
            size, style = (x2 - x1, y2 - y1), {"fill": False, "color": colour, "lw": 1}
            axis.add_patch(plt.Rectangle((x1, y1), *size, **style))
            box = {"facecolor": colour, "pad": 0.5, "lw": 0}
            axis.text(x1, y1, text, size=6, color="w", va="bottom", bbox=box, clip_on=True)
    return figure


@styled
def crops(
    variants: dict[str, torch.Tensor], captions: dict, box: tuple, labels: dict | None = None
) -> Figure:
    """One image (3, H, W), floats or bytes, in several versions: whole above, with `labels` below
    it; then the same crop enlarged (`box`: top, left, size in px), with `captions`."""
    top, left, size = box
    width, given = min(PAGE / len(variants), 2), (labels or {}, captions)
    texts = [{n: filled(each.get(n, ""), width) for n in variants} for each in given]
    lines = [0.12 * max(len(text.splitlines()) for text in each.values()) for each in texts]
    h, w = next(iter(variants.values())).shape[-2:]
    heights = (width * h / w + 0.2 + lines[0], width + lines[1])
    sizes = {"width": width, "height": sum(heights) / 2, "height_ratios": heights}
    figure, axes = _panels(2 * len(variants), len(variants), **sizes)
    for (above, below), (name, image) in zip(axes.T, variants.items()):
        _show(above, image)
        above.add_patch(plt.Rectangle((left - 0.5, top - 0.5), size, size, fill=False, ec="w"))
        above.set_title(filled(name, 0.8 * width), weight="bold")
        above.set_xlabel(texts[0][name])
        _show(below, image[:, top : top + size, left : left + size], zoom=True)
        below.set_xlabel(texts[1][name])
    return figure


def differing_crop(a: torch.Tensor, b: torch.Tensor, size: int) -> tuple[int, int, int]:
    """Top, left and size of the square in which two images (3, H, W) differ most."""
    size = min(size, *a.shape[-2:])
    columns = F.avg_pool2d((a - b).square().mean(0)[None], (size, 1), stride=1)
    sums = F.avg_pool2d(columns, (1, size), stride=1)[0]
    return *divmod(int(sums.argmax()), sums.shape[-1]), size


@styled
def training_curves(log: pd.DataFrame, columns: list[str]) -> Figure:
    """One panel for each column of log.csv: every step faintly, a running median on top."""
    present = [c for c in columns if c in log]
    figure, axes = _panels(len(present), 4, PAGE / 4, 1.8)
    medians = log.rolling(25, min_periods=1, center=True).median()
    for axis, column in zip(axes.flat, present):
        axis.plot(log["step"], log[column], color=OTHER, lw=0.4, alpha=0.5)
        axis.plot(log["step"], medians[column], color=FINETUNED, lw=1.5)
        axis.set(xlabel="step", title=column, yscale="log" if (log[column] > 0).all() else "linear")
        axis.grid(alpha=0.3)
    return figure


@styled
def spectra(pooled: dict[str, np.ndarray]) -> Figure:
    """Pooled Welch spectra (N, N) by name, in dB of squared grey levels per frequency, DC in the
    centre: a checkerboard is a lattice of bright points."""
    figure, axes = _panels(len(pooled), 4, 2.2, 1.9)
    levels = [255**2 * power / power.size for power in pooled.values()]
    shown = [np.fft.fftshift(10 * np.log10(power + 1e-9)) for power in levels]
    low, high = np.percentile(np.stack(shown), (1, 99.8))
    style = {"extent": (-0.5, 0.5, 0.5, -0.5), "vmin": low, "vmax": high, "cmap": "cividis"}
    for axis, name, power in zip(axes.flat, pooled, shown):
        image = axis.imshow(power, **style)
        axis.set(title=name, xlabel="cycles / px", xticks=(-0.5, 0, 0.5), yticks=())
    figure.colorbar(image, ax=axes, label="grey levels² (dB)", shrink=0.8)
    return figure


@styled
def forest(table: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """One line per row of the table; one panel per measure."""
    height = max(1.2, 0.13 * len(table) + 0.5)
    figure, axes = _panels(len(panels), 3, PAGE / 3, height, sharey=True)
    y = np.arange(len(table))[::-1]
    for axis, (measure, label) in zip(axes.flat, panels.items()):
        axis.hlines(y, *_bounds(table, measure), color=FINETUNED, lw=1.2)
        axis.plot(table[measure], y, "o", ms=3.5, color=FINETUNED)
        axis.axvline(0, color="0.4", lw=0.8)
        axis.grid(alpha=0.3)
        axis.set(xlabel=label)
        axis.set_yticks(y, table.index)
    return figure


@styled
def curves(points: pd.DataFrame, x: str, panels: dict, main: list[str], grey=()) -> Figure:
    """Measures over the column `x` (`bpp`: over its logarithm), one line per `curve`, one panel per
    measure: those of `main` are bold, with their interval."""
    figure, axes = _panels(len(panels), 3 if len(panels) > 2 else 2, PAGE / 2, 2.5)
    colours = [colour for colour in COLOURS if colour != OTHER]
    for axis, (measure, text) in zip(axes.flat, panels.items()):
        drawn = zip(points.groupby("curve", sort=False), colours * 2, "oDs^vP*X<>hdp" * 2)
        for (name, rows), colour, marker in drawn:
            rows = rows.sort_values(x)
            style = {"color": "0.45" if name in grey else colour, "marker": marker, "ms": 4}
            style |= {"ls": "-", "lw": 1.8} if name in main else {"ls": "--", "lw": 1}
            axis.plot(rows[x], rows[measure], label=name, **style)
            if name in main:
                axis.fill_between(rows[x], *_bounds(rows, measure), color=colour, alpha=0.15, lw=0)
        axis.grid(alpha=0.3)
        axis.set(xlabel=x, ylabel=text)
        if x == "bpp":
            axis.set(xscale="log", xlabel="rate (bpp)")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=6, frameon=False)
    return figure
