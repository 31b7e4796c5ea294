"""The explorer: one image's bits, and what each decoder makes of them, in a notebook.

coded.py      an image coded once: decoded at any place of the knob, measured
pictures.py   pixels, boxes, spectrum, table
widget.py     the controls, and the divider between two pictures (divider.js, explorer.css)
"""

from icmlib.explorer.coded import CodedImage
from icmlib.explorer.widget import Explorer

__all__ = ["CodedImage", "Explorer"]
