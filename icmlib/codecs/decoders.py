"""One bitstream, several decoders: the codec's own for the machine, finetuned ones for people, and
interpolations between them.

A file of decoders is safetensors: the codec under its own names; of each other decoder only the
tensors that differ, as `<decoder>/<name>`; in the header the architecture and the fingerprints.
Weights that half precision holds exactly are stored in it, and widened when they are read.
"""

import contextlib
import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from icmlib.codecs import SHIPPED
from icmlib.codecs.learned import LearnedCodec
from icmlib.codecs.zoo import create
from icmlib.config import CodecConfig, from_dict
from icmlib.io import InputError, fingerprint, load_state, read_header, write

MACHINE, HUMAN = "machine", "human"


class Decoders:
    """A codec, whose decoder is the `machine`'s, and of others the weights of `g_s` that differ."""

    def __init__(self, codec: LearnedCodec, finetuned: dict[str, dict[str, torch.Tensor]]):
        self.codec, self.finetuned = codec, finetuned

    @property
    def names(self) -> list[str]:
        return [MACHINE, *self.finetuned]

    def turn(self, to: str | float) -> LearnedCodec:
        """A codec with this decoder, which shares all other weights with this one: a name, or a
        number from 0 (`machine`) to 1 (`human`) that interpolates each weight (Wang et al., Deep
        Network Interpolation, CVPR 2019). Raises ValueError: no such decoder."""
        if to in self.names:
            return self.codec.with_decoder(self.finetuned.get(to, {}))
        known, human = ", ".join(self.names), self.finetuned.get(HUMAN)
        if human is not None:
            known += ", or a number from 0 (machine) to 1 (human)"
            with contextlib.suppress(ValueError):  # no number
                if 0 <= (place := float(to)) <= 1:
                    own = self.codec.g_s.state_dict()
                    weights = {n: own[n].lerp(human[n].to(own[n]), place) for n in human}
                    return self.codec.with_decoder(weights)
        raise InputError(f"unknown decoder {to!r}; these weights have: {known}")

    @classmethod
    def of(cls, codec: LearnedCodec, finetuned: dict[str, LearnedCodec]) -> "Decoders":
        """From whole codecs; raises ValueError: one that does not read the bits of `codec`."""
        own, changed = codec.g_s.state_dict(), {}
        for name, other in finetuned.items():
            if other.fingerprint != codec.fingerprint:
                codecs = f"another codec ({other.fingerprint}, this one is {codec.fingerprint})"
                how = "whose bits it reads; finetune it from this one"
                raise InputError(f"decoder {name} is of {codecs}, {how}")
            weights = other.g_s.state_dict()
            changed[name] = {n: w.clone() for n, w in weights.items() if not w.equal(own[n])}
        return cls(codec, changed)

    def fingerprints(self) -> dict[str, str]:
        """Of encoder, entropy model and every decoder."""
        shared = {part: self.codec.fingerprint_of(part) for part in ("encoder", "entropy")}
        return shared | {name: fingerprint(self.turn(name).g_s) for name in self.names}

    def save(self, path: str | Path, config: CodecConfig) -> None:
        """Everything into one file; `config` is the codec's architecture."""
        tensors = self.codec.state_dict()
        for decoder, weights in self.finetuned.items():
            tensors |= {f"{decoder}/{name}": weight for name, weight in weights.items()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        halves = {name: t.half() for name, t in tensors.items() if t.dtype == torch.float32}
        tensors |= {name: h for name, h in halves.items() if h.float().equal(tensors[name])}
        header = {"codec": dataclasses.asdict(config), "fingerprints": self.fingerprints()}
        header = {name: json.dumps(value) for name, value in header.items()}
        write(Path(path), save(tensors, header))


def read_decoders(path: str | Path = SHIPPED) -> Decoders:
    """What `Decoders.save` wrote, on the CPU, ready to encode and decode; by default the shipped
    file. Raises FileNotFoundError; ValueError: broken, or of other tensors than it states."""
    if not Path(path).exists():
        raise FileNotFoundError(f"file of decoders {path} does not exist")
    weights = {}  # by decoder; the codec's own by ""
    try:
        header = read_header(path)
        for name, tensor in load_file(path).items():
            decoder, _, own_name = name.rpartition("/")
            tensor = tensor.float() if tensor.is_floating_point() else tensor
            weights.setdefault(decoder, {})[own_name] = tensor
        config = from_dict(CodecConfig, header["codec"])
        if ":" in config.name:  # files come from strangers
            raise ValueError(f"it asks to call {config.name}, which only a profile may do")
        codec = create(config)
        load_state(codec, weights.pop(""), path)
        decoders = Decoders(codec.eval(), weights)
        if decoders.fingerprints() != header["fingerprints"]:
            raise ValueError("its tensors are not those that its header states; get it again")
        return decoders
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        where = "notebook 08 makes one, and a run folder serves, too"
        raise InputError(f"{path} is no whole file of decoders ({error!r}); {where}") from error
