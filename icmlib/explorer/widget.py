"""The explorer's controls, and what a change of each shows."""

import io
from contextlib import contextmanager
from functools import lru_cache, partial
from html import escape
from pathlib import Path

import anywidget
import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
import traitlets
from IPython.core.pylabtools import print_figure

from icmlib.codecs import Decoders
from icmlib.codecs.decoders import HUMAN, MACHINE
from icmlib.explorer.coded import ANCHORS, ORIGINAL, CodedImage, View
from icmlib.io import READABLE, read_image
from icmlib.studies import figures
from icmlib.tasks import TaskNetwork

KNOB = "knob"
LARGEST = 512  # px of the screen up to which small images are enlarged
SLOW = 2**20  # px; from here on the knob waits until it is let go
COLUMNS = {"bpp": "bpp", "psnr": "PSNR (dB)", "ssim": "SSIM", "lpp2": "LPP 2 (dB)"}
COLUMNS |= {"lpp4": "LPP 4 (dB)", "lpp8": "LPP 8 (dB)", "prms": "PRMS (grey levels)"}


class Divider(anywidget.AnyWidget):
    """Two pictures of one image; a divider shows `before` on its left and `after` on its right.

    Boxes are `{"box": (x1, y1, x2, y2), "text": ..., "colour": ...}`. Sizes are in image px, each
    `zoom` px of the screen.
    """

    _esm = Path(__file__).with_name("divider.js")
    _css = Path(__file__).with_name("explorer.css")
    width, height = (traitlets.Int(1).tag(sync=True) for _ in range(2))
    zoom = traitlets.Float(1).tag(sync=True)
    before, after = (traitlets.Bytes().tag(sync=True) for _ in range(2))  # PNG
    before_label, after_label = (traitlets.Unicode().tag(sync=True) for _ in range(2))
    before_boxes, after_boxes = (traitlets.List().tag(sync=True) for _ in range(2))


