"""What the explorer shows of an image: pixels and figures as PNG, boxes, table."""

import io

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torchvision
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from icmlib.studies.figures import COLOURS

COLUMNS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpp2": "LPP 2 (dB)",
    "lpp4": "LPP 4 (dB)",
    "lpp8": "LPP 8 (dB)",
    "prms": "PRMS (grey levels)",
}


def png(image: torch.Tensor) -> bytes:
    """(3, H, W) in [0, 1] as a PNG file."""
    pixels = (255 * image).round().byte()
    return torchvision.io.encode_png(pixels, compression_level=1).numpy().tobytes()


def figure_png(figure: Figure) -> bytes:
    """A figure as a PNG file; it is closed."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=80)
    plt.close(figure)
    return content.getvalue()


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


def table(rows: dict[str, dict[str, float]]) -> str:
    """One line per version of the image; what a version does not have stays empty."""
    frame = pd.DataFrame(rows, list(COLUMNS)).T.rename(columns=COLUMNS)
    return frame.to_html(border=0, classes="icm-table", na_rep="", float_format="{:.4g}".format)
