"""Codecs. All have `encode(image) -> Bitstream` and `decode(bitstream) -> image`.

bitstream.py      the file format
learned.py        CompressAI's models
rans.py           their entropy coder, safe for any string
zoo.py            their names, and CompressAI's own weights
conventional.py   Pillow's formats, HEVC, VVC
filters.py        post-filters
latents.py        y_hat of a whole data set, computed once
patches.py        decode only what given patches need
decoders.py       several decoders of the same bits, and interpolation between them
"""
# ruff: noqa: F401

from icmlib.codecs.bitstream import Bitstream, BitstreamError
from icmlib.codecs.conventional import ANCHORS, NotMeasured, PillowCodec, anchor
from icmlib.codecs.decoders import SHIPPED, Decoders, read_decoders
from icmlib.codecs.filters import FILTERS
from icmlib.codecs.latents import cached_latents
from icmlib.codecs.learned import LearnedCodec
from icmlib.codecs.zoo import MODELS, create, load, pretrained, zoo_config
