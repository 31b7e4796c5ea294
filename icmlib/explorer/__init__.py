"""The explorer: one image's bits, and what each decoder makes of them, in a notebook.

coded.py      an image coded once: decoded at any place of the knob, measured
pictures.py   what is shown of it: pixels, boxes, spectrum, table
divider.py    the before / after divider in the browser: divider.js, explorer.css
widget.py     the controls, and what a change of each of them shows anew
"""

from icmlib.explorer.coded import CodedImage, examples
from icmlib.explorer.widget import Explorer

__all__ = ["CodedImage", "Explorer", "examples"]
