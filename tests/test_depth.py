"""How much is training: runs by name, and what is asked of them."""

import numpy as np
import pandas as pd
import pytest
from test_table1 import row

from icmlib.evaluate import Evaluation, save_evaluation
from icmlib.metrics.detection import Matches
from icmlib.studies import depth, zoo

PROFILE = """
rows: {l2: {adversarial: none}, p3x64: {}}
depth:
  codec: {N: 8, M: 12}
  steps: [5, 20]
  rates: {low: {lambda_mse: 20.0}, high: {}}
  rows: [l2]
  weights: {20-low: given.safetensors}
"""


def evaluation(found: int) -> Evaluation:
    """Of eight images with an object each, so many of which are found."""
    right = np.ones((10, found), dtype=bool)
    place, positives = np.arange(8), np.ones((1, 8), dtype=int)
    mask = Matches(place, positives, np.zeros(found, dtype=int), place[:found], right, ~right)
    return Evaluation(pd.DataFrame({"image_id": place, "psnr": 20.0}), {}, {}, {"mask": mask})


def test_bases_are_compared_along_the_steps_and_rows_at_both_ends(profile, finished, tmp_path):
    assert list(profile.depth.runs()) == ["5-low", "5-high", "20-low", "20-high"]
    _, base, rows, weights = zoo.settings(profile, "20-low")
    assert (base.steps, base.lambda_mse, weights) == (20, 20.0, "given.safetensors")
    assert [*rows] == ["l2"] and rows["l2"].adversarial == "none"

    for name in profile.depth.runs():
        finished(f"zoo_base/{name}", test=row(1.0, 0.1, 1.0, 1) | {"bpp": 0.5})
        finished(f"zoo/{name}-l2", test=row(1.0, 0.1, 0.01, 1))
        all_found = name in ("20-low", "5-high", "20-high")
        folder = tmp_path / "results" / "tiny" / "zoo_base" / name
        save_evaluation(evaluation(8 if all_found else 4), folder, "test")
    table = zoo.read_runs(profile, profile.depth.runs())
    assert table.loc[("20-low", "l2"), ["removed", "given"]].tolist() == [99, "given.safetensors"]
    named = zoo.split_names(table, "steps", "rate").loc[("20-low", "l2")]
    assert named[["steps", "rate"]].tolist() == ["20", "low"]
    found = depth.findings(profile, table, "mask_AP").set_index("finding")
    rising = found.loc["low rate, 20 steps for 5: mask AP at most half a % up"]
    assert rising["value"] == pytest.approx(50, abs=1) and rising["verdict"] == "does not hold"
    equal = found.loc["high rate, 20 steps for 5: mask AP at most half a % up"]
    assert equal[["value", "verdict"]].tolist() == [0, "holds"]
    gone = "5 steps, high rate, l2: at least 90 % of the excess pattern removed"
    assert found.loc[gone, "verdict"] == "holds"
    assert len(found) == 2 + 4 * 5
