"""The explorer's controls, and what a change of each of them shows anew."""

import contextlib
import io
import time
from collections.abc import Iterator
from html import escape

import ipywidgets as widgets
import torch

from icmlib.codecs import Decoders
from icmlib.codecs.decoders import HUMAN, MACHINE
from icmlib.explorer import pictures
from icmlib.explorer.coded import CodedImage
from icmlib.explorer.divider import Divider
from icmlib.io import IMAGE_SUFFIXES, read_image
from icmlib.tasks import TaskNetwork

KNOB, ORIGINAL = "knob", "original"
LARGEST = 512  # px of the screen up to which small images are enlarged


class Explorer(widgets.VBox):
    """One image: its bits, written once, and the picture that the knob's decoder makes of them.

    A change is shown before the next one is read; of those that come meanwhile the browser sends
    only the last (ipywidgets holds a control's messages back until the kernel has answered).

    Args:
        task: whose detections are drawn when asked for; none: there is nothing to ask for.
        images: name -> (3, H, W) RGB in [0, 1]; the first is shown.
        names: of the task network's classes.
    """

    def __init__(
        self,
        decoders: Decoders,
        task: TaskNetwork | None,
        images: dict[str, torch.Tensor],
        names: list[str],
    ):
        self.decoders, self.task = decoders, task
        self.images, self.names = dict(images), names
        self._make_controls()
        self._make_views()
        super().__init__(self._arranged())
        self.add_class("icm-explorer")
        self._take(*next(iter(self.images.items())))

    # --- what there is -------------------------------------------------------------------

    def _make_controls(self) -> None:
        others = [name for name in self.decoders.names if name not in (MACHINE, HUMAN)]
        ways = [KNOB if HUMAN in self.decoders.names else MACHINE, *others]
        self.image = widgets.Dropdown(
            options=list(self.images), description="image", layout={"width": "240px"}
        )
        self.upload = widgets.FileUpload(
            accept=",".join(sorted(IMAGE_SUFFIXES)),
            description="own file",
            tooltip="an image of your own, up to 10 MB: Jupyter's limit",
            layout={"width": "120px"},
        )
        self.before = widgets.Dropdown(
            options=[ORIGINAL, MACHINE], description="left side", layout={"width": "190px"}
        )
        self.detections = widgets.Checkbox(
            description="detections", indent=False, disabled=self.task is None
        )
        self.knob = widgets.FloatSlider(
            min=0, max=1, step=0.01, description=MACHINE, readout=False, layout={"width": "440px"}
        )
        self.decoder = widgets.Dropdown(
            options=ways, description="decoder", layout={"width": "220px"}
        )
        self._let_knob_be_moved()
        for control, action in (
            (self.image, self._choose),
            (self.upload, self._take_own),
            (self.before, self._turn_before),
            (self.detections, self._detect),
            (self.knob, self._turn),
            (self.decoder, self._turn),
        ):
            control.observe(action, "value")

    def _make_views(self) -> None:
        self.divider = Divider()
        self.spectrum = widgets.Image(width=pictures.SIDE, height=pictures.SIDE)
        self.marks, self.bits, self.table = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.status = widgets.HTML()

    def _arranged(self) -> list[widgets.Widget]:
        rows = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "4px 16px"}
        knob = [self.knob, widgets.HTML(HUMAN), self.decoder, self.detections]
        if len(self.decoder.options) == 1:
            knob.remove(self.decoder)
        spectrum = widgets.Box([self.spectrum, self.marks], layout=pictures.SPECTRUM_SIZE)
        spectrum.add_class("icm-spectrum")
        self.divider.add_class("icm-divider")
        facts = widgets.VBox([self.bits, self.table, self.status], layout={"flex": "1 1 420px"})
        return [
            widgets.Box([self.image, self.upload, self.before], layout=rows),
            widgets.Box(knob, layout=rows),
            widgets.Box(
                [self.divider, spectrum, facts], layout=rows | {"align_items": "flex-start"}
            ),
        ]

    # --- what a control does -------------------------------------------------------------

    def _choose(self, change) -> None:
        if change["new"] != self.name:
            with self._reporting():
                self._take(change["new"], self.images[change["new"]])
            self.image.value = self.name  # still the one before, where that failed

    def _take_own(self, change) -> None:
        if not change["new"]:
            return
        (file,) = change["new"]
        with self._reporting():
            x = read_image(file["name"], upright=True, file=io.BytesIO(file["content"]))
            self._take(file["name"], x)
            self.images[file["name"]] = x
            self.image.unobserve(self._choose, "value")  # new options choose the first of them
            self.image.options = list(self.images)
            self.image.value = self.name
            self.image.observe(self._choose, "value")
        self.upload.value = ()  # the same file may come again

    def _turn_before(self, change) -> None:
        with self._reporting():
            self._show_before()

    def _turn(self, change) -> None:
        self._let_knob_be_moved()
        with self._reporting():
            self._show_after()

    def _detect(self, change) -> None:
        with self._reporting():
            self._show_boxes()

    def _let_knob_be_moved(self) -> None:
        self.knob.disabled = self.decoder.value != KNOB

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Says how long the change inside took, or why there is none."""
        start = time.perf_counter()
        try:
            yield
            self.seconds = time.perf_counter() - start
            self.status.value = (
                f'<span class="icm-took">shown in {1e3 * self.seconds:.0f} ms</span>'
            )
        except (ValueError, RuntimeError, MemoryError) as error:  # the last two: no memory
            reason = escape(str(error).partition("\n")[0] or "out of memory")
            self.status.value = f'<span class="icm-error" role="alert">{reason}</span>'

    # --- what is shown -------------------------------------------------------------------

    def _take(self, name: str, x: torch.Tensor) -> None:
        """Another image; should it fail, the one before stays."""
        coded = CodedImage(self.decoders, x)
        rows = {ORIGINAL: coded.pattern(x), MACHINE: coded.measure(coded.machine)}
        low, high = pictures.limits(coded.residual_spectrum(coded.machine))
        self.name, self.coded, self._found = name, coded, {}
        self._rows, self._limits = rows, (low, high)
        height, width = x.shape[-2:]
        with self.divider.hold_sync():
            self.divider.width, self.divider.height = width, height
            self.divider.zoom = max(1, LARGEST // max(height, width))
            self._show_before()
            self._show_after()
        self.marks.value = pictures.spectrum_marks(coded.tile, low, high)
        self.bits.value = (
            f"{width}x{height} px, {len(coded.file):,} bytes: <b>{coded.bpp:.3f} bpp</b><br>"
            f"SHA-256 <code>{coded.sha256[:16]}</code>, one bitstream for every decoder"
        )

    def _show_before(self) -> None:
        self._left = self.coded.x if self.before.value == ORIGINAL else self.coded.machine
        with self.divider.hold_sync():
            self.divider.before_label = self.before.value
            self.divider.before = pictures.png(self._left)
            self.divider.before_boxes = self._boxes(self._left, self.before.value)

    def _show_after(self) -> None:
        by_knob = self.decoder.value == KNOB
        label = f"{KNOB} {self.knob.value:.2f}" if by_knob else self.decoder.value
        self._right = self.coded.decode(self.knob.value if by_knob else self.decoder.value)
        power = self.coded.residual_spectrum(self._right)
        self.table.value = pictures.table(self._rows | {label: self.coded.measure(self._right)})
        self.spectrum.value = pictures.spectrum_png(power, *self._limits)
        with self.divider.hold_sync():
            self.divider.after_label = label
            self.divider.after = pictures.png(self._right)
            self.divider.after_boxes = self._boxes(self._right)

    def _show_boxes(self) -> None:
        with self.divider.hold_sync():
            self.divider.before_boxes = self._boxes(self._left, self.before.value)
            self.divider.after_boxes = self._boxes(self._right)

    def _boxes(self, image: torch.Tensor, kept_as: str | None = None) -> list[dict]:
        """Of the task network, when asked for; what the knob does not change is looked at once."""
        if not self.detections.value:
            return []
        if kept_as in self._found:
            return self._found[kept_as]
        (prediction,) = self.task.predict([image])
        found = pictures.boxes(prediction, self.names)
        if kept_as:
            self._found[kept_as] = found
        return found
