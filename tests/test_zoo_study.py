"""The codec zoo's bookkeeping: settings by name, and its runs as a table."""

import pytest

from icmlib.config import CodecConfig
from icmlib.studies import bases
from icmlib.studies.profile import load_profile

PROFILE = """
base: {steps: 9, batch: 2}
finetune: {steps: 5}
zoo:
  small: {codec: {name: mbt2018_mean, N: 8, M: 12}, base: {steps: 3}, rows: [a, b]}
  plain: {codec: {name: cheng2020_anchor, N: 6, M: 6}, rows: [a]}
  given: {codec: {N: 8, M: 12}, weights: given.safetensors, rows: [b]}
rows: {a: {layers: 3}, b: {}}
"""


@pytest.fixture
def profile(project):
    project(tiny=PROFILE)
    return load_profile("tiny")


def test_a_codec_changes_what_study_1_shares(profile):
    architecture, base, rows, _ = bases.settings(profile, "small")
    finetune = rows["a"]
    assert architecture == CodecConfig("mbt2018_mean", N=8, M=12)
    assert (base.steps, base.batch, finetune.steps, finetune.layers) == (3, 2, 5, 3)
    assert bases.settings(profile, "plain")[1] == profile.base
    with pytest.raises(ValueError, match=r"codec 'smal'; the profile has: small, plain, given"):
        bases.settings(profile, "smal")


def test_runs_are_read_by_codec_and_row(profile, finished):
    """Changes in % of the codec's own AP before; a codec that is not finished is named."""
    ends = ("", "_low", "_high")
    paired = ("box_AP", "mask_AP", "psnr", "ssim")
    measured = ("box_AP", "mask_AP", "psnr", "lpp2", "lpp4", "lpp8", "excess_prms")
    before, after = (
        dict.fromkeys((f"{name}{end}" for name in measured for end in ends), value)
        | dict.fromkeys((f"{name}_difference{end}" for name in paired for end in ends), change)
        for value, change in ((2.0, 0.0), (1.0, 0.7))
    )
    for run, test in (("zoo_base/plain", before), ("zoo/plain-a", after), ("zoo/given-b", after)):
        finished(run, test=test, label=run, seconds=60, trained_parameters=3)
    table = bases.read_runs(profile, ["plain"])
    assert table.index.tolist() == [("plain", "base"), ("plain", "a")]
    row = table.loc[("plain", "a")]
    assert (row["label"], row["given"]) == ("zoo/plain-a", "trained here")
    assert (row["psnr"], row["mask_AP_change"], row["removed"]) == (1, 35, 50)
    with pytest.raises(FileNotFoundError, match="zoo_base/given is not finished"):
        bases.read_runs(profile, ["plain", "given"])
    finished("zoo_base/given", test=before)
    assert bases.read_runs(profile, ["given"])["given"].tolist() == ["given.safetensors"] * 2
