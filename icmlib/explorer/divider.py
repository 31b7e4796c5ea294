"""Two pictures of one image on top of each other, and a divider between them."""

from pathlib import Path

import anywidget
import traitlets


class Divider(anywidget.AnyWidget):
    """Left of the divider `before`, right of it `after`; dragged, touched, or moved by keys.

    Boxes are as `icmlib.explorer.pictures.boxes` makes them; sizes are in image px, each of which
    takes `zoom` px of the screen.
    """

    _esm = Path(__file__).with_name("divider.js")
    _css = Path(__file__).with_name("explorer.css")
    width = traitlets.Int(1).tag(sync=True)
    height = traitlets.Int(1).tag(sync=True)
    zoom = traitlets.Int(1).tag(sync=True)
    before = traitlets.Bytes().tag(sync=True)  # PNG
    after = traitlets.Bytes().tag(sync=True)
    before_label = traitlets.Unicode().tag(sync=True)
    after_label = traitlets.Unicode().tag(sync=True)
    before_boxes = traitlets.List().tag(sync=True)
    after_boxes = traitlets.List().tag(sync=True)
