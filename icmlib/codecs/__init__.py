"""Codecs by name. All have `encode(image) -> Bitstream` and `decode(bitstream) -> image`.

    bitstream.py   the file format
    learned.py     CompressAI's models
    patches.py     decode only what given patches need
"""

import torch
from compressai.models import ScaleHyperprior

from icmlib.codecs.bitstream import Bitstream, BitstreamError
from icmlib.codecs.learned import LearnedCodec, ScaleHyperpriorS8
from icmlib.config import CodecConfig

__all__ = ["Bitstream", "BitstreamError", "LearnedCodec", "create"]

MODELS = {"scale_hyperprior_s8": ScaleHyperpriorS8, "bmshj2018_hyperprior": ScaleHyperprior}


def create(config: CodecConfig, seed: int = 0) -> LearnedCodec:
    """An untrained codec; `codec.load(path)` gives it weights."""
    if config.name not in MODELS:
        raise ValueError(f"unknown codec {config.name!r}; known: {', '.join(MODELS)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LearnedCodec(MODELS[config.name](config.N, config.M))
