"""Codecs by name. All have `encode(image) -> Bitstream` and `decode(bitstream) -> image`.

bitstream.py      the file format
learned.py        CompressAI's models
conventional.py   Pillow's formats; post-filters
containers.py     what such a file holds besides the picture
hevc.py           HEVC by x265
vtm.py            VVC by a VTM build
anchors.py        the conventional codecs by name
folders.py        many images at once, on all cores
latents.py        y_hat of a whole data set, computed once
patches.py        decode only what given patches need
graph.py          a decoder's layers, and what each of them sees
"""

from pathlib import Path

import torch
from compressai.models import ScaleHyperprior

from icmlib.codecs.anchors import ANCHORS, anchor
from icmlib.codecs.bitstream import Bitstream, BitstreamError
from icmlib.codecs.conventional import FILTERS, NotMeasured, PillowCodec
from icmlib.codecs.folders import decode_all, encode_all
from icmlib.codecs.latents import cached_latents
from icmlib.codecs.learned import LearnedCodec, ScaleHyperpriorS8
from icmlib.config import CodecConfig

__all__ = [
    "ANCHORS",
    "FILTERS",
    "Bitstream",
    "BitstreamError",
    "LearnedCodec",
    "NotMeasured",
    "PillowCodec",
    "anchor",
    "cached_latents",
    "create",
    "decode_all",
    "encode_all",
    "load",
]

MODELS = {"scale_hyperprior_s8": ScaleHyperpriorS8, "bmshj2018_hyperprior": ScaleHyperprior}


def create(config: CodecConfig, seed: int = 0) -> LearnedCodec:
    """An untrained codec; `codec.load(path)` gives it weights."""
    if config.name not in MODELS:
        raise ValueError(f"unknown codec {config.name!r}; known: {', '.join(MODELS)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LearnedCodec(MODELS[config.name](config.N, config.M))


def load(config: CodecConfig, path: str | Path) -> LearnedCodec:
    """A trained codec, ready to encode and decode; raises as `icmlib.runs.load_weights`."""
    codec = create(config)
    codec.load(path)
    return codec.eval()
