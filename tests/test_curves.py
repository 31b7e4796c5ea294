"""Curves over rate: between the points, between the curves, and what is found on them."""

import numpy as np
import pandas as pd
import pytest

from icmlib.studies import curves, rate_task, verdicts

RATES = np.array([0.1, 0.2, 0.4, 0.8])
BASELINE = (0.20, 0.30, 0.40, 0.50)
SHELF = "off the shelf, the learned codec is at least as good"


def curve(ap, psnr=(20, 22, 24, 26), rates=RATES, noise: float = 0.0, resamples: int = 50) -> dict:
    """The same noise for every curve of the same size, as paired resamples have it."""
    shift = np.concatenate([[0.0], np.random.default_rng(0).normal(0, 1, resamples)])
    spread = lambda values: np.asarray(values, float)[:, None] + noise * shift  # noqa: E731
    rates = np.repeat(np.asarray(rates, float)[:, None], resamples + 1, 1)
    return {"bpp": rates, "box_AP": spread(ap), "psnr": spread(psnr)}


WORSE = curve(np.subtract(BASELINE, 0.1))
STUDY = {
    "baseline": curve(BASELINE, noise=0.02),
    "T-FT": curve((0.25, 0.35, 0.45, 0.52), noise=0.02),
    "C-FT": curve((0.28, 0.36, 0.44, 0.51), (15, 16, 17, 18), noise=0.02),
    "J-FT": curve((0.32, 0.40, 0.47, 0.53), (14, 15, 16, 17), noise=0.02),
    "HEVC": curve((0.15, 0.25, 0.38, 0.49), noise=0.02),
}


def test_at_rate_goes_through_the_points_and_no_further():
    line = curve((0.1, 0.2, 0.3, 0.4))
    assert curves.at_rate(line, "box_AP", 0.2)[0] == pytest.approx(0.2)
    between = curves.at_rate(line, "box_AP", np.sqrt(0.2 * 0.4))
    assert between == pytest.approx(np.full(51, 0.25))  # straight over the log of the rate
    assert all(np.isnan(curves.at_rate(line, "box_AP", rate)).all() for rate in (0.09, 0.81))
    backwards = curve((0.4, 0.3, 0.2, 0.1), rates=RATES[::-1])
    assert curves.at_rate(backwards, "box_AP", 0.3)[0] == curves.at_rate(line, "box_AP", 0.3)[0]


def test_deltas_of_shifted_curves():
    """Five points of mAP more at every rate; the interval of a paired difference is narrow."""
    shifted = {
        "baseline": curve(BASELINE, noise=0.03),
        "better": curve(np.add(BASELINE, 0.05), (19, 21, 23, 25), noise=0.03),
    }
    table = curves.deltas(shifted, "baseline").set_index("what")
    assert table.loc["BD-mAP", "value"] == pytest.approx(5)
    assert table.loc["BD-mAP", "low"] == pytest.approx(5) == table.loc["BD-mAP", "high"]
    assert table.loc["BD-PSNR (dB)", "value"] == pytest.approx(-1)
    assert table.loc["BD-rate (%)", "value"] < -20


def test_findings_hold_where_they_should():
    table = curves.findings(STUDY).set_index("finding")
    assert len(table) == 8 and (table["verdict"] == "holds").all()
    psnr = table.loc["PSNR falls as the task gains, J-FT"]
    assert psnr["value"] == pytest.approx(6)
    best = table.loc["J-FT is best at the lowest rate"]
    assert best["value"] == pytest.approx(4) and "0.100 bpp" in best["measure"]
    some = {"a": curve(BASELINE), "b": curve(BASELINE, rates=2 * RATES)}
    assert curves.lowest_common_rate(*some.values()) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "other", "finding", "verdict", "reason"),
    [
        ("T-FT", WORSE, "T-FT beats the baseline", "does not hold", ""),
        ("baseline", WORSE, SHELF, "does not hold", ""),
        ("HEVC", curve(BASELINE, rates=50 * RATES), SHELF, "cannot be said", "overlap"),
    ],
)
def test_findings_that_do_not_hold(name, other, finding, verdict, reason):
    table = curves.findings(STUDY | {name: other})
    (row,) = table[table["finding"].str.startswith(finding)].to_dict("records")
    assert row["verdict"] == verdict and reason in row["reason"]


def test_findings_without_the_configurations():
    """Empty tables, but with their columns: what reads them goes on."""
    alone = {"baseline": STUDY["baseline"]}
    assert curves.findings(alone).empty and "finding" in curves.findings(alone)
    assert curves.deltas(alone, "baseline").empty and "what" in curves.deltas(alone, "baseline")
    pair = alone | {"HEVC": STUDY["HEVC"]}
    assert curves.findings(pair)["finding"].item().endswith("as HEVC")
    assert curves.findings(pair | {"VVC": pair["HEVC"]})["finding"].item().endswith("as VVC")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 2.0, "holds"),
        (0.0, 2.0, "undecided"),
        (-1.0, 2.0, "undecided"),
        (-2.0, -0.1, "does not hold"),
        (np.nan, np.nan, "cannot be said"),
    ],
)
def test_a_finding_holds_where_its_whole_interval_does(low, high, said):
    found = {"value": (low + high) / 2, "low": low, "high": high}
    assert verdicts.finding("text", "mAP", found)["verdict"] == said
    shifted = {name: value - 2 for name, value in found.items()}
    assert verdicts.finding("text", "mAP", shifted, at_least=-2)["verdict"] == said
    mirrored = {"value": -found["value"], "low": -high, "high": -low}
    assert verdicts.finding("text", "mAP", mirrored, at_most=0)["verdict"] == said


def test_bridge_findings_follow_the_aims():
    row = {"point": "q1", "row": "finetuned", "back": 0.7, "back_low": 0.6, "back_high": 0.8}
    row |= {"box_AP_change": -3.0, "box_AP_change_low": -5.0, "box_AP_change_high": -1.0}
    found = rate_task.bridge_findings(pd.DataFrame([row]), back=50, change=-2)
    assert list(found["verdict"]) == ["holds", "undecided"]
    assert found["finding"][0] == "bridge q1-finetuned: at least 50 % of the lost PSNR back"
    assert list(rate_task.bridge_findings(pd.DataFrame([row]), 80, -6)["verdict"])[1] == "holds"
    assert rate_task.bridge_findings(pd.DataFrame(), 50, -2).empty
