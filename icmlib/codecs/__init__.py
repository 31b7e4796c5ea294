"""Codecs. All have `encode(image) -> Bitstream` and `decode(bitstream) -> image`."""

import lazy_loader

from icmlib.io import PACKAGED

SHIPPED = PACKAGED / "data" / "weights" / "photograph_codec.safetensors"
# lazy, as in icmlib: the header of a file is read without PyTorch
NAMES = {
    "bitstream": "Bitstream BitstreamError",
    "conventional": "ANCHORS NotMeasured PillowCodec anchor",
    "decoders": "Decoders read_decoders",
    "filters": "FILTERS",
    "latents": "cached_latents",
    "learned": "LearnedCodec",
    "zoo": "MODELS create load pretrained zoo_config",
}
NAMES = {module: names.split() for module, names in NAMES.items()}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, {*NAMES, "patches", "rans"}, NAMES)
