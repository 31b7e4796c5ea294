"""The codec zoo's bookkeeping: settings by name, and one row per codec."""

import pytest

from icmlib.config import CodecConfig
from icmlib.studies import zoo
from icmlib.studies.profile import load_profile

PROFILE = """
base: {steps: 9, batch: 2}
finetune: {steps: 5}
zoo:
  codecs:
    small: {codec: {name: mbt2018_mean, N: 8, M: 12}, base: {steps: 3}}
    plain: {codec: {name: cheng2020_anchor, N: 6, M: 6}}
  finetune: {layers: 3}
"""


@pytest.fixture
def profile(project):
    project(tiny=PROFILE)
    return load_profile("tiny")


def test_a_codec_changes_what_study_1_shares(profile):
    architecture, base, rows, _ = zoo.settings(profile, "small")
    finetune = rows[zoo.FINETUNED]
    assert architecture == CodecConfig("mbt2018_mean", N=8, M=12)
    assert (base.steps, base.batch, finetune.steps, finetune.layers) == (3, 2, 5, 3)
    assert zoo.settings(profile, "plain")[1] == profile.base
    with pytest.raises(ValueError, match=r"codec 'smal'; the profile has: small, pl"):
        zoo.settings(profile, "smal")


def test_a_row_holds_before_and_after(profile, finished):
    """Of one split and a finished run; changes in % of the codec's own AP before."""
    ends = ("", "_low", "_high")
    before = {"bpp": 0.5, **dict.fromkeys(zoo.BOTH, 2.0)}
    after = {"bpp": 0.5, **{f"{name}{end}": 1.0 for name in zoo.BOTH for end in ends}}
    paired = ("box_AP", "mask_AP", "psnr", "ssim")
    after |= {f"{name}_difference{end}": 0.7 for name in paired for end in ends}
    for stage, test in (("zoo_base", before), ("zoo", after)):
        finished(f"{stage}/plain", test=test, label="plain", seconds=60, trained_parameters=3)
    table = zoo.read_rows(profile, "test")
    assert table.index.tolist() == ["plain"]
    row = table.loc["plain"]
    assert (row["label"], row["layers"], row["bpp"]) == ("plain", 3, 0.5)
    assert (row["prms_before"], row["prms"], row["box_AP_before"], row["box_AP"]) == (2, 1, 2, 1)
    assert (row["psnr_difference_low"], row["mask_AP_change"], row["removed"]) == (0.7, 35, 50)