class Explorer(widgets.VBox):
    """One image: its bits, written once, and what the chosen decoder makes of them, beside the
    original, the machine's picture or an anchor. The last few pictures are kept.

    Args:
        rates: decoders of a codec by its rate; the middle one is shown.
        task: whose detections are drawn; without one they cannot be switched on.
        images: name -> (3, H, W) RGB in [0, 1]; the first is shown.
        names: of the task network's classes.
    """

    def __init__(
        self, rates: dict[str, Decoders], task: TaskNetwork | None, images: dict, names: list[str]
    ):
        self.rates, self.task, self.images, self.names = rates, task, dict(images), names
        self._code, self._view = lru_cache(len(rates) + 1)(CodedImage), lru_cache(8)(View)
        self._predict = lru_cache(8)(lambda view: task.predict([view.picture])[0])
        self.divider = Divider().add_class("icm-divider")
        self.spectrum = widgets.Image()
        self.bits, self.table, self.status = (widgets.HTML() for _ in range(3))
        super().__init__(self._controls())
        self.add_class("icm-explorer")
        widgets.jslink((self.zoom, "value"), (self.divider, "zoom"))
        self._offer()
        self.rate.observe(self._offer, "value")
        self.upload.observe(self._take_own, "value")
        for control in (self.image, self.before, self.decoder, self.knob, self.detections):
            control.observe(self._show, "value")

    def _controls(self) -> list[widgets.Box]:
        choice = partial(widgets.Dropdown, layout={"width": "240px"})
        self.image = choice(options=list(self.images), description="image")
        self.rate = choice(options=list(self.rates), index=len(self.rates) // 2, description="rate")
        sides = {ORIGINAL: ORIGINAL, MACHINE: MACHINE} | {f"{n} at equal bpp": n for n in ANCHORS}
        self.before = choice(options=sides, description="left side")
        self.decoder = choice(options=[KNOB], description="right side")
        self.knob = widgets.FloatSlider(
            min=0, max=1, step=0.01, description=MACHINE, readout=False, layout={"width": "440px"}
        )
        self.detections = widgets.Checkbox(description="detections", disabled=self.task is None)
        self.zoom = widgets.FloatLogSlider(base=2, min=-4, max=3, step=1, description="zoom")
        self.upload = widgets.FileUpload(accept=",".join(READABLE), description="own file")
        facts = widgets.VBox([self.bits, self.table, self.spectrum]).add_class("icm-facts")
        rows = [
            [self.image, self.upload, self.rate],
            [self.before, self.decoder, self.knob, widgets.HTML(HUMAN)],
            [self.zoom, self.detections, self.status],
            [self.divider, facts],
        ]
        return [widgets.Box(row).add_class("icm-row") for row in rows]

    @contextmanager
    def _busy(self, what: str):
        """A sign as long as it takes; an error's message stays in its place."""
        sign = f"<i class='icm-busy'></i> {escape(what)} ..."
        self.status.value = sign
        try:
            yield
        except (ValueError, RuntimeError, MemoryError) as error:
            self.status.value = f"<b>{escape(str(error) or 'out of memory')}</b>"
        finally:
            if self.status.value == sign:
                self.status.value = ""

    def _take_own(self, change) -> None:
        """Put an uploaded image in front of the others, which shows it."""
        for file in change["new"]:
            name = file["name"]
            with self._busy(f"coding {name}"):
                x = read_image(name, upright=True, file=io.BytesIO(file["content"]))
                self._code(self.rates[self.rate.value], x)
                self.images = {name: x} | self.images | {name: x}
                self.image.options = list(self.images)
                self._show()  # nothing changed for the control if the name is the same
        self.upload.value = ()  # the same file may come again

    def _offer(self, _=None) -> None:
        """The decoders of the chosen rate."""
        names = self.rates[self.rate.value].names
        others = [name for name in names if name not in (MACHINE, HUMAN)]
        self.decoder.options = [KNOB if HUMAN in names else MACHINE, *others]
        self._show()

    def _show(self, _=None) -> None:
        """What the choices are: first the picture, then what is read off it."""
        x, place, to = self.images[self.image.value], self.knob.value, self.decoder.value
        (height, width), divider = x.shape[-2:], self.divider
        self.knob.disabled, self.knob.continuous_update = to != KNOB, height * width < SLOW
        with self._busy(f"working on {width}x{height} px"):
            self.coded = coded = self._code(self.rates[self.rate.value], x)
            view = partial(self._view, coded)
            left, right = view(self.before.value), view((place or MACHINE) if to == KNOB else to)
            label = f"{KNOB} {place:.2f}" if to == KNOB else right.label
            with divider.hold_sync():
                if (divider.height, divider.width) != (height, width):
                    divider.height, divider.width = height, width
                    self.zoom.value = divider.zoom = max(1, min(8, LARGEST // max(height, width)))
                divider.before_label, divider.after_label = left.label, label
                divider.before, divider.after = left.png, right.png
                divider.before_boxes, divider.after_boxes = map(self._boxes, (left, right))
            self.bits.value = (
                f"{width}x{height} px, {len(coded.file):,} bytes: <b>{coded.bpp:.3f} bpp</b><br>"
                f"SHA-256 <code>{coded.sha256[:16]}</code>, one bitstream for every decoder"
            )
            views = {name: view(name) for name in (ORIGINAL, MACHINE)}
            views |= {left.label: left, label: right}
            self.table.value = table({name: each.row for name, each in views.items()})
            added = {name: views[name].spectrum for name in views if name != ORIGINAL}
            figure = figures.spectra({f"{name}, residual": each for name, each in added.items()})
            self.spectrum.value = print_figure(figure, dpi=80, bbox_inches=None)
            plt.close(figure)

    def _boxes(self, view: View) -> list[dict]:
        """The task network's of a score of 0.5 or more, if asked for."""
        if not self.detections.value:
            return []
        found = zip(*(self._predict(view)[key].tolist() for key in ("boxes", "labels", "scores")))
        names, colours = self.names, figures.COLOURS.as_hex() * len(self.names)
        return [
            {"box": box, "text": f"{names[label - 1]} {score:.2f}", "colour": colours[label - 1]}
            for box, label, score in found
            if score >= 0.5
        ]


def table(rows: dict[str, dict[str, float]]) -> str:
    """One line per version of the image; what a version does not have stays empty."""
    frame = pd.DataFrame(rows, list(COLUMNS)).T.rename(columns=COLUMNS)
    return frame.to_html(border=0, classes="icm-table", na_rep="", float_format="{:.4g}".format)
