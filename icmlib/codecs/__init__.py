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
graph.py          a decoder's layers, and what each of them sees
"""

import inspect
from difflib import get_close_matches
from pathlib import Path

import torch

from icmlib import processes
from icmlib.codecs.anchors import ANCHORS, anchor
from icmlib.codecs.bitstream import Bitstream, BitstreamError
from icmlib.codecs.conventional import FILTERS, NotMeasured, PillowCodec
from icmlib.codecs.decoders import HUMAN, SHIPPED, Blend, Decoders, read_decoders
from icmlib.codecs.folders import decode_all, encode_all
from icmlib.codecs.latents import cached_latents
from icmlib.codecs.learned import LearnedCodec, ScaleHyperpriorS8
from icmlib.codecs.zoo import ARCHITECTURES, zoo_config, zoo_state
from icmlib.config import CodecConfig, load_profile, project_root

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
    "load_decoders",
    "pretrained",
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
        raise ValueError(f"unknown codec {config.name!r}{hint}; known: {', '.join(MODELS)}")
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
    codec.to(processes.device()).eval().update()
    return codec


def load(config: CodecConfig, path: str | Path) -> LearnedCodec:
    """A trained codec, ready to encode and decode, on this process's GPU, where it has one; raises
    as `icmlib.runs.load_weights`."""
    codec = create(config)
    codec.load(path)
    return codec.to(processes.device()).eval()


def load_decoders(weights: str | Path | None = None) -> Decoders:
    """A trained codec and the decoders that read its bits.

    Args:
        weights: a file of decoders, or a run of notebooks 02 or 03: its folder, or that below
            `results` (`quick/finetune/p3x64`); by default the shipped ones of the `quick` profile.

    Raises:
        FileNotFoundError: no such file or run.
        ValueError: broken, or no decoders of one codec.
    """
    path = Path(weights or SHIPPED)
    if path.suffix == ".safetensors":
        return read_decoders(path, create)
    folder = path.resolve() if path.is_dir() else project_root() / "results" / path
    if not (folder / "final.safetensors").exists():
        raise FileNotFoundError(f"no codec was trained in {folder}; run its notebook")
    profile = load_profile(folder.parents[1].name)
    base = load(profile.codec, folder.parents[1] / "base_codec" / "base" / "final.safetensors")
    if folder.parent.name == "base_codec":
        return Decoders(base, {})
    if folder.parent.name != "finetune":
        raise ValueError(f"{folder} is no run of notebooks 02 (base_codec) or 03 (finetune)")
    return Decoders.of(base, {HUMAN: load(profile.codec, folder / "final.safetensors")})
