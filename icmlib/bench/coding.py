"""Data sets to bitstreams and back: all cores beside CompressAI's one image at a time."""

import copy

import torch
from torch import nn

from icmlib import codecs
from icmlib.bench.harness import Pair, largest_difference
from icmlib.codecs.bitstream import Bitstream


def encoding(codec: codecs.LearnedCodec, images) -> Pair:
    """A data set to bitstreams, on all cores; theirs is CompressAI's `compress`, image by image."""
    model = compressai_model(codec)

    def ours() -> list[tuple]:
        return [Bitstream.from_bytes(file).strings for file in codecs.encode_all(codec, images)]

    @torch.no_grad()
    def theirs() -> list[tuple]:
        padded = (codec.pad(images.image(index)[None]) for index in range(len(images)))
        coded = [model.compress(x)["strings"] for x in padded]
        return [tuple(string[0] for string in strings) for strings in coded]

    return Pair(ours, theirs, lambda ours, theirs: float(ours != theirs))


def decoding(codec: codecs.LearnedCodec, images) -> Pair:
    """The bitstreams of a data set to images; theirs is CompressAI's `decompress`."""
    model, files = compressai_model(codec), list(codecs.encode_all(codec, images))
    bitstreams = [Bitstream.from_bytes(file) for file in files]
    stride = codec.model.downsampling_factor

    @torch.no_grad()
    def theirs() -> list[torch.Tensor]:
        decoded = []
        for b in bitstreams:
            shape = (-(-b.height // stride), -(-b.width // stride))
            x_hat = model.decompress([[string] for string in b.strings], shape)["x_hat"]
            decoded.append(x_hat[0, :, : b.height, : b.width])
        return decoded

    return Pair(lambda: list(codecs.decode_all(codec, files)), theirs, largest_difference)


def compressai_model(codec: codecs.LearnedCodec) -> nn.Module:
    """The codec's model as CompressAI has it: a copy brings its own range coder back, and is rid of
    the methods that `LearnedCodec` replaced."""
    model = copy.deepcopy(codec.model)
    for module in model.modules():
        for name in ("forward", "build_indexes"):
            vars(module).pop(name, None)
    return model
