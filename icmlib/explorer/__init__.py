"""The explorer: one image's bits, and what each decoder makes of them, in a notebook."""

from icmlib.explorer.coded import CodedImage, examples
from icmlib.explorer.widget import Explorer

__all__ = ["CodedImage", "Explorer", "examples"]
