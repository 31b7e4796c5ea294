"""The explorer's controls, and what a change of each shows."""

import io
import time
from collections.abc import Callable
from html import escape
from pathlib import Path

import anywidget
import ipywidgets as widgets
import torch
import traitlets

from icmlib.codecs import Decoders
from icmlib.codecs.decoders import HUMAN, MACHINE
from icmlib.explorer import pictures
from icmlib.explorer.coded import CodedImage
from icmlib.io import READABLE, read_image
from icmlib.tasks import TaskNetwork

KNOB, ORIGINAL = "knob", "original"
LARGEST = 512  # px of the screen up to which small images are enlarged


class Divider(anywidget.AnyWidget):
    """Two pictures of one image; a divider shows `before` on its left and `after` on its right.

    Boxes are as `pictures.boxes` makes them. Sizes are in image px, each `zoom` px of the screen.
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
        self,
        decoders: Decoders,
        task: TaskNetwork | None,
        images: dict[str, torch.Tensor],
        names: list[str],
    ):
        self.decoders, self.task, self.images, self.names = decoders, task, dict(images), names
        self._make_controls()
        self.divider = Divider().add_class("icm-divider")
        self.spectrum = widgets.Image(width=pictures.SIDE, height=pictures.SIDE)
        self.marks, self.bits, self.table, self.status = (widgets.HTML() for _ in range(4))
        super().__init__(self._arranged())
        self.add_class("icm-explorer")
        self._take(*next(iter(self.images.items())))
        self._busy = False
        self._observe(self.image, lambda name: self._take(name, self.images[name]))
        self._observe(self.upload, self._take_own)
        self._observe(self.before, self._show_before)
        self._observe(self.detections, self._show)
        self._observe(self.knob, self._show_after)
        self._observe(self.decoder, self._show_after)

    def _make_controls(self) -> None:
        def dropdown(description: str, width: int, options: list[str]) -> widgets.Dropdown:
            layout = {"width": f"{width}px"}
            return widgets.Dropdown(options=options, description=description, layout=layout)

        others = [name for name in self.decoders.names if name not in (MACHINE, HUMAN)]
        first = KNOB if HUMAN in self.decoders.names else MACHINE
        self.image = dropdown("image", 240, list(self.images))
        self.before = dropdown("left side", 190, [ORIGINAL, MACHINE])
        self.decoder = dropdown("decoder", 220, [first, *others])
        self.upload = widgets.FileUpload(
            accept=",".join(sorted(READABLE)),
            description="own file",
            tooltip="an image of your own, up to 10 MB: Jupyter's limit",
            layout={"width": "120px"},
        )
        self.detections = widgets.Checkbox(
            description="detections", indent=False, disabled=self.task is None
        )
        self.knob = widgets.FloatSlider(
            min=0, max=1, step=0.01, description=MACHINE, readout=False, layout={"width": "440px"}
        )

    def _arranged(self) -> list[widgets.Widget]:
        rows = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "4px 16px"}
        decoder = [self.decoder] if len(self.decoder.options) > 1 else []
        spectrum = widgets.Box([self.spectrum, self.marks], layout=pictures.SPECTRUM_SIZE)
        facts = widgets.VBox([self.bits, self.table, self.status], layout={"flex": "1 1 420px"})
        views = [self.divider, spectrum.add_class("icm-spectrum"), facts]
        return [
            widgets.Box([self.image, self.upload, self.before], layout=rows),
            widgets.Box([self.knob, widgets.HTML(HUMAN), *decoder, self.detections], layout=rows),
            widgets.Box(views, layout=rows | {"align_items": "flex-start"}),
        ]

    def _observe(self, control: widgets.Widget, action: Callable) -> None:
        """On a change, does this and says how long it took, or why it failed."""

        def changed(change) -> None:
            if self._busy:  # a change made below
                return
            self._busy, start = True, time.perf_counter()
            try:
                action(change["new"])
                self.seconds = time.perf_counter() - start
                took = f"shown in {1e3 * self.seconds:.0f} ms"
                self.status.value = f'<span class="icm-took">{took}</span>'
            except (ValueError, RuntimeError, MemoryError) as error:  # the last two: no memory
                reason = escape(str(error).partition("\n")[0] or "out of memory")
                self.status.value = f'<span class="icm-error" role="alert">{reason}</span>'
            finally:
                self.image.value = self.name  # the one before, if the new one failed
                self.upload.value = ()  # the same file may come again
                self._busy = False

        control.observe(changed, "value")

    def _take_own(self, files: tuple[dict]) -> None:
        name, content = files[0]["name"], files[0]["content"]
        image = read_image(name, upright=True, file=io.BytesIO(content))
        self._take(name, image)
        self.images[name] = image
        self.image.options = list(self.images)

    def _take(self, name: str, x: torch.Tensor) -> None:
        """Show another image; if it fails, the one before stays."""
        coded = CodedImage(self.decoders, x)
        rows = {ORIGINAL: coded.pattern(x), MACHINE: coded.measure(coded.machine)}
        limits = pictures.limits(coded.residual_spectrum(coded.machine))
        self.name, self.coded, self._found = name, coded, {}
        self._rows, self._limits = rows, limits
        height, width = x.shape[-2:]
        with self.divider.hold_sync():
            self.divider.width, self.divider.height = width, height
            self.divider.zoom = max(1, LARGEST // max(height, width))
            self._show()
        self.marks.value = pictures.spectrum_marks(coded.tile, *limits)
        self.bits.value = (
            f"{width}x{height} px, {len(coded.file):,} bytes: <b>{coded.bpp:.3f} bpp</b><br>"
            f"SHA-256 <code>{coded.sha256[:16]}</code>, one bitstream for every decoder"
        )

    def _show(self, _=None) -> None:
        self._show_before()
        self._show_after()

    def _show_before(self, _=None) -> None:
        label = self.before.value
        left = self.coded.x if label == ORIGINAL else self.coded.machine
        with self.divider.hold_sync():
            self.divider.before_label, self.divider.before = label, pictures.png(left)
            self.divider.before_boxes = self._boxes(left, label)

    def _show_after(self, _=None) -> None:
        label = to = self.decoder.value
        self.knob.disabled = to != KNOB
        if to == KNOB:
            to, label = self.knob.value, f"{KNOB} {self.knob.value:.2f}"
        right = self.coded.decode(to)
        power = self.coded.residual_spectrum(right)
        self.table.value = pictures.table(self._rows | {label: self.coded.measure(right)})
        self.spectrum.value = pictures.spectrum_png(power, *self._limits)
        with self.divider.hold_sync():
            self.divider.after_label, self.divider.after = label, pictures.png(right)
            self.divider.after_boxes = self._boxes(right, label)

    def _boxes(self, image: torch.Tensor, label: str) -> list[dict]:
        """The task network's, if asked for; each picture is looked at once."""
        if not self.detections.value:
            return []
        if label not in self._found:
            (prediction,) = self.task.predict([image])
            self._found[label] = pictures.boxes(prediction, self.names)
        return self._found[label]
