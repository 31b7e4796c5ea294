"""Where the pattern comes from: runs by name, equal rates, and what is found."""

import numpy as np
import pandas as pd
import pytest
from test_curves import curve

from icmlib.studies import origin, zoo

PROFILE = """
base: {steps: 9, lambda_mse: 50.0}
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


def test_a_run_changes_the_base_training(profile):
    assert len(profile.origin.runs()) == 8
    codec, base, *_ = zoo.settings(profile, "k4-moving-low")
    assert codec.name == "scale_hyperprior_s8_k4"
    assert (base.steps, base.shift, base.lambda_mse) == (4, 7, 20.0)
    assert zoo.settings(profile, "k5-fixed-high")[1].lambda_mse == 50.0
    assert profile.moving_chains == {"C-FT-fixed-q2": "q2-C-FT", "C-FT-moving-q2": "q2-moving"}


def test_equal_rate_is_in_the_middle_of_the_common_rates():
    one = curve((0.2, 0.3), (20, 22), rates=(0.1, 0.4), noise=0.01)
    other = curve((0.25, 0.35), (21, 23), rates=(0.1, 0.4), noise=0.01)
    found = origin.at_equal_rate(one, other, "box_AP")
    assert found["bpp"] == pytest.approx(0.2)
    assert found["box_AP"]["value"] == pytest.approx(20)
    assert found["psnr"] == pytest.approx({"value": 1, "low": 1, "high": 1})
    apart = curve((0.25, 0.35), (21, 23), rates=(0.5, 0.6))
    assert np.isnan(origin.at_equal_rate(one, apart, "box_AP")["box_AP"]["value"])


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
    found = origin.findings(rows, curves, "box_AP").set_index("finding")["verdict"]
    assert found["k5, moving grid: less than half of the pattern, low rate"] == "holds"
    assert found["k4 for k5: less than half of the pattern, high rate"] == "does not hold"
    assert found["k4 for k5: box AP at most 1 % down at equal rate"] == "holds"
    assert len(found) == 3 * 4
    share = origin.share(rows.loc["k5-fixed-low"], rows.loc["k5-moving-low"])
    assert share == pytest.approx({"value": 0.1, "low": 0.18 / 2.2, "high": 0.22 / 1.8})
