"""The explorer: one image's bits, and what each decoder makes of them, in a notebook."""

import lazy_loader

NAMES = {"coded": ["CodedImage", "examples"], "widget": ["Explorer"]}  # `icm compare` has no widget
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, NAMES, NAMES)
