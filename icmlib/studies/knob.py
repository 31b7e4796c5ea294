"""Study 1 beyond the paper: one bitstream, two decoders, and the knob between them, set beside its
rivals, a mixture of both pictures and the low-impact model."""

from bisect import bisect_left
from collections.abc import Callable

import pandas as pd
import torch

from icmlib.codecs import Bitstream, Decoders
from icmlib.codecs.decoders import HUMAN, MACHINE
from icmlib.evaluate import Evaluation, compare, evaluate, summarize
from icmlib.studies.verdicts import FINDING, finding, with_interval

MEASURES = {"mask_AP": "mask AP", "box_AP": "box AP", "psnr": "PSNR", "ssim": "SSIM"}
DISTANCES = {"feature": "feature distance", "vgg": "VGG distance"}  # less is better


class Blend:
    """Interpolation of pictures, not of weights; `place` is the share of the human's."""

    def __init__(self, decoders: Decoders, place: float):
        self.machine, self.human = decoders.turn(MACHINE), decoders.turn(HUMAN)
        self.place, self.encode = place, self.machine.encode

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        return self.machine.decode(bitstream).lerp(self.human.decode(bitstream), self.place)


def same_pattern(turn: Callable[[float], object], excess: float, data, halvings: int = 6) -> float:
    """The first of 2^halvings places with an excess PRMS over `data` of at most `excess` (grey
    levels), by bisection; 1 if none has. `turn` makes the codec of a place from
    0 (machine) to 1 (human)."""

    def weak_enough(part: int) -> bool:
        measured = evaluate(turn(part / 2**halvings), None, data, progress=False)
        return summarize(measured, resamples=2)["excess_prms"] <= excess

    return bisect_left(range(2**halvings), True, key=weak_enough) / 2**halvings


def against(
    reference: Evaluation, evaluations: dict[str, Evaluation], resamples: int
) -> pd.DataFrame:
    """Findings on whether each is no worse than the reference, one for each measure."""
    rows = []
    for name, each in evaluations.items():
        paired = compare(reference, each, resamples)
        for measure, text in (MEASURES | DISTANCES).items():
            if f"{measure}_difference" in paired:
                found = with_interval(paired, f"{measure}_difference")
                bound = 0.0 if measure in DISTANCES else None
                claim = finding(f"{name}: {text} not worse", measure, found, at_most=bound)
                rows.append({"row": name} | claim)
    return pd.DataFrame(rows, columns=["row", *FINDING])
