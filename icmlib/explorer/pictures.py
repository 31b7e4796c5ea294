"""What the explorer shows of an image: pixels as PNG, boxes, the spectrum with its lattice, tables.

Everything is bytes or markup, made without matplotlib's figures: they take longer than decoding.
"""

import io
from html import escape

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from icmlib.metrics.checkerboard import SCALES
from icmlib.studies.figures import COLOURS

MAP = colormaps["cividis"]
SIDE = 258  # px of the spectrum on the screen: two for each of 129 frequencies
SPECTRUM_SIZE = {"width": f"{SIDE + 32}px", "height": f"{SIDE + 122}px"}  # with what is around it
RADII = {2: 9, 4: 7, 8: 4.5}  # px of the circle around a lattice point of period S
COLUMNS = {
    "psnr": ("PSNR<br>dB", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "lpp2": ("LPP 2<br>dB", ".1f"),
    "lpp4": ("LPP 4<br>dB", ".1f"),
    "lpp8": ("LPP 8<br>dB", ".1f"),
    "prms": ("PRMS<br>grey levels", ".2f"),
}


def png(image: torch.Tensor) -> bytes:
    """(3, H, W) in [0, 1] as a PNG file."""
    return _png((255 * image).round().byte().permute(1, 2, 0).contiguous().numpy())


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)  # 6 takes twice as long
    return file.getvalue()


def boxes(prediction: dict, names: list[str], min_score: float = 0.5) -> list[dict]:
    """Detections as the browser draws them: `box` (x1, y1, x2, y2 in px), `text`, `colour`."""
    found = zip(*(prediction[key].tolist() for key in ("boxes", "labels", "scores")))
    return [
        {
            "box": box,
            "text": f"{names[label - 1]} {score:.2f}",
            "colour": to_hex(COLOURS[(label - 1) % len(COLOURS)]),
        }
        for box, label, score in found
        if score >= min_score
    ]


def decibels(spectrum: np.ndarray) -> np.ndarray:
    """Welch power (N, N) -> grey levels squared a frequency, in dB; as `plots.spectra`."""
    return 10 * np.log10(255**2 * spectrum / spectrum.size + 1e-9)


def limits(spectrum: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest dB of the picture; one pair an image, or a change would not show."""
    low, high = np.percentile(decibels(spectrum), (1, 99.8))
    return float(low), float(max(high, low + 1))


def spectrum_png(spectrum: np.ndarray, low: float, high: float) -> bytes:
    """(N, N) power -> N + 1 frequencies a side, from -1/2 to 1/2 cycles / px, DC in the centre."""
    power = np.pad(np.fft.fftshift(decibels(spectrum)), (0, 1), "wrap")
    return _png(MAP((power - low) / (high - low), bytes=True)[..., :3])


def spectrum_marks(tile: int, low: float, high: float) -> str:
    """What lies over the spectrum's picture: a circle around each lattice point, axes, colours."""
    points = [
        (k / 8, m / 8, _period(k, m))
        for k in range(-4, 5)
        for m in range(-4, 5)
        if (k, m) != (0, 0)
    ]

    def place(f: float) -> float:
        return SIDE * ((f + 0.5) * tile + 0.5) / (tile + 1)

    circles = "".join(_circle(place(x), place(y), S) for x, y, S in points)
    ticks = "".join(
        f'<text x="{place(f):.1f}" y="{SIDE + 24}" text-anchor="middle">{f:g}</text>'
        for f in (-0.5, -0.25, 0, 0.25, 0.5)
    )
    stops = "".join(f'<stop offset="{i / 8}" stop-color="{to_hex(MAP(i / 8))}"/>' for i in range(9))
    legend = "".join(
        f"{_circle(14 + 84 * i, SIDE + 60, S)}"
        f'<text x="{28 + 84 * i}" y="{SIDE + 64}">period {S}</text>'
        for i, S in enumerate(SCALES)
    )
    what = "spectrum of the residual; circles mark the lattice of periods 2, 4 and 8 px"
    size = f'width="{SIDE + 32}" height="{SIDE + 122}" viewBox="-16 -32 {SIDE + 32} {SIDE + 122}"'
    return f"""<svg {size} role="img" aria-label="{what}">
<defs><linearGradient id="icm-colours">{stops}</linearGradient></defs>
<text x="0" y="-16" class="icm-heading">residual's spectrum</text>
<g>{circles}</g>{ticks}<text x="{SIDE / 2}" y="{SIDE + 40}" text-anchor="middle">cycles / px</text>
{legend}<rect x="40" y="{SIDE + 80}" width="{SIDE - 80}" height="8" fill="url(#icm-colours)"/>
<text x="34" y="{SIDE + 88}" text-anchor="end">{low:.0f}</text>
<text x="{SIDE - 34}" y="{SIDE + 88}">{high:.0f} dB</text></svg>"""


def _period(k: int, m: int) -> int:
    """The smallest S whose lattice has the point (k / 8, m / 8)."""
    return next(S for S in SCALES if k * S % 8 == 0 and m * S % 8 == 0)


def _circle(x: float, y: float, S: int) -> str:
    where = f'cx="{x:.1f}" cy="{y:.1f}" r="{RADII[S]}" data-period="{S}" fill="none"'
    return (
        f'<circle {where} stroke="#000" stroke-opacity="0.55" stroke-width="3"/>'
        f'<circle {where} stroke="#fff" stroke-width="1.3"/>'
    )


def table(rows: dict[str, dict[str, float]]) -> str:
    """A line a version of the image; what a version does not have stays empty."""
    head = "".join(f'<th scope="col">{title}</th>' for title, _ in COLUMNS.values())
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{_figure(row, c)}</td>" for c in COLUMNS)
        + "</tr>"
        for name, row in rows.items()
    )
    return f'<table class="icm-table"><tr><th></th>{head}</tr>{lines}</table>'


def _figure(row: dict[str, float], column: str) -> str:
    return format(row[column], COLUMNS[column][1]) if column in row else ""
