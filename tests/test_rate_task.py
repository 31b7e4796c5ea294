"""Study 2's bookkeeping: settings by name, the bridge's figures, findings over seeds."""

import numpy as np
import pandas as pd
import pytest

from icmlib.evaluate import Evaluation, matched
from icmlib.studies import rate_task
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
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0}
        for i in (2, 1)
    ]
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
