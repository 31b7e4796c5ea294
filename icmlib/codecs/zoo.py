"""CompressAI's image zoo: architectures by the name of their function, MSE weights by quality."""

import torch
from compressai.zoo.image import cfgs, model_architectures, model_urls
from compressai.zoo.pretrained import load_pretrained

from icmlib.config import CodecConfig, replace
from icmlib.downloads import read_state
from icmlib.io import InputError

_KEYS = {name.replace("-", "_"): name for name in model_architectures}  # function -> zoo's key
ARCHITECTURES = {name: model_architectures[key] for name, key in _KEYS.items()}


def zoo_config(config: CodecConfig, quality: int) -> CodecConfig:
    """The config with the N and M of CompressAI's weights of this quality, as `codecs.load` needs
    it for what was trained from them (cheng2020 has N alone; M says the same).

    Raises:
        ValueError: there are no weights of this name or quality; lists those there are.
    """
    _url(config.name, quality)
    widths = cfgs[_KEYS[config.name]][quality]
    return replace(config, {"N": widths[0], "M": widths[-1]})


def zoo_state(name: str, quality: int) -> dict[str, torch.Tensor]:
    """CompressAI's state dict, its keys as today's models have them; downloaded at first use.

    Raises:
        ValueError: there are no weights of this name or quality.
        WeightsUnavailable: see `icmlib.downloads.read_state`.
    """
    return load_pretrained(read_state(_url(name, quality), f"{name} quality {quality}"))


def _url(name: str, quality: int) -> str:
    """The address of the weights trained for MSE."""
    if _KEYS.get(name) not in model_urls:
        known = ", ".join(each for each, key in _KEYS.items() if key in model_urls)
        raise InputError(f"CompressAI has no weights for {name!r}; it has for: {known}")
    urls = model_urls[_KEYS[name]]["mse"]
    if quality not in urls:
        raise InputError(
            f"{name} has no weights of quality {quality!r}; there are: {', '.join(map(str, urls))}"
        )
    return urls[quality]
