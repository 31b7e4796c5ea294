"""Study 1 beyond the paper: one bitstream, two decoders, and the knob between them, set beside its
rivals, a mixture of both pictures and the low-impact model."""

from collections.abc import Callable

import pandas as pd

from icmlib import codecs
from icmlib.codecs import Decoders
from icmlib.evaluate import Evaluation, compare, evaluate, save_evaluation, summarize
from icmlib.studies.profile import Profile
from icmlib.studies.runs import Run, read_summary
from icmlib.studies.verdicts import FINDING, finding, with_interval

UP, DOWN = {"at_least": 0.0}, {"at_most": 0.0}
BETTER = {
    "mask_AP": ("mask AP", UP),
    "box_AP": ("box AP", UP),
    "psnr": ("PSNR", UP),
    "ssim": ("SSIM", UP),
    "feature": ("feature distance", DOWN),
}
Turn = Callable[[float], object]  # place between the decoders, 0 to 1 -> codec


def ways(decoders: Decoders) -> dict[str, Turn]:
    """From machine (0) to human (1): by the decoder's weights, or by mixing both pictures."""
    return {"knob": decoders.turn, "blend": lambda place: codecs.Blend(decoders, place)}


def same_pattern(turn: Turn, excess: float, data, halvings: int = 6) -> float:
    """The first place on the way, of 2^halvings, that leaves no more than `excess` of the pattern
    over `data` (excess PRMS, grey levels), by bisection: the pattern falls along the way. 1, where
    the human decoder leaves more, too."""

    def leaves_more(place: float) -> bool:
        return summarize(evaluate(turn(place), None, data), resamples=2)["excess_prms"] > excess

    low, high = 0.0, 1.0
    if not leaves_more(low):
        return low
    for _ in range(halvings):
        place = (low + high) / 2
        low, high = (place, high) if leaves_more(place) else (low, place)
    return high


def trace(
    turns: dict[str, Turn], places: dict[str, list[float]], task, data, run: Run
) -> dict[tuple[str, float], Evaluation]:
    """Every way at each of its places, measured; what the detections were goes to `run`."""
    evaluations = {}
    for way, turn in turns.items():
        for place in places[way]:
            evaluations[way, place] = evaluate(turn(place), task, data)
            save_evaluation(evaluations[way, place], run.folder, f"{way}_{place:g}")
    return evaluations


def table(
    profile: Profile,
    human: str,
    low_impact: str,
    evaluations: dict[tuple[str, float], Evaluation],
    base: Evaluation,
) -> pd.DataFrame:
    """One row for each evaluation of `trace`, the base codec and the two finetuned rows: all
    measures, and paired differences from the base codec with their 95 % intervals.

    Columns `way` (knob, blend, or the low-impact row) and `place` (0 to 1; none for that row) say
    which.
    """
    ends = {
        "base": ("knob", 0.0, read_summary(profile, "base_codec", "base")),
        human: ("knob", 1.0, read_summary(profile, "finetune", human)),
        low_impact: (low_impact, None, read_summary(profile, "finetune", low_impact)),
    }
    rows = {
        n: {"way": way, "place": place} | found["test"] for n, (way, place, found) in ends.items()
    }
    resamples = profile.evaluation.resamples
    for (way, place), each in evaluations.items():
        measured = summarize(each, resamples) | compare(base, each, resamples)
        rows[f"{way} {place:g}"] = {"way": way, "place": place} | measured
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")


def against(
    reference: Evaluation, evaluations: dict[str, Evaluation], resamples: int
) -> pd.DataFrame:
    """Whether each is no worse than the reference, measure by measure: `verdicts.finding` of the
    paired differences, and the row's name."""
    rows = []
    for name, each in evaluations.items():
        paired = compare(reference, each, resamples)
        for measure in [m for m in BETTER if f"{m}_difference" in paired]:
            text, bound = BETTER[measure]
            found = with_interval(paired, f"{measure}_difference")
            text = f"{name}: {text} not worse"
            rows.append({"row": name} | finding(text, measure, found, **bound))
    return pd.DataFrame(rows, columns=["row", *FINDING])
