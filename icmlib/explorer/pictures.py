"""What the explorer shows of an image: pixels as PNG, boxes, spectrum with lattice, table.

Everything is bytes or markup: matplotlib's figures take longer than decoding.
"""

import math
from itertools import product

import numpy as np
import pandas as pd
import torch
import torchvision
from matplotlib import colormaps
from matplotlib.colors import to_hex

from icmlib.metrics.checkerboard import SCALES
from icmlib.studies import figures

MAP = colormaps["cividis"]
SIDE = 258  # px of the spectrum on the screen: two for each of 129 frequencies
WIDTH, HEIGHT = SIDE + 32, SIDE + 122  # with axes and legend
SPECTRUM_SIZE = {"width": f"{WIDTH}px", "height": f"{HEIGHT}px"}
RADII = {2: 9, 4: 7, 8: 4.5}  # px of the circle around a lattice point of period S
COLUMNS = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    **{f"lpp{S}": (f"LPP {S} (dB)", "{:.1f}") for S in SCALES},
    "prms": ("PRMS (grey levels)", "{:.2f}"),
}


def png(image: torch.Tensor) -> bytes:
    """(3, H, W) in [0, 1] as a PNG file."""
    pixels = (255 * image).round().byte()
    return torchvision.io.encode_png(pixels, compression_level=1).numpy().tobytes()


def boxes(prediction: dict, names: list[str], min_score: float = 0.5) -> list[dict]:
    """Detections as the browser draws them: `box` (x1, y1, x2, y2 in px), `text`, `colour`."""
    found = zip(*(prediction[key].tolist() for key in ("boxes", "labels", "scores")))
    return [
        {
            "box": box,
            "text": f"{names[label - 1]} {score:.2f}",
            "colour": to_hex(figures.COLOURS[(label - 1) % len(figures.COLOURS)]),
        }
        for box, label, score in found
        if score >= min_score
    ]


def limits(spectrum: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest dB of the picture; one pair per image, so that changes show."""
    low, high = np.percentile(figures.decibels(spectrum), (1, 99.8))
    return float(low), float(max(high, low + 1))


def spectrum_png(spectrum: np.ndarray, low: float, high: float) -> bytes:
    """(N, N) power -> N + 1 frequencies a side, from -1/2 to 1/2 cycles / px, DC in the centre."""
    power = np.pad(np.fft.fftshift(figures.decibels(spectrum)), (0, 1), "wrap")
    return png(torch.from_numpy(MAP((power - low) / (high - low))[..., :3]).permute(2, 0, 1))


def spectrum_marks(tile: int, low: float, high: float) -> str:
    """SVG over the spectrum's picture: a circle around each lattice point, axes, colours."""

    def place(f: float) -> float:
        return SIDE * ((f + 0.5) * tile + 0.5) / (tile + 1)

    lattice = [each for each in product(range(-4, 5), repeat=2) if any(each)]  # in eighths
    circles = [_circle(place(k / 8), place(m / 8), 8 // math.gcd(k, m, 8)) for k, m in lattice]
    circles += [_circle(14 + 84 * i, SIDE + 60, S) for i, S in enumerate(SCALES)]
    texts = [(place(f), SIDE + 24, "middle", f"{f:g}") for f in (-0.5, -0.25, 0, 0.25, 0.5)]
    texts += [(28 + 84 * i, SIDE + 64, "start", f"period {S}") for i, S in enumerate(SCALES)]
    texts += [
        (SIDE / 2, SIDE + 40, "middle", "cycles / px"),
        (34, SIDE + 88, "end", f"{low:.0f}"),
        (SIDE - 34, SIDE + 88, "start", f"{high:.0f} dB"),
    ]
    labels = [
        f'<text x="{x:.1f}" y="{y}" text-anchor="{a}">{text}</text>' for x, y, a, text in texts
    ]
    stops = [f'<stop offset="{i / 8}" stop-color="{to_hex(MAP(i / 8))}"/>' for i in range(9)]
    what = "spectrum of the residual; circles mark the lattice of periods 2, 4 and 8 px"
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="-16 -32 {WIDTH} {HEIGHT}"'
    return f"""<svg {size} role="img" aria-label="{what}">
<defs><linearGradient id="icm-colours">{"".join(stops)}</linearGradient></defs>
<text x="0" y="-16" class="icm-heading">residual's spectrum</text>
<g fill="none" stroke="#000" stroke-opacity="0.55" stroke-width="3">{"".join(circles)}</g>
<g fill="none" stroke="#fff" stroke-width="1.3">{"".join(circles)}</g>{"".join(labels)}
<rect x="40" y="{SIDE + 80}" width="{SIDE - 80}" height="8" fill="url(#icm-colours)"/></svg>"""


def _circle(x: float, y: float, S: int) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADII[S]}" data-period="{S}"/>'


def table(rows: dict[str, dict[str, float]]) -> str:
    """One line per version of the image; what a version does not have stays empty."""
    titles, formats = zip(*COLUMNS.values())
    frame = pd.DataFrame(rows, list(COLUMNS)).T.set_axis(titles, axis=1)
    formatters = [each.format for each in formats]
    return frame.to_html(border=0, classes="icm-table", na_rep="", formatters=formatters)
