"""The knob beside its rivals: where it leaves as much of the pattern, and what is better there."""

import pandas as pd
import pytest
from conftest import picture

from icmlib.evaluate import Evaluation
from icmlib.studies import knob


@pytest.mark.parametrize("target, place", [(-0.1, 1.0), (0.3, 0.703125), (0.5, 0.5), (1.0, 0.0)])
def test_the_first_place_that_leaves_no_more_of_the_pattern(monkeypatch, target, place):
    """Of 64, where the pattern falls from 1 to 0 in proportion."""
    monkeypatch.setattr(knob, "evaluate", lambda codec, task, data, progress: codec)
    monkeypatch.setattr(knob, "summarize", lambda at, resamples: {"excess_prms": 1 - at})
    assert knob.same_pattern(lambda at: at, target, None) == place


def evaluation(psnr: list[float], feature: list[float], **more) -> Evaluation:
    columns = {"image_id": range(len(psnr)), "psnr": psnr, "feature": feature, **more}
    return Evaluation(pd.DataFrame(columns), {}, {}, {})


def test_better_is_up_or_down_as_the_measure_has_it():
    """Of the feature distance less is better; an interval around zero decides nothing."""
    reference = evaluation([20.0] * 8, [0.5] * 8, ssim=[0.5] * 8)
    up_and_down = evaluation([21.0] * 8, [0.4] * 8, ssim=[0.4, 0.6] * 4)
    down_and_up = evaluation([19.0] * 8, [0.6] * 8, ssim=[0.5] * 8)
    found = knob.against(reference, {"a": up_and_down, "b": down_and_up}, resamples=200)
    verdicts = found.set_index(["row", "measure"])["verdict"].to_dict()
    assert verdicts == {
        ("a", "psnr"): "holds",
        ("a", "feature"): "holds",
        ("a", "ssim"): "undecided",
        ("b", "psnr"): "does not hold",
        ("b", "feature"): "does not hold",
        ("b", "ssim"): "undecided",  # the same: an interval that touches zero proves nothing
    }
    first = found.iloc[0]
    assert first["finding"] == "a: PSNR not worse"
    assert first[["value", "low", "high"]].tolist() == [1, 1, 1]


def test_a_blend_mixes_the_pictures(codec, decoders):
    bitstream = codec.encode(picture())
    machine, human = (decoders.turn(to).decode(bitstream) for to in ("machine", "human"))
    mixed = knob.Blend(decoders, 0.25)
    assert mixed.encode(picture()) == bitstream
    assert mixed.decode(bitstream).equal(machine.lerp(human, 0.25)) and not machine.equal(human)
