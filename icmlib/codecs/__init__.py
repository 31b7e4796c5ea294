"""Codecs by name. All have `encode(image) -> Bitstream` and `decode(bitstream) -> image`.

bitstream.py      the file format
learned.py        CompressAI's models
rans.py           their entropy decoder, safe for any string
zoo.py            their names, and CompressAI's own weights
conventional.py   Pillow's formats; post-filters
containers.py     what such a file holds besides the picture
hevc.py           HEVC by x265
vtm.py            VVC by a VTM build
anchors.py        the conventional codecs by name
folders.py        many images at once, on all cores
files.py          image files to .icm files and back
latents.py        y_hat of a whole data set, computed once
patches.py        decode only what given patches need
decoders.py       several decoders of one codec's bits, and what lies between them
"""

import inspect
from difflib import get_close_matches
from pathlib import Path

import torch

from icmlib import device
from icmlib.codecs.anchors import ANCHORS, anchor
from icmlib.codecs.bitstream import Bitstream, BitstreamError
from icmlib.codecs.conventional import FILTERS, NotMeasured, PillowCodec
from icmlib.codecs.decoders import SHIPPED, Blend, Decoders, decoders_of_file
from icmlib.codecs.folders import decode_all, encode_all
from icmlib.codecs.latents import cached_latents
from icmlib.codecs.learned import LearnedCodec, ScaleHyperpriorS8
from icmlib.codecs.zoo import ARCHITECTURES, zoo_config, zoo_state
from icmlib.config import CodecConfig
from icmlib.io import InputError

__all__ = [
    "ANCHORS",
    "FILTERS",
    "Bitstream",
    "BitstreamError",
    "Blend",
    "Decoders",
    "LearnedCodec",
    "NotMeasured",
    "PillowCodec",
    "anchor",
    "cached_latents",
    "create",
    "decode_all",
    "encode_all",
    "load",
    "pretrained",
    "read_decoders",
    "zoo_config",
]

MODELS = {"scale_hyperprior_s8": ScaleHyperpriorS8, **ARCHITECTURES}


def create(config: CodecConfig, seed: int = 0) -> LearnedCodec:
    """An untrained codec; `codec.load(path)` gives it weights.

    Raises:
        ValueError: no such architecture; lists those there are and the nearest.
    """
    if config.name not in MODELS:
        near = get_close_matches(config.name, MODELS, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"unknown codec {config.name!r}{hint}; known: {', '.join(MODELS)}")
    model = MODELS[config.name]
    widths = {"N": config.N, "M": config.M}
    takes = inspect.signature(model).parameters  # cheng2020: N alone
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LearnedCodec(model(**{name: widths[name] for name in widths if name in takes}))


def pretrained(config: CodecConfig, quality: int) -> LearnedCodec:
    """CompressAI's codec of that name, trained for MSE, ready to encode and decode.

    Its N and M override the config's: load what was trained from it with
    `zoo_config(config, quality)`.

    Raises:
        ValueError: no weights of that name or quality; lists those there are.
        WeightsUnavailable: they cannot be downloaded; names the address and where to put the file.
    """
    codec = create(zoo_config(config, quality))
    codec.model.load_state_dict(zoo_state(config.name, quality))
    codec.to(device.current()).eval().update()
    return codec


def load(config: CodecConfig, path: str | Path) -> LearnedCodec:
    """A trained codec, ready to encode and decode, on this process's GPU, where it has one; raises
    as `icmlib.studies.runs.load_weights`."""
    codec = create(config)
    codec.load(path)
    return codec.to(device.current()).eval()


def read_decoders(path: str | Path = SHIPPED) -> Decoders:
    """A trained codec and the decoders that read its bits, from a file of decoders; by default the
    shipped ones of the profile `quick`. Raises as `decoders_of_file`."""
    return decoders_of_file(Path(path), create)
