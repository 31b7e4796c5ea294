"""The explorer's controls, and what a change of each shows."""

import io
from functools import partial
from html import escape
from pathlib import Path

import anywidget
import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torchvision
import traitlets
from IPython.core.pylabtools import print_figure

from icmlib.codecs import Decoders
from icmlib.codecs.decoders import HUMAN, MACHINE
from icmlib.explorer.coded import CodedImage
from icmlib.io import READABLE, read_image
from icmlib.studies import figures
from icmlib.tasks import TaskNetwork

KNOB, ORIGINAL = "knob", "original"
LARGEST = 512  # px of the screen up to which small images are enlarged
COLUMNS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpp2": "LPP 2 (dB)", "lpp4": "LPP 4 (dB)"}
COLUMNS |= {"lpp8": "LPP 8 (dB)", "prms": "PRMS (grey levels)"}


class Divider(anywidget.AnyWidget):
    """Two pictures of one image; a divider shows `before` on its left and `after` on its right.

    Boxes are `{"box": (x1, y1, x2, y2), "text": ..., "colour": ...}`. Sizes are in image px, each
    `zoom` px of the screen.
    """

    _esm = Path(__file__).with_name("divider.js")
    _css = Path(__file__).with_name("explorer.css")
    width, height, zoom = (traitlets.Int(1).tag(sync=True) for _ in range(3))
    before, after = (traitlets.Bytes().tag(sync=True) for _ in range(2))  # PNG
    before_label, after_label = (traitlets.Unicode().tag(sync=True) for _ in range(2))
    before_boxes, after_boxes = (traitlets.List().tag(sync=True) for _ in range(2))


class Explorer(widgets.VBox):
    """One image: its bits, written once, and the picture that the chosen decoder makes of them.

    Args:
        task: whose detections are drawn; without one they cannot be switched on.
        images: name -> (3, H, W) RGB in [0, 1]; the first is shown.
        names: of the task network's classes.
    """

    def __init__(
        self, decoders: Decoders, task: TaskNetwork | None, images: dict, names: list[str]
    ):
        self.decoders, self.task, self.images, self.names = decoders, task, images, names
        self.coded = None
        self.divider = Divider().add_class("icm-divider")
        self.spectrum = widgets.Image()
        self.bits, self.table, self.error = (widgets.HTML() for _ in range(3))
        super().__init__(self._controls())
        self.add_class("icm-explorer")
        self._take()
        self.image.observe(self._take, "value")
        self.upload.observe(self._take_own, "value")
        for control in (self.before, self.decoder, self.knob, self.detections):
            control.observe(self._show, "value")

    def _controls(self) -> list[widgets.Box]:
        others = [name for name in self.decoders.names if name not in (MACHINE, HUMAN)]
        first = KNOB if HUMAN in self.decoders.names else MACHINE
        choice = partial(widgets.Dropdown, layout={"width": "240px"})
        self.image = choice(options=list(self.images), description="image")
        self.before = choice(options=[ORIGINAL, MACHINE], description="left side")
        self.decoder = choice(options=[first, *others], description="decoder")
        self.knob = widgets.FloatSlider(
            min=0, max=1, step=0.01, description=MACHINE, readout=False, layout={"width": "440px"}
        )
        self.detections = widgets.Checkbox(description="detections", disabled=self.task is None)
        self.upload = widgets.FileUpload(
            accept=",".join(sorted(READABLE)), description="own file", tooltip="up to 10 MB"
        )
        facts = widgets.VBox([self.bits, self.table], layout={"flex": "1 1 420px"})
        rows = [
            [self.image, self.upload, self.before, self.error],
            [self.knob, widgets.HTML(HUMAN), self.decoder, self.detections],
            [self.divider, self.spectrum, facts],
        ]
        layout = {"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "4px 16px"}
        return [widgets.Box(row, layout=layout) for row in rows]

    def _take_own(self, change) -> None:
        """Add an uploaded image to the choice, and choose it."""
        for file in change["new"]:
            try:
                x = read_image(file["name"], upright=True, file=io.BytesIO(file["content"]))
                coded = CodedImage(self.decoders, x)
            except (ValueError, MemoryError) as error:
                self.error.value = f"<b>{escape(str(error) or 'out of memory')}</b>"
            else:
                self.error.value, self.images = "", {**self.images, file["name"]: x}
                self.image.options = list(self.images)
                self.coded, self.image.value = coded, file["name"]
        self.upload.value = ()  # the same file may come again

    def _take(self, _=None) -> None:
        """Code the chosen image; one of the user's own is coded already."""
        x = self.images[self.image.value]
        coded = self.coded if self.coded and self.coded.x is x else CodedImage(self.decoders, x)
        self.coded = coded
        self._rows = {ORIGINAL: coded.pattern(x), MACHINE: coded.measure(coded.machine)}
        height, width = x.shape[-2:]
        with self.divider.hold_sync():
            self.divider.width, self.divider.height = width, height
            self.divider.zoom = max(1, LARGEST // max(height, width))
            self._show()
        self.bits.value = (
            f"{width}x{height} px, {len(coded.file):,} bytes: <b>{coded.bpp:.3f} bpp</b><br>"
            f"SHA-256 <code>{coded.sha256[:16]}</code>, one bitstream for every decoder"
        )

    def _show(self, _=None) -> None:
        """What the chosen decoder makes of the bits."""
        before, after = self.before.value, self.decoder.value
        self.knob.disabled = after != KNOB
        left = self.coded.x if before == ORIGINAL else self.coded.machine
        right = self.coded.decode(self.knob.value if after == KNOB else after)
        if after == KNOB:
            after = f"{KNOB} {self.knob.value:.2f}"
        with self.divider.hold_sync():
            self.divider.before_label, self.divider.after_label = before, after
            self.divider.before, self.divider.after = map(png, (left, right))
            self.divider.before_boxes, self.divider.after_boxes = map(self._boxes, (left, right))
        self.table.value = table(self._rows | {after: self.coded.measure(right)})
        pair = {MACHINE: self.coded.machine, after: right}
        residuals = {f"{k}, residual": self.coded.residual_spectrum(v) for k, v in pair.items()}
        figure = figures.spectra(residuals)
        self.spectrum.value = print_figure(figure, dpi=80, bbox_inches=None)
        plt.close(figure)

    def _boxes(self, image: torch.Tensor) -> list[dict]:
        """The task network's of a score of 0.5 or more, if asked for."""
        if not (self.task and self.detections.value):
            return []
        (prediction,) = self.task.predict([image])
        found = zip(*(prediction[key].tolist() for key in ("boxes", "labels", "scores")))
        names, colours = self.names, figures.COLOURS.as_hex() * len(self.names)
        return [
            {"box": box, "text": f"{names[label - 1]} {score:.2f}", "colour": colours[label - 1]}
            for box, label, score in found
            if score >= 0.5
        ]


def png(image: torch.Tensor) -> bytes:
    """(3, H, W) in [0, 1] as a PNG file."""
    pixels = (255 * image).round().byte()
    return torchvision.io.encode_png(pixels, compression_level=1).numpy().tobytes()


def table(rows: dict[str, dict[str, float]]) -> str:
    """One line per version of the image; what a version does not have stays empty."""
    frame = pd.DataFrame(rows, list(COLUMNS)).T.rename(columns=COLUMNS)
    return frame.to_html(border=0, classes="icm-table", na_rep="", float_format="{:.4g}".format)
