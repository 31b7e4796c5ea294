"""The explorer: one image's bits, and what each decoder makes of them, in a notebook.

coded.py      an image coded once: decoded at any place of the knob, measured
widget.py     the controls, and what they show (divider.js, explorer.css)
"""

from icmlib.explorer.coded import CodedImage, examples
from icmlib.explorer.widget import Explorer

__all__ = ["CodedImage", "Explorer", "examples"]
