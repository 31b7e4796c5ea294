"""Figures. Each function returns a matplotlib figure; `Run.figure` stamps and saves it."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, SymmetricalLogLocator

COLOURS = sns.color_palette("colorblind")
BASE, FINETUNED, OTHER = COLOURS[3], COLOURS[0], COLOURS[7]


def _axes(rows: int, columns: int, width: float = 2.4, height: float | None = None):
    size = (width * columns, (height or width) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    return figure, axes


def _pixels(image: torch.Tensor) -> np.ndarray:
    return image.detach().clamp(0, 1).permute(1, 2, 0).cpu().numpy()


def _show(axis, image: torch.Tensor, title: str = "", zoom: bool = False) -> None:
    axis.imshow(_pixels(image), interpolation="nearest" if zoom else "antialiased")
    axis.set_title(title, size=8)
    axis.set_axis_off()


def gallery(
    images: list[torch.Tensor], titles: list[str] | None = None, columns: int = 6
) -> Figure:
    """Images (3, H, W) side by side."""
    rows = -(-len(images) // columns)
    figure, axes = _axes(rows, min(columns, len(images)), 1.9)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, image) in enumerate(zip(axes.flat, images)):
        _show(axis, image, titles[i] if titles else "")
    return figure


def detections(
    images: list[torch.Tensor],
    predictions: list[dict],
    names: list[str],
    min_score: float = 0.5,
    columns: int = 4,
) -> Figure:
    """Images with their instances: mask, box, class name and score."""
    rows = -(-len(images) // columns)
    figure, axes = _axes(rows, min(columns, len(images)), 2.6)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, prediction in zip(axes.flat, images, predictions):
        _show(axis, image)
        _instances(axis, prediction, names, min_score)
    return figure


def _instances(axis, prediction: dict, names: list[str], min_score: float) -> None:
    """Draw instances on an image; annotations have no scores and are all drawn."""
    scores = prediction.get("scores")
    for i, label in enumerate(prediction["labels"].tolist()):
        if scores is not None and scores[i] < min_score:
            continue
        colour = COLOURS[i % len(COLOURS)]
        if "masks" in prediction:
            mask = np.asarray(prediction["masks"][i], bool)
            axis.imshow(np.dstack([np.full((*mask.shape, 3), colour), 0.45 * mask]))
        x1, y1, x2, y2 = prediction["boxes"][i].tolist()
        axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, lw=1)
        text = names[label - 1] + ("" if scores is None else f" {scores[i]:.2f}")
        box = {"facecolor": colour, "pad": 0.5, "lw": 0}
        axis.text(x1, y1, text, size=6, color="w", va="bottom", bbox=box, clip_on=True)
    height, width = axis.images[0].get_array().shape[:2]
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def crops(
    variants: dict[str, torch.Tensor],
    captions: dict[str, str],
    box: tuple,
    labels: dict[str, str] | None = None,
) -> Figure:
    """One image in several versions: whole above, the same crop enlarged below.

    Args:
        variants: name -> image (3, H, W).
        captions: name -> line below the crop.
        box: top, left and size of the crop in px.
        labels: name -> what it is, below the name.
    """
    top, left, size = box
    labels = {name: textwrap.fill((labels or {}).get(name, ""), 28) for name in variants}
    lines = max(len(text.splitlines()) for text in labels.values())
    height, width = next(iter(variants.values())).shape[-2:]
    heights = (2.0 * height / width + 0.2 + 0.14 * lines, 2.2)  # with titles, with captions
    figure, axes = plt.subplots(
        2,
        len(variants),
        figsize=(2.0 * len(variants), sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for column, (name, image) in enumerate(variants.items()):
        above, below = axes[:, column]
        _show(above, image)
        above.set_title(name, size=10, weight="bold", pad=4 + 10 * lines)
        above.annotate(
            labels[name], (0.5, 1), (0, 9 * lines), "axes fraction", "offset points",
            ha="center", va="top", size=7.5,
        )  # fmt: skip
        frame = plt.Rectangle((left - 0.5, top - 0.5), size, size, fill=False, ec="w", lw=1)
        above.add_patch(frame)
        _show(below, image[:, top : top + size, left : left + size], zoom=True)
        below.annotate(
            captions.get(name, ""), (0.5, 0), (0, -3), "axes fraction", "offset points",
            ha="center", va="top", size=9,
        )  # fmt: skip
    return figure


def differing_crop(a: torch.Tensor, b: torch.Tensor, size: int) -> tuple[int, int, int]:
    """Top, left and size of the square in which two images (3, H, W) differ most."""
    size = min(size, *a.shape[-2:])
    difference = (a - b).square().mean(0, keepdim=True)[None]
    sums = F.avg_pool2d(difference, size, stride=1)[0, 0]
    return *divmod(int(sums.argmax()), sums.shape[-1]), size


def training_curves(log: pd.DataFrame, columns: list[str], window: int = 25) -> Figure:
    """One panel a column of log.csv: every step faintly, a running median on top."""
    present = [c for c in columns if c in log]
    figure, axes = _axes(1, len(present), 2.9, 2.3)
    for axis, column in zip(axes[0], present):
        axis.plot(log["step"], log[column], color=OTHER, lw=0.4, alpha=0.5)
        median = log[column].rolling(window, min_periods=1, center=True).median()
        axis.plot(log["step"], median, color=FINETUNED, lw=1.5)
        axis.set(xlabel="step", title=column)
        if (log[column] > 0).all():
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    return figure


def spectra(pooled: dict[str, np.ndarray]) -> Figure:
    """Pooled Welch spectra (N, N) by name, in dB, DC in the centre: a checkerboard is a lattice
    of bright points."""
    figure, axes = _axes(1, len(pooled), 2.5, 2.8)
    shown = {
        name: 10 * np.log10(np.fft.fftshift(p) / np.prod(p.shape) * 255**2 + 1e-9)
        for name, p in pooled.items()
    }
    low, high = np.percentile(np.stack(list(shown.values())), (1, 99.8))
    for axis, (name, power) in zip(axes[0], shown.items()):
        image = axis.imshow(
            power, extent=(-0.5, 0.5, 0.5, -0.5), vmin=low, vmax=high, cmap="cividis"
        )
        axis.set(title=name, xlabel="cycles / px", xticks=(-0.5, -0.25, 0, 0.25, 0.5), yticks=())
    figure.colorbar(image, ax=axes[0], label="grey levels² (dB)", shrink=0.8)
    return figure


def rate_check(per_image: pd.DataFrame) -> Figure:
    """Estimated against real rate, a dot an image."""
    figure, axes = _axes(1, 1, 3.4, 3.2)
    axis = axes[0, 0]
    axis.scatter(per_image["bpp_estimate"], per_image["bpp"], s=8, color=FINETUNED, alpha=0.6)
    ends = [per_image[["bpp_estimate", "bpp"]].min().min(), per_image["bpp"].max()]
    axis.plot(ends, ends, color="0.4", lw=0.8)
    axis.set(xlabel="estimate from likelihoods (bpp)", ylabel="real bytes (bpp)")
    axis.grid(alpha=0.3)
    return figure


def trade_off(table: pd.DataFrame, change: float, removed: float, measure: str) -> Figure:
    """What each row costs the machine against what it leaves of the pattern.

    Args:
        table: indexed by row; `removed` (%), `<measure>_change` (%) with `_low` and `_high`.
        change, removed: lines at these limits, in %.
        measure: of the machine, `mask_AP` or `box_AP`.
    """
    figure, axes = _axes(1, 1, 7.5, 4.6)
    axis = axes[0, 0]
    for i, (name, row) in enumerate(table.iterrows()):
        colour = COLOURS[i % len(COLOURS)]
        value, low, high = (row[f"{measure}_change{end}"] for end in ("", "_low", "_high"))
        axis.errorbar(
            row["removed"],
            value,
            [[value - low], [high - value]],
            fmt="osD^v"[i // 10],
            color=colour,
            ms=5,
            lw=0.8,
            label=name,
        )
    axis.axhline(0, color="0.3", lw=0.8)
    axis.axhline(change, color=BASE, lw=0.8, ls="--")
    axis.axvline(removed, color="0.6", lw=0.8, ls="--")
    axis.set(
        xlabel="excess pattern removed (% of PRMS)",
        ylabel=f"{measure.replace('_', ' ')} against base (%)",
    )
    axis.set_yscale("symlog", linthresh=2)  # a filter may cost ten times what finetuning does
    axis.yaxis.set_major_locator(SymmetricalLogLocator(base=2, linthresh=0.5))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axis.grid(alpha=0.3)
    return figure


def forest(table: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """A line a row of the table, a panel a measure: the value with its interval.

    Args:
        table: indexed by row; `label` and, for each measure, `<measure>`, `<measure>_low` and
            `<measure>_high`.
        panels: measure -> axis label.
    """
    names = [f"{name} ({label})" for name, label in table["label"].items()]
    height = max(1.8, 0.26 * len(table) + 0.8)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(2.2 * len(panels) + 2.6, height),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    y = np.arange(len(table))[::-1]
    for axis, (measure, label) in zip(axes[0], panels.items()):
        value = table[measure].to_numpy(float)
        low = table.get(f"{measure}_low", table[measure]).to_numpy(float)
        high = table.get(f"{measure}_high", table[measure]).to_numpy(float)
        axis.hlines(y, low, high, color=FINETUNED, lw=1.2)
        axis.plot(value, y, "o", ms=3.5, color=FINETUNED)
        axis.axvline(0, color="0.4", lw=0.8)
        axis.set(xlabel=label, yticks=y)
        axis.set_yticklabels(names, size=7)
        axis.grid(alpha=0.3)
    return figure


def against_paper(table: pd.DataFrame, measures: dict[str, str]) -> Figure:
    """Changes against each one's own base codec: here and in the paper, side by side.

    Args:
        table: `label`, and for each measure `<measure>` (here) and `<measure>_paper`.
        measures: measure -> axis label.
    """
    figure, axes = plt.subplots(
        1, len(measures), figsize=(2.6 * len(measures) + 1, 0.34 * len(table) + 1), sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    y = np.arange(len(table))[::-1]
    for axis, (measure, label) in zip(axes[0], measures.items()):
        axis.barh(y + 0.19, table[measure], 0.36, color=FINETUNED, label="here")
        axis.barh(y - 0.19, table[f"{measure}_paper"], 0.36, color=COLOURS[1], label="Le et al.")
        axis.axvline(0, color="0.3", lw=0.8)
        axis.set(xlabel=label, yticks=y)
        axis.set_yticklabels(table["label"], size=8)
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=7)
    return figure


def growth(table: pd.DataFrame) -> Figure:
    """What a step costs as the image, the number of patches and their size grow.

    Args:
        table: one row a measurement: `grows` (what does), `value`, and for `ours` and `theirs`
            seconds (`<side>`) and floating-point operations (`<side>_operations`).
    """
    panels = list(dict.fromkeys(table["grows"]))
    figure, axes = _axes(1, len(panels), 2.8, 2.6)
    for axis, panel in zip(axes.flat, panels):
        rows = table[table["grows"] == panel].sort_values("value")
        for side, colour in (("theirs", BASE), ("ours", FINETUNED)):
            seconds, operations = rows[side], rows[f"{side}_operations"]
            rate = (seconds / operations).median()  # the line has the operations' shape alone
            axis.plot(rows["value"], 1e3 * seconds, "o", color=colour, label=side)
            axis.plot(rows["value"], 1e3 * rate * operations, "--", color=colour, lw=1)
        axis.set(xlabel=panel, xscale="log", yscale="log")
        axis.set_xticks(rows["value"], [f"{value:g}" for value in rows["value"]])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("ms a step (dashed: operations)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def ratios(table: pd.DataFrame) -> Figure:
    """How many times faster: a bar for each row (`what`, `ratio`), with its `aim` as a tick."""
    figure, axes = _axes(1, 1, 6.4, 0.32 * len(table) + 0.8)
    axis = axes[0, 0]
    places = np.arange(len(table))[::-1]
    axis.barh(places, table["ratio"], color=FINETUNED, height=0.6)
    axis.plot(table["aim"], places, "|", color="black", ms=12, label="aim")
    for place, ratio in zip(places, table["ratio"]):
        axis.annotate(f"{ratio:.1f}", (ratio, place), xytext=(4, -3), textcoords="offset points")
    axis.set_yticks(places, table["what"], size=8)
    axis.set(xscale="log", xlim=(None, 1.5 * table[["ratio", "aim"]].max().max()))
    axis.set(xlabel="times faster than what one would otherwise run")
    axis.legend(frameon=False, fontsize=8)
    return figure


def knob(table: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """Measures along the ways from the machine's decoder to the human one, a panel a measure, with
    intervals as bands; the low-impact model, which is no way, is a level.

    Args:
        table: `way` (knob, blend, or the low-impact row), `place` (0 to 1; none for that row) and,
            for each measure, `<measure>` and, where there are intervals, `<measure>_low` and
            `<measure>_high`.
        panels: measure -> axis label.
    """
    columns = 3
    figure, axes = _axes(-(-len(panels) // columns), columns, 3.1, 2.6)
    ends = table[(table["way"] == "knob") & table["place"].isin([0, 1])]
    level = table[table["place"].isna()].iloc[0]
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (measure, label) in zip(axes.flat, panels.items()):
        for way, colour, line in (("knob", FINETUNED, "o-"), ("blend", COLOURS[1], "s--")):
            rows = pd.concat([ends, table[table["way"] == way]]).drop_duplicates(["way", "place"])
            rows = rows.sort_values("place")
            axis.plot(rows["place"], rows[measure], line, color=colour, ms=4, label=way)
            if f"{measure}_low" in rows:
                bounds = rows[f"{measure}_low"], rows[f"{measure}_high"]
                axis.fill_between(rows["place"], *bounds, color=colour, alpha=0.15, lw=0)
        axis.axhline(level[measure], color=BASE, lw=1.2, ls=":", label=level["way"])
        axis.set(xlabel="machine 0 … 1 human", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    return figure


def rate_curves(points: pd.DataFrame, panels: dict[str, str], kinds: dict[str, str]) -> Figure:
    """Measures over the rate, a line a curve, a panel a measure, with intervals as bands.

    Args:
        points: a row a point: `curve`, `bpp` and, for each measure, `<measure>` and, where there
            are intervals, `<measure>_low` and `<measure>_high`.
        panels: measure -> axis label.
        kinds: curve -> `main` (bold), `variant` (dashed) or `anchor` (grey).
    """
    figure, axes = _axes(1, len(panels), 4.2, 3.6)
    styles = _curve_styles(kinds)
    for axis, (measure, text) in zip(axes[0], panels.items()):
        for name, rows in points.groupby("curve", sort=False):
            rows = rows.sort_values("bpp")
            axis.plot(rows["bpp"], rows[measure], label=name, ms=4, **styles[name])
            if kinds[name] == "main" and f"{measure}_low" in rows:
                bounds = rows[f"{measure}_low"], rows[f"{measure}_high"]
                axis.fill_between(
                    rows["bpp"], *bounds, color=styles[name]["color"], alpha=0.15, lw=0
                )
        axis.set(xscale="log", xlabel="rate (bpp)", ylabel=text)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _curve_styles(kinds: dict[str, str]) -> dict[str, dict]:
    """Line and marker of each curve: colours for what is trained here, greys for anchors."""
    styles, colours = {}, iter([c for c in COLOURS if c != OTHER] * 2)
    for name, marker in zip(kinds, "oDs^vP*X<>hdp" * 3):
        kind = kinds[name]
        line = {"main": "-", "variant": "--", "anchor": ":"}[kind]
        colour = "0.45" if kind == "anchor" else next(colours)
        width = 1.8 if kind == "main" else 1.0
        styles[name] = {"color": colour, "ls": line, "lw": width, "marker": marker}
    return styles


def differences(variants: dict[str, torch.Tensor], gain: float = 4.0) -> Figure:
    """What each version takes from or adds to the first one: grey where it is the same.

    Args:
        variants: name -> image (3, H, W); the first is the original.
        gain: by which differences are multiplied.
    """
    (_, original), *others = variants.items()
    images = [(image - original) * gain + 0.5 for _, image in others]
    titles = [f"{name}, difference x {gain:g}" for name, _ in others]
    return gallery(images, titles, columns=len(images))
