"""Studies on base codecs of their own: the zoo, how much is training, where the pattern is from."""

import numpy as np
import pandas as pd
import pytest
from test_rate_task import curve
from test_table1 import row

from icmlib.config import CodecConfig
from icmlib.evaluate import Evaluation, save_evaluation
from icmlib.metrics.detection import Matches
from icmlib.studies import bases

PROFILE = """
base: {steps: 9, batch: 2, lambda_mse: 50.0}
finetune: {steps: 5}
rows: {a: {layers: 3}, b: {}, l2: {adversarial: none}, p3x64: {}}
zoo:
  small: {codec: {name: mbt2018_mean, N: 8, M: 12}, base: {steps: 3}, rows: [a, b]}
  plain: {codec: {name: cheng2020_anchor, N: 6, M: 6}, rows: [a]}
  given: {codec: {N: 8, M: 12}, weights: given.safetensors, rows: [b]}
depth:
  codec: {N: 8, M: 12}
  steps: [5, 20]
  rates: {low: {lambda_mse: 20.0}, high: {}}
  rows: [l2]
  weights: {20-low: given.safetensors}
origin:
  base: {steps: 4}
  codecs: {k5: {N: 8, M: 12}, k4: {name: scale_hyperprior_s8_k4, N: 8, M: 12}}
  grids: {fixed: {}, moving: {shift: 7}}
  rates: {low: {lambda_mse: 20.0}, high: {}}
  chains: {C-FT: moving}
rate_task:
  points: {q1: {lambda_mse: 1.0}, q2: {lambda_mse: 2.0}}
  configurations: {C-FT: {parts: [decoder]}, moving: {parts: [decoder], shift: 7}}
  only_at: {moving: [q2]}
"""
RATES = {"low": 0.2, "high": 0.4}


def test_a_codec_changes_what_study_1_shares(profile):
    architecture, base, rows, _ = bases.settings(profile, "small")
    finetune = rows["a"]
    assert architecture == CodecConfig("mbt2018_mean", N=8, M=12)
    assert (base.steps, base.batch, finetune.steps, finetune.layers) == (3, 2, 5, 3)
    assert bases.settings(profile, "plain")[1] == profile.base
    with pytest.raises(ValueError, match=r"codec 'smal'; the profile has: small, plain, given"):
        bases.settings(profile, "smal")


def test_runs_are_read_by_codec_and_row(profile, finished):
    before, after = row(2.0, 0.0, 2.0, 0), row(1.0, 0.7, 1.0, 0)
    for run, test in (("zoo_base/plain", before), ("zoo/plain-a", after), ("zoo/given-b", after)):
        finished(run, test=test, label=run)
    table = bases.read_runs(profile, ["plain"])
    assert table.index.tolist() == [("plain", "base"), ("plain", "a")]
    found = table.loc[("plain", "a")]
    assert (found["label"], found["given"]) == ("zoo/plain-a", "trained here")
    assert (found["mask_AP"], found["mask_AP_change"], found["removed"]) == (1, 35, 50)
    with pytest.raises(FileNotFoundError, match="zoo_base/given is not finished"):
        bases.read_runs(profile, ["plain", "given"])
    finished("zoo_base/given", test=before)
    assert bases.read_runs(profile, ["given"])["given"].tolist() == ["given.safetensors"] * 2


def evaluation(found: int) -> Evaluation:
    """Of eight images with an object each, so many of which are found."""
    right = np.ones((10, found), dtype=bool)
    place, positives = np.arange(8), np.ones((1, 8), dtype=int)
    mask = Matches(place, positives, np.zeros(found, dtype=int), place[:found], right, ~right)
    return Evaluation(pd.DataFrame({"image_id": place, "psnr": 20.0}), {}, {}, {"mask": mask})


