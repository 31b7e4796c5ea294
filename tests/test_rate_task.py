"""Study 2: settings by name, curves over rate, what is found on them, the bridge."""

import numpy as np
import pandas as pd
import pytest

from icmlib.evaluate import Evaluation, matched
from icmlib.studies import curves, rate_task, verdicts
from icmlib.studies.profile import load_profile

PROFILE = """
rate_task:
  codec: {N: 8, M: 12}
  chain: {steps: 4, beta: 9.0}
  points: {q1: {lambda_mse: 10.0, beta: 2.0}, q2: {lambda_mse: 40.0, beta: 1.0}}
  configurations:
    T-FT: {parts: [task]}
    C-FT: {parts: [encoder, decoder, entropy], lr: 0.5}
    encoder: {parts: [encoder]}
  only_at: {encoder: [q2], control: [q1]}
  bridge_at: [q1, q2]
  bridge_rows: {control: {lambda_task: 7.0}}
  anchors: {JPEG: {quality: [10, 30], container: false}, VVC: {quality: [37]}}
"""
RATES = np.array([0.1, 0.2, 0.4, 0.8])
BASELINE = (0.20, 0.30, 0.40, 0.50)
SHELF = "off the shelf, the learned codec is at least as good"
MEASURES = dict.fromkeys(["psnr", "box_AP", "ssim", "lpp2", "lpp4", "lpp8", "prms"], 0.0)


def test_a_configuration_takes_its_points_price(profile):
    config = rate_task.chain(profile, "q1", "C-FT")
    assert (config.beta, config.lr, config.steps) == (2.0, 0.5, 4)
    assert profile.rate_task.points_of("T-FT") == ["q1", "q2"]
    assert profile.rate_task.points_of("encoder") == ["q2"]
    with pytest.raises(ValueError, match=r"unknown point 'q9'; the profile has: q1, q2"):
        rate_task.chain(profile, "q9", "C-FT")
    with pytest.raises(ValueError, match=r"unknown configuration 'X'; the profile has: T-FT"):
        rate_task.chain(profile, "q1", "X")


def test_a_bridge_has_its_controls(profile):
    study = profile.rate_task
    assert study.bridges() == [("q1", "finetuned"), ("q1", "control"), ("q2", "finetuned")]
    assert rate_task.bridge_config(profile, "q1", "control").lambda_task == 7.0
    assert rate_task.bridge_config(profile, "q2", "finetuned") == study.bridge
    with pytest.raises(ValueError, match=r"unknown bridge 'q2-control'; .* q1-control"):
        rate_task.bridge_config(profile, "q2", "control")


def test_a_seed_is_1_or_more(profile):
    for name in ("none-seed3", "tiny-seed0", "tiny-seed01"):  # 0 is the profile itself
        with pytest.raises(FileNotFoundError, match=r"there are: tiny; .*-seed1"):
            load_profile(name)


def test_points_not_measured_are_left_out(profile, finished):
    for point in ("q1", "q2"):
        finished(f"mse_codec/{point}", test={"bpp": 0.1})
    for run in ("q1-T-FT", "q2-T-FT", "q1-C-FT", "q2-C-FT", "q2-encoder"):
        finished(f"chain/{run}", test={"bpp": 0.2})
    finished("anchor/JPEG", points=["q10", "q30"], q10={"bpp": 0.3}, q30={"bpp": 0.4})
    finished("anchor/VVC", points=[], reason="no build")
    table = rate_task.read_points(profile)
    counts = table["curve"].value_counts().to_dict()
    assert counts == {"baseline": 2, "T-FT": 2, "C-FT": 2, "encoder": 1, "JPEG": 2}
    assert table.query("curve == 'JPEG'")["bpp"].tolist() == [0.3, 0.4]


def test_the_bridge_is_judged_at_its_own_rate(profile, finished):
    """The MSE codec gives 20 dB at 0.1 bpp and 26 dB at 0.4, so 23 dB at 0.2; C-FT has 15 dB."""
    finished("mse_codec/q1", test={"bpp": 0.1, "psnr": 20.0})
    finished("mse_codec/q2", test={"bpp": 0.4, "psnr": 26.0})
    finished("chain/q1-C-FT", test=MEASURES | {"psnr": 15.0, "box_AP": 0.5})
    measured = MEASURES | {"bpp": 0.2, "box_AP_difference": -0.01}
    measured |= {"box_AP_difference_low": -0.02, "box_AP_difference_high": 0.005}
    measured |= {"psnr_difference": 6.0, "psnr_difference_low": 5.0, "psnr_difference_high": 7.0}
    found = rate_task.bridge(profile, "q1", "control", measured)
    assert found["psnr_baseline"] == pytest.approx(23)
    assert found["back"] == pytest.approx(6 / 8)
    assert (found["back_low"], found["back_high"]) == pytest.approx((5 / 8, 7 / 8))
    assert found["box_AP_change"] == pytest.approx(-2)
    assert found["box_AP_change_high"] == pytest.approx(1)
    outside = rate_task.bridge(profile, "q1", "control", measured | {"bpp": 0.05})
    assert (outside["psnr_baseline"], outside["back"]) == (20.0, pytest.approx(6 / 5))
    finished("chain/q2-C-FT", test=MEASURES | {"psnr": 27.0})  # nothing lost, nothing to give back
    assert np.isnan(rate_task.bridge(profile, "q2", "finetuned", measured)["back"])


def test_resamples_are_of_the_same_images_for_every_measure():
    """Images are listed in any order, matches in that of the ids."""
    one = {"category_id": 1, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0}
    objects = [one | {"id": i, "image_id": i} for i in (2, 1)]
    truth = {
        "images": [{"id": i, "height": 64, "width": 64} for i in (2, 1)],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": objects,
    }
    found = [objects[0] | {"score": 0.9}]
    table = pd.DataFrame({"image_id": [2, 1], "pixels": 4096, "payload_bytes": [512, 1024]})
    evaluation = Evaluation(table.assign(psnr=[30.0, 20.0]), {}, {}, matched(truth, found))
    counts = np.array([[1, 1], [2, 0], [0, 2]])  # of ids 1, 2
    point = rate_task.resampled(evaluation, counts)
    assert point["bpp"].tolist() == [1.5, 2.0, 1.0]
    assert point["psnr"].tolist() == [25.0, 20.0, 30.0]
    assert point["box_AP"] == pytest.approx([0.5, 0.0, 1.0], abs=0.01)


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
    better = curve(np.add(BASELINE, 0.05), (19, 21, 23, 25), noise=0.03)
    shifted = {"baseline": curve(BASELINE, noise=0.03), "better": better}
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
