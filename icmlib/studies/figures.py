"""Figures. Each function returns a matplotlib figure; `Run.figure` stamps and saves it.

Tables have a column for each measure, and `<measure>_low` and `_high` where it has an interval.
Panels are given as measure -> axis label.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

COLOURS = sns.color_palette("colorblind")
BASE, FINETUNED, SECOND, OTHER = COLOURS[3], COLOURS[0], COLOURS[1], COLOURS[7]


def _panels(rows: int, columns: int, width: float, height: float, **options):
    """A figure and its axes (rows, columns), each of that size in inches."""
    size = (width * columns, height * rows)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)


def _pictures(images: list[torch.Tensor], columns: int, width: float):
    """A figure with images (3, H, W), and the axis of each."""
    columns = min(columns, len(images))
    figure, axes = _panels(-(-len(images) // columns), columns, width, width)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image in zip(axes.flat, images):
        _show(axis, image)
    return figure, axes.flat


def _show(axis, image: torch.Tensor, zoom: bool = False) -> None:
    pixels = image.detach().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    axis.imshow(pixels, interpolation="nearest" if zoom else "antialiased")
    axis.set(xticks=(), yticks=())
    axis.spines[:].set_visible(False)


def _bounds(rows: pd.DataFrame, measure: str) -> tuple:
    """The ends of the interval around a measure; the measure itself, where it has none."""
    return tuple(rows.get(f"{measure}{end}", rows[measure]) for end in ("_low", "_high"))


def gallery(images: list[torch.Tensor], titles: list[str] = (), columns: int = 6) -> Figure:
    """Images (3, H, W) side by side."""
    figure, axes = _pictures(images, columns, 1.9)
    for axis, title in zip(axes, titles):
        axis.set_title(title, size=8)
    return figure


def detections(images: list[torch.Tensor], predictions: list[dict], names: list[str]) -> Figure:
    """Images with their instances (of a score of 0.5 or more): mask, box, class name and score."""
    figure, axes = _pictures(images, 4, 2.6)
    for axis, prediction in zip(axes, predictions):
        scores = prediction.get("scores", torch.ones(len(prediction["labels"])))
        for i in torch.nonzero(scores >= 0.5).ravel().tolist():
            score = f" {scores[i]:.2f}" if "scores" in prediction else ""  # annotations have none
            _instance(axis, prediction, i, names[prediction["labels"][i] - 1] + score)
    return figure


def _instance(axis, prediction: dict, i: int, text: str) -> None:
    colour = COLOURS[i % len(COLOURS)]
    if "masks" in prediction:
        mask = np.asarray(prediction["masks"][i], bool)
        axis.imshow(np.dstack([np.full((*mask.shape, 3), colour), 0.45 * mask]))
    x1, y1, x2, y2 = prediction["boxes"][i].tolist()
    axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=1))
    box = {"facecolor": colour, "pad": 0.5, "lw": 0}
    axis.text(x1, y1, text, size=6, color="w", va="bottom", bbox=box, clip_on=True)


def crops(
    variants: dict[str, torch.Tensor], captions: dict, box: tuple, labels: dict | None = None
) -> Figure:
    """One image (3, H, W) in several versions: whole above, with `labels` below it; then the same
    crop enlarged (`box`: top, left, size in px), with `captions`."""
    top, left, size = box
    labels = {name: textwrap.fill((labels or {}).get(name, ""), 28) for name in variants}
    height, width = next(iter(variants.values())).shape[-2:]
    lines = 0.14 * max(len(text.splitlines()) for text in labels.values())
    heights = (2 * height / width + 0.25 + lines, 2.3)
    figure, axes = _panels(2, len(variants), 2, sum(heights) / 2, height_ratios=heights)
    for (above, below), (name, image) in zip(axes.T, variants.items()):
        _show(above, image)
        above.add_patch(plt.Rectangle((left - 0.5, top - 0.5), size, size, fill=False, ec="w"))
        above.set_title(name, size=10, weight="bold")
        above.set_xlabel(labels[name], size=7.5)
        _show(below, image[:, top : top + size, left : left + size], zoom=True)
        below.set_xlabel(captions.get(name, ""), size=9)
    return figure


def differing_crop(a: torch.Tensor, b: torch.Tensor, size: int) -> tuple[int, int, int]:
    """Top, left and size of the square in which two images (3, H, W) differ most."""
    size = min(size, *a.shape[-2:])
    sums = F.avg_pool2d((a - b).square().mean(0)[None], size, stride=1)[0]
    return *divmod(int(sums.argmax()), sums.shape[-1]), size


def training_curves(log: pd.DataFrame, columns: list[str]) -> Figure:
    """One panel for each column of log.csv: every step faintly, a running median on top."""
    present = [c for c in columns if c in log]
    figure, axes = _panels(1, len(present), 2.9, 2.3)
    for axis, column in zip(axes[0], present):
        axis.plot(log["step"], log[column], color=OTHER, lw=0.4, alpha=0.5)
        median = log[column].rolling(25, min_periods=1, center=True).median()
        axis.plot(log["step"], median, color=FINETUNED, lw=1.5)
        axis.set(xlabel="step", title=column)
        axis.grid(alpha=0.3)
        if (log[column] > 0).all():
            axis.set_yscale("log")
    return figure


def spectra(pooled: dict[str, np.ndarray]) -> Figure:
    """Pooled Welch spectra (N, N) by name, in dB of squared grey levels per frequency, DC in the
    centre: a checkerboard is a lattice of bright points."""
    figure, axes = _panels(1, len(pooled), 2.5, 2.8)
    levels = [255**2 * power / power.size for power in pooled.values()]
    shown = [np.fft.fftshift(10 * np.log10(power + 1e-9)) for power in levels]
    low, high = np.percentile(np.stack(shown), (1, 99.8))
    style = {"extent": (-0.5, 0.5, 0.5, -0.5), "vmin": low, "vmax": high, "cmap": "cividis"}
    for axis, name, power in zip(axes[0], pooled, shown):
        image = axis.imshow(power, **style)
        axis.set(title=name, xlabel="cycles / px", xticks=(-0.5, -0.25, 0, 0.25, 0.5), yticks=())
    figure.colorbar(image, ax=axes[0], label="grey levels² (dB)", shrink=0.8)
    return figure


def forest(table: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """One line per row of the table, which has a `label`; one panel per measure."""
    height = max(1.8, 0.26 * len(table) + 0.8)
    figure, axes = _panels(1, len(panels), 2.2 + 2.6 / len(panels), height, sharey=True)
    y = np.arange(len(table))[::-1]
    for axis, (measure, label) in zip(axes[0], panels.items()):
        axis.hlines(y, *_bounds(table, measure), color=FINETUNED, lw=1.2)
        axis.plot(table[measure], y, "o", ms=3.5, color=FINETUNED)
        axis.axvline(0, color="0.4", lw=0.8)
        axis.grid(alpha=0.3)
        axis.set(xlabel=label)
        axis.set_yticks(y, [f"{name} ({row})" for name, row in table["label"].items()], size=7)
    return figure


def knob(table: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """Measures of `knob.table` on the ways from the machine's decoder to the human one; the
    low-impact model is a horizontal line."""
    figure, axes = _panels(-(-len(panels) // 3), 3, 3.1, 2.6)
    ends = table[(table["way"] == "knob") & table["place"].isin([0, 1])]
    level = table[table["place"].isna()].iloc[0]
    for axis, (measure, label) in zip(axes.flat, panels.items()):
        for way, colour, line in (("knob", FINETUNED, "o-"), ("blend", SECOND, "s--")):
            rows = pd.concat([ends, table[table["way"] == way]]).drop_duplicates(["way", "place"])
            rows = rows.sort_values("place")
            axis.plot(rows["place"], rows[measure], line, color=colour, ms=4, label=way)
            axis.fill_between(rows["place"], *_bounds(rows, measure), color=colour, alpha=0.15)
        axis.axhline(level[measure], color=BASE, lw=1.2, ls=":", label=level["way"])
        axis.grid(alpha=0.3)
        axis.set(xlabel="machine 0 … 1 human", ylabel=label)
    axes[0, 0].legend(fontsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def rate_curves(points: pd.DataFrame, panels: dict, main: list[str], anchors: dict) -> Figure:
    """Measures over the rate (`bpp`), one line per `curve`, one panel per measure: those of `main`
    are bold, with their interval, `anchors` are grey."""
    figure, axes = _panels(1, len(panels), 4.2, 3.6)
    colours = [colour for colour in COLOURS if colour != OTHER]
    for axis, (measure, text) in zip(axes[0], panels.items()):
        drawn = zip(points.groupby("curve", sort=False), colours * 2, "oDs^vP*X<>hdp" * 2)
        for (name, rows), colour, marker in drawn:
            rows = rows.sort_values("bpp")
            style = {"color": "0.45" if name in anchors else colour, "marker": marker, "ms": 4}
            style |= {"ls": "-", "lw": 1.8} if name in main else {"ls": "--", "lw": 1}
            axis.plot(rows["bpp"], rows[measure], label=name, **style)
            if name in main:
                bounds = _bounds(rows, measure)
                axis.fill_between(rows["bpp"], *bounds, color=colour, alpha=0.15, lw=0)
        axis.grid(alpha=0.3)
        axis.set(xscale="log", xlabel="rate (bpp)", ylabel=text)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    axes[0, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure
