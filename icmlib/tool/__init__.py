"""The command line `icm`, and what it runs."""

import lazy_loader

# lazy, as in icmlib: a command loads what it needs
MODULES = ("files", "notebooks", "openimages", "photograph")
MODULES += ("rate_distortion", "report", "reproduce")
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=MODULES)
