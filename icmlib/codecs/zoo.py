"""Learned codecs by name: those of CompressAI's zoo, and four of stride 8."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from compressai.layers import GDN, subpel_conv3x3
from compressai.models import CompressionModel, ScaleHyperprior
from compressai.models.utils import conv, deconv
from compressai.zoo.image import cfgs, model_architectures, model_urls
from compressai.zoo.pretrained import load_pretrained
from torch import nn

from icmlib import device
from icmlib.codecs.learned import LearnedCodec
from icmlib.config import CodecConfig, replace
from icmlib.downloads import read_state
from icmlib.io import InputError, did_you_mean, imported, load_weights


class ScaleHyperpriorS8(ScaleHyperprior):
    """The scale hyperprior (Ballé et al. 2018) with three stages instead of four, for scenes of
    about 128x128. `up` enlarges the decoder's maps: one of UPSAMPLING."""

    downsampling_factor = 32

    def __init__(self, up: Callable[[int, int], nn.Module], N: int, M: int):
        super().__init__(N, M)
        self.g_a = nn.Sequential(conv(3, N), GDN(N), conv(N, N), GDN(N), conv(N, M))
        inverse = partial(GDN, N, inverse=True)
        self.g_s = nn.Sequential(up(M, N), inverse(), up(N, N), inverse(), up(N, 3))


UPSAMPLING = {
    "": deconv,  # ConvTranspose2d(k=5, s=2), which covers pixels unevenly (Odena et al. 2016)
    "_k4": partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1),  # evenly
    "_subpixel": partial(subpel_conv3x3, r=2),  # Shi et al. 2016
    "_resize": lambda before, after: nn.Sequential(  # Odena et al. 2016, too
        nn.Upsample(scale_factor=2, mode="bilinear"), conv(before, after, stride=1)
    ),
}
KEYS = {name.replace("-", "_"): name for name in model_architectures}  # our name -> the zoo's
MODELS = {f"scale_hyperprior_s8{k}": partial(ScaleHyperpriorS8, up) for k, up in UPSAMPLING.items()}
MODELS |= {name: model_architectures[key] for name, key in KEYS.items()}


def create(config: CodecConfig, seed: int = 0) -> LearnedCodec:
    """An untrained codec: one of MODELS, or around the model that a function of yours returns,
    `build(N, M)` as `module:build`. Raises ValueError: no such architecture or function."""
    name, widths = config.name, [config.N, config.M]
    if ":" in name:
        build = imported(name, "codec")
    elif name in MODELS:
        build, widths = MODELS[name], widths[:1] if name.startswith("cheng2020") else widths
    else:
        known = f"{', '.join(MODELS)}, or a function of yours as module:function"
        raise InputError(f"unknown codec {name!r}{did_you_mean(name, MODELS)}; known: {known}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(*widths)
    if not isinstance(model, CompressionModel):
        raise InputError(f"codec {name!r} returns {type(model).__name__}; need a CompressAI model")
    return LearnedCodec(model)


def load(config: CodecConfig, path: str | Path) -> LearnedCodec:
    """A trained codec, ready to encode and decode; raises as `icmlib.io.load_weights`."""
    codec = create(config)
    load_weights(codec, path)
    return codec.to(device.current()).eval()


def pretrained(config: CodecConfig, quality: int) -> LearnedCodec:
    """CompressAI's codec of that name, trained for MSE, ready to encode and decode; its N and M
    override the config's. Raises as `zoo_config` and `icmlib.downloads.read_state`."""
    codec = create(zoo_config(config, quality))
    url = model_urls[KEYS[config.name]]["mse"][quality]
    state = read_state(url, f"{config.name} quality {quality}")
    codec.model.load_state_dict(load_pretrained(state))
    codec.to(device.current()).eval().update()
    return codec


def zoo_config(config: CodecConfig, quality: int) -> CodecConfig:
    """The config with the N and M of CompressAI's weights; ValueError: none of this quality."""
    known = model_urls.get(key := KEYS.get(config.name), {}).get("mse", {})
    if quality not in known:
        there = ", ".join(map(str, known)) or "none"
        raise InputError(f"{config.name} has no weights of quality {quality!r}; there are: {there}")
    return replace(config, {"N": cfgs[key][quality][0], "M": cfgs[key][quality][-1]})