def test_bases_are_compared_along_the_steps_and_rows_at_both_ends(profile, finished, tmp_path):
    assert list(profile.depth.runs()) == ["5-low", "5-high", "20-low", "20-high"]
    _, base, rows, weights = bases.settings(profile, "20-low")
    assert (base.steps, base.lambda_mse, weights) == (20, 20.0, "given.safetensors")
    assert [*rows] == ["l2"] and rows["l2"].adversarial == "none"

    for name in profile.depth.runs():
        finished(f"zoo_base/{name}", test=row(1.0, 0.1, 1.0, 1) | {"bpp": 0.5})
        finished(f"zoo/{name}-l2", test=row(1.0, 0.1, 0.01, 1))
        all_found = name in ("20-low", "5-high", "20-high")
        folder = tmp_path / "results" / "tiny" / "zoo_base" / name
        save_evaluation(evaluation(8 if all_found else 4), folder, "test")
    table = bases.read_runs(profile, profile.depth.runs())
    assert table.loc[("20-low", "l2"), ["removed", "given"]].tolist() == [99, "given.safetensors"]
    named = bases.split_names(table, "steps", "rate").loc[("20-low", "l2")]
    assert named[["steps", "rate"]].tolist() == ["20", "low"]
    found = bases.depth_findings(profile, table, "mask_AP").set_index("finding")
    rising = found.loc["low rate, 20 steps for 5: mask AP at most half a % up"]
    assert rising["value"] == pytest.approx(50, abs=1) and rising["verdict"] == "does not hold"
    equal = found.loc["high rate, 20 steps for 5: mask AP at most half a % up"]
    assert equal[["value", "verdict"]].tolist() == [0, "holds"]
    gone = "5 steps, high rate, l2: at least 90 % of the excess pattern removed"
    assert found.loc[gone, "verdict"] == "holds"
    assert len(found) == 2 + 4 * 5


def test_a_run_changes_the_base_training(profile):
    assert len(profile.origin.runs()) == 8
    codec, base, *_ = bases.settings(profile, "k4-moving-low")
    assert codec.name == "scale_hyperprior_s8_k4"
    assert (base.steps, base.shift, base.lambda_mse) == (4, 7, 20.0)
    assert bases.settings(profile, "k5-fixed-high")[1].lambda_mse == 50.0
    assert profile.moving_chains == {"C-FT-fixed-q2": "q2-C-FT", "C-FT-moving-q2": "q2-moving"}


def test_equal_rate_is_in_the_middle_of_the_common_rates():
    one = curve((0.2, 0.3), (20, 22), rates=(0.1, 0.4), noise=0.01)
    other = curve((0.25, 0.35), (21, 23), rates=(0.1, 0.4), noise=0.01)
    found = bases.at_equal_rate(one, other, "box_AP")
    assert found["bpp"] == pytest.approx(0.2)
    assert found["box_AP"]["value"] == pytest.approx(20)
    assert found["psnr"] == pytest.approx({"value": 1, "low": 1, "high": 1})
    apart = curve((0.25, 0.35), (21, 23), rates=(0.5, 0.6))
    assert np.isnan(bases.at_equal_rate(one, apart, "box_AP")["box_AP"]["value"])


def test_findings_are_of_each_codec_and_of_each_way_to_enlarge():
    """The moving grid takes a tenth of the pattern to be left; another kernel changes nothing."""
    rows = {
        f"{codec}-{grid}-{rate}": {"codec": codec, "grid": grid, "rate": rate}
        | dict(zip(("prms", "prms_low", "prms_high"), np.array([1, 0.9, 1.1]) * prms))
        for codec in ("k5", "k4")
        for grid, prms in (("fixed", 2.0), ("moving", 0.2))
        for rate in RATES
    }
    rows = pd.DataFrame.from_dict(rows, orient="index")
    point = curve((0.2, 0.3), (20, 22), rates=(*RATES.values(),), noise=0.01)
    curves = {f"{c}-{g}": point for c in ("k5", "k4") for g in ("fixed", "moving")}
    found = bases.origin_findings(rows, curves, "box_AP").set_index("finding")["verdict"]
    assert found["k5, moving grid: less than half of the pattern, low rate"] == "holds"
    assert found["k4 for k5: less than half of the pattern, high rate"] == "does not hold"
    assert found["k4 for k5: box AP at most 1 % down at equal rate"] == "holds"
    assert len(found) == 3 * 4
    share = bases.share(rows.loc["k5-fixed-low"], rows.loc["k5-moving-low"])
    assert share == pytest.approx({"value": 0.1, "low": 0.18 / 2.2, "high": 0.22 / 1.8})
