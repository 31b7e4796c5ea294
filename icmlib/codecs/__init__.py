"""Codecs. All have `encode(image) -> Bitstream` and `decode(bitstream) -> image`."""
# ruff: noqa: F401

from icmlib.codecs.bitstream import Bitstream, BitstreamError
from icmlib.codecs.conventional import ANCHORS, NotMeasured, PillowCodec, anchor
from icmlib.codecs.decoders import SHIPPED, Decoders, read_decoders
from icmlib.codecs.filters import FILTERS
from icmlib.codecs.latents import cached_latents
from icmlib.codecs.learned import LearnedCodec
from icmlib.codecs.zoo import MODELS, create, load, pretrained, zoo_config
